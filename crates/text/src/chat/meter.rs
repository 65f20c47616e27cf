//! Limits of a template: steps, text, values, depth.
//!
//! A template belongs to a model of somebody else. minijinja counts steps (`fuel`), but one step may copy or repeat a
//! string of any length, so the sizes of all strings and lists that a template creates are counted here as well,
//! before they are created. The sum never decreases: a bound on memory also bounds the time for copying. Nothing
//! depends on the clock, so a template that is refused is refused on every machine.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Steps of the template engine: a base number, and more for each value of the conversation.
const STEPS: u64 = 4_000_000;
const STEPS_PER_VALUE: u64 = 2_000;
/// Bytes of text and values: a base number, and more for each byte of the conversation.
const BYTES: u64 = 64 << 20;
const BYTES_PER_BYTE: u64 = 128;
/// Bytes that a value takes in a list.
pub(super) const VALUE: u64 = 32;
/// Maximum nesting of lists. serde_json reads JSON with at most 128 levels.
pub(super) const DEPTH: usize = 160;

/// Counts the remaining bytes of a template.
#[derive(Debug)]
pub(super) struct Meter {
    left: AtomicU64,
    granted: u64,
}

/// The size of a value with all its content.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    /// At least the length of the value as text, except for escapes.
    pub(super) bytes: u64,
    pub(super) values: u64,
    /// The sum of the absolute values of all integers.
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
    /// A meter for a template that renders `conversation`, and its maximum number of steps.
    pub(super) fn new(conversation: &Value) -> Result<(Meter, u64), Error> {
        let all = Meter { left: u64::MAX.into(), granted: u64::MAX };
        let weight = all.weigh(conversation)?;
        let granted = weight.total().saturating_mul(BYTES_PER_BYTE).saturating_add(BYTES);
        let steps = weight.values.saturating_mul(STEPS_PER_VALUE).saturating_add(STEPS);
        Ok((Meter { left: granted.into(), granted }, steps))
    }

    /// Deducts `bytes` from the rest; an error if the rest is too small.
    pub(super) fn spend(&self, bytes: u64) -> Result<(), Error> {
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        let message = || format!("it creates more than {} MiB of text and values", self.granted >> 20);
        taken.map(drop).map_err(|_| refused(message()))
    }

    /// The weight of a value. The walk has a cost too, so that it ends for endless values.
    pub(super) fn weigh(&self, value: &Value) -> Result<Weight, Error> {
        let mut weight = Weight::default();
        self.walk(value, 0, false, &mut weight)?;
        Ok(weight)
    }

    /// The total weight of `values`.
    pub(super) fn weigh_all(&self, values: &[Value]) -> Result<Weight, Error> {
        let mut weight = Weight::default();
        values.iter().try_for_each(|value| self.walk(value, 0, false, &mut weight))?;
        Ok(weight)
    }

    /// As [`Meter::weigh`], for the value of a namespace's attribute: a namespace in it could contain itself.
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

    /// Pays for a copy of a string, or for a shallow copy of a list.
    pub(super) fn copy_outside(&self, value: &Value) -> Result<(), Error> {
        let items = || value.len().unwrap_or(1) as u64;
        self.spend(value.as_str().map_or_else(|| items().saturating_mul(VALUE), |text| text.len() as u64))
    }

    /// Pays for reading `value`: strings are compared and searched faster than they are copied.
    pub(super) fn read(&self, value: &Value) -> Result<(), Error> {
        self.spend(self.weigh(value)?.bytes / 8)
    }

    /// `value` in a form that can be stored: lazy lists are evaluated, because a chain of them would be as deep as it
    /// is long.
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
