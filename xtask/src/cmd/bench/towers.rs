//! `cargo xtask bench towers`: image and audio towers of the full-size synthetic E2B in our runtime and in llama.cpp,
//! and an mmproj file made along with the text model.
//!
//! Both tools encode the same image and the same sound with the same mmproj file, which is in the page cache, in
//! turns. Ours is the example `soft_tokens` of the crate `gemma-convert`; its time includes reading the file and its
//! preparation. llama-mtmd-cli prints the time of the tower alone, and is stopped then. The tables go to stdout as
//! Markdown; their notes belong in docs/benchmarks-runtime.md.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xtask::oracle::Oracle;

use super::files::{build, build_example, remove, synthetic, warm};
use super::turns::{Row, in_turns, spread};

/// Image and audio towers of the synthetic E2B (10.2 GB, made once in the cache folder), ours and llama.cpp's.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs of each tool
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Threads of each tool
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Use this checkpoint folder instead
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Measure this example `soft_tokens` instead of building ours
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
    /// Leave llama.cpp out
    #[arg(long)]
    no_peer: bool,
    /// Leave the conversions out, where the converted files are kept
    #[arg(long)]
    no_convert: bool,
    /// Keep the converted files, for the next time
    #[arg(long)]
    keep: bool,
}

/// Width and height of an image of 280 soft tokens, which llama.cpp does not resize.
const IMAGE: [u32; 2] = [960, 672];

/// Seconds of the sound: the window of the audio tower.
const SECONDS: u32 = 30;

/// Samples a second.
const SAMPLE_RATE: u32 = 16_000;

/// Largest wall time of text model and mmproj file in one run, as a multiple of the text model alone.
const WALL_LIMIT: f64 = 1.1;

/// Largest peak RSS of that run, in bytes.
const PEAK_LIMIT: u64 = 250_000_000;

/// Milliseconds of a tower in each run of both tools.
struct Encoded {
    what: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let cache = xtask::cache_dir()?.join("bench");
        let folder = cache.join("towers");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let files = [folder.join("model-q4_0.gguf"), folder.join("mmproj-bf16.gguf")];
        if !self.no_convert {
            print!("{}", self.conversions(&cache, &folder)?);
        }
        let oracle = Oracle::find().filter(|_| !self.no_peer);
        if oracle.is_none() && !self.no_peer {
            eprintln!("without llama.cpp: `cargo xtask oracle` would provide it");
        }
        println!("\n{}", self.towers(&files, &folder, oracle.as_ref())?);
        println!("{} threads, {} runs of each, in turns.", self.threads, self.runs);
        if !self.keep {
            remove(&folder)?;
        }
        Ok(())
    }

    /// The text model alone, and with an mmproj file: the outputs of the last run stay in `folder`.
    fn conversions(&self, cache: &Path, folder: &Path) -> Result<String> {
        let ours = self.binary.clone().map_or_else(build, Ok)?;
        let model = self.model.clone().map_or_else(|| synthetic(cache), Ok)?;
        let convert = |what: &str, more: &[&str]| {
            let mut command = Command::new(&ours);
            command
                .arg("convert")
                .arg(&model)
                .args(["--type", "q4_0", "--quiet", "--force", "-o"])
                .arg(folder);
            command.args(["--threads", &self.threads.to_string()]).args(more);
            (what.to_owned(), command)
        };
        let tools = vec![convert("q4_0", &[]), convert("q4_0 and mmproj bf16", &["--mmproj", "bf16"])];
        let rows = in_turns(tools, self.runs, || warm(&model))?;
        let [alone, along] = &rows[..] else { bail!("two conversions") };
        Ok(conversion_table(alone, along))
    }

    fn towers(
        &self,
        [text, mmproj]: &[PathBuf; 2],
        folder: &Path,
        oracle: Option<&Oracle>,
    ) -> Result<String> {
        for file in [text, mmproj] {
            ensure!(file.is_file(), "there is no {}: leave --no-convert out", file.display());
        }
        let example = self.example.clone().map_or_else(|| build_example("soft_tokens"), Ok)?;
        let (image, sound) = (folder.join("image.png"), folder.join("sound.wav"));
        write_image(&image)?;
        write_sound(&sound)?;
        warm(mmproj)?;
        let mut rows = Vec::new();
        for (what, kind, option, file) in [
            ("image of 280 soft tokens", "image", "--image", &image),
            ("30 seconds of sound", "sound", "--audio", &sound),
        ] {
            let mut row = Encoded { what, ours: Vec::new(), theirs: Vec::new() };
            for number in 1..=self.runs {
                let mut command = Command::new(&example);
                command.arg(mmproj).arg(kind).arg(file).env("RAYON_NUM_THREADS", self.threads.to_string());
                row.ours.push(milliseconds(&mut command, " encoded in ")?);
                if let Some(oracle) = oracle {
                    let mut command = self.peer(oracle, text, mmproj);
                    command.arg(option).arg(file);
                    row.theirs.push(milliseconds(&mut command, "batch encoding done in ")?);
                }
                eprintln!("{what}, run {number}: ours {:?} ms, llama.cpp {:?} ms", row.ours, row.theirs);
            }
            rows.push(row);
        }
        Ok(tower_table(&rows))
    }

    fn peer(&self, oracle: &Oracle, text: &Path, mmproj: &Path) -> Command {
        let mut command = oracle.tool("llama-mtmd-cli");
        command.arg("--model").arg(text).arg("--mmproj").arg(mmproj).args([
            "--prompt",
            "x",
            "--predict",
            "1",
        ]);
        // nothing of the text model is computed before the tower is done
        command.args(["--no-warmup", "--no-repack", "--ctx-size", "4096", "--chat-template", "gemma"]);
        command.args(["--threads", &self.threads.to_string()]);
        command
    }
}

