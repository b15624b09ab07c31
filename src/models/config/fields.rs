//! The keys of a JSON object, each taken once and checked; what is left over is refused.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::io::one_line;
use crate::{Error, Result};

/// The keys of one configuration file that nobody has asked for yet.
pub(super) struct Fields<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The keys of the object that `text` is.
    pub(super) fn parse(path: &'a Path, text: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(keys)) => Ok(Fields { path, keys }),
            Ok(other) => {
                let got = one_line(&other);
                Err(Error::file(path, format!("expected a JSON object, got {got}")))
            }
            Err(error) => {
                let error = one_line(error);
                Err(Error::file(path, format!("expected a JSON object: {error}")))
            }
        }
    }

    /// The error for a key: what was expected and what came.
    pub(super) fn refuse(&self, key: &str, expected: impl std::fmt::Display, got: &str) -> Error {
        let key = one_line(key);
        Error::file(self.path, format!("{key}: expected {expected}, got {got}"))
    }

    /// The value of a key as it is, `None` where the key is absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key)
    }

    /// The value of a key, `None` where it is absent or null.
    fn present(&mut self, key: &str) -> Option<Value> {
        self.take(key).filter(|value| !value.is_null())
    }

    /// A whole number in `range`; `default` where the key is absent.
    pub(super) fn integer(
        &mut self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let Some(value) = self.take(key) else { return Ok(default) };
        self.as_integer(key, &value, &range)
    }

    fn as_integer(&self, key: &str, value: &Value, range: &RangeInclusive<usize>) -> Result<usize> {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.refuse(key, expected, &one_line(value))
        })
    }

    /// `count` whole numbers in `range`: a list, or one for all; `default` where absent.
    pub(super) fn integers(
        &mut self,
        key: &str,
        default: usize,
        count: usize,
        range: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        match self.take(key) {
            None => Ok(vec![default; count]),
            Some(Value::Array(values)) if values.len() == count => {
                values.iter().map(|value| self.as_integer(key, value, &range)).collect()
            }
            Some(value @ Value::Array(_)) => {
                let expected = format!("one number, or {count}: one a block");
                Err(self.refuse(key, expected, &one_line(value)))
            }
            Some(value) => Ok(vec![self.as_integer(key, &value, &range)?; count]),
        }
    }

    /// A list of one to `most` whole numbers in `range`.
    pub(super) fn integer_list(
        &mut self,
        key: &str,
        default: &[usize],
        most: usize,
        range: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        let values = match self.take(key) {
            None => return Ok(default.to_vec()),
            Some(Value::Array(values)) if (1..=most).contains(&values.len()) => values,
            Some(value) => {
                let expected = format!("a list of 1 to {most} numbers");
                return Err(self.refuse(key, expected, &one_line(value)));
            }
        };
        values.iter().map(|value| self.as_integer(key, value, &range)).collect()
    }

    /// A height and a width: a list of two, or one number for both; `default` where absent or null.
    pub(super) fn size(&mut self, key: &str, default: usize) -> Result<[usize; 2]> {
        const RANGE: RangeInclusive<usize> = 1..=65_536;
        match self.present(key) {
            None => Ok([default; 2]),
            Some(Value::Array(values)) if values.len() == 2 => Ok([
                self.as_integer(key, &values[0], &RANGE)?,
                self.as_integer(key, &values[1], &RANGE)?,
            ]),
            Some(value) => Ok([self.as_integer(key, &value, &RANGE)?; 2]),
        }
    }

    /// A finite number in `range`; `default` where the key is absent.
    pub(super) fn number(
        &mut self,
        key: &str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> Result<f64> {
        let Some(value) = self.take(key) else { return Ok(default) };
        value.as_f64().filter(|number| range.contains(number)).ok_or_else(|| {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            self.refuse(key, expected, &one_line(&value))
        })
    }

    /// True or false; `default` where the key is absent.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(value) => Err(self.refuse(key, "true or false", &one_line(value))),
        }
    }

    /// One of the given words; the first where the key is absent.
    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.take(key) else { return Ok(words[0].1) };
        self.as_word(key, &value, words)
    }

    fn as_word<T: Copy>(&self, key: &str, value: &Value, words: &[(&str, T)]) -> Result<T> {
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(key, words.join(" or "), &one_line(value))
        })
    }

    /// A list of `count` of the given words; `None` where the key is absent.
    pub(super) fn words<T: Copy>(
        &mut self,
        key: &str,
        count: usize,
        words: &[(&str, T)],
    ) -> Result<Option<Vec<T>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(values)) if values.len() == count => {
                values.iter().map(|value| self.as_word(key, value, words)).collect::<Result<_>>()
            }
            .map(Some),
            Some(value) => {
                let expected = format!("a list of {count}: one a block");
                Err(self.refuse(key, expected, &one_line(value)))
            }
        }
    }

    /// A key that may be absent, null, or one of `values`: anything else is not supported.
    pub(super) fn only(&mut self, key: &str, values: &[Value]) -> Result<()> {
        let Some(value) = self.present(key) else { return Ok(()) };
        if values.iter().any(|known| same(known, &value)) {
            return Ok(());
        }
        let expected: Vec<_> = values.iter().map(Value::to_string).collect();
        let expected = if expected.is_empty() { "null".to_string() } else { expected.join(" or ") };
        Err(self.refuse(key, expected, &one_line(value)))
    }

    /// Keys that do not change what is computed here.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.keys.remove(*key);
        }
    }

    /// Refuses what nobody asked for, unless it says nothing: null, false, or a note (`_…`).
    pub(super) fn finish(self) -> Result<()> {
        let says_something = |key: &str, value: &Value| {
            !key.starts_with('_') && !value.is_null() && *value != Value::Bool(false)
        };
        match self.keys.iter().find(|(key, value)| says_something(key, value)) {
            None => Ok(()),
            Some((key, value)) => {
                Err(self.refuse(key, "no such key, for it may change the result", &one_line(value)))
            }
        }
    }
}

/// Equal, where `1` and `1.0` are, and where a list of equal values is that value.
fn same(known: &Value, value: &Value) -> bool {
    match value {
        Value::Array(values) => !values.is_empty() && values.iter().all(|value| same(known, value)),
        _ => known == value || known.as_f64().is_some_and(|known| value.as_f64() == Some(known)),
    }
}
