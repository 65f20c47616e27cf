//! Valid folders: the tiny Gemma checkpoints, shards with an index, the linked files of the hub's cache.

use std::fs;
use std::os::unix::fs::symlink;

use checkpoint::{Checkpoint, SafetensorsWriter};
use safetensors::SafeTensors;
use tensor::{DType, Fault, TensorDesc, TensorSink, TensorSource};

use crate::{fixture, folder, index, refused, shard};

#[test]
fn the_tiny_checkpoints_read_as_the_reference_reads_them() {
    for name in ["e2b", "26b-a4b", "31b"] {
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(checkpoint.tensors().len(), reference.len());
        assert_eq!(checkpoint.total_len(), bytes.len() as u64);
        assert_eq!(checkpoint.shards()[0].metadata["format"], "pt");
        assert!(checkpoint.config()["text_config"]["hidden_size"].is_u64());
        let mut last = 0;
        for (i, desc) in checkpoint.tensors().iter().enumerate() {
            let view = reference.tensor(&desc.name).unwrap();
            assert_eq!(desc.dtype, DType::BF16);
            assert_eq!(desc.shape, view.shape().iter().map(|&d| d as u64).collect::<Vec<_>>());
            let mut all = vec![0; desc.byte_len() as usize];
            checkpoint.read_rows(i, 0, &mut all).unwrap();
            assert_eq!(all, view.data(), "{}", desc.name);
            let mut row = vec![0; desc.row_bytes() as usize];
            checkpoint.read_rows(i, desc.rows() - 1, &mut row).unwrap();
            assert!(all.ends_with(&row));
            let location = checkpoint.location(i).unwrap();
            assert!(location.offset >= last, "tensors come in file order");
            last = location.offset;
        }
        assert_eq!(checkpoint.location(checkpoint.tensors().len()), None);

        let tokenizer = checkpoint.tokenizer().unwrap();
        assert!(tokenizer.byte_fallback);
        assert_eq!(tokenizer.token(2), Some("<bos>"));
        assert_eq!(tokenizer.merges().next(), Some(("o", "n")));
        assert!(tokenizer.added_tokens.iter().all(|t| !t.normalized));
        assert_eq!(tokenizer.normalizer["type"], "Replace");
        let template = fs::read_to_string(fixture(name).join("chat_template.jinja")).unwrap();
        assert_eq!(checkpoint.chat_template().unwrap(), Some(template));
        assert_eq!(checkpoint.generation_config().unwrap().unwrap()["top_k"], 64);
        assert_eq!(checkpoint.tokenizer_config().unwrap().unwrap()["bos_token"], "<bos>");
        assert_eq!(checkpoint.model_card().unwrap().name(), None);
        checkpoint.check_unchanged().unwrap();
    }
}

#[test]
fn shards_come_by_name_and_tensors_by_offset() {
    let dir = folder(&[
        ("model-00002-of-00002.safetensors", &shard(&["a", "z"])),
        ("model-00001-of-00002.safetensors", &shard(&["y", "b"])),
        ("unrelated.safetensors", b"not looked at"),
        (
            "model.safetensors.index.json",
            &index(&[
                ("a", "model-00002-of-00002.safetensors"),
                ("z", "model-00002-of-00002.safetensors"),
                ("b", "model-00001-of-00002.safetensors"),
                ("y", "model-00001-of-00002.safetensors"),
            ]),
        ),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let names: Vec<_> = checkpoint.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["y", "b", "a", "z"]);
    let start = checkpoint.shards()[1].data_start;
    let z = checkpoint.location(3).unwrap();
    assert_eq!((z.shard, z.offset), (1, start + 6));
    let mut bytes = [0; 4];
    checkpoint.read_at(z.shard, z.offset - 2, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 1, 1]);
}

#[test]
fn one_file_may_have_an_index_too_and_lie_in_a_subfolder() {
    let single = shard(&["a"]);
    let dir = folder(&[
        ("model.safetensors", &single),
        ("model.safetensors.index.json", &index(&[("a", "model.safetensors")])),
    ]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().shards()[0].name, "model.safetensors");
    let dir = folder(&[
        ("parts/1.safetensors", &single),
        ("model.safetensors.index.json", &index(&[("a", "parts/1.safetensors")])),
    ]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().shards()[0].name, "parts/1.safetensors");
}

