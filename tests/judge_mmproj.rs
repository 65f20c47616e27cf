//! The real llama.cpp judges mmproj files: `llama-mtmd-cli` loads each with our text model, and its soft tokens are compared. Skipped, with
//! a word, where llama.cpp is not built (`cargo xtask oracle`); `.ci/run` requires it.

use std::path::{Path, PathBuf};

use xtask::oracle::Oracle;

use crate::mmproj::with_overlay;
use crate::support::{Folder, convert, said, sha256};

/// An image of 78 soft tokens, which llama.cpp does not resize.
const IMAGE: &str = "golden/multimodal/wide.llama.png";
/// A sound of 75 soft tokens.
const SOUND: &str = "golden/multimodal/chirp-3s.wav";

/// Soft tokens, row by row.
pub(crate) struct SoftTokens {
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f32>,
}

impl SoftTokens {
    /// Root mean square of the difference, relative to that of `other`.
    pub(crate) fn distance(&self, other: &SoftTokens) -> f64 {
        assert_eq!((self.count, self.width), (other.count, other.width));
        let square = |value: f32| f64::from(value) * f64::from(value);
        let difference: f64 = self.values.iter().zip(&other.values).map(|(a, b)| square(a - b)).sum();
        (difference / other.values.iter().map(|&value| square(value)).sum::<f64>()).sqrt()
    }
}

/// What llama.cpp makes of an image or a sound: the file that `MTMD_DEBUG_EMBEDDINGS` names, two numbers and the values.
pub(crate) fn soft_tokens(oracle: &Oracle, text: &Path, mmproj: &Path, media: [&str; 2]) -> SoftTokens {
    let saved = mmproj.with_extension("embeddings");
    let mut tool = oracle.runner("llama-mtmd-cli");
    tool.env("MTMD_DEBUG_EMBEDDINGS", &saved)
        .args(["-fa", "off", "--jinja", "-t", "2", "--temp", "0", "-n", "1"]);
    tool.arg("-m").arg(text).arg("--mmproj").arg(mmproj);
    tool.arg(media[0]).arg(testkit::fixtures(media[1])).args(["-p", "What is it?"]);
    said(&mut tool, |_, _| saved.is_file());
    let bytes = std::fs::read(&saved).unwrap();
    std::fs::remove_file(&saved).unwrap();
    let number = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let values = testkit::floats(&bytes[8..]);
    assert_eq!(values.len(), number(0) * number(4));
    SoftTokens { count: number(0), width: number(4), values }
}

/// A checkpoint's text model and mmproj files.
pub(crate) fn pair(folder: &Folder, types: &str) -> (PathBuf, impl Fn(&str) -> PathBuf + use<>) {
    convert(&folder.path(), &folder.out(), &["--type", "bf16", "--mmproj", types]).good();
    let out = folder.out();
    (out.join("model-bf16.gguf"), move |outtype: &str| out.join(format!("mmproj-{outtype}.gguf")))
}

/// llama.cpp loads files of all types, and the error of soft tokens is that of the type. llama-quantize makes none of these of an E2B.
#[test]
fn llama_cpp_loads_every_type() {
    let Some(oracle) = Oracle::for_tests() else { return };
    // type → the largest relative error of image and sound, about twice what was measured
    const LIMITS: [(&str, f64); 10] = [
        ("f16", 0.001),
        ("bf16", 0.007),
        ("q8_0", 0.04),
        ("q6_k", 0.07),
        ("q5_1", 0.22),
        ("q5_0", 0.25),
        ("q4_k_m", 0.25),
        ("iq4_nl", 0.45),
        ("q4_0", 0.45),
        ("q2_k", 0.8),
    ];
    let folder = Folder::of("e2b");
    let types: Vec<&str> = LIMITS.iter().map(|(outtype, _)| *outtype).chain(["f32"]).collect();
    let types = types.join(",");
    let (text, mmproj) = pair(&folder, &types);
    for media in [["--image", IMAGE], ["--audio", SOUND]] {
        let exact = soft_tokens(&oracle, &text, &mmproj("f32"), media);
        for (outtype, limit) in LIMITS {
            let distance = soft_tokens(&oracle, &text, &mmproj(outtype), media).distance(&exact);
            assert!(distance > 0.0 && distance < limit, "{outtype} {}: {distance}", media[0]);
        }
    }
}

