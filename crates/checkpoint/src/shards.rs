//! Finds the files with the weights: a single `model.safetensors`, or the files named by
//! `model.safetensors.index.json`; else the only safetensors file, or a set of shards that is complete by its names.
//!
//! If both exist, transformers loads the single file (`_get_resolved_checkpoint_files`) and llama.cpp's converter the
//! index. They agree only if the index names that file, so anything else is refused. Links are followed, because the
//! hub's cache consists of them; only the paths *in the index* must stay inside the folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tensor::{Error, Result};

use crate::{files, folder};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const ENDING: &str = ".safetensors";

/// The shards sorted by name, and the index (tensor to shard) if there is one.
pub(crate) struct Layout {
    pub(crate) shards: Vec<String>,
    pub(crate) index: Option<BTreeMap<String, String>>,
    /// Note for people, if the files differ from those that transformers writes.
    pub(crate) note: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The place for errors about the index of `dir`.
pub(crate) fn index_place(dir: &Path) -> String {
    dir.join(INDEX).display().to_string()
}

/// True for the name of an unfinished download: of huggingface_hub, curl and wget, aria2, browsers.
pub(crate) fn is_partial(name: &str) -> bool {
    [".incomplete", ".part", ".partial", ".aria2", ".crdownload", ".download", ".tmp"]
        .iter()
        .any(|ending| name.ends_with(ending) && name.contains('.'))
}

/// True for a safetensors file that may belong to a model, by its name.
fn is_candidate(name: &str) -> bool {
    name.ends_with(ENDING) && !name.starts_with("adapter_") && !name.starts_with("consolidated")
}

/// True if none of these names is a model's weights.
pub(crate) fn is_empty(names: &[String]) -> bool {
    !names.iter().any(|name| name == INDEX || is_candidate(name))
}

pub(crate) fn find(dir: &Path) -> Result<Layout> {
    let layout = named(dir)?;
    let controls = layout.shards.iter().map(|shard| (shard, format!("{shard}.aria2")));
    if let Some((shard, control)) = controls.into_iter().find(|(_, control)| dir.join(control).exists()) {
        return Err(Error::malformed(
            dir.join(shard).display(),
            "a download that is not finished: parts of it are zeros",
        )
        .expected("a complete file", format!("{control} beside it"))
        .help("Let aria2 finish it, or fetch the file again."));
    }
    Ok(layout)
}

fn named(dir: &Path) -> Result<Layout> {
    let single = files::open(&dir.join(SINGLE))?.is_some();
    let Some(Index { weight_map }) = files::json(&dir.join(INDEX))? else {
        if single {
            return Ok(Layout { shards: vec![SINGLE.into()], index: None, note: None });
        }
        return without_index(dir);
    };

    let place = index_place(dir);
    for (tensor, file) in &weight_map {
        if !base::is_plain_name(file) || !file.ends_with(ENDING) {
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
            .help(format!("the download is incomplete: fetch the missing files{}", unfinished(dir))));
    }
    Ok(Layout { shards, index: Some(weight_map), note: None })
}

/// The unfinished downloads in a folder, for a message.
fn unfinished(dir: &Path) -> String {
    // the hub client keeps unfinished downloads below the folder
    let below = folder::names(&dir.join(".cache/huggingface/download"));
    let partial: Vec<_> =
        folder::names(dir).into_iter().chain(below).filter(|name| is_partial(name)).collect();
    if partial.is_empty() { String::new() } else { format!(" ({} is not finished)", some(&partial)) }
}

/// `model-00001-of-00003.safetensors` → `model`, 1, 3.
fn numbered(name: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = name.strip_suffix(ENDING)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.len() == 5;
    (digits(number) && digits(count)).then(|| Some((stem, number.parse().ok()?, count.parse().ok()?)))?
}

/// Finds weights without an index: the only file, or a complete set of shards.
fn without_index(dir: &Path) -> Result<Layout> {
    let names: Vec<_> = folder::names(dir).into_iter().filter(|name| is_candidate(name)).collect();
    let wanted = format!("{SINGLE}, or {INDEX} with its shards");
    let mut sets: BTreeMap<(&str, u64), Vec<u64>> = BTreeMap::new();
    for (stem, number, count) in names.iter().filter_map(|name| numbered(name)) {
        sets.entry((stem, count)).or_default().push(number);
    }
    let others = names.iter().filter(|name| numbered(name).is_none()).count();
    match (&names[..], sets.len()) {
        ([], _) => Err(folder::instead(dir).unwrap_or_else(|| {
            Error::malformed(dir.display(), "no weights in this folder").expected(wanted, "neither")
        })),
        ([only], 0) => Ok(Layout {
            note: Some(format!(
                "the weights are in {only}: it is the only safetensors file, and read as {SINGLE}"
            )),
            shards: vec![only.clone()],
            index: None,
        }),
        (_, 1) if others == 0 => {
            let Some((&(stem, count), found)) = sets.iter().next() else {
                return Err(folder::several_files(dir, &names));
            };
            let name = |number: u64| format!("{stem}-{number:05}-of-{count:05}{ENDING}");
            let missing: Vec<_> = (1..=count.min(99_999)).filter(|n| !found.contains(n)).map(name).collect();
            if !missing.is_empty() || found.len() as u64 != count {
                return Err(Error::malformed(
                    dir.display(),
                    format!("shards are missing: {}", some(&missing)),
                )
                .expected(format!("{count} shards; {wanted}"), some(&names))
                .help(format!("the download is incomplete: fetch the missing files{}", unfinished(dir))));
            }
            Ok(Layout {
                note: Some(format!("{INDEX} is missing: all {count} shards are there, and read without it")),
                shards: names,
                index: None,
            })
        }
        _ => Err(folder::several_files(dir, &names)),
    }
}

/// Files of the folder that look like weights but are not read: adapters, files of other programs, other training runs,
/// unfinished downloads.
pub(crate) fn beside(dir: &Path, shards: &[String]) -> Vec<String> {
    const ENDS: [&str; 12] = [
        ENDING, ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".msgpack", ".h5", ".keras", ".npz", ".pickle",
        ".pkl",
    ];
    let is_weights = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        ENDS.iter().any(|end| name.ends_with(end)) || is_partial(name) || file.starts_with("consolidated.")
    };
    let strays = |name: &str| is_weights(name) && !shards.iter().any(|shard| shard == name);
    let listed = files::list(dir).unwrap_or_default().into_iter().map(|(name, _)| name);
    let templates = |name: &str| name.starts_with("chat_templates/") && name.ends_with(".jinja");
    listed.filter(|name| strays(name) || templates(name)).collect()
}

/// The first four of a list, and the number of the others.
pub(crate) fn some(names: &[String]) -> String {
    let shown = names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=4 => shown,
        n => format!("{shown} and {} more", n - 4),
    }
}
