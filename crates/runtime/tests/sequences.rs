//! However the tokens of a sequence come, in whatever company, the result is the same. And bad input is named.

mod common;

use std::sync::Mutex;

use common::{Folder, logits, max_difference};
use ndarray::{Axis, s};
use runtime::{KvCache, Matrix, Model, RowMajor};
use tensor::{Fault, Result, TensorDesc, TensorSource};

/// One of each family, the random ones included.
const FOLDERS: &[&str] = &[
    "checkpoints/e2b",
    "checkpoints/26b-a4b",
    "checkpoints/31b",
    "golden/transformers-random/e4b",
    "golden/transformers-random/moe",
];

/// What another order of summation may do.
const ROUNDING: f32 = 1e-5;

/// The same up to rounding, relative to the largest value.
fn assert_same(a: &[f32], b: &[f32], what: &str) {
    let largest = a.iter().fold(0f32, |max, x| max.max(x.abs()));
    let difference = max_difference(a, b);
    assert!(difference <= ROUNDING * largest, "{what}: {difference} of {largest}");
}

/// Logits of all tokens, taken in pieces of the given size.
fn in_pieces(model: &Model<'_>, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut cache = KvCache::new(model.config());
    let logits = tokens.chunks(piece).flat_map(|part| {
        let hidden = model.forward(part, &mut cache, |_, _| ()).unwrap();
        model.head(&hidden).unwrap().into_raw_vec_and_offset().0
    });
    logits.collect()
}

#[test]
fn token_by_token_is_the_same_as_all_at_once() {
    for path in FOLDERS {
        let folder = Folder::open(path);
        let model = folder.model();
        let window = folder.config.window as usize;
        let tokens = folder.tokens(2 * window + 9);
        let whole = logits(&model, &tokens);
        for piece in [1, 7, window + 1] {
            assert_same(
                whole.values(),
                &in_pieces(&model, &tokens, piece),
                &format!("{path}, {piece} at a time"),
            );
        }
    }
}

#[test]
fn a_cache_keeps_no_more_of_sliding_layers_than_the_window() {
    let folder = Folder::open("golden/transformers-random/12b");
    let model = folder.model();
    let config = &folder.config;
    let mut cache = KvCache::new(config);
    let tokens = folder.tokens(100);
    model.forward(&tokens[..60], &mut cache, |_, _| ()).unwrap();
    model.forward(&tokens[60..], &mut cache, |_, _| ()).unwrap();
    // five sliding layers with two heads of 16, one full layer with a head of 32; keys and values of four bytes
    assert_eq!(cache.bytes(), (5 * 32 * (config.window as usize - 1) + 32 * 100) * 2 * 4);
}

#[test]
fn sequences_in_a_batch_do_not_see_each_other() {
    for path in FOLDERS {
        let folder = Folder::open(path);
        let model = folder.model();
        let tokens = folder.tokens(150);
        let parts: [&[u32]; 3] = [&tokens[..90], &tokens[90..91], &tokens[91..]];
        let mut batch = model.embed(&parts).unwrap();
        for layer in 0..folder.config.layers() {
            model.layer(layer, &mut batch).unwrap();
        }
        let together = model.head(batch.hidden()).unwrap();
        for (part, rows) in parts.iter().zip(batch.sequences()) {
            assert_eq!(part.len(), rows.len());
            let found = together.slice(s![rows, ..]);
            assert_same(logits(&model, part).values(), found.to_slice().unwrap(), path);
        }
    }
}

/// The layers over a batch of which some rows are wanted, and the state of those.
fn wanted(model: &Model<'_>, parts: &[&[u32]], rows: &[usize]) -> Matrix {
    let mut batch = model.embed(parts).unwrap();
    batch.want(rows.to_vec());
    for layer in 0..model.config().layers() {
        model.layer(layer, &mut batch).unwrap();
    }
    assert_eq!(batch.sequences().last().unwrap().end, rows.len());
    batch.hidden().clone()
}

#[test]
fn what_is_wanted_of_a_batch_does_not_depend_on_what_is_not() {
    for path in FOLDERS {
        let folder = Folder::open(path);
        let tokens = folder.tokens(300);
        let parts: [&[u32]; 3] = [&tokens[..140], &tokens[140..150], &tokens[150..]];
        for model in folder.models() {
            let all = wanted(&model, &parts, &(0..300).collect::<Vec<_>>());
            // half of one sequence, one or none of another, every third of the last
            for between in [145..146, 0..0] {
                let some: Vec<usize> = (70..140).chain(between).chain((150..300).step_by(3)).collect();
                let found = wanted(&model, &parts, &some);
                assert!(found == all.select(Axis(0), &some), "{path}: other bits");
            }
            let last = wanted(&model, &parts, &[299]);
            assert_same(last.row_values(0), all.row_values(299), path);
            assert_eq!(wanted(&model, &parts, &[]).nrows(), 0);
        }
    }
}

