//! The chat template of a new bundle: without what the engine of the runtime lacks or does in another way.
//!
//! LiteRT-LM 0.18.1 renders with MiniJinja, where mappings have no `get`, and tells itself that `none` is a value which is not there: of
//! `null` it says that it `is not none`. Source: `runtime/components/rust/minijinja_template.rs` of google-ai-edge/LiteRT-LM.
//! `tests/litert_judge.rs` has the runtime itself.

use regex::{Captures, Regex};

/// Marks of texts to train on.
const GENERATION: &str = r"\{%-?\s*(?:end)?generation\s*-?%\}";
/// A comment, an expression or a statement.
const TAG: &str = r"(?s)\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}";
/// In a tag: a `get` with its key, a comparison with `none`, or a text, which stays.
const EDITED: &str =
    r#"\.get\(\s*('[^']*'|"[^"]*"|[\w.]+)\s*\)|\bis\s+(not\s+)?none\b|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*""#;

/// The template for the runtime.
pub(super) fn for_runtime(template: &str) -> String {
    let [Ok(generation), Ok(tag), Ok(edited)] = [GENERATION, TAG, EDITED].map(Regex::new) else {
        return template.to_owned();
    };
    let without = generation.replace_all(template, "");
    let of_tag = |found: &Captures<'_>| match &found[0] {
        comment if comment.starts_with("{#") => comment.to_owned(),
        tag => edited.replace_all(tag, edit).into_owned(),
    };
    tag.replace_all(&without, of_tag).into_owned()
}

fn edit(found: &Captures<'_>) -> String {
    match (found.get(1), found.get(2), &found[0]) {
        (Some(key), ..) => format!("[{}]", key.as_str()),
        (_, Some(_), _) => "!= none".into(),
        (.., is_none) if is_none.starts_with("is") => "== none".into(),
        (.., text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::syntax::SyntaxConfig;
    use minijinja::value::{Serde, Value as Any};
    use minijinja::{Environment, ErrorKind};
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn a_template_loses_what_the_runtime_lacks() {
        let cases = [
            ("{% generation %}{{ m.get('a') }}{%- endgeneration -%}", "{{ m['a'] }}"),
            (
                "{{ m.get( \"b\" ) }}{{ m.get(key) }}{{ m.get('c', 1) }}",
                "{{ m[\"b\"] }}{{ m[key] }}{{ m.get('c', 1) }}",
            ),
            ("{% if x is none and y is  not none %}", "{% if x == none and y != none %}"),
            ("{# it is none's #}it is none {{ 'is none' ~ \"it's.get('a')\" }}", ""),
        ];
        for (template, edited) in cases {
            let expected = if edited.is_empty() { template } else { edited };
            assert_eq!(for_runtime(template), expected);
        }
    }

    /// As the runtime renders.
    fn render(template: &str, chat: &Map<String, Value>) -> Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build()?);
        environment.add_test("none", |value: &Any| value.is_undefined());
        environment.add_function("raise_exception", |message: String| -> Result<Any, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(|state, value, method, arguments| match method {
            "split" => {
                let parts =
                    state.apply_filter("split", &[std::slice::from_ref(value), arguments].concat())?;
                state.apply_filter("list", &[parts])
            }
            _ => Err(ErrorKind::UnknownMethod.into()),
        });
        environment.add_template("chat", template)?;
        let mut context = chat.clone();
        context.insert("bos_token".into(), "<bos>".into());
        environment.get_template("chat")?.render(Any::from(Serde(context)))
    }

    /// The templates of Gemma 4, against what transformers renders. The engine writes 1e-07 with all zeros, and transformers moves thoughts
    /// to another field first.
    #[test]
    fn edited_templates_render_in_the_engine_of_the_runtime() {
        let conversations = testkit::json("chat-templates/conversations.json");
        let new = ["thoughts of earlier turns", "tools", "tool call waiting"];
        let old = ["tools", "tool call waiting"];
        for (name, differing) in [
            ("gemma-4-large.2026-07", &new[..]),
            ("gemma-4-small.2026-07", &new),
            ("gemma-4-31B.2026-04", &old),
        ] {
            let template = String::from_utf8(testkit::read(format!("chat-templates/{name}.jinja"))).unwrap();
            let expected = testkit::json(format!("chat-templates/rendered/{name}.json"));
            let (edited, mut others) = (for_runtime(&template), Vec::new());
            for (title, chat) in conversations.as_object().unwrap() {
                let Value::String(text) = &expected[title] else { continue };
                let rendered = render(&edited, chat.as_object().unwrap());
                if rendered.as_ref().ok() != Some(text) {
                    others.push((title.as_str(), rendered));
                }
            }
            let titles: Vec<_> = others.iter().map(|(title, _)| *title).collect();
            assert_eq!(titles, differing, "{name}: {others:#?}");
            let first = conversations["many turns"].as_object().unwrap();
            assert!(render(&template, first).is_err(), "{name}: not edited");
        }
    }
}