/// `clip.use_gelu` changes what llama.cpp computes, as `--set mmproj.gelu=exact` says.
#[test]
fn exact_gelu_changes_the_image_tower() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let folder = with_overlay("e2b");
    let (text, mmproj) = pair(&folder, "f32");
    let stock = soft_tokens(&oracle, &text, &mmproj("f32"), ["--image", IMAGE]);
    convert(&folder.path(), &folder.out(), &["--mmproj", "f32", "--set", "mmproj.gelu=exact", "--force"])
        .good();
    let exact = soft_tokens(&oracle, &text, &mmproj("f32"), ["--image", IMAGE]);
    let distance = exact.distance(&stock);
    assert!((0.001..0.05).contains(&distance), "{distance}");
}

/// Our towers, as llama.cpp computes them, agree with llama.cpp: images and sounds, with towers that show an exchanged axis or a missing
/// bound.
#[test]
fn soft_tokens_are_llama_cpps() {
    let Some(oracle) = Oracle::for_tests() else { return };
    for (name, media, normalise) in [
        ("e2b", ["--image", IMAGE], false),
        ("e2b", ["--audio", SOUND], false),
        ("31b", ["--image", IMAGE], false),
        ("31b", ["--image", IMAGE], true),
    ] {
        let folder = with_overlay(name);
        if normalise {
            folder.edit("processor_config.json", |json| {
                let fields = &mut json["image_processor"];
                fields["do_normalize"] = true.into();
                fields["image_mean"] = serde_json::json!([0.5, 0.4, 0.3]);
                fields["image_std"] = serde_json::json!([0.25, 0.5, 0.75]);
            });
        }
        let (text, mmproj) = pair(&folder, "f32");
        let theirs = soft_tokens(&oracle, &text, &mmproj("f32"), media);
        let ours = gemma_convert::soft_tokens(&mmproj("f32"), &media_file(media)).unwrap();
        let (count, width) = ours.dim();
        let ours = SoftTokens { count, width, values: ours.iter().copied().collect() };
        let distance = ours.distance(&theirs);
        assert!(distance < 1e-3, "{name} {} {normalise}: {distance}", media[0]);
    }
}

fn media_file(media: [&str; 2]) -> gemma_convert::MediaFile {
    let path = testkit::fixtures(media[1]);
    match media[0] {
        "--image" => gemma_convert::MediaFile::Image(path),
        _ => gemma_convert::MediaFile::Sound(path),
    }
}

/// A 12B, which has embedders instead of towers: the files of the converter. The checkpoint has random weights; it gets a tokenizer, and an
/// embedding with a row for each token.
#[test]
fn files_of_a_12b_are_the_converters() {
    let Some(oracle) = Oracle::for_tests().filter(Oracle::can_convert) else { return };
    let folder = Folder::of("31b");
    for name in ["config.json", "model.safetensors"] {
        folder.write(name, testkit::read(format!("golden/multimodal-12b/{name}")));
    }
    folder.edit("config.json", |config| config["text_config"]["vocab_size"] = 2048.into());
    folder.reweigh(|weights| {
        let embedding = weights.get("embed_tokens.weight");
        embedding.shape[0] = 2048;
        embedding.data.resize(2048 * embedding.shape[1] as usize * 2, 0);
    });
    let types = ["f32", "f16", "bf16", "q8_0"];
    let name = "metadata.name=Checkpoint";
    convert(&folder.path(), &folder.out(), &["--mmproj", &types.join(","), "--set", name]).good();
    for outtype in types {
        let stock = folder.home().join("stock.gguf");
        let mut script = oracle.script("convert_hf_to_gguf.py");
        script.arg(folder.path()).args(["--mmproj", "--outtype", outtype, "--outfile"]).arg(&stock);
        let output = script.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ours = folder.out().join(format!("mmproj-{outtype}.gguf"));
        assert_eq!(sha256(&ours), sha256(&stock), "{outtype}");
    }
}