#[test]
fn a_range_of_the_vocabulary_is_that_part_of_the_head() {
    let folder = Folder::open("checkpoints/e2b");
    let model = folder.model();
    let hidden = model.forward(&folder.tokens(5), &mut KvCache::new(&folder.config), |_, _| ()).unwrap();
    let all = model.head(&hidden).unwrap();
    let some = model.logits(&model.norm(&hidden).unwrap(), 1000..1777).unwrap();
    for row in 0..5 {
        assert!(max_difference(&all.row_values(row)[1000..1777], some.row_values(row)) < ROUNDING);
    }
}

#[test]
fn tokens_that_cannot_be_are_refused() {
    let folder = Folder::open("golden/transformers-random/e4b");
    let model = folder.model();
    let mut cache = KvCache::new(&folder.config);
    let refusal = |tokens: &[u32]| model.embed(&[&[2, 3], tokens]).unwrap_err();

    let error = refusal(&[5, 255, 256]);
    assert_eq!((error.fault(), error.place()), (Fault::Malformed, "token at position 2"));
    assert_eq!(error.expected_found(), Some(("below 256", "256")));
    assert_eq!(refusal(&[]).place(), "tokens");

    model.forward(&[2; 1000], &mut cache, |_, _| ()).unwrap();
    let error = model.forward(&[2; 25], &mut cache, |_, _| ()).unwrap_err();
    assert_eq!((error.fault(), error.place()), (Fault::Limit, "context"));
    assert_eq!(error.expected_found(), Some(("at most 1024 tokens", "1025")));
    assert!(cache.is_empty());
}

/// A source with one value changed.
struct Spoilt<'a> {
    source: &'a dyn TensorSource,
    tensor: usize,
    row: u64,
    reads: Mutex<usize>,
}

impl TensorSource for Spoilt<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        self.source.tensors()
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        self.source.read_rows(index, first, out)?;
        let row_bytes = self.tensors()[index].row_bytes() as usize;
        if index == self.tensor && (first..first + (out.len() / row_bytes) as u64).contains(&self.row) {
            *self.reads.lock().unwrap() += 1;
            let at = (self.row - first) as usize * row_bytes;
            out[at..at + 2].copy_from_slice(&[0x80, 0x7f]); // an infinity in BF16
        }
        Ok(())
    }
}

#[test]
fn the_first_layer_with_an_infinity_is_named() {
    let folder = Folder::open("checkpoints/e2b");
    let tensors = folder.checkpoint.tensors();
    let place_of = |name: &str, row: u64| {
        let tensor = tensors.iter().position(|t| t.name.ends_with(name)).unwrap();
        let spoilt = Spoilt { source: &folder.checkpoint, tensor, row, reads: Mutex::new(0) };
        let model = folder.model_over(&spoilt).unwrap();
        let run = model.forward(&[2, 17], &mut KvCache::new(&folder.config), |_, _| ());
        let error = run.and_then(|hidden| model.head(&hidden)).unwrap_err();
        assert!(*spoilt.reads.lock().unwrap() > 0);
        assert_eq!(error.fault(), Fault::Malformed);
        (error.place().to_owned(), error.problem().to_owned())
    };
    let (place, problem) = place_of("layers.3.mlp.down_proj.weight", 5);
    assert_eq!(place, "layer 3");
    assert!(problem.contains("position 0 (token 2)"), "{problem}");
    assert_eq!(place_of("language_model.embed_tokens.weight", 17).0, "token_embd");
    assert_eq!(place_of("language_model.embed_tokens.weight", 9).0, "logits of row 0");
    assert_eq!(place_of("layers.0.self_attn.k_norm.weight", 0).0, "layer 0");
}

#[test]
fn elements_that_are_no_weights_are_refused() {
    let folder = Folder::open("checkpoints/31b");
    let mut tensors = folder.checkpoint.tensors().to_vec();
    let inventory = gemma::inventory(&folder.config, &tensors, &|_| "the fixture".into()).unwrap();
    tensors[inventory.text[0].index].dtype = tensor::DType::I16;
    struct Described(Vec<TensorDesc>);
    impl TensorSource for Described {
        fn tensors(&self) -> &[TensorDesc] {
            &self.0
        }
        fn read_rows(&self, _: usize, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }
    let error =
        runtime::Weights::new(&Described(tensors), &inventory, runtime::Compute::detect()).err().unwrap();
    assert_eq!(error.fault(), Fault::Unsupported);
    assert!(error.place().ends_with("embed_tokens.weight"), "{error}");
}
