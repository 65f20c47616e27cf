//! The metadata of a new bundle, from the files of a checkpoint, as the public exporter takes them.
//!
//! Source: `litert_lm_builder.py` and `model_ext/gemma4/metadata_builder.py` of litert-torch 0.10.0. The exporter writes stop texts in
//! the order of a hash table; here they have the order of its list.

use checkpoint::Checkpoint;
use litert::NewMetadata;
use serde_json::{Map, Value, json};
use tensor::Result;
use text::{Chat, ChatTemplate};

use super::bundle_template::for_runtime;

/// What may stand before the text that ends an answer, in one token with its first character.
const BEFORE_STOP: [&str; 14] = ["", " ", ".", ",", "?", "!", ":", ";", "\"", "'", ")", "]", "}", "*"];
/// A text that no template has.
const MARK: &str = "KIMAIRA";

/// The metadata of a text model whose cache has so many tokens.
///
/// # Errors
/// `Malformed` for files that are damaged.
pub(super) fn metadata(checkpoint: &Checkpoint, max_tokens: u64) -> Result<NewMetadata> {
    let settings = checkpoint.tokenizer_config()?.unwrap_or_default();
    let token = |key: &str| {
        let value = &settings[key];
        value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
    };
    // the defaults of the tokenizer's class in transformers, and of the exporter
    let or =
        |key: &str, default: &str| Some(token(key)).filter(|text| !text.is_empty()).unwrap_or(default.into());
    let bos = or("bos_token", "<bos>");
    let template = checkpoint.chat_template()?;
    let generation = checkpoint.generation_config()?.unwrap_or_default();
    let config = checkpoint.config();
    let ends = [&generation, config, &config["text_config"]].map(|json| &json["eos_token_id"]);
    let ends = ends.into_iter().find(|ids| !ids.is_null()).unwrap_or(&Value::Null);
    let stop_ids: Vec<u64> = match ends {
        Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
        id => id.as_u64().into_iter().collect(),
    };
    let stop = template.as_deref().and_then(|template| end_of_turn(template, &bos));
    Ok(NewMetadata {
        start: bos,
        stop_ids,
        stop_texts: stop.map_or_else(Vec::new, |stop| {
            BEFORE_STOP.iter().map(|before| format!("{before}{stop}")).collect()
        }),
        max_tokens,
        tool_call: [token("stc_token"), token("etc_token")],
        quote: token("escape_token"),
        tool_response: token("str_token"),
        template: template.map(|template| for_runtime(&template)).unwrap_or_default(),
        thoughts: [format!("{}thought\n", or("soc_token", "<|channel>")), or("eoc_token", "<channel|>")],
        pad: or("pad_token", "<pad>"),
    })
}

/// What a template writes after an answer.
fn end_of_turn(template: &str, bos_token: &str) -> Option<String> {
    let message = |role: &str| json!({ "role": role, "content": MARK });
    let messages = [message("system"), message("user"), message("assistant")];
    let template = ChatTemplate::new(template).ok()?;
    let chat = Chat {
        messages: &messages,
        tools: &[],
        add_generation_prompt: false,
        enable_thinking: Some(false),
        bos_token,
        variables: Map::new(),
    };
    let rendered = template.render(&chat).ok()?;
    let (_, end) = rendered.rsplit_once(MARK)?;
    (!end.is_empty()).then(|| end.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_turn_is_what_follows_the_answer() {
        let template =
            "{% for m in messages %}<|turn>{{ m['role'] }}\n{{ m['content'] }}<turn|>\n{% endfor %}";
        assert_eq!(end_of_turn(template, "<bos>"), Some("<turn|>\n".into()));
        assert_eq!(end_of_turn("{{ raise_exception('no') }}", "<bos>"), None);
    }
}
