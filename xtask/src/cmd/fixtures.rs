//! `cargo xtask fixtures`: makes again what a program made in `fixtures/`: the digests of llama.cpp's own files.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use xtask::oracle::{Oracle, Scope};

/// Make fixtures/golden again with the real llama.cpp.
#[derive(clap::Args)]
pub(crate) struct Args {}

const CHECKPOINTS: [&str; 3] = ["e2b", "26b-a4b", "31b"];

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
        let oracle = Oracle::find_or_build(Scope::Converter)?;
        let fixtures = crate::root().join("fixtures");
        let mut table = String::from("# checkpoint\tpreset\tbytes\tsha256\n");
        for name in CHECKPOINTS {
            let folder = tempfile::tempdir()?;
            let bf16 = convert(&oracle, &fixtures.join("checkpoints").join(name), folder.path())?;
            for preset in PRESETS {
                let out = folder.path().join("out.gguf");
                let quantize =
                    oracle.tool("llama-quantize").arg(&bf16).arg(&out).arg(preset.to_uppercase()).quiet();
                ensure!(quantize?.success(), "llama-quantize {preset} failed on {name}");
                writeln!(table, "{name}\t{preset}\t{}\t{}", fs::metadata(&out)?.len(), sha256(&out)?)?;
                println!("{name} {preset}");
            }
        }
        let path = fixtures.join("golden/llama-quantize.tsv");
        fs::write(&path, table).with_context(|| path.display().to_string())
    }
}

/// Stock's BF16 file of a checkpoint, through a link that tells nothing.
fn convert(oracle: &Oracle, checkpoint: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let link = folder.join("tiny");
    std::os::unix::fs::symlink(checkpoint, &link)?;
    let out = folder.join("bf16.gguf");
    let mut script = oracle.script("convert_hf_to_gguf.py");
    script.arg(&link).args(["--outtype", "bf16", "--outfile"]).arg(&out);
    ensure!(script.quiet()?.success(), "convert_hf_to_gguf.py failed on {}", checkpoint.display());
    Ok(out)
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
