//! The hub's parser (`@huggingface/gguf`) reads every GGUF of ours as we wrote it, and labels it by its name.

use std::path::{Path, PathBuf};

use gguf::{Array, GgufFile, Value as Fact, type_id};
use plan::Recipe;
use serde_json::{Value, json};
use tensor::TensorSource;
use xtask::oracle::clients::HUB;

use crate::support::{convert, fixture, names, run, text};

/// Prints a list: of each file its label, keys with types and values, and tensors. Integers are strings, whatever their size.
const PARSE: &str = r#"
const { gguf, parseGGUFQuantLabel, parseGgufShardFilename } = await import("@huggingface/gguf");
const plain = (v, type) => Array.isArray(v) ? v.map((x) => plain(x, type)) : typeof v === "bigint" ? String(v)
  : typeof v === "number" && type !== 6 && type !== 12 ? String(v) : v;
const found = [];
for (const path of process.argv.slice(1)) {
  const r = await gguf(path, { allowLocalFile: true, typedMetadata: true });
  found.push({
    label: parseGGUFQuantLabel(path.split("/").at(-1)) ?? null,
    shard: parseGgufShardFilename(path.split("/").at(-1)) ?? null,
    data: String(r.tensorDataOffset),
    keys: Object.entries(r.typedMetadata).filter(([key]) => !["version", "tensor_count", "kv_count"].includes(key))
      .map(([key, { value, type, subType }]) => [key, type, subType ?? null, plain(value, subType ?? type)]),
    tensors: r.tensorInfos.map((t) => [t.name, plain(t.shape), t.dtype, String(t.offset)]),
  });
}
console.log(JSON.stringify(found));
"#;

/// A value as the script prints it: number of its type, that of its items, what it is.
fn fact(fact: &Fact) -> Value {
    macro_rules! facts {
        ($($variant:ident $number:literal $show:expr;)*) => {
            match fact {
                $(Fact::$variant(v) => json!([$number, null, $show(v)]),)*
                $(Fact::Array(Array::$variant(items)) => {
                    json!([9, $number, items.iter().map(|v| Value::from($show(v))).collect::<Vec<_>>()])
                })*
            }
        };
    }
    // sources: ggml's docs/gguf.md, gguf_metadata_value_type
    facts! {
        U8 0 ToString::to_string;
        I8 1 ToString::to_string;
        U16 2 ToString::to_string;
        I16 3 ToString::to_string;
        U32 4 ToString::to_string;
        I32 5 ToString::to_string;
        F32 6 |v: &f32| number(f64::from(*v));
        Bool 7 |v: &bool| *v;
        Str 8 ToString::to_string;
        U64 10 ToString::to_string;
        I64 11 ToString::to_string;
        F64 12 |v: &f64| number(*v);
    }
}

/// A number as JavaScript prints it: without a point where it is whole.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// What the parser has to find in a file.
fn written(path: &Path) -> (Vec<Value>, Vec<Value>) {
    let file = GgufFile::open(path).unwrap();
    let keys = file.metadata().iter().map(|(key, value)| {
        let fact = fact(value);
        json!([key, fact[0], fact[1], fact[2]])
    });
    let first = file.offsets().iter().min().copied().unwrap_or_default();
    let tensors = file.tensors().iter().zip(file.offsets()).map(|(desc, offset)| {
        let shape: Vec<_> = desc.shape.iter().rev().map(u64::to_string).collect();
        json!([desc.name, shape, type_id(desc.dtype).unwrap(), (offset - first).to_string()])
    });
    (keys.collect(), tensors.collect())
}

fn check(folder: &Path, label: impl Fn(&str) -> String) {
    let Some(hub) = HUB.for_tests() else { return };
    let files: Vec<PathBuf> =
        names(folder).iter().filter(|name| name.ends_with(".gguf")).map(|name| folder.join(name)).collect();
    assert!(!files.is_empty());
    let found = super::answer(hub.node(PARSE).args(&files));
    for (path, found) in files.iter().zip(found.as_array().unwrap()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(found["label"], label(name), "{name}");
        assert_eq!(found["shard"].is_null(), !name.contains("-of-"), "{name}");
        let (keys, tensors) = written(path);
        for (ours, theirs) in keys.iter().zip(found["keys"].as_array().unwrap()) {
            assert!(ours == theirs, "{name}: {}: {theirs}", ours[0]);
        }
        assert_eq!(found["keys"].as_array().unwrap().len(), keys.len(), "{name}");
        assert_eq!(*found["tensors"].as_array().unwrap(), tensors, "{name}");
    }
}

