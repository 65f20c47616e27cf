//! Filters, tests and methods that pay for their results before they create them ([`Meter`]).
//!
//! Each of minijinja's functions is in one of the tables below, with a rule for the cost of its result. A filter in
//! no table is unavailable to templates, so none can be forgotten.

use std::sync::Arc;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, State, filters, functions, tests};

use super::meter::{Meter, VALUE, refused};

/// The cost of a filter or method as a function of its arguments. The first argument is the value that it is applied
/// to.
#[derive(Clone, Copy, Debug)]
enum Cost {
    /// Reads at most the first argument.
    Read,
    /// Creates a few copies of its arguments.
    Copies,
    /// Searches the second argument for each character of the first.
    Trim,
    /// Creates a list of all items of its arguments; the items of a string are its characters.
    List,
    /// As `List`, with as many additional items as a numeric argument says.
    Counted,
    /// Creates the parts of a string.
    Parts,
    /// Uses its other arguments for each item: a filter or test with its arguments, or the name of an attribute.
    EachItem,
    /// Adds the items one by one.
    Sum,
    Replace,
    Join,
    Indent,
    Format,
    /// Creates a string with white space before each value.
    Pretty,
}

/// Guards for the operators of the language, which `rewrite` inserts around their operands. A template can name them
/// only in a string, where they have no effect.
pub(super) const COPY: &str = "\0copy";
pub(super) const COPY_OUTSIDE: &str = "\0copy-outside";
pub(super) const READ: &str = "\0read";
pub(super) const SETTLE: &str = "\0settle";
pub(super) const STORE: &str = "\0store";
pub(super) const TIMES: &str = "\0times";

/// Adds all functions that templates may use to an empty `environment`, each with its guard.
pub(super) fn guard(environment: &mut Environment, meter: &Arc<Meter>) {
    macro_rules! guarded {
        ($($cost:ident: $($name:ident $(as $other:literal)*),*;)*) => {$($(
            for name in [stringify!($name) $(, $other)*] {
                filter(environment, meter, name, Cost::$cost, Value::from_function(filters::$name));
            }
        )*)*};
    }
    guarded! {
        Read: length as "count", default as "d", first, abs, bool, int, float, attr, round;
        Copies: upper, lower, title, capitalize, string, escape as "e", safe;
        Trim: trim;
        List: list, reverse, items, chain, zip, last;
        EachItem: sort, unique, min, max, dictsort, groupby, map, select, reject, selectattr, rejectattr;
        Counted: batch, slice;
        Parts: split, lines;
        Sum: sum;
        Replace: replace;
        Join: join;
        Indent: indent;
        Format: format;
        Pretty: pprint;
    }
    macro_rules! tested {
        ($($test:ident $(as $name:literal)+),* $(,)?) => {$($(
            let inner = Value::from_function(tests::$test);
            let owned = Arc::clone(meter);
            environment.add_test($name, move |state: &mut State, arguments: Rest<Value>| -> Result<bool, Error> {
                arguments.iter().try_for_each(|value| owned.read(value))?;
                Ok(inner.call(state, &arguments)?.is_true())
            });
        )+)*};
    }
    tested! {
        is_startingwith as "startingwith", is_endingwith as "endingwith", is_lower as "lower", is_upper as "upper",
        is_sameas as "sameas", is_eq as "eq" as "equalto" as "==", is_ne as "ne" as "!=",
        is_lt as "lt" as "lessthan" as "<", is_le as "le" as "<=", is_gt as "gt" as "greaterthan" as ">",
        is_ge as "ge" as ">=", is_in as "in", is_divisibleby as "divisibleby", is_odd as "odd", is_even as "even",
    }
    macro_rules! free {
        ($($test:ident $(as $name:literal)+),* $(,)?) => {$($(environment.add_test($name, tests::$test);)+)*};
    }
    free! {
        is_undefined as "undefined", is_defined as "defined", is_none as "none", is_safe as "safe" as "escaped",
        is_boolean as "boolean", is_number as "number", is_integer as "integer" as "int", is_float as "float",
        is_string as "string", is_iterable as "iterable", is_mapping as "mapping", is_true as "true",
        is_false as "false", is_filter as "filter", is_test as "test",
    }
    environment.add_function("range", functions::range);
    environment.add_function("dict", functions::dict);
    environment.add_function("namespace", functions::namespace);

    let owned = Arc::clone(meter);
    environment.add_filter(COPY, move |value: Value| owned.copy(&value).map(|()| value));
    let owned = Arc::clone(meter);
    environment.add_filter(COPY_OUTSIDE, move |value: Value| owned.copy_outside(&value).map(|()| value));
    let owned = Arc::clone(meter);
    environment.add_filter(READ, move |value: Value| owned.read(&value).map(|()| value));
    let owned = Arc::clone(meter);
    environment.add_filter(SETTLE, move |value: Value| owned.settle(value));
    let owned = Arc::clone(meter);
    environment.add_filter(STORE, move |value: Value| owned.weigh_without_namespace(&value).map(|()| value));
    let owned = Arc::clone(meter);
    environment.add_filter(TIMES, move |left: Value, right: Value| times(&owned, &left, &right));
    let owned = Arc::clone(meter);
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        let all: Vec<Value> = [value.clone()].into_iter().chain(arguments.iter().cloned()).collect();
        pay(&owned, method_cost(method), &all)?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
}

