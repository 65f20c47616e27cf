//! Finds the model folder for a given path: a folder, the hub's cache, a trainer's output. For a folder without a
//! checkpoint, finds an explanation for the error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tensor::{Error, Result};

use crate::files;
use crate::shards::{self, INDEX, SINGLE, some};

/// The sorted names in a folder. Empty if the folder cannot be listed.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// The error for a model that cannot be opened. If the path does not exist and has the form of a hub repository id, the
/// help says how to download it.
pub fn absent(given: &Path, error: &io::Error) -> Error {
    let failed = Error::io(given.display(), error);
    let text = given.to_string_lossy();
    let id = text.split_once('@').map_or(&*text, |(id, _)| id);
    let is_id = base::is_repository_id(id) && given.parent().is_some_and(|owner| !owner.exists());
    if error.kind() != io::ErrorKind::NotFound || !is_id {
        return failed;
    }
    failed.help(format!(
        "If it is the id of a hub repository, download it first: `hf download {text} --local-dir FOLDER`, and give that folder."
    ))
}

/// Resolves `given` to the folder of a model. The second value is a note about the choice, if there was one.
///
/// # Errors
/// `Malformed` for a path that does not exist, is no folder, or holds several models.
pub(crate) fn resolve(given: &Path) -> Result<(PathBuf, Option<String>)> {
    let meta = fs::metadata(given).map_err(|e| absent(given, &e))?;
    if !meta.is_dir() {
        base::refuse_foreign_model(given)?;
        return Err(Error::malformed(given.display(), "not a folder")
            .expected("the folder of a checkpoint", format!("a file{}", kind_of(given)))
            .help("give the folder that holds config.json"));
    }
    if given.join("config.json").exists() && (given.join(SINGLE).exists() || given.join(INDEX).exists()) {
        return Ok((given.to_owned(), None));
    }
    let here = names(given);
    let has = |name: &str| here.iter().any(|n| n == name);
    if has("snapshots") && !has("config.json") {
        return snapshot(given);
    }
    let repositories: Vec<_> = here.iter().filter(|name| name.starts_with("models--")).cloned().collect();
    if !repositories.is_empty() && !has("config.json") {
        if let [only] = &repositories[..] {
            return snapshot(&given.join(only));
        }
        return Err(several(given, "the cache of the hub, which holds several models", &repositories));
    }
    if shards::is_empty(&here) {
        return trained(given, &here);
    }
    Ok((given.to_owned(), None))
}

/// The kind of a file, as a suffix for the message that it is no folder.
fn kind_of(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => " of safetensors",
        Some("gguf") => ": a GGUF",
        Some("bin" | "pt" | "pth") => ": a PyTorch pickle",
        Some("onnx") => ": an ONNX model",
        _ => "",
    }
}

fn several(dir: &Path, what: &str, names: &[String]) -> Error {
    Error::malformed(dir.display(), what)
        .expected("one model", some(names))
        .help(format!("Give the path of one of them: {}", dir.join(&names[names.len() - 1]).display()))
}

/// The snapshot of a repository in the hub's cache: the one that `refs/main` names, or the only one. Source:
/// huggingface_hub, "Understand caching".
fn snapshot(repository: &Path) -> Result<(PathBuf, Option<String>)> {
    let folder = repository.join("snapshots");
    let all: Vec<_> = names(&folder).into_iter().filter(|name| folder.join(name).is_dir()).collect();
    let main = files::text(&repository.join("refs/main"))?.map(|text| text.trim().to_owned());
    let (name, why) = match (main.filter(|main| all.contains(main)), &all[..]) {
        (Some(main), _) => (main, "main"),
        (None, [only]) => (only.clone(), "the only one"),
        (None, []) => {
            return Err(Error::malformed(
                repository.display(),
                "a repository in the hub's cache, without a snapshot",
            )
            .expected("a folder in snapshots/", "none")
            .help("The download is incomplete: fetch the model again."));
        }
        (None, many) => {
            return Err(several(&folder, "a repository in the hub's cache, with several snapshots", many));
        }
    };
    let note = format!("{} is the hub's cache: snapshot {name} ({why}) is read", repository.display());
    Ok((folder.join(name), Some(note)))
}

/// The training step in a trainer's `checkpoint-500`.
pub(crate) fn step(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")?.parse().ok()
}

/// The output folder of a trainer without weights at its top level: resolves to the only `checkpoint-N` in it.
fn trained(given: &Path, here: &[String]) -> Result<(PathBuf, Option<String>)> {
    let mut steps: Vec<_> =
        here.iter().filter(|name| step(name).is_some() && given.join(name).is_dir()).cloned().collect();
    steps.sort_by_key(|name| step(name));
    let adapter = here.iter().any(|name| name.starts_with("adapter_"));
    match &steps[..] {
        [only] if !adapter => {
            let note = format!("{} has no weights of its own: {only} in it is read", given.display());
            Ok((given.join(only), Some(note)))
        }
        [_, .., _] if !adapter => {
            Err(several(given, "no weights of its own, but several states of a training", &steps))
        }
        _ => Ok((given.to_owned(), None)),
    }
}

