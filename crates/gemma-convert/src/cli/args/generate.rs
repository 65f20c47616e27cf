//! The arguments of `generate`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;

use super::{Arithmetic, Drafting, Lora, share};

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Checkpoint folder, hub id or GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) lora: Lora,
    /// The text to continue, or with --chat the message of the user; - for stdin
    #[arg(short, long, value_name = "TEXT", required_unless_present_any = ["prompt_file", "chat", "messages"])]
    pub(crate) prompt: Option<String>,
    /// The same from a file; one newline at its end is ignored
    #[arg(short = 'f', long, alias = "file", value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Apply the model's chat template to the prompt; without a prompt, a conversation on the terminal
    #[arg(long)]
    pub(crate) chat: bool,
    /// A conversation to answer: a JSON list of messages in the form of OpenAI's API
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file", "system"])]
    pub(crate) messages: Option<PathBuf>,
    /// The system message of the conversation
    #[arg(long, alias = "system-prompt", value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Whether the model thinks first; by default the template decides
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub(crate) thinking: Option<bool>,
    /// Tools that the model may call: a JSON list, for the chat template
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// The most tokens to generate; by default 128, or fewer if the context is full
    #[arg(short = 'n', long, aliases = ["n-predict", "predict"], value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// The most tokens of prompt and answer together; by default the model's context
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Stop text: ends the generation and is not shown; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Sample with the settings that the model recommends, like llama.cpp; the default is greedy decoding
    #[arg(long)]
    pub(crate) sample: bool,
    /// Temperature of sampling; 0 for greedy decoding; by default 1, if another sampling option is given
    #[arg(long, visible_alias = "temp", value_name = "F", value_parser = temperature)]
    pub(crate) temperature: Option<f64>,
    /// Sample from this many most probable tokens; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the smallest set of most probable tokens whose probabilities sum to at least this
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) top_p: Option<f64>,
    /// Sample from tokens with at least this share of the highest probability
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) min_p: Option<f64>,
    /// Seed of the random numbers: the same seed gives the same text; by default a new one each time
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) media: Media,
    #[command(flatten)]
    pub(crate) drafting: Drafting,
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
}

/// Images, sounds and videos of a prompt.
#[derive(Debug, clap::Args)]
pub(crate) struct Media {
    /// An image of the prompt: PNG, JPEG or WebP; may be given several times. Its place is <|image|> in the prompt, or the beginning
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// A sound of the prompt: WAV, FLAC, MP3 or Ogg/Vorbis; may be given several times. Its place is <|audio|>, or the beginning
    #[arg(long, value_name = "FILE")]
    pub(crate) audio: Vec<PathBuf>,
    /// A video of the prompt: a folder of images, or a file for an installed ffmpeg. Its place is <|video|>, or the beginning
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) video: Vec<PathBuf>,
    /// The mmproj file of a GGUF, with its image and audio towers; for a checkpoint, instead of its own
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
    /// How images are resized; by default like transformers for a checkpoint, like llama.cpp with --mmproj
    #[arg(long, value_name = "transformers|llama.cpp")]
    pub(crate) image_preprocess: Option<String>,
    /// Soft tokens of an image, transformers' way: 70, 140, 280, 560 or 1120
    #[arg(long, value_name = "N")]
    pub(crate) image_budget: Option<usize>,
    /// The least soft tokens of an image, llama.cpp's way; by default 70
    #[arg(long, value_name = "N", conflicts_with = "image_budget")]
    pub(crate) image_min_tokens: Option<usize>,
    /// The most soft tokens of an image, llama.cpp's way; by default 1120
    #[arg(long, value_name = "N", conflicts_with = "image_budget")]
    pub(crate) image_max_tokens: Option<usize>,
}

fn temperature(text: &str) -> Result<f64, String> {
    let temperature: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if temperature >= 0.0 && temperature.is_finite() { Ok(temperature) } else { Err("not 0 or more".into()) }
}