fn filter(environment: &mut Environment, meter: &Arc<Meter>, name: &'static str, cost: Cost, inner: Value) {
    let meter = Arc::clone(meter);
    environment.add_filter(name, move |state: &mut State, arguments: Rest<Value>| -> Result<Value, Error> {
        pay(&meter, cost, &arguments)?;
        inner.call(state, &arguments)
    });
}

/// The cost of Python's methods. Those of lists and mappings create lists of their items.
fn method_cost(name: &str) -> Cost {
    match name {
        "get" => Cost::Read,
        "split" | "splitlines" => Cost::Parts,
        "replace" => Cost::Replace,
        "join" => Cost::Join,
        "strip" | "lstrip" | "rstrip" => Cost::Trim,
        "format" => Cost::Format,
        "keys" | "values" | "items" => Cost::List,
        _ => Cost::Copies,
    }
}

fn pay(meter: &Meter, cost: Cost, arguments: &[Value]) -> Result<(), Error> {
    let Some(first) = arguments.first() else { return Ok(()) };
    let text = first.as_str();
    let length = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len) as u64;
    match cost {
        Cost::Read => meter.spend(text.map_or(0, str::len) as u64 / 8),
        Cost::Copies => meter.spend(meter.weigh_all(arguments)?.bytes.saturating_mul(3)),
        Cost::Trim => {
            let letters = length(arguments.get(1)).saturating_add(8);
            meter.spend(
                meter
                    .weigh_all(arguments)?
                    .bytes
                    .saturating_add(length(Some(first)).saturating_mul(letters) / 8),
            )
        }
        Cost::List => {
            let items =
                arguments.iter().map(|value| value.len().unwrap_or(1) as u64).fold(0, u64::saturating_add);
            meter.spend(items.saturating_mul(2 * VALUE))
        }
        Cost::Counted => {
            let counts = arguments[1..].iter().map(number).fold(0, u64::saturating_add);
            meter.spend(listed(meter, arguments)?.saturating_add(counts.saturating_mul(VALUE)))
        }
        Cost::Parts => {
            let parts = match (text, arguments.get(1).and_then(Value::as_str)) {
                (Some(text), Some(separator)) if !separator.is_empty() => text.matches(separator).count(),
                (Some(text), _) => text.split_whitespace().count().max(text.lines().count()),
                (None, _) => 0,
            };
            meter.spend(length(Some(first)).saturating_add((parts as u64 + 1) * 2 * VALUE))
        }
        Cost::EachItem => {
            let items = first.len().map_or(length(Some(first)), |items| items as u64);
            let given = meter.weigh_all(&arguments[1..])?.total();
            meter.spend(listed(meter, &arguments[..1])?.saturating_add(items.saturating_mul(given)))
        }
        Cost::Sum => {
            let weight = meter.weigh_all(arguments)?;
            let numbers = first.kind() != ValueKind::String
                && first.try_iter().is_ok_and(|mut items| items.all(|item| item.kind() == ValueKind::Number));
            let times = if numbers { 1 } else { weight.values };
            meter.spend(weight.total().saturating_mul(times))
        }
        Cost::Replace => {
            meter.spend(meter.weigh_all(arguments)?.bytes.saturating_mul(2))?;
            let old = arguments.get(1).map(Value::to_string).unwrap_or_default();
            let text = text.map_or_else(|| first.to_string(), str::to_owned);
            let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(&old).count() };
            let new = meter.weigh_all(arguments.get(2..).unwrap_or_default())?.bytes;
            meter.spend((text.len() as u64).saturating_add((places as u64).saturating_mul(new)))
        }
        Cost::Join => {
            // Two forms: `list | join(separator)` and `separator.join(list)`.
            let weight = meter.weigh_all(arguments)?;
            let (separator, list) = match text {
                Some(_) if arguments.get(1).is_some_and(|value| value.as_str().is_none()) => {
                    (first, &arguments[1])
                }
                _ => (arguments.get(1).unwrap_or(first), first),
            };
            let letters = length(Some(list)).saturating_mul(length(Some(separator)).saturating_add(VALUE));
            let separators = weight.values.saturating_mul(length(Some(separator)));
            meter.spend(weight.bytes.saturating_add(separators).saturating_add(letters))
        }
        Cost::Indent => {
            let lines = text.map_or(1, |text| text.lines().count() as u64 + 1);
            let widths = arguments[1..].iter().map(number).fold(4, u64::saturating_add);
            meter.spend(
                meter.weigh(first)?.bytes.saturating_mul(2).saturating_add(lines.saturating_mul(widths)),
            )
        }
        Cost::Format => {
            let format = text.unwrap_or_default();
            let places = format.bytes().filter(|byte| b"%{".contains(byte)).count() as u64 + 1;
            let given = meter.weigh_all(arguments)?;
            // The width may be an argument, or a number inside one.
            let numbers = if format.contains('*') || nested(format) { given.numbers } else { 0 };
            let place = given.bytes.saturating_add(VALUE).saturating_add(numbers);
            meter.spend(places.saturating_mul(place).saturating_add(widths(format)))
        }
        Cost::Pretty => {
            let weight = meter.weigh(first)?;
            meter.spend(
                weight.bytes.saturating_mul(6).saturating_add(weight.values.saturating_mul(20 * VALUE)),
            )
        }
    }
}

