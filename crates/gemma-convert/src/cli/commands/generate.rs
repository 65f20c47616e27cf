//! `generate`: text from the reference runtime, from a checkpoint folder or a GGUF file.

use std::io::{BufRead, ErrorKind, IsTerminal, Read};
use std::path::Path;

use gemma_convert::{DraftCounts, Error, Generated, Model, Progress, Prompt, Result, Sampling};
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::outcome::{Output, stream, tell};
use crate::cli::progress::{Console, is_quiet, is_verbose};

pub(crate) fn run(args: &args::Generate, as_json: bool) -> Result<Output> {
    let model =
        Model::open_with(&args.model, &args.lora.adapters())?.with_compute(args.arithmetic.compute()?);
    model.notes().iter().for_each(|note| Console::default().note(note));
    let has_prompt = args.prompt.is_some() || args.prompt_file.is_some() || args.messages.is_some();
    if has_prompt {
        let (sampling, generated) = answer(args, &model, prompt(args)?, as_json)?;
        return Ok(Output::new("\n".to_owned(), document(&generated, sampling)));
    }
    if as_json {
        return Err(Error::recipe("--json", "a conversation on the terminal has no document")
            .help("Give a message with --prompt, or a conversation with --messages."));
    }
    converse(args, &model)
}

/// One generation, shown as it proceeds.
fn answer(
    args: &args::Generate,
    model: &Model,
    prompt: Prompt,
    as_json: bool,
) -> Result<(Sampling, Generated)> {
    let job = args.job(prompt, model.recommended_sampling())?;
    let mut show = |piece: &str| show(piece, as_json);
    let generated = job.run_on(model, &Console::default(), &mut show)?;
    if !is_quiet() {
        tell(&figures(&generated, job.sampling, is_verbose()));
    }
    Ok((job.sampling, generated))
}

/// The document of `--json`.
fn document(generated: &Generated, sampling: Sampling) -> Value {
    let mut json = json!({
        "prompt_tokens": generated.prompt_tokens,
        "tokens": generated.tokens,
        "text": generated.text,
        "finish": generated.finish,
        "sampling": sampling,
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
    json
}

/// A conversation: each line of stdin is a message of the user. The whole conversation is processed again for each
/// answer.
fn converse(args: &args::Generate, model: &Model) -> Result<Output> {
    let tools = args.tools.as_deref().map(|path| list(path, "tools")).transpose()?.unwrap_or_default();
    let mut messages: Vec<Value> = system(args).into_iter().collect();
    let is_terminal = std::io::stdin().is_terminal();
    loop {
        if is_terminal && !is_quiet() {
            tell("> ");
        }
        let mut line = Vec::new();
        let read = std::io::stdin().lock().take(MAX_PROMPT).read_until(b'\n', &mut line);
        if read.map_err(|e| Error::io("stdin", &e))? == 0 {
            return Ok(Output::new(String::new(), json!({})));
        }
        let line = text::utf8("stdin", line)?;
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            continue;
        }
        // the first message decides where files are; the history would change with a mark in a later one
        let goes_on = messages.iter().any(|message| message["role"] == "user");
        if goes_on && let Some(mark) = text::MediaMark::all(line).first() {
            let mark = mark.kind.mark();
            tell(&format!(
                "this line is left out: it has {mark}, and files have their places in the first message\n"
            ));
            continue;
        }
        messages.push(json!({ "role": "user", "content": line }));
        let prompt =
            Prompt::Chat { messages: messages.clone(), thinking: args.thinking, tools: tools.clone() };
        let (_, generated) = answer(args, model, prompt, false)?;
        stream("\n").map_err(|e| Error::io("stdout", &e))?;
        messages.push(json!({ "role": "assistant", "content": generated.text }));
    }
}

/// Text with speed, draft tokens, and reads of the per-layer embedding table.
fn figures(generated: &Generated, sampling: Sampling, verbose: bool) -> String {
    let Generated { prompt_tokens, tokens, prompt_seconds, seconds, .. } = generated;
    let speed = tokens.len().saturating_sub(1) as f64 / (seconds - prompt_seconds).max(f64::MIN_POSITIVE);
    let mut text = format!(
        "\n{} prompt tokens in {prompt_seconds:.2} s, {} generated, {speed:.1} per second\n",
        prompt_tokens.len(),
        tokens.len()
    );
    if sampling.temperature > 0.0 {
        text += &format!("seed {}\n", sampling.seed);
    }
    if let Some(DraftCounts { bursts, drafted, accepted }) = generated.draft {
        let share = 100.0 * accepted as f64 / (drafted as f64).max(1.0);
        text +=
            &format!("{accepted} of {drafted} draft tokens accepted ({share:.0} %), in {bursts} bursts\n");
    }
    if let Some(ple) = generated.ple.filter(|_| verbose) {
        text += &format!(
            "{} rows of the per-layer embedding table read, {:.0} bytes per token\n",
            ple.rows, ple.bytes_per_token
        );
    }
    text
}

/// Shows a piece of the text immediately.
fn show(piece: &str, as_json: bool) -> Result<bool> {
    if as_json {
        return Ok(true);
    }
    // A model may write control sequences for a terminal; files and other programs get the text unchanged.
    let piece = if std::io::stdout().is_terminal() { base::visible(piece) } else { piece.into() };
    match stream(&piece) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("stdout", &e)),
    }
}

/// The largest prompt in bytes.
const MAX_PROMPT: u64 = 32 << 20;
/// The largest list of tools or messages in bytes.
const MAX_LIST: u64 = 4 << 20;

fn prompt(args: &args::Generate) -> Result<Prompt> {
    let messages = match &args.messages {
        Some(path) => list(path, "messages")?,
        None if !args.chat => {
            for (option, is_given) in
                [("--tools", args.tools.is_some()), ("--thinking", args.thinking.is_some())]
            {
                if is_given {
                    return Err(Error::recipe(option, "is for conversations").help("Add --chat."));
                }
            }
            return prompt_text(args).map(Prompt::Text);
        }
        None => {
            let user = json!({ "role": "user", "content": prompt_text(args)? });
            system(args).into_iter().chain([user]).collect()
        }
    };
    let tools = args.tools.as_deref().map(|path| list(path, "tools")).transpose()?.unwrap_or_default();
    Ok(Prompt::Chat { messages, thinking: args.thinking, tools })
}

fn system(args: &args::Generate) -> Option<Value> {
    args.system.as_ref().map(|text| json!({ "role": "system", "content": text }))
}

/// The prompt from an argument, a file or stdin, without one newline at the end, as editors and `echo` write it.
fn prompt_text(args: &args::Generate) -> Result<String> {
    let text = match (&args.prompt_file, args.prompt.as_deref().unwrap_or_default()) {
        (Some(path), _) => text::utf8(path.display(), base::read_bounded(path, MAX_PROMPT)?)?,
        (None, "-") => text::utf8("stdin", base::read_all(std::io::stdin().lock(), "stdin", MAX_PROMPT)?)?,
        (None, prompt) => return Ok(prompt.to_owned()),
    };
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// Reads a JSON list of `items`: tools or messages.
fn list(path: &Path, items: &str) -> Result<Vec<Value>> {
    let fail = |problem: String| {
        Error::recipe(path.display(), problem)
            .help(format!("Give a JSON list of {items} in the form of OpenAI's API."))
    };
    let text = base::read_bounded(path, MAX_LIST).map_err(|e| fail(e.problem().to_owned()))?;
    serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))
}
