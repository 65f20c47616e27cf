//! Python semantics that chat templates rely on, because transformers runs them in Python.
//!
//! Sources: huggingface/transformers `utils/chat_template_utils.py` for the environment, CPython's `json.dumps` and
//! `float.__repr__`, jinja2's `tests.py`.

use std::fmt::Write;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, escape_formatter};

use super::guards;
use super::meter::{DEPTH, Meter};

/// The syntax of transformers' environment.
pub(super) fn syntax() -> SyntaxConfig {
    // Building fails for odd delimiters only, and these are the usual ones.
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default()
}

/// Configures an empty `environment` like that of transformers, within the limits of `meter`.
pub(super) fn imitate(environment: &mut Environment, meter: &Arc<Meter>) {
    guards::guard(environment, meter);
    let owned = Arc::clone(meter);
    environment.set_formatter(move |out, state, value| {
        owned.copy(value)?;
        match float(value) {
            Some(number) => Ok(out.write_str(&repr(number))?),
            None => escape_formatter(out, state, value),
        }
    });
    environment.add_test("sequence", is_sequence);
    let owned = Arc::clone(meter);
    environment.add_filter("tojson", move |value: &Value, options: Kwargs| tojson(&owned, value, options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
    });
}

/// In Python, strings and mappings have a length and items too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

fn float(value: &Value) -> Option<f64> {
    let number = value.kind() == ValueKind::Number && !value.is_integer();
    number.then(|| f64::try_from(value.clone()).ok())?
}

/// Python's `repr` of a float. Like Rust, it prints the shortest digits that round-trip, and it switches to exponents
/// at the same sizes.
fn repr(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text.replace("NaN", "nan"),
    }
}

/// Nesting levels that the cost of an indent covers.
const LEVELS: usize = DEPTH;

fn tojson(meter: &Meter, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        Some(indent) => match indent.as_usize() {
            Some(spaces) => Some(" ".repeat(spaces.min(64))),
            None => Some(indent.to_string()),
        },
        None => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.as_str(), colon.as_str()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"));
        }
        None => (comma, ": "),
    };
    let weight = meter.weigh(value)?;
    // Most characters are copied, some become an escape of six; each level indents its content.
    let around = indent.as_ref().map_or(0, |indent| indent.len() * LEVELS) + comma.len() + colon.len();
    meter.spend(
        weight.total().saturating_mul(2).saturating_add(weight.values.saturating_mul(around as u64)),
    )?;
    let mut json = Json {
        text: String::new(),
        indent,
        comma,
        colon,
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    json.value(value, 0)?;
    Ok(json.text)
}

/// A writer with the format of `json.dumps`.
struct Json<'a> {
    text: String,
    /// The indent of one level.
    indent: Option<String>,
    comma: &'a str,
    colon: &'a str,
    sort: bool,
    ascii: bool,
}

impl Json<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&match float(value) {
                Some(number) if number.is_nan() => "NaN".into(),
                Some(number) => repr(number).replace("inf", "Infinity"),
                None => value.to_string(),
            }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.list('[', ']', value.try_iter()?, depth, |json, item| json.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.list('{', '}', keys.into_iter(), depth, |json, key| {
                    match key.as_str() {
                        Some(text) => json.string(text),
                        None => {
                            json.text.push('"');
                            json.value(&key, depth + 1)?;
                            json.text.push('"');
                        }
                    }
                    json.text.push_str(json.colon);
                    json.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let problem = format!("tojson: a value of type {kind} has no JSON form");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.text.push_str(self.comma);
            }
            empty = false;
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                _ if letter < ' ' || (self.ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                _ => self.text.push(letter),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {

    fn render(template: &str) -> String {
        crate::ChatTemplate::new(template).unwrap().render(&crate::Chat::default()).unwrap()
    }

    /// The expected values are the output of CPython 3.11 with jinja2 3.1.
    #[test]
    fn as_python_prints() {
        for (template, expected) in [
            (
                "{{ 1.0 }} {{ 100000000000000000000.0 }} {{ 0.00001 }} {{ 1.5e300 }}",
                "1.0 1e+20 1e-05 1.5e+300",
            ),
            ("{{ true }} {{ none }} {{ [1, 'a', none] }}", "True None [1, 'a', None]"),
            ("{{ {'b': [1, 2.5e-7], 'a': none} | tojson }}", r#"{"b": [1, 2.5e-07], "a": null}"#),
            ("{{ {'b': 1, 'a': []} | tojson(sort_keys=true, separators=(',', ':')) }}", r#"{"a":[],"b":1}"#),
            ("{{ [{'a': 1}, {}] | tojson(indent=2) }}", "[\n  {\n    \"a\": 1\n  },\n  {}\n]"),
            ("{{ 'é\\n\"<' | tojson }}", "\"é\\n\\\"<\""),
            ("{{ 'é😀' | tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\ude00""#),
            ("{{ {} is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }}", "True True False"),
            ("{{ 'a b'.split(' ') }} {{ {'a': 1}.get('b', 2) }}", "['a', 'b'] 2"),
            ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
            ("  {% if true %}\nx\n  {% endif %}\n", "x\n"),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
    }
}