/// The preset at the end of a name, before the number of a part.
fn last_word(name: &str) -> String {
    let stem = name.strip_suffix(".gguf").unwrap();
    let stem = stem.split_once("-of-").map_or(stem, |(stem, _)| stem.rsplit_once('-').unwrap().0);
    stem.rsplit('-').next().unwrap().to_uppercase()
}

#[test]
fn every_preset_is_read_and_labelled() {
    let home = tempfile::tempdir().unwrap();
    let types: Vec<_> = plan::preset_names().flat_map(|preset| ["--type", preset]).collect();
    convert(&fixture("31b"), home.path(), &[types.as_slice(), &["-q"]].concat()).good();
    check(home.path(), last_word);
}

#[test]
fn splits_offloads_and_drafts_are_read_and_labelled() {
    let home = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b"] {
        let (model, out) = (fixture(name), home.path().join(name));
        let recipes = ["browser", "q4_0-offload", "q8_0-offload"].map(|recipe| ["--recipe", recipe]).concat();
        let more =
            ["--set", "output.split_max_size='1MB'", "--set", "output.offload=['per-layer', 'experts']"];
        convert(&model, &out, &[recipes.as_slice(), &more, &["-q"]].concat()).good();
        let (assistant, target) = (fixture(&format!("{name}-assistant")), model.to_str().unwrap());
        for preset in ["q8_0", "bf16"] {
            let draft =
                ["draft", "convert", assistant.to_str().unwrap(), "--target", target, "--type", preset];
            run([draft.as_slice(), &["-o", out.to_str().unwrap(), "-q"]].concat()).good();
        }
        assert!(names(&out).iter().any(|name| name.contains("-00003-of-")), "{:?}", names(&out));
        check(&out, last_word);
    }
}

#[test]
fn what_is_calibrated_is_labelled_by_its_file_type() {
    let home = tempfile::tempdir().unwrap();
    let text = text("calib.txt");
    let recipes = ["q4_0-calibrated", "iq4-calibrated"].map(|recipe| ["--recipe", recipe]).concat();
    let more = ["--text", text.to_str().unwrap(), "--chunks", "8", "--set", "calibration.context=256", "-q"];
    convert(&fixture("31b"), home.path(), &[recipes.as_slice(), &more].concat()).good();
    let expected =
        ["manifest.json", "model-calibrated-q4_0.gguf", "model-iq4-calibrated-q4_0.gguf"].map(str::to_owned);
    assert!(expected.iter().all(|name| names(home.path()).contains(name)), "{:?}", names(home.path()));
    check(home.path(), |_| "Q4_0".to_owned());
}

/// No recipe gives a GGUF a name without a label, or with another than its file type's.
#[test]
fn every_recipe_names_its_file_type() {
    let Some(hub) = HUB.for_tests() else { return };
    let script = r#"
const { parseGGUFQuantLabel } = await import("@huggingface/gguf");
console.log(JSON.stringify(process.argv.slice(1).map((name) => parseGGUFQuantLabel(name) ?? null)));
"#;
    let recipes = Recipe::embedded().into_iter().map(|(name, _)| {
        let recipe = Recipe::from_toml(Recipe::embedded_text(&name).unwrap(), &name).unwrap();
        (name, recipe)
    });
    let stems: Vec<_> = recipes
        .filter(|(_, recipe)| !recipe.types.preset.is_empty())
        .map(|(name, recipe)| (plan::stem("model", &name, &recipe), recipe.types.preset.to_uppercase()))
        .collect();
    assert!(stems.len() > 10);
    let files: Vec<_> = stems
        .iter()
        .flat_map(|(stem, _)| [format!("{stem}.gguf"), format!("{stem}-00001-of-00003.gguf")])
        .collect();
    let labels = super::answer(hub.node(script).args(&files));
    for (number, name) in files.iter().enumerate() {
        assert_eq!(labels[number], stems[number / 2].1, "{name}");
    }
}
