//! Generation of text with the reference runtime.

use std::path::PathBuf;
use std::time::Instant;

use base::Progress;
use generate::{DraftCounts, Sampler, Sampling, TokenStream};
use serde_json::{Value, json};
use tensor::{Error, Result};
use text::{Chat, ChatTemplate};

use crate::draft_model::DraftModel;
use crate::model::Model;

/// Tokens to generate, if a job names no number.
const TOKENS: usize = 128;

/// Generates text: a model, alone or with a draft model, continues a prompt.
#[derive(Clone, Debug)]
pub struct Generate {
    /// A checkpoint folder or a GGUF file.
    pub model: PathBuf,
    /// The prompt.
    pub prompt: Prompt,
    /// Tokens to generate at most; 128, or fewer where the context has no room.
    pub max_tokens: Option<usize>,
    /// Tokens of prompt and answer at most; the model's context without.
    pub context: Option<usize>,
    /// The choice of tokens.
    pub sampling: Sampling,
    /// A draft model, for speculative decoding.
    pub draft: Option<PathBuf>,
    /// Draft tokens at a time.
    pub draft_tokens: usize,
}

/// A prompt.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Text to continue.
    Text(String),
    /// A message of the user, through the chat template of the model.
    Chat {
        /// The message.
        user: String,
        /// The system message.
        system: Option<String>,
        /// Whether the model thinks first; the template decides without.
        thinking: Option<bool>,
        /// Tools, as OpenAI's API takes them.
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
    /// The reason of the end: `stop`, `length`, `context`, or `closed` by the receiver of the text.
    pub finish: &'static str,
    /// Seconds until the first token was chosen.
    pub prompt_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Draft tokens, with a draft model.
    pub draft: Option<DraftCounts>,
    /// Rows of the per-layer embedding (PLE) table that were read, for E2B and E4B.
    pub ple: Option<PleReads>,
}

/// Reads of the per-layer embedding table.
#[derive(Clone, Copy, Debug)]
pub struct PleReads {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Rows that were in the cache.
    pub hits: u64,
    /// Bytes for each token that went through the model.
    pub bytes_per_token: f64,
}

impl Generate {
    /// Greedy generation after a prompt of plain text.
    pub fn new(model: impl Into<PathBuf>, prompt: impl Into<String>) -> Generate {
        Generate {
            model: model.into(),
            prompt: Prompt::Text(prompt.into()),
            max_tokens: None,
            context: None,
            sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 },
            draft: None,
            draft_tokens: 3,
        }
    }

    /// Generates at most this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Generate {
        self.max_tokens = Some(tokens);
        self
    }

    /// Generates. `show` receives each piece of text when it is there, and returns false to end the generation.
    ///
    /// # Errors
    /// `Recipe` for a prompt that leaves no room, or a chat without a template; `Malformed` or `Unsupported` for the models;
    /// `Io`; what `show` returns.
    pub fn run(
        &self,
        progress: &dyn Progress,
        show: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Generated> {
        let model = Model::open(&self.model)?;
        model.notes().iter().for_each(|note| progress.note(note));
        let prompt = self.prompt.tokens(&model)?;
        let limit = Limit::new(&model, self, prompt.len())?;
        let mut sampler = Sampler::new(self.sampling);
        let runtime = model.runtime()?;
        let draft = self.draft.as_deref().map(|path| DraftModel::open(path, &model)).transpose()?;
        let draft = draft.as_ref().map(|draft| draft.runtime(model.config())).transpose()?;

        let start = Instant::now();
        let mut stream = match &draft {
            None => TokenStream::alone(&runtime, &model.suppressed, &prompt),
            Some(draft) => TokenStream::drafted(
                &runtime,
                draft,
                self.draft_tokens,
                &model.suppressed,
                &prompt,
                &mut sampler,
            )?,
        };
        let mut decoder = model.tokenizer.decoder();
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let mut token = stream.next_token(limit.tokens, &mut sampler)?;
        let prompt_seconds = start.elapsed().as_secs_f64();
        let finish = loop {
            if model.tokenizer.end_of_generation().contains(&token) {
                break "stop";
            }
            let piece = decoder.push(token);
            text.push_str(&piece);
            tokens.push(token);
            if !show(&piece)? {
                break "closed";
            }
            if tokens.len() == limit.tokens {
                break limit.reason;
            }
            token = stream.next_token(limit.tokens - tokens.len(), &mut sampler)?;
        };
        let rest = decoder.finish();
        show(&rest)?;
        text.push_str(&rest);
        let ple = runtime.table_reads().map(|reads| {
            // the last token that was chosen did not go through the model
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
            text,
            finish,
            prompt_seconds,
            ple,
        })
    }
}

impl Prompt {
    /// The token ids, through the chat template for a chat.
    fn tokens(&self, model: &Model) -> Result<Vec<u32>> {
        let (user, system, thinking, tools) = match self {
            Prompt::Text(text) => return model.tokenizer.encode(text, true, false),
            Prompt::Chat { user, system, thinking, tools } => (user, system, thinking, tools),
        };
        let Some(template) = &model.template else {
            return Err(Error::recipe("‹chat›", "this model has no chat template")
                .help("Give the prompt as plain text."));
        };
        let system = system.as_ref().map(|text| json!({ "role": "system", "content": text }));
        let user = json!({ "role": "user", "content": user });
        let text = ChatTemplate::new(template)?.render(&Chat {
            messages: &system.into_iter().chain([user]).collect::<Vec<_>>(),
            tools,
            add_generation_prompt: true,
            enable_thinking: *thinking,
            bos_token: model.tokenizer.token(model.tokenizer.bos()).unwrap_or_default(),
            ..Chat::default()
        })?;
        model.tokenizer.encode(&text, false, true)
    }
}

/// The end of a generation, whatever the model chooses.
struct Limit {
    /// Tokens, at least one.
    tokens: usize,
    /// The reason: `length`, as asked for, or `context`, for want of room.
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
