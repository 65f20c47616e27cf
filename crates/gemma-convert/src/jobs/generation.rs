//! Text generation with the reference runtime.

use std::path::PathBuf;
use std::time::Instant;

use base::Progress;
use checkpoint::Adapter;
use generate::{DraftCounts, Sampler, Sampling, TokenStream};
use runtime::Compute;
use serde_json::Value;
use tensor::{Error, Result};
use text::{Chat, ChatTemplate, MediaFile};

use crate::draft_model::DraftModel;
use crate::model::Model;
use crate::prompt::{self, PreparedPrompt, Tokenization};
use crate::towers::{MediaOptions, TowerFile};

/// Default number of tokens to generate.
const TOKENS: usize = 128;

/// Continues a prompt with a model, alone or with a draft model.
#[derive(Clone, Debug)]
pub struct Generate {
    /// A checkpoint folder or a GGUF file.
    pub model: PathBuf,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The prompt.
    pub prompt: Prompt,
    /// Images, sounds and videos of the prompt. In a text, `<|image|>`, `<|audio|>` and `<|video|>` are their places; in a conversation,
    /// parts of messages are, which may also name the files.
    pub media: MediaOptions,
    /// The most tokens to generate; default 128, or fewer if the context is shorter.
    pub max_tokens: Option<usize>,
    /// The most tokens of prompt and answer together; by default the model's context.
    pub context: Option<usize>,
    /// Settings of the sampler.
    pub sampling: Sampling,
    /// Stop texts, which end the generation and are not part of the result.
    pub stop: Vec<String>,
    /// A draft model, for speculative decoding.
    pub draft: Option<PathBuf>,
    /// Burst size: draft tokens per pass.
    pub draft_tokens: usize,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

/// A prompt.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Text to continue.
    Text(String),
    /// A conversation, through the chat template of the model.
    Chat {
        /// The messages so far, in the form of OpenAI's API; the model answers the last one.
        messages: Vec<Value>,
        /// Whether the model thinks first; by default the template decides.
        thinking: Option<bool>,
        /// Tools, in the form of OpenAI's API.
        tools: Vec<Value>,
    },
}

/// The generated text.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Token ids of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Token ids of the text, without the token that ended it.
    pub tokens: Vec<u32>,
    /// The text.
    pub text: String,
    /// The reason of the end: `stop`, `length`, `context`, or `closed` by the receiver.
    pub finish: &'static str,
    /// Seconds until the first token.
    pub prompt_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Counts of draft tokens; `None` without a draft model.
    pub draft: Option<DraftCounts>,
    /// Reads of the per-layer embedding (PLE) table, for E2B and E4B.
    pub ple: Option<PleReads>,
}

/// Reads of the per-layer embedding table.
#[derive(Clone, Copy, Debug)]
pub struct PleReads {
    /// Number of rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows found in the cache.
    pub hits: u64,
    /// Bytes read per token of the forward pass.
    pub bytes_per_token: f64,
}

impl Generate {
    /// Greedy generation after a prompt of plain text.
    pub fn new(model: impl Into<PathBuf>, prompt: impl Into<String>) -> Generate {
        Generate {
            model: model.into(),
            adapters: Vec::new(),
            prompt: Prompt::Text(prompt.into()),
            media: MediaOptions::default(),
            max_tokens: None,
            context: None,
            sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            stop: Vec::new(),
            draft: None,
            draft_tokens: 3,
            compute: Compute::detect(),
        }
    }

