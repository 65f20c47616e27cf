//! Bundles of LiteRT-LM: `inspect`, and `convert --bundle`. What the exporter makes is in `fixtures/golden/litertlm`.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{Run, WEIGHTS, Weights, fixture, run};

/// A folder with the checkpoint of the goldens, the fine-tune of it, and a bundle.
struct Files {
    home: TempDir,
}

impl Files {
    fn new(recipe: &str) -> Files {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| testkit::read(format!("golden/litertlm/{name}"));
        let mut weights = Weights::parse(&file("base.safetensors"));
        for name in ["base", "tuned"] {
            let folder = home.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("config.json"), file("config.json")).unwrap();
            fs::write(folder.join(WEIGHTS), weights.to_bytes()).unwrap();
            weights.tensors.iter_mut().for_each(tune);
        }
        let mut bundle = Vec::new();
        let packed = file(&format!("base.{recipe}.litertlm.gz"));
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bundle).unwrap();
        let files = Files { home };
        fs::write(files.path("base.litertlm"), bundle).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `convert tuned --bundle base.litertlm --bundle-base BASE -o OUT`.
    fn convert(&self, base: &str, out: &str, more: &[&str]) -> Run {
        let [tuned, bundle, base, out] = ["tuned", "base.litertlm", base, out].map(|name| self.path(name));
        let args = [
            "convert".into(),
            tuned,
            "--bundle".into(),
            bundle,
            "--bundle-base".into(),
            base,
            "-o".into(),
            out,
        ];
        run(args.into_iter().chain(more.iter().map(PathBuf::from)))
    }
}

/// The rule of the second checkpoint: rows in reverse order, a tensor of one element times 0.5.
fn tune(tensor: &mut crate::support::Tensor) {
    match tensor.data.as_mut_slice() {
        [low, high] => [*low, *high] = (u16::from_le_bytes([*low, *high]) - 0x80).to_le_bytes(),
        data => {
            let row = data.len() / tensor.shape[0] as usize;
            tensor.data = data.chunks(row).rev().flatten().copied().collect();
        }
    }
}

fn expected() -> Value {
    testkit::json("golden/litertlm/expected.json")
}

#[test]
fn a_fine_tune_in_a_bundle_has_the_bytes_of_an_export() {
    let files = Files::new("mixed48");
    let made = files.convert("base", "tuned.litertlm", &["--json"]).good().json();
    assert_eq!((&made["retyped"], &made["growth"]), (&0.into(), &0.into()));
    let bytes = fs::read(files.path("tuned.litertlm")).unwrap();
    assert_eq!(made["bytes"], bytes.len());
    for section in expected()["recipes"]["mixed48"]["tuned"]["sections"].as_array().unwrap() {
        let [begin, end] = ["begin", "end"].map(|key| section[key].as_u64().unwrap() as usize);
        let digest: String = Sha256::digest(&bytes[begin..end]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, section["sha256"].as_str().unwrap(), "{section}");
    }
}

/// Codes of two bits get four unless they are kept: then the file has the size of the bundle.
#[test]
fn int2_is_raised_unless_it_is_kept() {
    let files = Files::new("wi2");
    let size = |name: &str| fs::metadata(files.path(name)).unwrap().len();
    files.convert("base", "kept.litertlm", &["--bundle-types", "keep"]).good();
    assert_eq!(size("kept.litertlm"), size("base.litertlm"));
    let said = files.convert("base", "raised.litertlm", &[]).good().stdout;
    let growth = size("raised.litertlm") - size("base.litertlm");
    let types = |name: &str| {
        let document = run(["inspect", files.path(name).to_str().unwrap(), "--json"]).good().json();
        let models = document["sections"].as_array().unwrap().clone();
        let constants = models.iter().filter_map(|model| model["content"]["constants"].as_array());
        constants.flatten().filter(|constant| constant["type"] == "INT2 a row").count()
    };
    assert_eq!((types("base.litertlm"), types("kept.litertlm"), types("raised.litertlm")), (36, 36, 0));
    assert!(said.contains("36 of them with more bits") && growth > 100_000, "{said}");
}

#[test]
fn inspect_shows_sections_metadata_and_types() {
    let files = Files::new("mixed48_b32");
    let bundle = files.path("base.litertlm");
    let text = run(["inspect", bundle.to_str().unwrap()]).good().stdout;
    for shown in [
        "LiteRT-LM bundle, version 1.7.0",
        "tf_lite_prefill_decode: 44 subgraphs",
        "INT4 in blocks of 32",
        "start token  \"<bos>\"",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let listed = run(["inspect", bundle.to_str().unwrap(), "--tensors"]).good().stdout;
    assert!(
        listed.contains("Gemma4TextDecoderLayer_0/Gemma4TextAttention_self_attn/Linear_q_proj [64, 64]"),
        "{listed}"
    );
    let json = run(["inspect", bundle.to_str().unwrap(), "--json"]).good().json();
    assert_eq!(
        (json["kind"].as_str(), json["sections"].as_array().map(Vec::len)),
        (Some("litertlm"), Some(6))
    );
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let files = Files::new("mixed48");
    let said = files.convert("tuned", "other.litertlm", &[]);
    assert!(said.refusal(3).contains("not those of the base checkpoint"), "{}", said.stderr);
    let said = files.convert("base", "other.gguf", &[]);
    assert!(said.refusal(2).contains("a name that ends in .litertlm"), "{}", said.stderr);
    let said = files.convert("base", "base.litertlm", &[]);
    assert!(said.refusal(3).contains("the file exists"), "{}", said.stderr);
    assert_eq!(files.convert("base", "other.litertlm", &["--type", "q4_0"]).code, Some(2));
    let e2b = fixture("e2b");
    fs::remove_dir_all(files.path("tuned")).unwrap();
    std::os::unix::fs::symlink(e2b, files.path("tuned")).unwrap();
    let said = files.convert("base", "other.litertlm", &[]);
    assert!(said.refusal(3).contains("another shape than in the base checkpoint"), "{}", said.stderr);
    assert!(!files.path("other.litertlm").exists());
}
