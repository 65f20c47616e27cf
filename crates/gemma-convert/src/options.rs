//! Options that several jobs share.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

/// The artifacts to make. Several recipes or presets are made in one pass over the checkpoint.
#[derive(Clone, Debug, Default)]
pub struct RecipeOptions {
    /// Recipes: names of embedded ones, or paths of TOML files.
    pub recipes: Vec<String>,
    /// Presets of llama-quantize: `q4_0`, `q4_k_m`, `bf16` …
    pub presets: Vec<String>,
    /// mmproj files with the image and audio towers: presets that give the type of their matrices.
    pub mmproj: Vec<String>,
    /// Rules `REGEX=TYPE` for GGUF tensor names; they precede those of the recipe. The first matching rule applies.
    pub tensor_types: Vec<String>,
    /// Type of the token embedding.
    pub token_embd_type: Option<String>,
    /// Type of the per-layer embedding (PLE) table of E2B and E4B.
    pub per_layer_token_embd_type: Option<String>,
    /// The most bytes of tensors in a part of a split GGUF: `2GB`.
    pub split_max_size: Option<String>,
    /// The most bytes of tensors in a shard of safetensors: `5GB`.
    pub max_shard_size: Option<String>,
    /// Safetensors without image and audio towers.
    pub text_only: bool,
    /// A file with an importance matrix (imatrix) for quantization.
    pub importance: Option<PathBuf>,
    /// Mixed-precision bit allocation under a limit.
    pub budget: BudgetOptions,
    /// Keys of the recipe as `KEY=VALUE`: `unused_kv=drop`.
    pub settings: Vec<String>,
}

/// The limit of a mixed-precision bit allocation: size, bits per weight or KL divergence.
#[derive(Clone, Debug, Default)]
pub struct BudgetOptions {
    /// Total size of all files: `3.2GB`.
    pub target_size: Option<String>,
    /// Bits per weight over all tensors.
    pub target_bpw: Option<f64>,
    /// Predicted KL divergence in nats per token.
    pub target_kld: Option<f64>,
    /// A file of [`Sensitivity`](crate::Sensitivity). Without one, a conversion measures it on its text.
    pub sensitivity: Option<PathBuf>,
}

impl BudgetOptions {
    /// The limit as keys of a recipe.
    pub(crate) fn settings(&self) -> impl Iterator<Item = String> {
        let size = self.target_size.as_ref().map(|size| format!("budget.size={size:?}"));
        let number = |key: &str, value: Option<f64>| value.map(|value| format!("budget.{key}={value:?}"));
        [size, number("bpw", self.target_bpw), number("kld", self.target_kld)].into_iter().flatten()
    }
}

/// A text to calibrate on.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Plain text, or conversations in `.jsonl` files.
    pub files: Vec<PathBuf>,
    /// The chunks of the text to use; `None` for all.
    pub chunks: Option<Chunks>,
    /// The most bytes of activation memory: hidden states of the text between two layers.
    pub memory: u64,
}

impl Default for TextOptions {
    /// No text, and 2 GiB.
    fn default() -> TextOptions {
        TextOptions { files: Vec::new(), chunks: None, memory: 2 << 30 }
    }
}

impl TextOptions {
    /// The same options without a text.
    pub(crate) fn without_files(&self) -> TextOptions {
        TextOptions { memory: self.memory, ..TextOptions::default() }
    }
}

/// A range of the chunks of a text. Parses from `5` (the first five) and `5..9`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks(pub Range<usize>);

impl FromStr for Chunks {
    type Err = String;

    fn from_str(text: &str) -> Result<Chunks, String> {
        let number =
            |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is not a number of chunks"));
        let range = match text.split_once("..") {
            Some((start, end)) => number(start)?..number(end)?,
            None => 0..number(text)?,
        };
        if range.is_empty() { Err("an empty range".to_owned()) } else { Ok(Chunks(range)) }
    }
}

/// Layers of a model. Parses from `8` (the best eight) and `0,3,7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// This many, selected by measurement on a text.
    Count(usize),
    /// Given layers, in ascending order.
    These(Vec<usize>),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Layers, String> {
        let number =
            |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is not a number of layers"));
        match text.contains(',') {
            true => text.split(',').map(number).collect::<Result<_, _>>().map(Layers::These),
            false => number(text).map(Layers::Count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_a_number_or_a_range() {
        assert_eq!("5".parse(), Ok(Chunks(0..5)));
        assert_eq!("5..9".parse(), Ok(Chunks(5..9)));
        for bad in ["0", "", "5..5", "9..5", "a..b", "-1"] {
            assert!(bad.parse::<Chunks>().is_err(), "{bad}");
        }
    }
}
