//! The model card of a release: README.md of a repository of GGUF files.
//!
//! Every figure comes from a manifest, a plan or a verification; what was not measured is not in the card.
//!
//! Source: the hub's specification of model cards (front matter), llama.cpp's and Ollama's selectors.

mod front_matter;
mod usage;

use std::fmt::Write;

use base::grouped;

use self::front_matter::front_matter;
use crate::hub_files::HubRole;

pub use front_matter::CardModel;

/// All that a model card tells.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The model, for front matter and headline.
    pub model: CardModel,
    /// The repository of the release on the hub, `owner/name`.
    pub repository: String,
    /// The files, in the order of the tables.
    pub files: Vec<CardFile>,
    /// What the text models were measured on.
    pub evaluation: Option<CardText>,
    /// What they were calibrated on, if they were.
    pub calibration: Option<CardText>,
    /// Name and version of the program, and its arithmetic: `gemma-convert 0.4.0 (avx512, f32)`.
    pub tool: String,
    /// The command that makes the release again.
    pub command: String,
}

/// A text that figures depend on.
#[derive(Clone, Debug, Default)]
pub struct CardText {
    /// Names and SHA-256 of its files.
    pub files: Vec<(String, String)>,
    /// Number of tokens: scored ones of an evaluation, all of a calibration.
    pub tokens: u64,
}

/// A file of a release, or the parts of a split.
#[derive(Clone, Debug)]
pub struct CardFile {
    /// Path in the repository; of a split that of the first part.
    pub path: String,
    /// What it is.
    pub role: HubRole,
    /// The type: `Q4_0`.
    pub label: String,
    /// The recipe, if it is more than the type.
    pub recipe: Option<String>,
    /// Size in bytes, of all parts.
    pub bytes: u64,
    /// Number of parts.
    pub parts: usize,
    /// Bits per weight, of a text model.
    pub bits_per_weight: Option<f64>,
    /// Figures against the original model.
    pub quality: Option<CardQuality>,
    /// Estimates of llama.cpp's memory: tokens of context, bytes.
    pub memory: Vec<(u64, u64)>,
}

/// Figures of a text model against the original one.
#[derive(Clone, Copy, Debug, Default)]
pub struct CardQuality {
    /// Mean KL divergence in nats per token.
    pub kld: f64,
    /// Its 95 % confidence interval.
    pub kld_interval: Option<[f64; 2]>,
    /// Share of tokens with the same most probable token.
    pub top1: Option<f64>,
    /// Perplexity divided by that of the original model.
    pub ppl_ratio: Option<f64>,
}

impl Card {
    /// The card as Markdown with front matter.
    pub fn markdown(&self) -> String {
        let mut text = front_matter(self);
        let name = &self.model.name;
        let _ = write!(text, "\n# {} GGUF\n\n", cell(name));
        let of = match &self.model.base_model {
            Some(id) => format!("[{id}](https://huggingface.co/{id})"),
            None => cell(name),
        };
        let _ = write!(
            text,
            "{of} for llama.cpp, Ollama, LM Studio and other programs that read GGUF. The weights of every file \
             were compared with those of the original model.\n\n"
        );
        self.text_models(&mut text);
        self.other_files(&mut text);
        usage::usage(self, &mut text);
        self.method(&mut text);
        text
    }

    pub(crate) fn of(&self, role: HubRole) -> impl Iterator<Item = &CardFile> {
        self.files.iter().filter(move |file| file.role == role)
    }