/// The size in bytes of a list of all items in `arguments`. The items of a string are its characters.
fn listed(meter: &Meter, arguments: &[Value]) -> Result<u64, Error> {
    let weight = meter.weigh_all(arguments)?;
    let letters: usize = arguments.iter().filter_map(Value::as_str).map(str::len).sum();
    Ok(weight.total().saturating_add((letters as u64).saturating_mul(VALUE)))
}

/// The sum of the absolute numbers in an argument; keyword arguments are a mapping.
fn number(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::Number => i128::try_from(value.clone())
            .map_or(u64::MAX, |n| u64::try_from(n.unsigned_abs()).unwrap_or(u64::MAX)),
        ValueKind::Map => value.try_iter().map_or(0, |keys| {
            let numbers = keys.filter_map(|key| value.get_item(&key).ok()).map(|item| match item.kind() {
                ValueKind::Number => number(&item),
                ValueKind::String => item.as_str().map_or(0, str::len) as u64,
                _ => 0,
            });
            numbers.fold(0, u64::saturating_add)
        }),
        ValueKind::String => value.as_str().map_or(0, str::len) as u64,
        _ => 0,
    }
}

/// The sum of the numbers in a format string.
fn widths(format: &str) -> u64 {
    let numbers = format.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
}

/// Whether a format string may have a field inside a field.
fn nested(format: &str) -> bool {
    let mut depth = 0_usize;
    format.bytes().any(|byte| {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 1
    })
}

/// `left * right` of numbers, or of a number and a string or list. minijinja's own operator repeats up to 100,000,000
/// times.
fn times(meter: &Meter, left: &Value, right: &Value) -> Result<Value, Error> {
    let repeated =
        |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable);
    let (value, count) = match (repeated(left), repeated(right)) {
        (true, false) => (left, right),
        (false, true) => (right, left),
        _ => return product(left, right),
    };
    let Ok(count) = i64::try_from(count.clone()) else { return product(left, right) };
    let count = u64::try_from(count).unwrap_or(0);
    meter.spend(meter.weigh(value)?.total().saturating_mul(count))?;
    // Without this, an empty string would be repeated endlessly.
    let count = usize::try_from(count).map_err(|_| refused("too many repetitions"))?;
    if let Some(text) = value.as_str() {
        let text = text.repeat(if text.is_empty() { 0 } else { count });
        return Ok(if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) });
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    let count = if items.is_empty() { 0 } else { count };
    Ok(Value::from(items.iter().cycle().take(items.len() * count).cloned().collect::<Vec<_>>()))
}

fn product(left: &Value, right: &Value) -> Result<Value, Error> {
    let numeric = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !numeric(left) || !numeric(right) {
        let (left, right) = (left.kind(), right.kind());
        return Err(refused(format!("tried to use * operator on unsupported types {left} and {right}")));
    }
    let whole = |value: &Value| value.kind() == ValueKind::Bool || value.is_integer();
    if whole(left) && whole(right) {
        let (a, b) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
        let product =
            a.checked_mul(b).ok_or_else(|| refused(format!("unable to calculate {left} * {right}")))?;
        return Ok(i64::try_from(product).map_or_else(|_| Value::from(product), Value::from));
    }
    Ok(Value::from(f64::try_from(left.clone())? * f64::try_from(right.clone())?))
}
