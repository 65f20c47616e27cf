//! Conversations, one per line, rendered by the model's chat template.
//!
//! A line is a list of messages, or an object with `messages` and optionally `tools`, in OpenAI's format. That format
//! has the arguments of a tool call as JSON in a string; the templates need an object, so they are parsed first. The
//! template writes BOS and the markers, so markers are parsed during tokenization.
//!
//! A part of a message may name an image or a sound (`corpus/soft.rs`).

use serde_json::Value;
use tensor::{Error, Result};

use super::soft::Files;
use super::{Cut, Scored, Sequence, answers, soft};
use crate::media::{MediaMark, media_of, with_marks};
use crate::{Chat, ChatTemplate, Tokenizer};

/// Maximum length of a conversation in bytes.
const MAX_LINE: usize = 8 << 20;

/// The conversations of a file.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) sequences: Vec<Sequence>,
    /// Number of sequences that are cut at the context.
    pub(super) shortened: usize,
    /// Number of conversations left out because the context ends before any scored token.
    pub(super) unanswered: usize,
}

/// Reads the lines of a file; empty lines are ignored.
pub(super) fn conversations(
    text: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    cut: &Cut,
    files: &mut Files<'_, '_>,
) -> Result<Read> {
    let mut read = Read::default();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Err(
            Error::malformed("conversations", "there are none").expected("one per line", "an empty file")
        );
    }
    // The line length is limited, because parsed JSON takes many times its size.
    for (number, line) in lines.take(cut.most.unwrap_or(usize::MAX)) {
        let within = |e: Error| e.within(format!("line {}", number + 1));
        if line.len() > MAX_LINE {
            return Err(within(
                Error::limit("conversation", "too long")
                    .expected(format!("at most {MAX_LINE} bytes"), line.len()),
            ));
        }
        let mut sequence = conversation(line, tokenizer, template, cut.scored, files).map_err(within)?;
        if sequence.tokens.len() > cut.context {
            read.shortened += 1;
            sequence.truncate(cut.context);
        }
        if sequence.scored.is_empty() {
            read.unanswered += 1;
        } else {
            read.sequences.push(sequence);
        }
    }
    Ok(read)
}

fn conversation(
    line: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    scored: Scored,
    files: &mut Files<'_, '_>,
) -> Result<Sequence> {
    let (messages, tools) = parse(line)?;
    let (named, messages) = media_of(&messages)?;
    let bos = tokenizer.bos();
    let render = |messages: &[Value]| {
        template.render(&Chat {
            messages,
            tools: &tools,
            bos_token: tokenizer.token(bos).unwrap_or_default(),
            ..Chat::default()
        })
    };
    let text = with_marks(&messages, named.len(), render)?;
    let marks = MediaMark::all(&text);
    soft::check(&marks, &named, files)?;
    // exactly one BOS, whether or not the template writes it
    let mut tokens = vec![bos];
    let mut places = Vec::with_capacity(marks.len());
    let mut at = 0;
    let ends = marks.iter().map(|mark| (mark.start, mark.end)).chain([(text.len(), text.len())]);
    for (number, (start, end)) in ends.enumerate() {
        let piece = tokenizer.encode(&text[at..start], false, true)?;
        let is_first = tokens.len() == 1;
        tokens.extend(piece.into_iter().skip_while(|&token| is_first && token == bos));
        if number < marks.len() {
            places.push(tokens.len());
            tokens.push(tokenizer.pad().unwrap_or_default());
        }
        at = end;
    }
    if tokens.len() < 2 {
        return Err(Error::malformed("conversation", "the chat template makes nothing of it")
            .expected("at least 2 tokens", tokens.len()));
    }
    let mut scored = match scored {
        Scored::All => (1..tokens.len()).collect(),
        Scored::Answers => answers::positions(&tokens, tokenizer, &messages)?,
    };
    scored.retain(|position| !places.contains(position));
    let sequence = Sequence { tokens, scored, media: Vec::new() };
    soft::expand(sequence, &places, &named, tokenizer, files)
}

/// The messages and tools of a line.
fn parse(line: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let refuse = |what, found: &Value| {
        Error::malformed(what, "not a list").expected("a JSON list", kind(found)).help(
            "A line is a list of messages, or {\"messages\": […], \"tools\": […]}; a message is \
             {\"role\": \"user\", \"content\": \"…\"}.",
        )
    };
    let line = serde_json::from_str(line).map_err(|e| Error::malformed("conversation", e))?;
    let (messages, tools) = match line {
        Value::Object(mut fields) => {
            let mut take = |key| fields.remove(key).unwrap_or_default();
            (take("messages"), take("tools"))
        }
        other => (other, Value::Null),
    };
    let Value::Array(messages) = messages else { return Err(refuse("messages", &messages)) };
    let tools = match tools {
        Value::Array(tools) => tools,
        Value::Null => Vec::new(),
        other => return Err(refuse("tools", &other)),
    };
    if messages.is_empty() {
        return Err(Error::malformed("messages", "there are none"));
    }
    Ok((messages.into_iter().map(parse_arguments).collect(), tools))
}

/// Replaces the arguments of tool calls, JSON in a string, by the object.
fn parse_arguments(mut message: Value) -> Value {
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        let spelled = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        if let Some(object @ Value::Object(_)) = spelled {
            *arguments = object;
        }
    }
    message
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
