//! What else a run makes changes nothing: each artifact has the bytes that it has when it is made alone, from weights of
//! every type that checkpoints come in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{Folder, convert, names, sha256};

const FOLDERS: [&str; 3] = ["fp8", "sfp8", "bf16-safetensors"];

/// A checkpoint whose weights are of this type, with values that BF16 does not hold where the type has more bits.
fn source(dtype: &str) -> Folder {
    let folder = Folder::of("e2b");
    folder.reweigh(|weights| {
        weights.drop_towers();
        for tensor in weights.tensors.iter_mut().filter(|tensor| tensor.dtype == "BF16") {
            tensor.retype(dtype);
            match dtype {
                "F16" => tensor.data.chunks_exact_mut(2).for_each(|bytes| bytes[0] |= 1),
                "F32" => tensor.data.chunks_exact_mut(4).for_each(|bytes| bytes[1] |= 0x2b),
                _ => {}
            }
        }
    });
    folder
}

/// SHA-256 of the weights in a folder, by file.
fn weights(folder: &Path) -> BTreeMap<String, String> {
    let weights = |name: &String| name.ends_with(".gguf") || name.ends_with(".safetensors");
    let named = names(folder).into_iter().filter(weights);
    named.map(|name| (name.clone(), sha256(&folder.join(name)))).collect()
}

#[test]
fn an_artifact_has_the_same_bytes_in_any_company() {
    let presets: Vec<&str> = plan::preset_names().collect();
    for dtype in ["BF16", "F16", "F32"] {
        let folder = source(dtype);
        let out = folder.out();
        let run = |args: &[&str]| {
            convert(&folder.path(), &out, &[args, &["--no-sync", "--quiet"]].concat()).good();
            let made = weights(&out);
            fs::remove_dir_all(&out).unwrap();
            made
        };
        let mut alone = BTreeMap::new();
        for preset in &presets {
            let made = run(&["--type", preset]);
            assert_eq!(made.len(), 1, "{dtype} {preset}: {made:?}");
            alone.extend(made);
        }
        let types: Vec<&str> = presets.iter().flat_map(|preset| ["--type", preset]).collect();
        for recipe in FOLDERS {
            let of_recipe = run(&["--recipe", recipe]);
            assert!(!of_recipe.is_empty(), "{dtype} {recipe}");
            let together = run(&[&types[..], &["--recipe", recipe]].concat());
            for (name, digest) in alone.iter().chain(&of_recipe) {
                assert_eq!(together.get(name), Some(digest), "{dtype}: {name} beside {recipe}");
            }
            assert_eq!(together.len(), alone.len() + of_recipe.len(), "{dtype}: {:?}", together.keys());
        }
    }
}
