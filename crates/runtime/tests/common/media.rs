//! Images, sounds and towers of the goldens.

use gemma::towers::{MmprojView, TowerTensor, Towers};
use ndarray::Array2;
use quant::Simd;
use runtime::towers::{ImagePatches, MediaEncoder, TowerForm, TowerWeights};
use runtime::{Compute, Kernel, Matrix, RowMajor};
use safetensors::SafeTensors;
use tensor::{Result, TensorDesc, TensorSource};
use testkit::MemoryTensors;

use super::{Folder, Golden, fixtures};

/// A checkpoint with towers, some of whose tensors may be replaced.
pub(crate) struct Media {
    pub(crate) folder: Folder,
    pub(crate) towers: Towers,
    pub(crate) tensors: Vec<TowerTensor>,
    /// For some tensors other bytes.
    overlay: Vec<Option<Vec<u8>>>,
}

impl TensorSource for Media {
    fn tensors(&self) -> &[TensorDesc] {
        self.folder.checkpoint.tensors()
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(bytes) = &self.overlay[index] else {
            return self.folder.checkpoint.read_rows(index, first, out);
        };
        let start = (first * self.tensors()[index].row_bytes()) as usize;
        out.copy_from_slice(&bytes[start..][..out.len()]);
        Ok(())
    }
}

impl Media {
    /// The checkpoint of a golden of `fixtures/golden/multimodal`: `NAME`, or `NAME-stress` with its overlay.
    pub(crate) fn open(name: &str) -> Media {
        let Some(plain) = name.strip_suffix("-stress") else {
            return Media::of(&format!("checkpoints/{name}"));
        };
        let mut media = Media::of(&format!("checkpoints/{plain}"));
        let file = Golden::read(&format!("golden/multimodal/{name}.overlay.safetensors"));
        let file = SafeTensors::deserialize(&file.0).unwrap();
        for (name, view) in file.tensors() {
            let index = media.tensors().iter().position(|desc| desc.name == name).unwrap();
            assert_eq!(view.data().len() as u64, media.tensors()[index].byte_len(), "{name}");
            media.overlay[index] = Some(view.data().to_vec());
        }
        media
    }

    /// The checkpoint in a folder of the fixtures.
    pub(crate) fn of(path: &str) -> Media {
        let folder = Folder::open(path);
        let towers = Towers::from_json(folder.checkpoint.config(), &folder.config).unwrap().unwrap();
        let tensors = towers.find(folder.checkpoint.tensors()).unwrap();
        let overlay = vec![None; folder.checkpoint.tensors().len()];
        Media { folder, towers, tensors, overlay }
    }

    pub(crate) fn weights(&self, kernel: Kernel) -> TowerWeights<'_> {
        let compute = Compute { kernel, ..Compute::detect() };
        TowerWeights::new(self, &self.tensors, TowerForm::Checkpoint, compute).unwrap()
    }

    /// One encoder for each way to multiply that this machine has.
    pub(crate) fn encoders(&self) -> Vec<MediaEncoder<'_>> {
        let kernels = testkit::available("kernel", [Kernel::F32, Kernel::AmxBf16], Kernel::is_available);
        kernels.into_iter().map(|kernel| MediaEncoder::new(&self.towers, self.weights(kernel))).collect()
    }

    /// The towers as an mmproj file has them, in F32, with the tensors in another order.
    pub(crate) fn mmproj(&self) -> (MemoryTensors, Vec<TowerTensor>) {
        let reversed: Vec<TowerTensor> = self.tensors.iter().rev().cloned().collect();
        let view = MmprojView::new(self, &reversed, Simd::detect()).unwrap();
        let (mut source, mut tensors) = (MemoryTensors::new(), Vec::new());
        for (number, (tensor, desc)) in reversed.iter().zip(view.tensors()).enumerate() {
            let index = source.add_f32(&desc.name, &desc.shape, &values(&view, number));
            tensors.push(TowerTensor { slot: tensor.slot.clone(), index });
        }
        (source, tensors)
    }
}

/// The values of a tensor.
pub(crate) fn values(source: &dyn TensorSource, index: usize) -> Vec<f32> {
    let desc = &source.tensors()[index];
    let mut bytes = vec![0; desc.byte_len() as usize];
    source.read_rows(index, 0, &mut bytes).unwrap();
    let mut values = vec![0.0; desc.elements() as usize];
    quant::decode(Simd::detect(), desc.dtype, &bytes, &mut values);
    values
}

/// An image of `fixtures/golden/multimodal` that has its size already, in patches of `side` pixels.
pub(crate) fn image(name: &str, side: usize) -> ImagePatches {
    let file =
        std::fs::File::open(fixtures().join(format!("golden/multimodal/{name}.resized70.png"))).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let width = info.width as usize;
    let (columns, rows) = (width / side, info.height as usize / side);
    let values = Array2::from_shape_fn((columns * rows, side * side * 3), |(patch, value)| {
        let (x, y) = (patch % columns * side + value / 3 % side, patch / columns * side + value / 3 / side);
        f32::from(bytes[(y * width + x) * 3 + value % 3]) / 255.0
    });
    ImagePatches { columns, rows, values }
}

/// The log mel spectrum of a sound of `fixtures/golden/multimodal`, frames of padding left out.
pub(crate) fn mel(name: &str) -> Matrix {
    let golden = Golden::read("golden/multimodal/preprocess.safetensors");
    let file = SafeTensors::deserialize(&golden.0).unwrap();
    let frames =
        file.tensor(&format!("{name}.mask")).unwrap().data().iter().filter(|&&valid| valid != 0).count();
    let values = golden.floats(&format!("{name}.mel"));
    Array2::from_shape_vec((frames, 128), values[..frames * 128].to_vec()).unwrap()
}

/// A golden as a matrix with the columns of another.
pub(crate) fn matrix(golden: &Golden, name: &str, columns: usize) -> Matrix {
    let values = golden.floats(name);
    Array2::from_shape_vec((values.len() / columns, columns), values).unwrap()
}

/// Root of the mean squared difference, relative to that of the expected values.
pub(crate) fn relative_rms(expected: &[f32], found: &Matrix) -> f64 {
    assert_eq!(expected.len(), found.len(), "values");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = expected.iter().zip(found.values()).map(|(a, b)| square(a - b)).sum();
    let size: f64 = expected.iter().map(|&x| square(x)).sum();
    (difference / size).sqrt()
}

/// The images of `fixtures/golden/multimodal-12b`.
pub(crate) fn embedded_images(golden: &Golden) -> Vec<ImagePatches> {
    let patches = |n: usize| {
        let [columns, rows] = golden.ids(&format!("image{n}.grid"))[..] else { panic!("two numbers") };
        let values = matrix(golden, &format!("image{n}.patches"), 432);
        ImagePatches { columns: columns as usize, rows: rows as usize, values }
    };
    (0..2).map(patches).collect()
}
