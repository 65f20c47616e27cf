//! Chat templates: a conversation as the text that the model was trained to continue.
//!
//! Templates are Jinja as transformers renders it, so that is what is reproduced here: its environment (block
//! trimming, loop controls, `raise_exception`, `strftime_now`, Python's methods and number formats, `tojson` as
//! `json.dumps`) and what it does to messages before. Left out: `{% generation %}`, which marks text to train on, and
//! the rest of Python's object model. Rendering has no time limit but a bounded recursion.
//!
//! Source: huggingface/transformers `utils/chat_template_utils.py`.

mod python;

use std::borrow::Cow;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value, json};
use tensor::{Error, Result};

/// The only template of an environment.
const NAME: &str = "chat template";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// What a template sees. With [`Default`], an empty conversation.
#[derive(Clone, Debug, Default)]
pub struct Chat<'a> {
    /// Messages in OpenAI's form: objects with `role`, `content` (a string or a list of parts), `tool_calls`
    /// (with `arguments` as an object), `tool_call_id`, `reasoning` …
    pub messages: &'a [Value],
    /// Tools as JSON schemas, `{"type": "function", "function": {…}}`; none when empty.
    pub tools: &'a [Value],
    /// Ends the text where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Whether the model should think first; `None` leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// The text of the token that begins a text. A rendered prompt holds it, so it is tokenized without another.
    pub bos_token: &'a str,
    /// More variables: `eos_token`, `preserve_thinking` … They win over the ones above.
    pub variables: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// `Malformed`, naming the line.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        python::imitate(&mut environment);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| error(&e))?;
        Ok(ChatTemplate { environment })
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// `Malformed`: what the template itself refuses (in its words), or what it cannot do with this conversation;
    /// names the line.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        for (number, message) in chat.messages.iter().enumerate() {
            if !message.is_object() {
                return Err(Error::malformed(format!("message {number}"), "not a message")
                    .expected("an object with a role and a content", message));
            }
        }
        let mut context = Map::new();
        context.insert("messages".into(), chat.messages.iter().map(reasoning).collect());
        context.insert("tools".into(), if chat.tools.is_empty() { Value::Null } else { json!(chat.tools) });
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), chat.add_generation_prompt.into());
        context.insert("bos_token".into(), chat.bos_token.into());
        context.extend(chat.enable_thinking.map(|on| ("enable_thinking".into(), on.into())));
        context.extend(chat.variables.clone());
        let template = self.environment.get_template(NAME).map_err(|e| error(&e))?;
        template.render(Serde(context)).map_err(|e| error(&e))
    }
}

/// Thoughts go by three names, and templates know one or another: transformers fills in `reasoning_content`, and
/// `thinking` unless it is there.
fn reasoning(message: &Value) -> Value {
    let known = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| message.get(key));
    let (Some(thoughts), Value::Object(fields)) = (known.filter(|t| !t.is_null()), message) else {
        return message.clone();
    };
    let mut filled = Map::from_iter([("thinking".to_owned(), thoughts.clone())]);
    filled.extend(fields.clone());
    filled.insert("reasoning_content".into(), thoughts.clone());
    Value::Object(filled)
}

fn error(error: &minijinja::Error) -> Error {
    let place: Cow<str> = match error.line() {
        Some(line) => format!("{NAME}: line {line}").into(),
        None => NAME.into(),
    };
    match (error.kind(), error.detail()) {
        // What a template raises is a whole sentence.
        (ErrorKind::InvalidOperation, Some(detail)) => Error::malformed(place, detail),
        (kind, Some(detail)) => Error::malformed(place, format!("{kind}: {detail}")),
        (kind, None) => Error::malformed(place, kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, variables: Value) -> Result<String> {
        let Value::Object(variables) = variables else { unreachable!() };
        ChatTemplate::new(template)?.render(&Chat { variables, ..Chat::default() })
    }

    #[test]
    fn errors_name_the_line() {
        let compile = ChatTemplate::new("{{ 1 }}\n{% if x %}\n{% endfor %}").unwrap_err();
        assert_eq!(compile.place(), "chat template: line 3");
        let filter = render("\n\n{{ 'a' | no_such_filter }}", json!({})).unwrap_err();
        assert_eq!(filter.place(), "chat template: line 3");
        assert!(filter.problem().contains("no_such_filter"), "{filter}");
        let raised =
            render("\n{{ raise_exception('Unknown role: ' + role) }}", json!({"role": "bard"})).unwrap_err();
        assert_eq!(raised.to_string(), "chat template: line 2: Unknown role: bard");
        let undefined = render("{{ x.y.z }}", json!({})).unwrap_err();
        assert_eq!(undefined.place(), "chat template: line 1");
        let endless = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", json!({})).unwrap_err();
        assert!(endless.problem().contains("recursion"), "{endless}");
    }

    #[test]
    fn a_message_is_an_object() {
        let template = ChatTemplate::new("{{ messages }}").unwrap();
        let messages = [json!({"role": "user"}), json!("hello")];
        let refused = template.render(&Chat { messages: &messages, ..Chat::default() }).unwrap_err();
        assert_eq!(refused.place(), "message 1");
    }

    #[test]
    fn the_date_is_todays() {
        let year: u32 = render("{{ strftime_now('%Y') }}", json!({})).unwrap().parse().unwrap();
        assert!(year > 2024);
        let odd = render("{{ strftime_now('%!') }}", json!({})).unwrap_err();
        assert!(odd.problem().contains("%!"), "{odd}");
    }
}
