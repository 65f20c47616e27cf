//! How images and sounds are prepared: what `processor_config.json` and the keys of an mmproj file say is obeyed, or refused by name.

use serde_json::{Value, json};

use crate::mmproj::converted;
use crate::support::{Folder, convert, names, run};

/// Every value that is built into the preparation of images and sounds: another one is refused by name, by `convert` and by programs that
/// would prepare a file with it.
#[test]
fn another_preparation_is_refused() {
    let table = include_str!("../formats/gemma4.processor.toml").parse::<toml::Table>().unwrap();
    let image = testkit::fixtures("golden/multimodal/wide.png");
    for (block, rows) in [("image_processor", "image"), ("feature_extractor", "mel")] {
        for (field, built_in) in table[rows].as_table().unwrap() {
            let other = match built_in {
                toml::Value::Boolean(value) => json!(!value),
                toml::Value::Integer(value) => json!(value + 1),
                value => json!(value.as_float().unwrap() + 0.25),
            };
            let folder = Folder::of("e2b");
            folder.edit("processor_config.json", |json| json[block][field] = other.clone());
            let place = format!("processor_config.json: {block}.{field}");
            let made = convert(&folder.path(), &folder.out(), &["--mmproj", "bf16"]);
            assert!(made.refusal(3).contains(&place), "{other}: {}", made.stderr);
            assert!(names(&folder.out()).is_empty());
            // null is the same as no field
            folder.edit("processor_config.json", |json| json[block][field] = Value::Null);
            converted(&folder.path(), &folder.out(), &["--mmproj", "bf16"]);
            folder.edit("processor_config.json", |json| json[block][field] = other.clone());
            let model = folder.path();
            let prompt = ["generate", model.to_str().unwrap(), "-p", "x", "-n", "1", "--image"];
            let said = run([&prompt[..], &[image.to_str().unwrap()]].concat());
            assert!(said.refusal(3).contains(&place), "{other}: {}", said.stderr);
        }
    }
}

/// llama.cpp always normalises by the keys, transformers when asked: a file by which they differ is not made.
#[test]
fn a_normalisation_of_one_program_alone_is_refused() {
    let file = |asked: bool, mean: f64, deviation: f64| {
        let folder = Folder::of("e2b");
        folder.edit("processor_config.json", |json| {
            let fields = &mut json["image_processor"];
            fields["do_normalize"] = asked.into();
            (fields["image_mean"], fields["image_std"]) =
                (json!([mean, mean, mean]), json!([deviation, deviation, deviation]));
        });
        convert(&folder.path(), &folder.out(), &["--mmproj", "bf16"])
    };
    file(true, 0.5, 0.5).good();
    file(true, 0.0, 1.0).good();
    assert!(file(false, 0.5, 1.0).refusal(3).contains("do_normalize"));
    assert!(file(false, 0.0, 0.5).refusal(3).contains("do_normalize"));
    for asked in [true, false] {
        assert!(file(asked, 0.0, 0.0).refusal(3).contains("image_std: colours are divided by it"));
    }
}

/// Keys of the file by which llama.cpp reads no images, stops, or computes something else.
#[test]
fn keys_that_llama_cpp_obeys_are_obeyed() {
    let folder = Folder::of("e2b");
    converted(&folder.path(), &folder.out(), &["--type", "bf16", "--mmproj", "f32"]);
    let (text, mmproj) = (folder.out().join("model-bf16.gguf"), folder.out().join("mmproj-f32.gguf"));
    let good = std::fs::read(&mmproj).unwrap();
    let image = testkit::fixtures("golden/multimodal/wide.png");
    // key, bytes between its name and the value, the value
    for (key, skip, value) in [
        ("clip.has_vision_encoder", 4, &[0][..]),
        ("clip.audio.num_mel_bins", 4, &[64, 0, 0, 0]),
        ("clip.audio.num_mel_bins", 4, &[0, 0, 0, 0]),
        ("clip.vision.image_std", 16, &[0, 0, 0, 0]),
        ("clip.vision.image_mean", 16, &f32::NAN.to_le_bytes()),
    ] {
        let mut bytes = good.clone();
        let name = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        let start = name + key.len() + skip;
        bytes[start..start + value.len()].copy_from_slice(value);
        std::fs::write(&mmproj, bytes).unwrap();
        let run = run([
            "generate",
            text.to_str().unwrap(),
            "--mmproj",
            mmproj.to_str().unwrap(),
            "--image",
            image.to_str().unwrap(),
            "-p",
            "x",
            "-n",
            "1",
        ]);
        assert!(run.refusal(3).contains(key), "{}", run.stderr);
    }
}
