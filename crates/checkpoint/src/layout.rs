//! Which files hold the weights: one `model.safetensors`, or those of `model.safetensors.index.json`.
//!
//! Where both are there, transformers loads the single file (`_get_resolved_checkpoint_files`) and llama.cpp's
//! converter the index. They agree only if the index names that file, so anything else is refused.
//! Links are followed, as the hub's cache consists of them; only what the index *says* must stay inside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;
use tensor::{Error, Result};

use crate::files;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The shards by name, and for each tensor its shard if there is an index.
pub(crate) struct Layout {
    pub(crate) shards: Vec<String>,
    pub(crate) index: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The place for errors about the index of `dir`.
pub(crate) fn index_place(dir: &Path) -> String {
    dir.join(INDEX).display().to_string()
}

pub(crate) fn find(dir: &Path) -> Result<Layout> {
    let single = files::open(&dir.join(SINGLE))?.is_some();
    let Some(Index { weight_map }) = files::json(&dir.join(INDEX))? else {
        if single {
            return Ok(Layout { shards: vec![SINGLE.into()], index: None });
        }
        return Err(nothing(dir));
    };

    let place = index_place(dir);
    for (tensor, file) in &weight_map {
        let plain = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)))
            && Path::new(file).components().collect::<std::path::PathBuf>().as_os_str() == file.as_str();
        if !plain || !file.ends_with(".safetensors") {
            return Err(Error::malformed(
                format!("{place}: weight_map: {tensor}"),
                "the index names something other than a safetensors file inside the folder",
            )
            .expected("a relative path without `..` that ends in .safetensors", format!("{file:?}")));
        }
    }
    let mut shards: Vec<String> = weight_map.values().cloned().collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        return Err(Error::malformed(place, "weight_map is empty"));
    }
    if single && shards != [SINGLE] {
        return Err(Error::malformed(
            dir.display(),
            format!(
                "both {SINGLE} and an index of other files are there, and programs differ in which they load"
            ),
        )
        .expected("one of the two", format!("{SINGLE}, and {INDEX} naming {}", some(&shards)))
        .help(format!("remove {SINGLE}, or {INDEX} with its shards, whichever is the older")));
    }

    let mut missing = Vec::new();
    for shard in &shards {
        if files::open(&dir.join(shard))?.is_none() {
            missing.push(shard.clone());
        }
    }
    if !missing.is_empty() {
        return Err(Error::malformed(&place, format!("files it names are missing: {}", some(&missing)))
            .expected(format!("{} shards", shards.len()), shards.len() - missing.len())
            .help("the download is incomplete: fetch the missing files"));
    }
    Ok(Layout { shards, index: Some(weight_map) })
}

/// The error for a folder without weights, by what else is there.
fn nothing(dir: &Path) -> Error {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort_unstable();
    let ending = |ends: &[&str]| -> Vec<String> {
        names.iter().filter(|n| ends.iter().any(|e| n.ends_with(e))).cloned().collect()
    };
    let place = dir.display();
    let wanted = format!("{SINGLE}, or {INDEX} with its shards");

    let parts = ending(&[".safetensors"]);
    if !parts.is_empty() {
        return Error::malformed(place, "safetensors files without an index")
            .expected(wanted, some(&parts))
            .help(format!("fetch {INDEX} as well; it says which files belong to the model"));
    }
    let pickles = ending(&[".bin", ".pt", ".pth"]);
    if !pickles.is_empty() {
        return Error::unsupported(place, "the weights are PyTorch pickles")
            .expected(wanted, some(&pickles))
            .help("load the model with transformers and save it again: save_pretrained writes safetensors");
    }
    let ggufs = ending(&[".gguf"]);
    if !ggufs.is_empty() {
        return Error::unsupported(place, "the weights are already GGUF")
            .expected(wanted, some(&ggufs))
            .help("give the folder of the original checkpoint");
    }
    Error::malformed(place, "no weights in this folder").expected(wanted, "neither")
}

/// The first few of a list, and how many more.
pub(crate) fn some(names: &[String]) -> String {
    let shown = names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=4 => shown,
        n => format!("{shown} and {} more", n - 4),
    }
}
