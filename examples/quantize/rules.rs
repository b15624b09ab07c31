//! Which tensor gets which type, by patterns of names.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};

use ellesmere::io::read_text;
use ellesmere::io::tensors::StoredType;
use ellesmere::{Error, Result};

/// The longest file of rules that is read.
const LIMIT_BYTES: u64 = 1 << 20;

/// Patterns in their order, and whether each has decided anything.
#[derive(Debug, Default)]
pub struct Rules {
    path: PathBuf,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: String,
    stored: StoredType,
    matched: Cell<bool>,
}

impl Rules {
    pub fn open(path: &Path) -> Result<Self> {
        let missing = || Error::file(path, "cannot be opened: there is no such file");
        Self::parse(path, &read_text(path, LIMIT_BYTES)?.ok_or_else(missing)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> =
                line.split('#').next().unwrap_or("").split_whitespace().collect();
            let refuse = |detail| Error::file(path, format!("line {}: {detail}", index + 1));
            match words[..] {
                [] => {}
                [pattern, stored] => rules.push(Rule {
                    pattern: pattern.to_string(),
                    stored: super::parse_type(stored).map_err(refuse)?,
                    matched: Cell::new(false),
                }),
                _ => {
                    let got = words.len();
                    let detail = format!("expected a pattern and a type, got {got} words");
                    return Err(refuse(detail));
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), rules })
    }

    /// These rules, and after them one for each name.
    pub fn with(mut self, stored: &[(String, StoredType)]) -> Self {
        self.rules.extend(stored.iter().map(|(name, stored)| Rule {
            pattern: name.clone(),
            stored: *stored,
            matched: Cell::new(false),
        }));
        self
    }

    /// The type of the first rule whose pattern fits.
    pub fn decide(&self, name: &str) -> Option<StoredType> {
        // Patterns that come too late fit as well: what they say is not wrong, but late.
        self.rules.iter().filter(|rule| fits(&rule.pattern, name)).for_each(|rule| {
            rule.matched.set(true);
        });
        self.rules.iter().find(|rule| fits(&rule.pattern, name)).map(|rule| rule.stored)
    }

    /// Refuses a pattern that fitted nothing: a word in it is wrong, or the model is another.
    pub fn check_all_matched(&self) -> Result<()> {
        match self.rules.iter().find(|rule| !rule.matched.get()) {
            None => Ok(()),
            Some(rule) => {
                let detail = format!("the pattern {} fits no tensor of the model", rule.pattern);
                Err(Error::file(&self.path, detail))
            }
        }
    }
}

/// As [`Rules::open`] reads it.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rules.iter().map(|rule| rule.pattern.len()).max().unwrap_or(0);
        self.rules
            .iter()
            .try_for_each(|rule| writeln!(f, "{:width$}  {}", rule.pattern, rule.stored))
    }
}

/// Whether `name` is `pattern`, in which each `*` stands for any characters or none.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or("");
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("*", "", true),
            ("a.*", "a.b.c", true),
            ("*.b", "a.b", true),
            ("a*a", "a", false),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*b", "a.b", false),
            ("*.to_k.*", "x.to_k.weight", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