    /// Generates at most this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Generate {
        self.max_tokens = Some(tokens);
        self
    }

    /// Adds an image, a sound or a video to the prompt.
    #[must_use]
    pub fn media(mut self, file: MediaFile) -> Generate {
        self.media.files.push(file);
        self
    }

    /// Generates text. `show` receives each piece of text as it is generated, and returns false to end the generation.
    ///
    /// # Errors
    /// `Recipe` for a prompt that leaves no room, or a chat without a template; `Malformed` or `Unsupported` for the
    /// models; `Io`; the errors of `show`.
    pub fn run(
        &self,
        progress: &dyn Progress,
        show: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Generated> {
        let model = Model::open_with(&self.model, &self.adapters)?.with_compute(self.compute);
        model.notes().iter().for_each(|note| progress.note(note));
        self.run_on(&model, progress, show)
    }

    /// [`run`](Self::run) with a model that is already open.
    ///
    /// # Errors
    /// The errors of [`run`](Self::run).
    pub fn run_on(
        &self,
        model: &Model,
        progress: &dyn Progress,
        show: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Generated> {
        let prepared = self.prepare(model, progress)?;
        let segments = prepared.segments();
        let prompt = runtime::segment_tokens(&segments);
        let limit = Limit::new(model, self, prompt.len())?;
        let mut sampler = Sampler::new(self.sampling);
        let runtime = model.runtime()?;
        let draft = self.draft.as_deref().map(|path| DraftModel::open(path, model)).transpose()?;
        let draft = draft.as_ref().map(|draft| draft.runtime(model.config(), self.compute)).transpose()?;

        let start = Instant::now();
        let mut stream = match &draft {
            None => TokenStream::alone(&runtime, &model.suppressed, &segments),
            Some(draft) => TokenStream::drafted(
                &runtime,
                draft,
                self.draft_tokens,
                &model.suppressed,
                &segments,
                &mut sampler,
            )?,
        };
        let mut decoder = model.tokenizer.decoder();
        let mut tokens = Vec::new();
        let mut text = StoppedText::new(&self.stop);
        let mut token = stream.next_token(limit.tokens, &mut sampler)?;
        let prompt_seconds = start.elapsed().as_secs_f64();
        let finish = loop {
            if model.tokenizer.end_of_generation().contains(&token) {
                break "stop";
            }
            let piece = decoder.push(token);
            tokens.push(token);
            if !show(text.push(&piece))? {
                break "closed";
            }
            if text.is_stopped {
                break "stop";
            }
            if tokens.len() == limit.tokens {
                break limit.reason;
            }
            token = stream.next_token(limit.tokens - tokens.len(), &mut sampler)?;
        };
        if !text.is_stopped {
            let rest = decoder.finish();
            show(text.push(&rest))?;
            show(text.finish())?;
        }
        let ple = runtime.ple_reads().map(|reads| {
            // the last token did not go through the model
            let through = prompt.len() + tokens.len().saturating_sub(usize::from(finish != "stop"));
            PleReads {
                rows: reads.rows,
                bytes: reads.bytes,
                hits: reads.hits,
                bytes_per_token: reads.bytes as f64 / through as f64,
            }
        });
        Ok(Generated {
            seconds: start.elapsed().as_secs_f64(),
            draft: stream.counts(),
            prompt_tokens: prompt,
            tokens,
            text: text.text,
            finish,
            prompt_seconds,
            ple,
        })
    }
}

impl Generate {
    /// The prompt as the model reads it; conversations go through the chat template.
    fn prepare(&self, model: &Model, progress: &dyn Progress) -> Result<PreparedPrompt> {
        let tokenizer = &model.tokenizer;
        let (text, files, is_chat) = match &self.prompt {
            Prompt::Text(text) => (text.clone(), self.media.files.clone(), false),
            Prompt::Chat { messages, thinking, tools } => {
                check_messages(messages)?;
                let (named, mut messages) = text::media_of(messages)?;
                let files = match (named.is_empty(), self.media.files.is_empty()) {
                    (false, false) => {
                        return Err(Error::recipe(
                            "‹messages›",
                            "files are named both in messages and by options",
                        )
                        .help("Name all of them in the messages, in their order."));
                    }
                    (false, true) => named,
                    (true, false) => {
                        messages = prompt::with_parts(&messages, &self.media.files)?;
                        self.media.files.clone()
                    }
                    (true, true) => Vec::new(),
                };
                let text = rendered(model, &messages, files.len(), *thinking, tools, progress)?;
                (text, files, true)
            }
        };
        if files.is_empty() {
            if self.media.mmproj.is_some() || self.media.image_preprocess.is_some() {
                return Err(Error::recipe(
                    "‹mmproj›, ‹image_preprocess›",
                    "have no effect without an image, a sound or a video",
                )
                .help("Give one with ‹image›, ‹audio› or ‹video›."));
            }
            prompt::check_no_marks(&text)?;
            let tokens = tokenizer.encode(&text, !is_chat, is_chat)?;
            return Ok(PreparedPrompt::of_tokens(tokens));
        }
        let towers = TowerFile::open(model, &self.media, self.compute)?;
        if let Some(doubt) = towers.doubt(model)? {
            progress.note(&doubt);
        }
        let pieces = towers.pieces(&files, progress)?;
        let how = Tokenization { tokenizer, add_bos: !is_chat, parse_special: is_chat };
        prompt::with_media(&text, how, &files, pieces)
    }
}

/// A conversation as text, with the marks of `files` files.
fn rendered(
    model: &Model,
    messages: &[Value],
    files: usize,
    thinking: Option<bool>,
    tools: &[Value],
    progress: &dyn Progress,
) -> Result<String> {
    let Some(template) = &model.template else {
        return Err(
            Error::recipe("‹chat›", "this model has no chat template").help("Give the prompt as plain text.")
        );
    };
    for (is_given, setting, variable) in
        [(!tools.is_empty(), "‹tools›", "tools"), (thinking.is_some(), "‹thinking›", "enable_thinking")]
    {
        if is_given && !template.contains(variable) {
            progress.note(&format!("{setting} has no effect: the chat template does not read `{variable}`"));
        }
    }
    let template = ChatTemplate::new(template)?;
    text::with_marks(messages, files, |messages| {
        template.render(&Chat {
            messages,
            tools,
            add_generation_prompt: true,
            enable_thinking: thinking,
            bos_token: model.tokenizer.token(model.tokenizer.bos()).unwrap_or_default(),
            ..Chat::default()
        })
    })
}

/// The roles of messages that chat templates of Gemma 4 know.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "model", "tool"];

/// Refuses a conversation without messages, and messages of unknown roles, which a chat template would write as they are.
fn check_messages(messages: &[Value]) -> Result<()> {
    let refuse = |place: String, problem: &str| {
        Err(Error::recipe(place, problem).help("A message is {\"role\": \"user\", \"content\": \"…\"}."))
    };
    if messages.is_empty() {
        return refuse("‹messages›".to_owned(), "a conversation without a message");
    }
    for (number, message) in messages.iter().enumerate() {
        let place = format!("‹messages›: message {}", number + 1);
        match message.get("role").and_then(Value::as_str) {
            Some(role) if ROLES.contains(&role) => {}
            Some(role) => {
                return Err(Error::recipe(place, "unknown role").expected(ROLES.join(", "), role));
            }
            None => return refuse(place, "it has no role"),
        }
    }
    Ok(())
}

/// Generated text up to the first stop text. A suffix that may be the beginning of a stop text is held back.
struct StoppedText<'a> {
    stop: &'a [String],
    text: String,
    /// Bytes of the text that were returned.
    shown: usize,
    is_stopped: bool,
}

