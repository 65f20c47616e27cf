//! `generate`: text from the reference runtime, from a checkpoint folder or a GGUF file.

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use gemma_convert::{DraftCounts, Error, Generated, Prompt, Result};
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::outcome::{Output, stream, tell};
use crate::cli::progress::{Console, is_quiet};

pub(crate) fn run(args: &args::Generate, as_json: bool) -> Result<Output> {
    let job = args.job(prompt(args)?);
    let mut show = |piece: &str| show(piece, as_json);
    let generated = job.run(&Console::default(), &mut show)?;
    if !is_quiet() {
        tell(&figures(&generated));
    }
    let mut json = json!({
        "prompt_tokens": generated.prompt_tokens,
        "tokens": generated.tokens,
        "text": generated.text,
        "finish": generated.finish,
        "sampling": job.sampling,
        "prompt_seconds": generated.prompt_seconds,
        "seconds": generated.seconds,
    });
    if let Some(counts) = generated.draft {
        json["draft"] = json!(counts);
    }
    if let Some(ple) = generated.ple {
        json["offload"] = json!({
            "bytes_read": ple.bytes,
            "bytes_per_token": ple.bytes_per_token,
            "rows_read": ple.rows,
            "cache_hits": ple.hits,
        });
    }
    Ok(Output::new("\n".to_owned(), json))
}

/// Speed, draft tokens, and rows of the per-layer embedding table.
fn figures(generated: &Generated) -> String {
    let Generated { prompt_tokens, tokens, prompt_seconds, seconds, .. } = generated;
    let speed = tokens.len().saturating_sub(1) as f64 / (seconds - prompt_seconds).max(f64::MIN_POSITIVE);
    let mut text = format!(
        "\n{} tokens of prompt in {prompt_seconds:.2} s, {} of text, {speed:.1} a second\n",
        prompt_tokens.len(),
        tokens.len()
    );
    if let Some(DraftCounts { bursts, drafted, accepted }) = generated.draft {
        let share = 100.0 * accepted as f64 / (drafted as f64).max(1.0);
        text += &format!("{accepted} of {drafted} guesses taken ({share:.0} %), in {bursts} bursts\n");
    }
    if let Some(ple) = generated.ple {
        text += &format!(
            "{} rows read of the per-layer table, {:.0} bytes a token\n",
            ple.rows, ple.bytes_per_token
        );
    }
    text
}

/// Shows a piece of the text as soon as it is there.
fn show(piece: &str, as_json: bool) -> Result<bool> {
    if as_json {
        return Ok(true);
    }
    // A model may write control sequences for a terminal; a file or another program gets the text as it is.
    let piece = if std::io::stdout().is_terminal() { base::visible(piece) } else { piece.into() };
    match stream(&piece) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("stdout", &e)),
    }
}

/// Bytes of a prompt, and of a list of tools, at most.
const MAX_PROMPT: u64 = 32 << 20;
const MAX_TOOLS: u64 = 4 << 20;

fn prompt(args: &args::Generate) -> Result<Prompt> {
    let text = prompt_text(args)?;
    if !args.chat {
        return Ok(Prompt::Text(text));
    }
    Ok(Prompt::Chat {
        user: text,
        system: args.system.clone(),
        thinking: args.thinking,
        tools: args.tools.as_deref().map(tools).transpose()?.unwrap_or_default(),
    })
}

/// The prompt from an argument, a file or stdin. A newline at the end, as editors and `echo` write it, is left out.
fn prompt_text(args: &args::Generate) -> Result<String> {
    let text = match (&args.prompt_file, args.prompt.as_deref().unwrap_or_default()) {
        (Some(path), _) => text::utf8(path.display(), base::read_bounded(path, MAX_PROMPT)?)?,
        (None, "-") => text::utf8("stdin", base::read_all(std::io::stdin().lock(), "stdin", MAX_PROMPT)?)?,
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
