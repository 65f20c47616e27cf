//! Chat templates: rendering of a conversation to the text that the model was trained to continue.
//!
//! Templates are Jinja as transformers renders it, so this module reproduces transformers' environment (block
//! trimming, loop controls, `raise_exception`, `strftime_now`, Python's methods and number formats, `tojson` as
//! `json.dumps`) and its preparation of messages. Not supported: `{% generation %}`, which marks text to train on,
//! and the rest of Python's object model.
//!
//! A template comes with a model and is untrusted. The module limits its source, the length of its expressions, its
//! steps, and the size and depth of all text and values that it creates ([`meter`]), generously for real templates.
//! The limits grow with the conversation and do not depend on the clock.
//!
//! Source: huggingface/transformers `utils/chat_template_utils.py`.

mod guards;
mod meter;
mod python;
mod rewrite;

use std::borrow::Cow;
use std::sync::Arc;
use std::thread;

use meter::Meter;
use minijinja::machinery::{self, CodeGenerator, Token, ast};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value, json};
use tensor::{Error, Result};

/// The name of the only template of an environment.
const NAME: &str = "chat template";

/// Maximum length of a template in bytes. Gemma 4's templates have 19,000.
const MAX_SOURCE: usize = 1 << 20;
/// Maximum tokens between `{{` and `}}`, or `{%` and `%}`: the parser recurses for some of them.
const MAX_TOKENS: usize = 2_000;
/// Maximum number of `elif` in a template, for the same reason.
const MAX_ELIF: usize = 2_000;
/// Stack for the parser and the engine, in bytes: they limit their recursion by depth, not by bytes. Only the used
/// part becomes memory.
const STACK: usize = 256 << 20;
/// Maximum length of a raised message, in characters.
const MAX_MESSAGE: usize = 2_000;

/// A chat template whose syntax is valid.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

/// The variables of a template. The [`Default`] is an empty conversation.
#[derive(Clone, Debug, Default)]
pub struct Chat<'a> {
    /// Messages in OpenAI's format: objects with `role`, `content` (a string or a list of parts), `tool_calls` (with
    /// `arguments` as an object), `tool_call_id`, `reasoning` …
    pub messages: &'a [Value],
    /// Tools as JSON schemas, `{"type": "function", "function": {…}}`; empty for none.
    pub tools: &'a [Value],
    /// End the text with the header of the model's answer.
    pub add_generation_prompt: bool,
    /// Whether the model should think first; `None` leaves the choice to the template.
    pub enable_thinking: Option<bool>,
    /// The text of the BOS token. A rendered prompt contains it, so tokenization must not add another.
    pub bos_token: &'a str,
    /// Additional variables, such as `eos_token` or `preserve_thinking`. They override the fields above.
    pub variables: Map<String, Value>,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// `Malformed`, with the line; also for a template above the limits of length and depth.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_SOURCE {
            return Err(Error::malformed(NAME, "too long for a chat template")
                .expected(format!("at most {MAX_SOURCE} bytes"), source.len()));
        }
        on_big_stack(|| parse(source).map(drop))?;
        Ok(ChatTemplate { source: source.to_owned() })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// `Malformed`, with the line: an error that the template raises (in its words), or an operation that fails on
    /// this conversation.
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
        on_big_stack(|| self.evaluate(context))
    }

    fn evaluate(&self, context: Map<String, Value>) -> Result<String> {
        let tree = parse(&self.source)?;
        let mut code = CodeGenerator::new(NAME, &self.source);
        code.compile_stmt(&rewrite::guarded(&tree));
        drop(tree);
        let (instructions, blocks) = code.finish();

        let context = minijinja::Value::from(Serde(context));
        let (meter, steps) = Meter::new(&context).map_err(|e| error(&e))?;
        let mut environment = Environment::empty();
        environment.set_fuel(Some(steps));
        python::imitate(&mut environment, &Arc::new(meter));
        let mut text = String::new();
        let mut output = machinery::make_string_output(&mut text);
        machinery::eval(&environment, &instructions, context, &blocks, &mut output, AutoEscape::None)
            .map_err(|e| error(&e))?;
        Ok(text)
    }
}

/// Runs `work` in a thread with a stack that suffices for the deepest template.
fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("template".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::io("a thread for the chat template", &e))?;
        thread.join().unwrap_or_else(|_| Err(Error::malformed(NAME, "the template engine cannot handle it")))
    })
}

/// Parses a template to its syntax tree.
fn parse(source: &str) -> Result<ast::Stmt<'_>> {
    let (mut tokens, mut elifs) = (0, 0);
    for token in machinery::tokenize(source, false, python::syntax()) {
        // The parser stops at the same error and reports its position.
        let Ok((token, span)) = token else { break };
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => elifs += 1,
            _ => {}
        }
        tokens += 1;
        let (what, most) = if tokens > MAX_TOKENS {
            ("an expression", MAX_TOKENS)
        } else if elifs > MAX_ELIF {
            ("a chain of elif", MAX_ELIF)
        } else {
            continue;
        };
        let place = format!("{NAME}: line {}", span.start_line);
        return Err(Error::malformed(place, format!("{what} is too long"))
            .expected(format!("at most {most} tokens"), "more"));
    }
    machinery::parse(source, NAME, python::syntax()).map_err(|e| error(&e))
}

