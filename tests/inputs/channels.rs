//! Convolutions of the audio tower in the layout of mlx-vlm: input channels last.

use crate::support::{Folder, convert, sha256};

#[test]
fn convolutions_of_mlx_give_the_same_mmproj_file() {
    let [usual, mlx] = ["usual", "mlx"].map(|_| Folder::of("e2b"));
    mlx.reweigh(|weights| {
        let is_convolution = |name: &str| name.ends_with("conv.weight") || name.ends_with("conv1d.weight");
        for tensor in weights.tensors.iter_mut().filter(|tensor| is_convolution(&tensor.name)) {
            let (channels, kernel) = (tensor.shape[1], tensor.shape[2..].iter().product::<u64>());
            let matrices = tensor.data.chunks((channels * kernel * 2) as usize);
            let transposed = |matrix: &[u8]| {
                let at = |k: u64, c: u64| matrix[((c * kernel + k) * 2) as usize..][..2].to_vec();
                (0..kernel).flat_map(|k| (0..channels).flat_map(move |c| at(k, c))).collect::<Vec<_>>()
            };
            tensor.data = matrices.flat_map(transposed).collect();
            tensor.shape = [&tensor.shape[..1], &tensor.shape[2..], &[channels]].concat();
        }
    });
    let [usual, mlx] = [usual, mlx].map(|folder| {
        let out = folder.out();
        convert(&folder.path(), &out, &["--type", "q8_0", "--mmproj", "bf16"]).good();
        ["mmproj-bf16.gguf", "model-q8_0.gguf"].map(|name| sha256(&out.join(name)))
    });
    assert_eq!(usual, mlx);
}
