//! Where the files are, which of them are the model, and what lies beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::json;

use super::{ALL, Clean, all_the_same, form, made, of_the_checkpoint, rename};
use crate::support::{self, Folder, INDEX, WEIGHTS, Weights, fixture, run};

#[test]
fn files() {
    all_the_same(&[
        form("complete shards without an index", ALL, &[INDEX, "all 3 shards are there"], |f| {
            f.shard_in_order(3);
            f.remove(INDEX);
        }),
        form("one shard of one without an index", &["31b"], &[INDEX, "all 1 shards"], |f| {
            fs::rename(f.file(WEIGHTS), f.file("model-00001-of-00001.safetensors")).unwrap();
        }),
        form("a file of another name", ALL, &["weights.safetensors", "the only safetensors file"], |f| {
            fs::rename(f.file(WEIGHTS), f.file("weights.safetensors")).unwrap();
        }),
        form(
            "a file of another name beside an adapter",
            &["31b"],
            &["merged.safetensors", "adapter_model.safetensors", "not merged"],
            |f| {
                fs::rename(f.file(WEIGHTS), f.file("merged.safetensors")).unwrap();
                f.write("adapter_model.safetensors", "no model");
            },
        ),
        form("a repository in the hub's cache", ALL, &["hub's cache", "0123abcd", "main"], |f| {
            in_cache(f, true)
        }),
        form(
            "a repository in the hub's cache without refs",
            &["31b"],
            &["hub's cache", "the only one"],
            |f| in_cache(f, false),
        ),
        form("the cache of the hub with one model", &["31b"], &["models--x--y", "hub's cache"], |f| {
            in_cache(f, true);
            let (inner, outer) = (f.home().join("moved"), f.path());
            fs::rename(&outer, &inner).unwrap();
            fs::create_dir(&outer).unwrap();
            fs::rename(inner, outer.join("models--x--y")).unwrap();
        }),
        form("a trainer's output", ALL, &["has no weights of its own: checkpoint-500"], |f| {
            into(f, "checkpoint-500");
            f.write("trainer_state.json", "{}");
        }),
        form("a trainer's output with a config", &["31b"], &["checkpoint-7 in it is read"], |f| {
            into(f, "checkpoint-7");
            fs::copy(fixture("31b").join("config.json"), f.file("config.json")).unwrap();
        }),
        form(
            "weights of others beside the model",
            ALL,
            &[
                "files beside the model that are not read",
                "adapter_model.safetensors",
                "consolidated.00.pth",
                "model-00009-of-00009.safetensors",
                "optimizer.pt",
                "pytorch_model.bin",
                "model.safetensors.part",
            ],
            |f| {
                for name in [
                    "adapter_model.safetensors",
                    "consolidated.00.pth",
                    "model-00009-of-00009.safetensors",
                    "optimizer.pt",
                    "pytorch_model.bin",
                    "model.safetensors.part",
                ] {
                    f.write(name, "not read");
                }
            },
        ),
        form(
            "another template in tokenizer_config.json",
            ALL,
            &["chat_template.jinja takes precedence", "differ"],
            |f| f.edit("tokenizer_config.json", |t| t["chat_template"] = "OLD {{ messages }}".into()),
        ),
        form("another template in a list", &["31b"], &["chat_template.jinja takes precedence"], |f| {
            f.edit("tokenizer_config.json", |t| {
                t["chat_template"] = json!([{ "name": "default", "template": "OLD" }])
            })
        }),
        form("templates in a folder that nobody reads", &["31b"], &["chat_templates/tools.jinja"], |f| {
            fs::create_dir(f.file("chat_templates")).unwrap();
            f.write("chat_templates/tools.jinja", "x");
        }),
    ]);
    let mut clean = Clean::default();
    let folder = Folder::of("31b");
    folder.edit("tokenizer_config.json", |t| {
        t["chat_template"] = fs::read_to_string(fixture("31b").join("chat_template.jinja")).unwrap().into()
    });
    let (made, said) = made(&folder.path(), folder.home());
    assert_eq!(of_the_checkpoint(&said).count(), 0, "the same template twice is nothing to say: {said}");
    assert_eq!(made, clean.of("31b"));
}

