//! The per-layer table is read row by row, once for all layers, and what is kept of it changes nothing.

mod common;

use common::{Folder, logits, max_difference};
use ndarray::Axis;
use runtime::{KvCache, Matrix, Model, PleCacheReads, RowMajor};

/// Bytes of a row: 256 values of BF16 for each layer, or whatever the fixture has.
fn row_bytes(folder: &Folder) -> u64 {
    let model = folder.model();
    model.weights().global().get("per_layer_token_embd").unwrap().desc().row_bytes()
}

/// The logits of a prompt and of the tokens after it, one after the other.
fn generation(model: &Model<'_>, tokens: &[u32], prompt: usize) -> Matrix {
    let mut cache = KvCache::new(model.config());
    let mut all = model.head(&model.forward_last(&tokens[..prompt], &mut cache).unwrap()).unwrap();
    for token in &tokens[prompt..] {
        let logits = model.head(&model.forward_last(&[*token], &mut cache).unwrap()).unwrap();
        all.append(Axis(0), logits.view()).unwrap();
    }
    all
}

#[test]
fn one_token_is_one_read_and_all_other_layers_find_it() {
    let folder = Folder::open("checkpoints/e2b");
    let (layers, bytes) = (folder.config.layers() as u64, row_bytes(&folder));
    let model = folder.model();
    let mut cache = KvCache::new(&folder.config);
    assert_eq!(model.ple_reads(), Some(PleCacheReads::default()));
    model.forward(&[17], &mut cache, |_, _| ()).unwrap();
    assert_eq!(model.ple_reads(), Some(PleCacheReads { rows: 1, bytes, hits: layers - 1 }));
    // of three tokens one is new
    model.forward(&[17, 5, 17], &mut cache, |_, _| ()).unwrap();
    assert_eq!(model.ple_reads().unwrap().rows, 2);
    assert_eq!(model.ple_reads().unwrap().bytes, 2 * bytes);
    assert_eq!(Folder::open("checkpoints/31b").model().ple_reads(), None);
}

#[test]
fn logits_are_the_same_bits_whatever_is_kept() {
    for path in ["checkpoints/e2b", "golden/transformers-random/e4b"] {
        let folder = Folder::open(path);
        let row = row_bytes(&folder) as usize;
        let tokens = folder.tokens(70);
        let kept = folder.model();
        let expected = generation(&kept, &tokens, 60);
        let distinct = tokens.iter().collect::<std::collections::HashSet<_>>().len() as u64;
        assert_eq!(kept.ple_reads().unwrap().rows, distinct, "{path}");
        // nothing; less than the prompt; all but a byte of a row more
        for room in [0, 7 * row, 8 * row - 1] {
            let model = folder.model().with_ple_cache_bytes(room);
            assert!(generation(&model, &tokens, 60) == expected, "{path}: other bits with {room} bytes");
            let reads = model.ple_reads().unwrap();
            assert_eq!(reads.bytes, reads.rows * row as u64);
            assert!(reads.rows > distinct, "{path}: {reads:?}");
            assert_eq!(reads.hits > 0, room > 0, "{path}: {reads:?}");
            // a layer has either read a token's row or found it, and some layers see the last token of the prompt alone
            let all = reads.rows + reads.hits;
            assert!(all <= 70 * folder.config.layers() as u64, "{path}: {reads:?}");
        }
    }
}

#[test]
fn the_last_token_of_a_prompt_is_the_last_of_all_its_tokens() {
    for path in ["checkpoints/e2b", "checkpoints/26b-a4b", "golden/transformers-random/e4b"] {
        let folder = Folder::open(path);
        let model = folder.model();
        // more than one piece, if the context allows
        let tokens = folder.tokens(600.min(folder.config.context as usize));
        let all = logits(&model, &tokens);
        let mut cache = KvCache::new(&folder.config);
        let last = model.head(&model.forward_last(&tokens, &mut cache).unwrap()).unwrap();
        assert_eq!(cache.len(), tokens.len());
        let expected = all.row_values(tokens.len() - 1);
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(max_difference(expected, last.row_values(0)) <= 1e-5 * largest, "{path}");
    }
}
