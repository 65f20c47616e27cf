//! `cargo xtask fixtures`: makes again what llama.cpp made in `fixtures/golden`: digests of whole files, keys.
//! `cargo xtask fixtures broken`: makes files with mistakes that `verify` must find.

mod broken;

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use xtask::keys::Case;
use xtask::oracle::{Oracle, Scope};

/// Make fixtures/golden again with the real llama.cpp, or files with mistakes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    Broken(broken::Args),
}

const CHECKPOINTS: [&str; 5] = ["e2b", "26b-a4b", "31b", "e2b-assistant", "26b-a4b-assistant"];

const PRESETS: [&str; 20] = [
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "q4_k_s",
    "q4_k_m",
    "q5_k_s",
    "q5_k_m",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "mxfp4_moe",
];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(What::Broken(args)) = self.what {
            return args.run();
        }
        let oracle = Oracle::find_or_build(Scope::Converter)?;
        let fixtures = crate::root().join("fixtures");
        digests(&oracle, &fixtures)?;
        keys(&oracle, &fixtures)
    }
}

/// Size and SHA-256 of every preset of every tiny checkpoint.
fn digests(oracle: &Oracle, fixtures: &Path) -> Result<()> {
    let mut table = String::from("# checkpoint\tpreset\tbytes\tsha256\n");
    for name in CHECKPOINTS {
        let folder = tempfile::tempdir()?;
        let link = folder.path().join("tiny");
        std::os::unix::fs::symlink(fixtures.join("checkpoints").join(name), &link)?;
        let bf16 = convert(oracle, &link, folder.path())?;
        for preset in PRESETS {
            let out = folder.path().join("out.gguf");
            quantize(oracle, &bf16, &out, &preset.to_uppercase())?;
            writeln!(table, "{name}\t{preset}\t{}\t{}", fs::metadata(&out)?.len(), sha256(&out)?)?;
            println!("{name} {preset}");
        }
    }
    let path = fixtures.join("golden/llama-quantize.tsv");
    fs::write(&path, table).with_context(|| path.display().to_string())
}

/// What becomes of the companions of a checkpoint.
fn keys(oracle: &Oracle, fixtures: &Path) -> Result<()> {
    let golden = fixtures.join("golden/keys");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(golden.join("cases.json"))?)?;
    let mut expected = serde_json::Map::new();
    for case in cases {
        let folder = tempfile::tempdir()?;
        let checkpoint = folder.path().join("tiny");
        case.make(&fixtures.join("checkpoints/31b"), &checkpoint)?;
        let bf16 = convert(oracle, &checkpoint, folder.path())?;
        let copy = folder.path().join("copy.gguf");
        quantize(oracle, &bf16, &copy, "COPY")?;
        println!("{}", case.name);
        expected.insert(case.name, serde_json::to_value(xtask::keys::of_file(&copy)?)?);
    }
    let path = golden.join("expected.json");
    fs::write(&path, serde_json::to_string_pretty(&expected)? + "\n")
        .with_context(|| path.display().to_string())
}

/// Stock's BF16 file of a checkpoint in a folder whose name, `tiny`, tells nothing.
fn convert(oracle: &Oracle, checkpoint: &Path, folder: &Path) -> Result<PathBuf> {
    let out = folder.join("bf16.gguf");
    let mut script = oracle.script("convert_hf_to_gguf.py");
    script.arg(checkpoint).args(["--outtype", "bf16", "--outfile"]).arg(&out);
    ensure!(script.quiet()?.success(), "convert_hf_to_gguf.py failed on {}", checkpoint.display());
    Ok(out)
}

fn quantize(oracle: &Oracle, from: &Path, to: &Path, preset: &str) -> Result<()> {
    let status = oracle.tool("llama-quantize").arg(from).arg(to).arg(preset).quiet()?;
    ensure!(status.success(), "llama-quantize {preset} failed on {}", from.display());
    Ok(())
}

trait Quiet {
    fn quiet(&mut self) -> std::io::Result<std::process::ExitStatus>;
}

impl Quiet for Command {
    fn quiet(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}