/// Moves all files of the folder into one below it.
fn into(folder: &Folder, below: &str) -> PathBuf {
    let inner = folder.home().join("moved");
    fs::rename(folder.path(), &inner).unwrap();
    let to = folder.file(below);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(inner, &to).unwrap();
    to
}

/// Makes the folder a repository in the hub's cache: files are links to blobs.
fn in_cache(folder: &Folder, refs: bool) {
    let snapshot = into(folder, "snapshots/0123abcd");
    fs::create_dir(folder.file("blobs")).unwrap();
    for (number, name) in support::names(&snapshot).into_iter().enumerate() {
        let blob = format!("{number:040x}");
        fs::rename(snapshot.join(&name), folder.file("blobs").join(&blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(&name)).unwrap();
    }
    if refs {
        fs::create_dir(folder.file("refs")).unwrap();
        folder.write("refs/main", "0123abcd");
        fs::create_dir(folder.file("snapshots/00000000")).unwrap();
    }
}

/// `verify` of a folder names what nobody reads in it, and fails it for names that transformers does not know.
#[test]
fn verify_tells_of_the_form_of_a_folder() {
    let base = fixture("31b");
    let folder = Folder::of("31b");
    let verify = |folder: &Folder| {
        run([
            "verify",
            folder.path().to_str().unwrap(),
            "--against",
            base.to_str().unwrap(),
            "--recipe",
            "bf16-safetensors",
        ])
    };
    folder.write("adapter_model.safetensors", "x");
    let run = verify(&folder).good();
    assert!(run.stdout.contains("adapter_model.safetensors"), "{}", run.stdout);
    rename(&folder, |name| format!("module.{name}"));
    let run = verify(&folder);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stdout.contains("as a wrapper"), "{}", run.stdout);
}

/// What transformers saves of a text model alone, or without a head: other names and another config, the same weights.
#[test]
fn models_saved_in_part() {
    const TEXT: &str = "model.language_model.";
    fn flat(f: &Folder, architecture: &str, model_type: &str) {
        f.edit("config.json", |c| {
            let mut text = c["text_config"].take();
            text["architectures"] = json!([architecture]);
            text["model_type"] = model_type.into();
            *c = text;
        });
        f.reweigh(Weights::drop_towers);
    }
    type Change = fn(&Folder);
    let parts: [(&str, &[&str], Change); 4] = [
        ("the text model", ALL, |f| {
            flat(f, "Gemma4ForCausalLM", "gemma4_text");
            rename(f, |name| name.replace(TEXT, "model."));
        }),
        ("the text model of a 12B", &["31b"], |f| {
            flat(f, "Gemma4UnifiedForCausalLM", "gemma4_unified_text");
            rename(f, |name| name.replace(TEXT, "model."));
        }),
        ("the text model without a head", ALL, |f| {
            flat(f, "Gemma4TextModel", "gemma4_text");
            rename(f, |name| name.replace(TEXT, ""));
        }),
        ("all without a head", ALL, |f| {
            f.edit("config.json", |c| c["architectures"] = json!(["Gemma4Model"]));
            rename(f, |name| name.strip_prefix("model.").unwrap().to_owned());
        }),
    ];
    let mut clean = Clean::default();
    for (what, bases, make) in parts {
        for base in ALL.iter().filter(|base| bases.contains(base)) {
            let folder = Folder::of(base);
            make(&folder);
            let (made, _) = made(&folder.path(), folder.home());
            let clean = clean.of(base);
            assert_eq!((made.gguf, made.tokens), (clean.gguf, clean.tokens), "{what}, {base}");
        }
    }
}
