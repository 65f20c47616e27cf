//! Checks for chat models: the chat template and the tokens that conversations need.

use checkpoint::ChatTemplates;
use serde_json::Value;

use crate::Vocabulary;

/// The end-of-turn token of instruction-tuned models; other models do not end an answer with it.
const TURN_END: &str = "<turn|>";

/// Tokens of this family that llama.cpp makes control tokens by their text, whatever their type.
/// Source: ggml-org/llama.cpp `src/llama-vocab.cpp`, "control-looking token".
const CONTROL_BY_TEXT: [&str; 3] = [TURN_END, "<|tool_response>", "<end_of_turn>"];

/// The `eos_token_id`s of a config.
fn ends(config: &Value) -> Vec<u64> {
    match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
        id => id.as_u64().into_iter().collect(),
    }
}

/// A note for a model without a chat template whose configs end an answer with `<turn|>`, as instruction-tuned models
/// do.
pub(crate) fn without_template(
    templates: &ChatTemplates,
    config: &Value,
    generation: Option<&Value>,
    vocabulary: &Vocabulary,
) -> Option<String> {
    if templates.default.is_some() {
        return None;
    }
    let turn = vocabulary.tokens.iter().position(|token| token == TURN_END)? as u64;
    let says = |config: &Value| ends(config).contains(&turn);
    let place = match (generation.is_some_and(says), says(config)) {
        (true, _) => "generation_config.json",
        (_, true) => "config.json",
        _ => return None,
    };
    Some(format!(
        "no chat template is there, though {place} ends an answer with {TURN_END}, as instruction-tuned models do: fetch \
         chat_template.jinja, or programs will guess how to write a conversation"
    ))
}

/// A note for `eos_token_id`s of generation_config.json that are not in the vocabulary.
pub(crate) fn unknown_ends(generation: Option<&Value>, vocabulary: &Vocabulary) -> Option<String> {
    let count = vocabulary.tokens.len() as u64;
    let unknown: Vec<_> =
        ends(generation?).into_iter().filter(|id| *id >= count).map(|id| id.to_string()).collect();
    (!unknown.is_empty()).then(|| {
        format!(
            "generation_config.json: eos_token_id has {}, and there are {count} tokens: no answer ends there",
            unknown.join(", ")
        )
    })
}

/// A note for tokens of the chat template that transformers keeps whole but llama.cpp splits: tokenizer.json marks
/// them as special, but tokenizer_config.json, which decides their type, does not.
pub(crate) fn taken_apart(templates: &ChatTemplates, vocabulary: &Vocabulary) -> Option<String> {
    let template = templates.default.as_ref()?;
    let lost = vocabulary.special_as_text.iter().map(String::as_str);
    let lost = lost.filter(|text| template.contains(text) && !CONTROL_BY_TEXT.contains(text));
    let lost: Vec<&str> = lost.collect();
    (!lost.is_empty()).then(|| {
        format!(
            "special in tokenizer.json, but not among the special tokens of tokenizer_config.json, so that a GGUF has them as \
             text, which llama.cpp takes apart in conversations: {}. Name them there, as in sot_token or \
             extra_special_tokens",
            lost.join(", ")
        )
    })
}
