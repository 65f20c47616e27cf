//! `generate`: text from the reference runtime, greedily, from a checkpoint folder or a GGUF file.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use ::checkpoint::Checkpoint;
use ::gemma::{Config, Inventory, Model};
use ::gguf::GgufSet;
use ::runtime::{KvCache, Matrix, Weights, argmax};
use ::text::{Chat, ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use tensor::{Error, Result, TensorSource};

use crate::args;
use crate::outcome::Output;

pub(crate) fn run(args: &args::Generate, as_json: bool) -> Result<Output> {
    let model = Opened::new(&args.model)?;
    let prompt = model.prompt(args)?;
    let runtime = ::runtime::Model::new(&model.config, Weights::new(&*model.source, &model.inventory)?)?;

    let start = Instant::now();
    let mut cache = KvCache::new(&model.config);
    let mut decoder = model.tokenizer.decoder();
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut next = model.pick(&runtime.head(&last(&runtime.forward(&prompt, &mut cache, |_, _| {})?))?);
    let read = start.elapsed().as_secs_f64();
    while tokens.len() < args.max_tokens && !model.tokenizer.end_of_generation().contains(&next) {
        let piece = decoder.push(next);
        show(&piece, as_json)?;
        text.push_str(&piece);
        tokens.push(next);
        if tokens.len() < args.max_tokens {
            next = model.pick(&runtime.head(&last(&runtime.forward(&[next], &mut cache, |_, _| {})?))?);
        }
    }
    let rest = decoder.finish();
    show(&rest, as_json)?;
    text.push_str(&rest);
    let seconds = start.elapsed().as_secs_f64();
    if !args.quiet {
        let speed = tokens.len().saturating_sub(1) as f64 / (seconds - read).max(f64::MIN_POSITIVE);
        eprintln!(
            "\n{} tokens of prompt in {read:.2} s, {} of text, {speed:.1} a second",
            prompt.len(),
            tokens.len()
        );
    }
    let json = json!({
        "prompt_tokens": prompt,
        "tokens": tokens,
        "text": text,
        "prompt_seconds": read,
        "seconds": seconds,
    });
    Ok(Output { text: "\n".to_owned(), json })
}

/// Shows a piece of the text as soon as it is there.
fn show(piece: &str, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("stdout", &e))
}

/// The hidden state of the last token.
fn last(hidden: &Matrix) -> Matrix {
    hidden.select([hidden.rows() - 1])
}

/// A model with everything that is needed to talk to it, from either container.
struct Opened {
    config: Config,
    inventory: Inventory,
    source: Box<dyn TensorSource>,
    tokenizer: Tokenizer,
    template: Option<String>,
    /// Tokens that must not be said.
    suppressed: Vec<u32>,
}

impl Opened {
    fn new(path: &Path) -> Result<Opened> {
        if path.is_dir() {
            let checkpoint = Checkpoint::open(path)?;
            let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
            let Model { config, inventory, templates, generation, .. } = Model::open(&checkpoint)?;
            let suppressed = generation.as_ref().and_then(|g| g.get("suppress_tokens")?.as_array());
            let suppressed =
                suppressed.into_iter().flatten().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            let (suppressed, template) = (suppressed.collect(), templates.default);
            return Ok(Opened {
                config,
                inventory,
                source: Box::new(checkpoint),
                tokenizer,
                template,
                suppressed,
            });
        }
        let set = GgufSet::open(path)?;
        let within = |e: Error| e.within(path.display());
        let metadata = set.metadata();
        let config = Config::from_metadata(metadata, set.tensors()).map_err(within)?;
        let inventory = ::gemma::gguf_inventory(&config, set.tensors()).map_err(within)?;
        let tokenizer = Tokenizer::from_metadata(metadata).map_err(within)?;
        let template = metadata.typed::<&str>("tokenizer.chat_template").map_err(within)?.map(str::to_owned);
        let suppressed = metadata.typed::<&[i32]>("tokenizer.ggml.suppress_tokens").map_err(within)?;
        let suppressed =
            suppressed.unwrap_or_default().iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        Ok(Opened { config, inventory, source: Box::new(set), tokenizer, template, suppressed })
    }

    /// The tokens of the prompt, through the chat template if asked for.
    fn prompt(&self, args: &args::Generate) -> Result<Vec<u32>> {
        if !args.chat {
            return self.tokenizer.encode(&args.prompt, true, false);
        }
        let Some(template) = &self.template else {
            return Err(Error::recipe("--chat", "this model has no chat template")
                .help("Give the prompt as plain text."));
        };
        let tools = args.tools.as_deref().map(tools).transpose()?.unwrap_or_default();
        let text = ChatTemplate::new(template)?.render(&Chat {
            messages: &[json!({ "role": "user", "content": args.prompt })],
            tools: &tools,
            add_generation_prompt: true,
            bos_token: self.tokenizer.token(self.tokenizer.bos()).unwrap_or_default(),
            ..Chat::default()
        })?;
        self.tokenizer.encode(&text, false, true)
    }

    /// The likeliest token that may be said.
    fn pick(&self, logits: &Matrix) -> u32 {
        let mut row = logits.row(0).to_vec();
        for &id in &self.suppressed {
            if let Some(logit) = row.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        argmax(&row) as u32
    }
}

/// A JSON list of tools.
fn tools(path: &Path) -> Result<Vec<Value>> {
    let fail = |problem: String| {
        Error::recipe(path.display(), problem).help("Give a JSON list of tools as OpenAI's API takes them.")
    };
    let text = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}