/// Adds the other names of a message's thoughts: transformers sets `reasoning_content`, and `thinking` unless it is
/// present, and templates read one of the two.
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
    let detail = error.detail().map(|detail| match detail.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{} …", &detail[..end]),
        None => detail.to_owned(),
    });
    match (error.kind(), detail) {
        // A raised message is a whole sentence.
        (ErrorKind::InvalidOperation, Some(detail)) => Error::malformed(place, detail),
        (ErrorKind::OutOfFuel, _) => Error::malformed(place, "it takes more steps than the limit allows"),
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
    fn nothing_takes_without_an_end() {
        let repeated = |text: &str, times: usize| text.repeat(times);
        let many =
            |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(50_000), close.repeat(50_000));
        let twice = |start: &str, step: &str| {
            format!(
                "{{% set ns = namespace(x={start}) %}}{{% for i in range(99999) %}}{step}{{% endfor %}}{{{{ ns.x | length }}}}"
            )
        };
        let templates = [
            // The parser.
            many("not ", ""),
            many("-", ""),
            many("(", ")"),
            many("[", "]"),
            many("{1:", "}"),
            many("1 if 1 else ", ""),
            many("1 + ", ""),
            many("1 ** ", ""),
            many("1 ~ ", ""),
            many("a.", ""),
            many("", "|abs"),
            many("", "[0]"),
            many("", ".a"),
            many("", " is none"),
            many("f(", ")"),
            format!("{{% if 1 %}}{}{{% endif %}}", repeated("{% elif 1 %}", 50_000)),
            repeated("{% if 1 %}", 50_000),
            repeated("{% for i in x %}", 50_000),
            repeated("a", MAX_SOURCE + 1),
            // Repeated strings and lists.
            "{{ 'a' * 10 ** 9 }}".into(),
            "{{ 10 ** 9 * 'a' }}".into(),
            "{{ ('a' * 99999999) | length }}".into(),
            "{% set x = [0] * 10 ** 9 %}".into(),
            "{% set x = [0] * 99999999 %}".into(),
            "{{ '' * 10 ** 18 }}{{ ([] * 10 ** 18) | length }}{{ 'a' * 10 ** 18 }}".into(),
            "{{ 'x' | indent(9223372036854775807) }}".into(),
            "{{ ('\n' * 100000) | indent(100000) }}".into(),
            "{{ ('\n' * 10000) | indent('x' * 100000) }}".into(),
            "{{ 'x\nx' | indent(width=999999999) }}".into(),
            "{{ 'a' | replace('', 'b' * 100000) | replace('b', 'b' * 100000) }}".into(),
            "{{ ('a' * 10000).replace('', 'b' * 100000) }}".into(),
            "{{ range(99999) | join('a' * 100000) }}".into(),
            "{{ ('a' * 100000).join(range(99999)) }}".into(),
            "{{ ('b' * 10000) | join('a' * 100000) }}".into(),
            "{{ '%05000000000d' | format(1) }}".into(),
            "{{ '%*d' | format(2000000000, 1) }}".into(),
            "{{ '%.2000000000f' | format(1.5) }}".into(),
            "{{ '{:>2000000000}'.format(1) }}".into(),
            "{{ '{:>{}}'.format(1, 2000000000) }}".into(),
            "{{ '{:>{x[0][0]}}'.format(1, x=[[2000000000]]) }}".into(),
            "{{ ('{0}' * 10000).format('a' * 100000) }}".into(),
            "{{ [1] | batch(9999999999, 0) | list | length }}".into(),
            "{{ [1] | slice(9999999999) | list | length }}".into(),
            "{{ range(10 ** 9) | list | length }}".into(),
            "{{ range(10 ** 30) }}".into(),
            "{{ [1, 2] | tojson(indent='x' * 10000000) }}".into(),
            "{{ range(90000) | map('indent', 9999999) | list }}".into(),
            "{{ ['a', 'b'] | map('replace', '', 'b' * 60000000) | list }}".into(),
            "{{ ('a' * 9000000) | split('a') | length }}".into(),
            "{{ ('a' * 9000000) | list | length }}".into(),
            "{{ ('a' * 9000000).split('a') | length }}".into(),
            "{{ ('a' * 4000000).strip('b' * 4000000 ~ 'a') }}".into(),
            "{{ ('a' * 4000000) | trim('b' * 4000000 ~ 'a') }}".into(),
            "{{ range(9999) | sort(attribute='a.' * 500000) }}".into(),
            // Loops and macros.
            format!("{}{}", repeated("{% for i in range(99999) %}", 4), repeated("{% endfor %}", 4)),
            format!("{}{}{}", repeated("{% for i in range(99999) %}", 2), repeated("a", 9_000), repeated("{% endfor %}", 2)),
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
            "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') }}".into(),
            "{% macro f(x) %}{{ x }}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f('a') }}".into(),
            "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}".into(),
            "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}".into(),
            // Values that grow, nest or contain themselves.
            twice("'a'", "{% set ns.x = ns.x ~ ns.x %}"),
            twice("'a'", "{% set ns.x = ns.x + ns.x %}"),
            twice("'a'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
            twice("'a'", "{% set ns.x = ns.x | replace('a', 'aa') %}"),
            twice("'a'", "{% set ns.x = ns.x | string | upper ~ ns.x | lower %}"),
            twice("[0]", "{% set ns.x = ns.x + ns.x %}"),
            twice("[0]", "{% set ns.x = [ns.x, ns.x] %}"),
            twice("[0]", "{% set ns.x = [ns.x] %}"),
            twice("[0]", "{% set ns.x = (ns.x,) %}"),
            twice("[0]", "{% set ns.x = {'a': ns.x} %}"),
            twice("[0]", "{% set ns.x = dict(a=ns.x) %}"),
            twice("[0]", "{% set ns.x = [ns.x] | batch(1) | list %}"),
            twice("[0]", "{% set ns.x = [ns.x] | list | reverse %}{% set ns.x = ns.x | map('string') | list %}"),
            twice("[0]", "{% set ns.x = ns.x | chain(ns.x) %}"),
            twice("[0]", "{% set ns.x = ns.x | zip(ns.x) %}"),
            twice("[0]", "{% set ns.x = namespace(x=ns.x) %}"),
            twice("[0]", "{% set ns.x = ns.x == [ns.x] and [ns.x] or [ns.x] %}"),
            "{% set x = namespace() %}{% set x.x = x %}{{ x }}".into(),
            "{% set x = namespace() %}{% set x.x = [x] %}{{ x | tojson }}".into(),
            "{% set x = namespace() %}{% set x.x = {'a': (x,)} %}{{ x | string | length }}".into(),
            "{% set x = namespace() %}{% for i in [0, 0, x] %}{% set x.x = loop %}{% if loop.last %}{{ x }}{% endif %}{% endfor %}{{ x }}{{ x.x == x.x }}".into(),
            "{{ raise_exception('a' * 60000000) }}".into(),
        ];
        for template in &templates {
            let begin = &template[..template.len().min(100)];
            let refused = render(template, json!({})).expect_err(begin);
            assert!(refused.place().starts_with(NAME), "{begin}: {refused}");
            assert!(refused.to_string().len() < 3 * MAX_MESSAGE, "{begin}");
        }
    }

    #[test]
    fn what_is_bounded_is_still_allowed() {
        for (template, expected) in [
            (
                "{{ 'ab' * 3 }}{{ 2 * 'c' }}{{ [1] * 2 }}{{ 'a' * -1 }}{{ 2 * 3 }} {{ 2 * 0.5 }} {{ true * 2 }}",
                "abababcc[1, 1]6 1.0 2",
            ),
            ("{{ 'x\ny' | indent(2) }}", "x\n  y"),
            ("{{ '%5d|%-3s' | format(7, 'a') }}{{ '{:>4}'.format(1) }}", "    7|a     1"),
            (
                "{{ [1, 2, 3][1:] }}{{ 'abc'[::-1] }}{{ [1] + [2] }}{{ ([1] + [2]) is sequence }}",
                "[2, 3]cba[1, 2]True",
            ),
            ("{{ {'a': 1}.items() | list }}{{ {'a': 1} | items | list | length }}", "[('a', 1)]1"),
            ("{% for x in [1, [2, [3]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "123"),
            ("{% macro f(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call f(1) %}a{% endcall %}", "<1a>"),
            (
                "{% set ns = namespace(n=0) %}{% for i in range(99999) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "4999850001",
            ),
            ("{% filter upper %}a{% endfilter %}{% set x | trim %} b {% endset %}{{ x }}", "Ab"),
            (
                "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 1 not in [2] }}{{ [1, 2] == [1, 2] }}{{ 3 is eq(3) }}",
                "TrueTrueTrueTrueTrue",
            ),
            (
                "{{ [3, 1] | sort | join(',') }}{{ ['a', 'b'] | map('upper') | join }}{{ [0, 1] | select | list }}",
                "1,3AB[1]",
            ),
            ("{{ x | default('d') }}{{ x is defined }}{{ (x or 'y') ~ 1 }}", "dFalsey1"),
            ("{% autoescape true %}<{{ '<' }}{% endautoescape %}", "<&lt;"),
        ] {
            let expected = expected.replace("\\n", "\n");
            assert_eq!(render(template, json!({})).unwrap(), expected, "{template}");
        }
    }

    /// The limit on created text grows with the conversation.
    #[test]
    fn long_conversations_are_rendered() {
        let message = json!({"role": "user", "content": "word ".repeat(2_000)});
        let messages = vec![message; 1_000];
        let template = "{% for m in messages %}{{ m.content.split(' ') | join('_') | trim }}{{ messages[loop.index0:] | length }}{% endfor %}";
        let template = ChatTemplate::new(template).unwrap();
        let text = template.render(&Chat { messages: &messages, ..Chat::default() }).unwrap();
        assert!(text.len() > 9_000_000);
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