#[test]
fn the_links_of_the_hubs_cache_are_followed() {
    let cache = folder(&[("blobs/0a", &shard(&["a"])), ("blobs/0b", b"{\"model_type\":\"x\"}")]);
    let snapshot = cache.path().join("snapshots/main");
    fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/0a", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/0b", snapshot.join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&snapshot).unwrap();
    assert_eq!(checkpoint.config()["model_type"], "x");
    assert_eq!(checkpoint.tensors().len(), 1);

    fs::remove_file(cache.path().join("blobs/0a")).unwrap();
    let error = refused(&snapshot);
    assert_eq!(error.fault(), Fault::Malformed);
    assert_eq!(error.problem(), "a link to a file that does not exist");
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let dir = folder(&[("model.safetensors", &shard(&["a"]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let read = |index, first, len: usize| checkpoint.read_rows(index, first, &mut vec![0; len]);
    for (index, first, len) in [(0, 0, 6), (0, 2, 2), (0, 3, 0), (0, 0, 0)] {
        read(index, first, len).unwrap();
    }
    for (index, first, len) in
        [(0, 0, 1), (0, 0, 8), (0, 3, 2), (0, 4, 0), (0, u64::MAX, 2), (1, 0, 2), (usize::MAX, 0, 2)]
    {
        assert_eq!(read(index, first, len).unwrap_err().fault(), Fault::Malformed, "{index} {first} {len}");
    }
    assert!(checkpoint.read_at(1, 0, &mut [0]).is_err());
}

#[test]
fn a_shard_that_changes_while_open_is_noticed() {
    let bytes = shard(&["a"]);
    let dir = folder(&[("model.safetensors", &bytes)]);
    let path = dir.path().join("model.safetensors");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.check_unchanged().unwrap();

    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 1).unwrap();
    let error = checkpoint.read_rows(0, 0, &mut [0; 6]).unwrap_err();
    assert_eq!(error.fault(), Fault::Malformed);
    assert_eq!(error.problem(), "the file was changed while it was being read");
    assert_eq!(error.expected_found().unwrap().1, format!("{} bytes", bytes.len() - 1));
    assert_eq!(checkpoint.check_unchanged().unwrap_err(), error);

    fs::write(&path, &bytes).unwrap();
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_times(times).unwrap();
    checkpoint.read_rows(0, 0, &mut [0; 6]).unwrap();
    assert!(checkpoint.check_unchanged().is_err(), "same size, but written to");
}

/// The convolutions of the e2b's audio tower as mlx-vlm saves them.
#[test]
fn convolutions_with_channels_last_are_transposed() {
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    let is_convolution = |name: &str| name.ends_with("conv.weight") || name.ends_with("conv1d.weight");
    let (mut descs, mut stored) = (Vec::new(), Vec::new());
    for (index, desc) in base.tensors().iter().enumerate().filter(|(_, desc)| is_convolution(&desc.name)) {
        let mut all = vec![0; desc.byte_len() as usize];
        base.read_rows(index, 0, &mut all).unwrap();
        let (channels, kernel) = (desc.shape[1], desc.shape[2..].iter().product::<u64>());
        let shape = [&desc.shape[..1], &desc.shape[2..], &[channels]].concat();
        let name = desc.name.strip_prefix("model.").unwrap();
        descs.push(TensorDesc::new(name, desc.dtype, shape).unwrap());
        let matrices = all.chunks((channels * kernel) as usize * 2);
        let of_matrix = |matrix: &[u8]| {
            let at = |k: u64, c: u64| matrix[((c * kernel + k) * 2) as usize..][..2].to_vec();
            (0..kernel).flat_map(|k| (0..channels).flat_map(move |c| at(k, c))).collect::<Vec<_>>()
        };
        stored.push((desc.clone(), all.clone(), matrices.flat_map(of_matrix).collect::<Vec<_>>()));
    }
    assert_eq!(stored.len(), 4);
    let dir = folder(&[("config.json", b"{}")]);
    let writer = SafetensorsWriter::create(dir.path().join("model.safetensors"), descs, &[]).unwrap();
    stored.iter().enumerate().for_each(|(index, (_, _, data))| writer.write_rows(index, 0, data).unwrap());
    writer.finish().unwrap();
    let found = Checkpoint::open(dir.path()).unwrap();
    assert!(
        found.notes().iter().any(|note| note.text.contains("4 convolutions have their input channels last"))
    );
    for (desc, expected, _) in stored {
        let index = found.tensors().iter().position(|own| own.name == desc.name).unwrap();
        assert_eq!(found.tensors()[index], desc);
        for step in [1, 7, desc.rows()] {
            let mut all = vec![0; expected.len()];
            for (number, part) in all.chunks_mut((step * desc.row_bytes()) as usize).enumerate() {
                found.read_rows(index, number as u64 * step, part).unwrap();
            }
            assert!(all == expected, "{} by {step} rows", desc.name);
        }
    }
}