/// Runs a command until it has printed `… {before}N ms`, stops it, and returns N.
fn milliseconds(command: &mut Command, before: &str) -> Result<f64> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    // the command holds the other end of the pipe, whose end is seen only when all its holders are gone
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut seen = Vec::new();
    let mut found = None;
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let number = line.split_once(before).and_then(|(_, rest)| rest.split_once(" ms"));
        found = number.and_then(|(number, _)| number.trim().parse().ok());
        if found.is_some() {
            break;
        }
        seen.push(line);
    }
    // a child that has ended already cannot be stopped
    let _ = child.kill();
    child.wait()?;
    let end = seen.len().saturating_sub(20);
    found.with_context(|| format!("{command:?} printed no time:\n{}", seen[end..].join("\n")))
}

/// A photo-like image: gradients, and lines across.
fn write_image(path: &Path) -> Result<()> {
    let [width, height] = IMAGE;
    let pixel = |x, y| image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, (3 * (x + y)) as u8]);
    let image = image::RgbImage::from_fn(width, height, pixel);
    image.save(path).with_context(|| format!("cannot write {}", path.display()))
}

/// A tone that rises and falls, as 16-bit samples of one channel.
fn write_sound(path: &Path) -> Result<()> {
    let samples = (0..SECONDS * SAMPLE_RATE).flat_map(|n| {
        let t = f64::from(n) / f64::from(SAMPLE_RATE);
        ((8000.0 * (1000.0 * t + 300.0 * t.sin()).sin()) as i16).to_le_bytes()
    });
    let samples: Vec<u8> = samples.collect();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + samples.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    // length of this part; PCM, one channel; samples and bytes a second; bytes and bits of a sample
    bytes.extend([16u32.to_le_bytes(), 0x0001_0001u32.to_le_bytes()].concat());
    bytes.extend(
        [SAMPLE_RATE.to_le_bytes(), (2 * SAMPLE_RATE).to_le_bytes(), 0x0010_0002u32.to_le_bytes()].concat(),
    );
    bytes.extend(b"data");
    bytes.extend((samples.len() as u32).to_le_bytes());
    bytes.extend(samples);
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn tower_table(rows: &[Encoded]) -> String {
    let mut text = String::from(
        "| input | ours ms, least | median | most | llama-mtmd-cli ms, least | median | most | ratio of medians |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let ours = spread(row.ours.iter().copied());
        text += &format!("| {} | {:.0} | {:.0} | {:.0} |", row.what, ours[0], ours[1], ours[2]);
        text += &match row.theirs.is_empty() {
            true => " – | – | – | – |\n".to_owned(),
            false => {
                let theirs = spread(row.theirs.iter().copied());
                let ratio = ours[1] / theirs[1];
                format!(" {:.0} | {:.0} | {:.0} | {ratio:.2} |\n", theirs[0], theirs[1], theirs[2])
            }
        };
    }
    text
}

/// The table, and under it how the run with an mmproj file compares, and its limits.
fn conversion_table(alone: &Row, along: &Row) -> String {
    let mut text = String::from(
        "| output | wall s, least | median | most | peak RSS, bytes |\n|---|---:|---:|---:|---:|\n",
    );
    for row in [alone, along] {
        let [least, median, most] = row.walls();
        text += &format!("| {} | {least:.2} | {median:.2} | {most:.2} | {} |\n", row.what, row.peak());
    }
    let ratio = along.walls()[1] / alone.walls()[1];
    let said = |holds| if holds { "met" } else { "missed" };
    text + &format!(
        "\nWith the mmproj file {ratio:.2} times the wall time (limit {WALL_LIMIT}: {}), \
         peak RSS {:.0} MB (limit {:.0}: {}).\n",
        said(ratio <= WALL_LIMIT),
        along.peak() as f64 / 1e6,
        PEAK_LIMIT as f64 / 1e6,
        said(along.peak() <= PEAK_LIMIT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::bench::measure::Cost;
    use std::time::Duration;

    #[test]
    fn medians_are_compared() {
        let row =
            |ours: &[f64], theirs: &[f64]| Encoded { what: "x", ours: ours.into(), theirs: theirs.into() };
        let text = tower_table(&[row(&[30.0, 10.0, 20.0], &[40.0]), row(&[1.0], &[])]);
        assert!(text.contains("| x | 10 | 20 | 30 | 40 | 40 | 40 | 0.50 |"), "{text}");
        assert!(text.contains("| x | 1 | 1 | 1 | – | – | – | – |"), "{text}");
    }

    #[test]
    fn limits_are_met_or_missed() {
        let row = |what: &str, seconds, peak| {
            let wall = Duration::from_secs(seconds);
            Row { what: what.into(), costs: vec![Cost { wall, user: wall, system: wall, peak }] }
        };
        let text = conversion_table(&row("a", 100, 1), &row("b", 110, 250_000_001));
        assert!(
            text.contains("1.10 times the wall time (limit 1.1: met), peak RSS 250 MB (limit 250: missed)"),
            "{text}"
        );
        let text = conversion_table(&row("a", 100, 1), &row("b", 111, 250_000_000));
        assert!(text.contains("(limit 1.1: missed), peak RSS 250 MB (limit 250: met)"), "{text}");
    }

    #[test]
    fn a_tool_is_stopped_at_its_time() {
        let sh = |script: &str| milliseconds(Command::new("sh").args(["-c", script]), "done in ");
        assert_eq!(sh("echo loading; echo 'I encoding done in 12 ms' >&2; exec sleep 600").unwrap(), 12.0);
        let error = sh("echo no model").unwrap_err();
        assert!(error.to_string().contains("no model"), "{error}");
    }

    #[test]
    fn inputs_are_of_the_size_that_the_table_names() {
        let dir = tempfile::tempdir().unwrap();
        let (image, sound) = (dir.path().join("image.png"), dir.path().join("sound.wav"));
        write_image(&image).unwrap();
        write_sound(&sound).unwrap();
        let pixels = image::open(&image).unwrap();
        assert_eq!(pixels.width() * pixels.height(), 280 * 48 * 48);
        assert!(pixels.width() % 48 == 0 && pixels.height() % 48 == 0);
        let bytes = fs::read(&sound).unwrap();
        assert_eq!(bytes.len(), 44 + 2 * 30 * 16_000);
    }
}
