//! What a template may cost: steps, text, values, depth.
//!
//! A template is part of a model that somebody else made. minijinja counts steps (`fuel`), but one step may copy or
//! repeat a text of any length, so the sizes of all texts and lists that a template makes are counted here as well,
//! before they are made. The sum only grows: what bounds memory bounds the time of copying too. Nothing here depends
//! on the clock, so a template that is refused is refused everywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Steps of the template engine, and as many more for each value of the conversation.
const STEPS: u64 = 4_000_000;
const STEPS_PER_VALUE: u64 = 2_000;
/// Bytes of text and values, and as many more for each byte of the conversation.
const BYTES: u64 = 64 << 20;
const BYTES_PER_BYTE: u64 = 128;
/// What a value takes in a list.
pub(super) const VALUE: u64 = 32;
/// Levels of lists in lists. JSON that serde_json reads has at most 128.
pub(super) const DEPTH: usize = 160;

/// Counts what is left to a template.
#[derive(Debug)]
pub(super) struct Meter {
    left: AtomicU64,
    granted: u64,
}

/// The size of a value with all that it holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    /// At least the bytes that the value has as text, but for escapes.
    pub(super) bytes: u64,
    pub(super) values: u64,
    /// The sum of all integers in it, without their signs.
    pub(super) numbers: u64,
}

impl Weight {
    /// Bytes in memory, or as text.
    pub(super) fn total(self) -> u64 {
        self.bytes.saturating_add(self.values.saturating_mul(VALUE))
    }
}

pub(super) fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

impl Meter {
    /// A meter for a template that sees `conversation`, and the steps that it may take.
    pub(super) fn new(conversation: &Value) -> Result<(Meter, u64), Error> {
        let all = Meter { left: u64::MAX.into(), granted: u64::MAX };
        let weight = all.weigh(conversation)?;
        let granted = weight.total().saturating_mul(BYTES_PER_BYTE).saturating_add(BYTES);
        let steps = weight.values.saturating_mul(STEPS_PER_VALUE).saturating_add(STEPS);
        Ok((Meter { left: granted.into(), granted }, steps))
    }

    /// Takes `bytes` of what is left.
    pub(super) fn spend(&self, bytes: u64) -> Result<(), Error> {
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        let message = || format!("it makes more than {} MiB of text and values", self.granted >> 20);
        taken.map(drop).map_err(|_| refused(message()))
    }

    /// The weight of a value. Looking at it costs something as well, so that this ends for values without an end.
    pub(super) fn weigh(&self, value: &Value) -> Result<Weight, Error> {
        let mut weight = Weight::default();
        self.walk(value, 0, false, &mut weight)?;
        Ok(weight)
    }

    /// The weight of all `values`.
    pub(super) fn weigh_all(&self, values: &[Value]) -> Result<Weight, Error> {
        let mut weight = Weight::default();
        values.iter().try_for_each(|value| self.walk(value, 0, false, &mut weight))?;
        Ok(weight)
    }

    /// As [`Meter::weigh`], for what becomes an attribute of a namespace: a namespace in it could hold itself.
    pub(super) fn weigh_without_namespace(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, 0, true, &mut Weight::default())
    }

    fn walk(&self, value: &Value, depth: usize, refuse: bool, weight: &mut Weight) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(refused(format!("a value is nested deeper than {DEPTH} levels")));
        }
        self.spend(VALUE / 2)?;
        weight.values += 1;
        weight.bytes = weight.bytes.saturating_add(match value.kind() {
            ValueKind::String | ValueKind::Bytes => value.as_bytes().map_or(0, |bytes| bytes.len() as u64),
            // The longest integer has 40 digits, the longest float more than 300.
            ValueKind::Number if value.is_integer() => 40,
            ValueKind::Number => 330,
            _ => 16,
        });
        match value.kind() {
            ValueKind::Number => {
                let size = i128::try_from(value.clone()).map_or(0, i128::unsigned_abs);
                weight.numbers = weight.numbers.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    self.walk(&item, depth + 1, refuse, weight)?;
                }
            }
            ValueKind::Map | ValueKind::Plain => {
                let object = value.as_object();
                if refuse && object.is_some_and(|object| object.type_name().ends_with("Namespace")) {
                    return Err(refused("a namespace cannot hold a namespace"));
                }
                let Ok(keys) = value.try_iter() else { return Ok(()) };
                for key in keys {
                    self.walk(&key, depth + 1, refuse, weight)?;
                    if let Ok(item) = value.get_item(&key) {
                        self.walk(&item, depth + 1, refuse, weight)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Pays for a copy of `value`, or for its text.
    pub(super) fn copy(&self, value: &Value) -> Result<(), Error> {
        self.spend(self.weigh(value)?.bytes)
    }

    /// Pays for a copy of a text, or of a list without what is in its items.
    pub(super) fn copy_outside(&self, value: &Value) -> Result<(), Error> {
        let items = || value.len().unwrap_or(1) as u64;
        self.spend(value.as_str().map_or_else(|| items().saturating_mul(VALUE), |text| text.len() as u64))
    }

    /// Pays for reading `value`: texts are compared and searched faster than they are copied.
    pub(super) fn read(&self, value: &Value) -> Result<(), Error> {
        self.spend(self.weigh(value)?.bytes / 8)
    }

    /// `value` as something that can be kept: lists that are made while they are read are made now, since a chain of
    /// them would be as deep as it is long.
    pub(super) fn settle(&self, value: Value) -> Result<Value, Error> {
        if value.kind() != ValueKind::Iterable {
            self.weigh(&value)?;
            return Ok(value);
        }
        let mut items = Vec::new();
        for item in value.try_iter()? {
            self.spend(VALUE)?;
            self.weigh(&item)?;
            items.push(item);
        }
        Ok(Value::from(items))
    }
}
