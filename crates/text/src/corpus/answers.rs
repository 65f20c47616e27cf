//! The tokens of a conversation that the model says.
//!
//! The markers of Gemma 4 identify them, token by token:
//!
//! ```text
//! <bos><|turn>user⏎Weather?<turn|>⏎
//! <|turn>model⏎<|tool_call>call:now{}<tool_call|><|tool_response>response:now{…}<tool_response|>Noon.<turn|>⏎
//!              ╰──────────────── said ──────────────────────────╯                               ╰── said ──╯
//! ```
//!
//! From the header of its turn on, every token is the model's: thoughts, calls, text, and the token that ends its
//! part: `<turn|>`, or the first `<|tool_response>`, after which the program that runs the tool writes. The model
//! continues after the last `<tool_response|>`. The template of April writes consecutive answers without a new
//! header.
//!
//! The difference of two renderings, with and without an answer, would not need the markers, but it does not work:
//! the published templates drop the thoughts of all turns before the last, join answers to the turn before, write a
//! tool's response with its call, and put an empty thought into a prompt that no history has. A template with other
//! markers is refused; all of its text can still be scored.

use serde_json::Value;
use tensor::{Error, Result};

use crate::Tokenizer;

const TURN: &str = "<|turn>";
const TURN_END: &str = "<turn|>";
const RESPONSE: &str = "<|tool_response>";
const RESPONSE_END: &str = "<tool_response|>";

/// The author of the current token.
enum Writer {
    /// The template, or another role.
    Other,
    /// The header of a turn, as far as it is read.
    Header(String),
    Model,
    /// None: the model has ended its turn.
    Done,
    Tool,
}

/// Positions of the tokens that the model says, in a conversation rendered from `messages`.
pub(super) fn positions(tokens: &[u32], tokenizer: &Tokenizer, messages: &[Value]) -> Result<Vec<usize>> {
    check(messages)?;
    let mut said = Vec::new();
    let mut writer = Writer::Other;
    let mut before = "";
    for (position, &id) in tokens.iter().enumerate() {
        let token = tokenizer.token(id).unwrap_or_default();
        writer = match (writer, token) {
            (_, TURN) => Writer::Header(String::new()),
            (Writer::Header(mut header), _) => {
                header.push_str(&tokenizer.decode(&[id]));
                match header.split_once('\n') {
                    Some(("model", _)) => Writer::Model,
                    Some(_) => Writer::Other,
                    None => Writer::Header(header),
                }
            }
            (Writer::Model, RESPONSE) if before == RESPONSE_END => Writer::Tool,
            (Writer::Done, _) if tokenizer.decode(&[id]).trim().is_empty() => Writer::Done,
            (Writer::Model | Writer::Done, _) => {
                said.push(position);
                match token {
                    TURN_END => Writer::Done,
                    RESPONSE => Writer::Tool,
                    _ => Writer::Model,
                }
            }
            (Writer::Tool, RESPONSE_END) => Writer::Model,
            (writer, _) => writer,
        };
        before = token;
    }
    if said.is_empty() {
        return Err(Error::malformed("chat template", "does not show what the model says")
            .expected("<|turn>model, as Gemma 4 writes it", "no such turn")
            .help("Score all tokens instead of the answers."));
    }
    Ok(said)
}

/// Checks that there is an answer, and that no message contains a marker.
fn check(messages: &[Value]) -> Result<()> {
    if !messages.iter().any(|message| message["role"] == "assistant" || message["role"] == "model") {
        return Err(Error::malformed("messages", "none is the model's")
            .expected("a message of the role assistant", "no answer")
            .help("Score all tokens instead of the answers."));
    }
    for (number, message) in messages.iter().enumerate() {
        let text = message.to_string();
        if let Some(marker) = [TURN, TURN_END, RESPONSE, RESPONSE_END].iter().find(|&&m| text.contains(m)) {
            let problem = format!("contains {marker}, so the author of its text is ambiguous");
            return Err(Error::malformed(format!("message {number}"), problem)
                .help("Score all tokens instead of the answers."));
        }
    }
    Ok(())
}
