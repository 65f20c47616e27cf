//! `generate`: text from the reference runtime, from a checkpoint folder or a GGUF file.

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::time::Instant;

use ::generate::{DraftCounts, Sampler, Sampling, TokenStream};
use ::text::{Chat, ChatTemplate, utf8};
use serde_json::{Value, json};
use tensor::{Error, Result};

use crate::args;
use crate::commands::drafter::OpenedDraft;
use crate::commands::opened::Opened;
use crate::outcome::{Output, stream, tell};

/// Tokens to generate, if nothing is said.
const TOKENS: usize = 128;

pub(crate) fn run(args: &args::Generate, as_json: bool) -> Result<Output> {
    let model = Opened::new(&args.model)?;
    crate::progress::notes(model.notes());
    let prompt = prompt(&model, args)?;
    let limit = Limit::new(&model, args, prompt.len())?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
    };
    let mut sampler = Sampler::new(sampling);
    let runtime = model.runtime(&args.model)?;
    let draft = args.drafting.draft.as_deref().map(|path| OpenedDraft::new(path, &model)).transpose()?;
    let draft = draft.as_ref().map(|draft| draft.runtime(model.config())).transpose()?;

    let start = Instant::now();
    let mut stream = match &draft {
        None => TokenStream::alone(&runtime, &model.suppressed, &prompt),
        Some(draft) => {
            let burst = args.drafting.draft_tokens;
            TokenStream::drafted(&runtime, draft, burst, &model.suppressed, &prompt, &mut sampler)?
        }
    };
    let mut decoder = model.tokenizer.decoder();
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut token = stream.next_token(limit.tokens, &mut sampler)?;
    let read = start.elapsed().as_secs_f64();
    let finish = loop {
        if model.tokenizer.end_of_generation().contains(&token) {
            break "stop";
        }
        let piece = decoder.push(token);
        text.push_str(&piece);
        tokens.push(token);
        if !show(&piece, as_json)? {
            break "closed";
        }
        if tokens.len() == limit.tokens {
            break limit.reason;
        }
        token = stream.next_token(limit.tokens - tokens.len(), &mut sampler)?;
    };
    let rest = decoder.finish();
    show(&rest, as_json)?;
    text.push_str(&rest);
    let seconds = start.elapsed().as_secs_f64();
    let drafted = stream.counts();
    let table = runtime.table_reads().map(|reads| {
        // the last token that was chosen did not go through the model
        let through = prompt.len() + tokens.len().saturating_sub(usize::from(finish != "stop"));
        (reads, reads.bytes as f64 / through as f64)
    });
    if !crate::progress::is_quiet() {
        let speed = tokens.len().saturating_sub(1) as f64 / (seconds - read).max(f64::MIN_POSITIVE);
        tell(&format!(
            "\n{} tokens of prompt in {read:.2} s, {} of text, {speed:.1} a second\n",
            prompt.len(),
            tokens.len()
        ));
        if let Some(DraftCounts { bursts, drafted, accepted }) = drafted {
            let share = 100.0 * accepted as f64 / (drafted as f64).max(1.0);
            tell(&format!("{accepted} of {drafted} guesses taken ({share:.0} %), in {bursts} bursts\n"));
        }
        if let Some((reads, a_token)) = table {
            tell(&format!("{} rows read of the per-layer table, {a_token:.0} bytes a token\n", reads.rows));
        }
    }
    let mut json = json!({
        "prompt_tokens": prompt,
        "tokens": tokens,
        "text": text,
        "finish": finish,
        "sampling": sampling,
        "prompt_seconds": read,
        "seconds": seconds,
    });
    if let Some(counts) = drafted {
        json["draft"] = json!(counts);
    }
    if let Some((reads, a_token)) = table {
        json["offload"] = json!({
            "bytes_read": reads.bytes,
            "bytes_per_token": a_token,
            "rows_read": reads.rows,
            "cache_hits": reads.hits,
        });
    }
    Ok(Output::new("\n".to_owned(), json))
}