/// The error for a folder without config or weights, if its other files show what it holds.
pub(crate) fn instead(dir: &Path) -> Option<Error> {
    let here = names(dir);
    let place = dir.display();
    let ending = |ends: &[&str]| -> Vec<String> {
        here.iter().filter(|n| ends.iter().any(|e| n.ends_with(e))).cloned().collect()
    };
    let wanted = format!("{SINGLE}, or {INDEX} with its shards");
    let adapters: Vec<_> = here.iter().filter(|name| name.starts_with("adapter_")).cloned().collect();
    // trainers save other weights beside an adapter, such as a value head
    let is_model = !shards::is_empty(&here) && here.iter().any(|name| name == "config.json");
    if !adapters.is_empty() && !is_model {
        return Some(adapter(dir, &adapters));
    }
    if !shards::is_empty(&here) {
        return None;
    }
    let partial: Vec<_> = here.iter().filter(|name| shards::is_partial(name)).cloned().collect();
    if !partial.is_empty() {
        return Some(
            Error::malformed(place, "a download that is not finished")
                .expected(wanted, some(&partial))
                .help("Wait for it to end, or fetch the model again."),
        );
    }
    let unsupported = |what: &str, found: &[String], help: &str| {
        Some(Error::unsupported(&place, what).expected(&wanted, some(found)).help(help))
    };
    let save = "load the model with transformers and save it again: save_pretrained writes safetensors";
    let original = "give the folder of the original checkpoint";
    let pickles = ending(&[".bin", ".pt", ".pth", ".ckpt"]);
    if !pickles.is_empty() {
        return unsupported("the weights are PyTorch pickles", &pickles, save);
    }
    let folders: Vec<_> = here
        .iter()
        .filter(|n| n.starts_with("global_step") || n.starts_with("pytorch_model_fsdp"))
        .cloned()
        .collect();
    if !folders.is_empty() {
        let help = "join them first: zero_to_fp32.py of DeepSpeed, or `accelerate merge-weights` of FSDP, write safetensors";
        return unsupported("the weights are shards of a training (DeepSpeed or FSDP)", &folders, help);
    }
    let containers: [(&str, &[&str]); 6] = [
        ("the weights are already GGUF", &[".gguf"]),
        ("the weights are an ONNX model", &[".onnx", "onnx"]),
        ("the weights are Flax's", &[".msgpack"]),
        ("the weights are TensorFlow's or Keras's", &[".h5", ".keras"]),
        ("the weights are NumPy arrays of MLX", &[".npz"]),
        ("the weights are a bundle of LiteRT or gemma.cpp", &[".litertlm", ".task", ".tflite", ".sbs"]),
    ];
    containers.iter().find_map(|(what, ends)| {
        let found = ending(ends);
        if found.is_empty() { None } else { unsupported(what, &found, original) }
    })
}

/// The error for a folder that holds only an adapter.
fn adapter(dir: &Path, found: &[String]) -> Error {
    let config = files::json::<Value>(&dir.join("adapter_config.json")).ok().flatten().unwrap_or_default();
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let kind = match text("peft_type").unwrap_or("LORA") {
        "LORA" if config["use_dora"] == true => "DoRA",
        "LORA" => "LoRA",
        other => other,
    };
    let of = text("base_model_name_or_path").map_or_else(String::new, |base| format!(" of {base}"));
    Error::unsupported(dir.display(), format!("a {kind} adapter{of}: no model by itself"))
        .expected("config.json and the weights of a model", some(found))
        .help("Give its base, and this folder with ‹lora›: the adapter is merged as the base is read.")
}

/// The error for several files that each may be the model.
pub(crate) fn several_files(dir: &Path, names: &[String]) -> Error {
    Error::malformed(
        dir.display(),
        "several safetensors files, and no index that says which belong to the model",
    )
    .expected(format!("{SINGLE}, or {INDEX} with its shards"), names.join(", "))
    .help(format!("fetch {INDEX} as well, or move the files away that do not belong to the model"))
}

/// The error for a folder without a config.
pub(crate) fn without_config(dir: &Path) -> Error {
    instead(dir).unwrap_or_else(|| {
        let below: Vec<_> =
            names(dir).into_iter().filter(|name| dir.join(name).join("config.json").exists()).collect();
        let help = match below.last() {
            Some(last) => format!("give the folder of the model: {}", dir.join(last).display()),
            None => "give the folder of a Hugging Face checkpoint".to_owned(),
        };
        Error::malformed(dir.join("config.json").display(), "no such file").help(help)
    })
}