    fn text_models(&self, text: &mut String) {
        let models = || self.of(HubRole::Model);
        let contexts: Vec<u64> =
            models().flat_map(|file| &file.memory).map(|(context, _)| *context).collect();
        let contexts: Vec<u64> = contexts
            .iter()
            .enumerate()
            .filter(|(at, c)| !contexts[..*at].contains(c))
            .map(|(_, c)| *c)
            .collect();
        let is_measured = models().any(|file| file.quality.is_some());

        let mut head = vec!["file".to_owned(), "size".to_owned(), "bits a weight".to_owned()];
        if is_measured {
            head.extend(["KL divergence", "same top token", "perplexity"].map(str::to_owned));
        }
        head.extend(contexts.iter().map(|context| format!("memory at {}", tokens(*context))));
        let _ = write!(text, "## Text models\n\n");
        row(text, &head);
        row(
            text,
            &head.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }).collect::<Vec<_>>(),
        );
        for file in models() {
            let mut cells = vec![
                self.link(file),
                bytes(file.bytes),
                file.bits_per_weight.map_or_else(String::new, |bits| format!("{bits:.2}")),
            ];
            if is_measured {
                cells.extend(figures(file.quality.as_ref()));
            }
            let memory = |context: &u64| {
                let found = file.memory.iter().find(|(known, _)| known == context);
                found.map_or_else(String::new, |(_, memory)| bytes(*memory))
            };
            cells.extend(contexts.iter().map(memory));
            row(text, &cells);
        }
        text.push('\n');
        if let (true, Some(evaluation)) = (is_measured, &self.evaluation) {
            let _ = write!(
                text,
                "**KL divergence** of the predictions from those of the original model, in nats per token, with the 95 % \
                 interval: 0 is the same model. **Same top token**: how often both models find the same token the most \
                 probable. **Perplexity** is a multiple of the original model's. Measured on {} tokens of {}.\n\n",
                grouped(evaluation.tokens),
                names(evaluation),
            );
        }
        if !contexts.is_empty() {
            let _ = write!(
                text,
                "**Memory** is an estimate for llama.cpp on a CPU with this many tokens of context and its KV cache in F16, without \
                 images and draft model.\n\n"
            );
        }
    }

    fn other_files(&self, text: &mut String) {
        let use_of = |role| match role {
            HubRole::Model => None,
            HubRole::Mmproj => Some(self.model.mmproj_use()),
            HubRole::Draft => Some("a draft model for speculative decoding: faster, with the same text"),
            HubRole::Importance => Some("the importance matrix, to quantize other types"),
        };
        let others: Vec<_> = self.files.iter().filter_map(|file| Some((file, use_of(file.role)?))).collect();
        if others.is_empty() {
            return;
        }
        let _ = write!(text, "## Other files\n\n| file | size | use |\n|---|---:|---|\n");
        for (file, role) in others {
            row(text, &[self.link(file), bytes(file.bytes), role.to_owned()]);
        }
        text.push_str("\n`SHA256SUMS` has the checksums of the models and the model card: `sha256sum -c SHA256SUMS`.\n\n");
    }

    fn method(&self, text: &mut String) {
        let _ = write!(text, "## How the files were made\n\n```sh\n{}\n```\n\n", self.command);
        let _ = writeln!(text, "- Program: {}", cell(&self.tool));
        if let Some(commit) = &self.model.commit {
            let _ = writeln!(text, "- Revision of the original model: `{commit}`");
        }
        for file in self.files.iter().filter(|file| file.recipe.is_some()) {
            let recipe = file.recipe.as_deref().unwrap_or_default();
            let _ = writeln!(text, "- `{}`: recipe `{recipe}`", file.path);
        }
        for (what, given) in [("Calibration", &self.calibration), ("Evaluation", &self.evaluation)] {
            let Some(given) = given else { continue };
            for (name, sha256) in &given.files {
                let _ = writeln!(text, "- {what} text: {}, SHA-256 `{sha256}`", cell(name));
            }
        }
        if self.model.license.is_some() {
            text.push_str("\nThe licence of the original model applies to these files.\n");
        }
    }

    fn link(&self, file: &CardFile) -> String {
        let parts = if file.parts > 1 { format!(" ({} parts)", file.parts) } else { String::new() };
        format!("[{}](./{}){parts}", cell(&file.path), file.path.replace(' ', "%20"))
    }
}

fn figures(quality: Option<&CardQuality>) -> [String; 3] {
    let Some(quality) = quality else { return Default::default() };
    let kld = match quality.kld_interval {
        Some([low, high]) => format!("{} ({} – {})", small(quality.kld), small(low), small(high)),
        None => small(quality.kld),
    };
    let top1 = quality.top1.map_or_else(String::new, |share| format!("{:.2} %", 100.0 * share));
    [kld, top1, quality.ppl_ratio.map_or_else(String::new, |ratio| format!("× {ratio:.4}"))]
}

/// A divergence with three significant digits, or fewer than 10⁻⁶.
fn small(value: f64) -> String {
    let digits = if value > 0.0 { (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize } else { 6 };
    format!("{value:.digits$}")
}

/// A size for people, in powers of ten as the hub shows it.
pub(crate) fn bytes(count: u64) -> String {
    let (scale, unit) = match count {
        0..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let value = count as f64 / scale;
    if value < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.1} {unit}") }
}

fn tokens(count: u64) -> String {
    if count.is_multiple_of(1024) { format!("{}k", count / 1024) } else { count.to_string() }
}

fn names(text: &CardText) -> String {
    let names: Vec<_> = text.files.iter().map(|(name, _)| format!("`{}`", cell(name))).collect();
    names.join(", ")
}

fn row(text: &mut String, cells: &[impl AsRef<str>]) {
    let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// Text of others in a cell or a line of Markdown.
fn cell(text: &str) -> String {
    base::visible_line(text).replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [bytes(999), bytes(4_669_856), bytes(46_698_560), bytes(3_400_000_000)],
            ["1.00 kB", "4.67 MB", "46.7 MB", "3.40 GB"]
        );
        assert_eq!(
            [grouped(7), grouped(1_234), grouped(123_456), grouped(1_234_567)],
            ["7", "1,234", "123,456", "1,234,567"]
        );
        assert_eq!(
            [small(0.0), small(0.004_251), small(1.5), small(0.000_000_4)],
            ["0.000000", "0.00425", "1.50", "0.000000"]
        );
        assert_eq!([tokens(4096), tokens(100)], ["4k", "100"]);
    }
}