/// When to stop, whatever the model says.
struct Limit {
    /// At most so many, at least one.
    tokens: usize,
    /// Why there: `length`, as asked for, or `context`, for want of room.
    reason: &'static str,
}

impl Limit {
    fn new(model: &Opened, args: &args::Generate, prompt: usize) -> Result<Limit> {
        let trained = usize::try_from(model.config().context).unwrap_or(usize::MAX);
        let context = args.context.unwrap_or(trained);
        if context > trained {
            return Err(Error::recipe("--context", "longer than the model's")
                .expected(format!("at most {trained} tokens"), context));
        }
        let room = context.saturating_sub(prompt);
        match args.max_tokens {
            Some(0) => Err(Error::recipe("--max-tokens", "nothing to do").expected("at least 1", 0)),
            Some(tokens) if tokens <= room => Ok(Limit { tokens, reason: "length" }),
            None if room >= TOKENS => Ok(Limit { tokens: TOKENS, reason: "length" }),
            None if room > 0 => Ok(Limit { tokens: room, reason: "context" }),
            wanted => {
                let wanted = wanted.unwrap_or(1);
                let problem = format!("a prompt of {prompt} tokens leaves too little room");
                Err(Error::recipe("--context", problem)
                    .expected(format!("room for {wanted} tokens"), format!("{room} of {context}"))
                    .help("Ask for fewer tokens, or shorten the prompt."))
            }
        }
    }
}

/// Shows a piece of the text as soon as it is there.
fn show(piece: &str, as_json: bool) -> Result<bool> {
    if as_json {
        return Ok(true);
    }
    // What a model says may hold what a terminal obeys; a file or another program gets it as it is.
    let piece = if std::io::stdout().is_terminal() { base::visible(piece) } else { piece.into() };
    match stream(&piece) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("stdout", &e)),
    }
}

/// The tokens of the prompt, through the chat template if asked for.
fn prompt(model: &Opened, args: &args::Generate) -> Result<Vec<u32>> {
    let prompt = prompt_text(args)?;
    if !args.chat {
        return model.tokenizer.encode(&prompt, true, false);
    }
    let Some(template) = &model.template else {
        return Err(
            Error::recipe("--chat", "this model has no chat template").help("Give the prompt as plain text.")
        );
    };
    let tools = args.tools.as_deref().map(tools).transpose()?.unwrap_or_default();
    let system = args.system.as_ref().map(|text| json!({ "role": "system", "content": text }));
    let user = json!({ "role": "user", "content": prompt });
    let text = ChatTemplate::new(template)?.render(&Chat {
        messages: &system.into_iter().chain([user]).collect::<Vec<_>>(),
        tools: &tools,
        add_generation_prompt: true,
        enable_thinking: args.thinking,
        bos_token: model.tokenizer.token(model.tokenizer.bos()).unwrap_or_default(),
        ..Chat::default()
    })?;
    model.tokenizer.encode(&text, false, true)
}

/// The most bytes of a prompt, and of a list of tools.
const MAX_PROMPT: u64 = 32 << 20;
const MAX_TOOLS: u64 = 4 << 20;

/// The prompt from wherever it is. What editors and `echo` put at the end of a text is no part of it.
fn prompt_text(args: &args::Generate) -> Result<String> {
    let text = match (&args.prompt_file, args.prompt.as_deref().unwrap_or_default()) {
        (Some(path), _) => utf8(path.display(), base::read_bounded(path, MAX_PROMPT)?)?,
        (None, "-") => utf8("stdin", base::read_all(std::io::stdin().lock(), "stdin", MAX_PROMPT)?)?,
        (None, prompt) => return Ok(prompt.to_owned()),
    };
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// A JSON list of tools.
fn tools(path: &Path) -> Result<Vec<Value>> {
    let fail = |problem: String| {
        Error::recipe(path.display(), problem).help("Give a JSON list of tools as OpenAI's API takes them.")
    };
    let text = base::read_bounded(path, MAX_TOOLS).map_err(|e| fail(e.problem().to_owned()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}
