//! `generate`: text from the reference runtime, greedily, from a checkpoint folder or a GGUF file.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use ::runtime::{KvCache, Matrix, Weights, argmax};
use ::text::{Chat, ChatTemplate};
use serde_json::{Value, json};
use tensor::{Error, Result};

use crate::args;
use crate::commands::opened::Opened;
use crate::outcome::Output;

pub(crate) fn run(args: &args::Generate, as_json: bool) -> Result<Output> {
    let model = Opened::new(&args.model)?;
    let prompt = prompt(&model, args)?;
    let runtime = ::runtime::Model::new(&model.config, Weights::new(&*model.source, &model.inventory)?)?;

    let start = Instant::now();
    let mut cache = KvCache::new(&model.config);
    let mut decoder = model.tokenizer.decoder();
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut next = pick(&model, &runtime.head(&last(&runtime.forward(&prompt, &mut cache, |_, _| {})?))?);
    let read = start.elapsed().as_secs_f64();
    while tokens.len() < args.max_tokens && !model.tokenizer.end_of_generation().contains(&next) {
        let piece = decoder.push(next);
        show(&piece, as_json)?;
        text.push_str(&piece);
        tokens.push(next);
        if tokens.len() < args.max_tokens {
            next = pick(&model, &runtime.head(&last(&runtime.forward(&[next], &mut cache, |_, _| {})?))?);
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

/// The tokens of the prompt, through the chat template if asked for.
fn prompt(model: &Opened, args: &args::Generate) -> Result<Vec<u32>> {
    if !args.chat {
        return model.tokenizer.encode(&args.prompt, true, false);
    }
    let Some(template) = &model.template else {
        return Err(
            Error::recipe("--chat", "this model has no chat template").help("Give the prompt as plain text.")
        );
    };
    let tools = args.tools.as_deref().map(tools).transpose()?.unwrap_or_default();
    let text = ChatTemplate::new(template)?.render(&Chat {
        messages: &[json!({ "role": "user", "content": args.prompt })],
        tools: &tools,
        add_generation_prompt: true,
        bos_token: model.tokenizer.token(model.tokenizer.bos()).unwrap_or_default(),
        ..Chat::default()
    })?;
    model.tokenizer.encode(&text, false, true)
}

/// The likeliest token that may be said.
fn pick(model: &Opened, logits: &Matrix) -> u32 {
    let mut row = logits.row(0).to_vec();
    for &id in &model.suppressed {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    argmax(&row) as u32
}

/// A JSON list of tools.
fn tools(path: &Path) -> Result<Vec<Value>> {
    let fail = |problem: String| {
        Error::recipe(path.display(), problem).help("Give a JSON list of tools as OpenAI's API takes them.")
    };
    let text = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}