impl<'a> StoppedText<'a> {
    fn new(stop: &'a [String]) -> StoppedText<'a> {
        StoppedText { stop, text: String::new(), shown: 0, is_stopped: false }
    }

    /// Adds a piece, and returns the new text that cannot belong to a stop text.
    fn push(&mut self, piece: &str) -> &str {
        self.text.push_str(piece);
        let from = self.shown;
        let found =
            self.stop.iter().filter_map(|stop| Some(from + self.text[from..].find(stop.as_str())?)).min();
        self.shown = match found {
            Some(end) => {
                self.text.truncate(end);
                self.is_stopped = true;
                end
            }
            None => self.text.len() - self.held_back(),
        };
        &self.text[from..self.shown]
    }

    /// The held-back rest, at the end of the generation.
    fn finish(&mut self) -> &str {
        let from = std::mem::replace(&mut self.shown, self.text.len());
        &self.text[from..]
    }

    /// Bytes at the end of the text that may begin a stop text.
    fn held_back(&self) -> usize {
        let begins = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.text.len() - self.shown);
            (1..=most).rev().find(|&len| {
                stop.is_char_boundary(len) && self.text.as_bytes().ends_with(&stop.as_bytes()[..len])
            })
        };
        self.stop.iter().filter_map(begins).max().unwrap_or(0)
    }
}

/// The limit of a generation.
struct Limit {
    /// The most tokens, at least one.
    tokens: usize,
    /// The reason at the limit: `length` if requested, `context` if the context is full.
    reason: &'static str,
}

impl Limit {
    fn new(model: &Model, job: &Generate, prompt: usize) -> Result<Limit> {
        let trained = usize::try_from(model.config().context).unwrap_or(usize::MAX);
        let context = job.context.unwrap_or(trained);
        if context > trained {
            return Err(Error::recipe("‹context›", "longer than the model's")
                .expected(format!("at most {trained} tokens"), context));
        }
        let room = context.saturating_sub(prompt);
        match job.max_tokens {
            Some(0) => Err(Error::recipe("‹max_tokens›", "nothing to do").expected("at least 1", 0)),
            Some(tokens) if tokens <= room => Ok(Limit { tokens, reason: "length" }),
            None if room >= TOKENS => Ok(Limit { tokens: TOKENS, reason: "length" }),
            None if room > 0 => Ok(Limit { tokens: room, reason: "context" }),
            wanted => {
                let wanted = wanted.unwrap_or(1);
                let problem = format!("a prompt of {prompt} tokens leaves too little room");
                Err(Error::recipe("‹context›", problem)
                    .expected(format!("room for {wanted} tokens"), format!("{room} of {context}"))
                    .help("Ask for fewer tokens, or shorten the prompt."))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StoppedText;

    #[test]
    fn text_ends_before_the_first_stop_text() {
        let stop = ["END".to_owned(), "⏹x".to_owned()];
        let mut text = StoppedText::new(&stop);
        assert_eq!(text.push("a E"), "a ");
        assert_eq!(text.push("N"), "");
        assert_eq!(text.push("T E"), "ENT ");
        assert_eq!(text.push("⏹"), "E");
        assert_eq!(text.push("ND"), "⏹ND");
        assert_eq!(text.push(" more EN"), " more ");
        assert_eq!(text.push("D of it"), "");
        assert!(text.is_stopped);
        assert_eq!(text.text, "a ENT E⏹ND more ");
        let mut open = StoppedText::new(&stop);
        assert_eq!((open.push("EN").to_owned(), open.finish()), (String::new(), "EN"));
    }
}
