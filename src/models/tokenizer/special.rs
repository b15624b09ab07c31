//! The tokens that are not words, from `tokenizer_config.json` and `special_tokens_map.json`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerFiles;
use crate::io::one_line;
use crate::{Error, Result};

/// The longest prompt that a tokenizer may ask for.
const LONGEST: u64 = 4096;

/// The most tokens that `added_tokens_decoder` may have; CLIP's own has two.
const MOST_ADDED: usize = 4096;

/// A token that is recognised in a prompt before it is cut into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialToken {
    /// Its text.
    pub(super) content: String,
    /// Whether it is looked for after lower-casing.
    normalized: bool,
    /// Whether it swallows the white space before it.
    lstrip: bool,
    /// Whether it swallows the white space after it.
    rstrip: bool,
    /// Whether it must stand by itself.
    single_word: bool,
}

impl SpecialToken {
    /// A token that is given by its text alone.
    pub(super) fn new(content: &str) -> Self {
        SpecialToken {
            content: content.to_string(),
            normalized: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }

    pub(super) fn to_added(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), true)
            .normalized(self.normalized)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .single_word(self.single_word)
    }

    /// A text, or an object with a `content`; `None` for anything else.
    fn from_value(value: &Value) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(SpecialToken::new(content));
        }
        let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
        Some(SpecialToken {
            content: value.get("content")?.as_str()?.to_string(),
            normalized: flag("normalized"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            single_word: flag("single_word"),
        })
    }
}

/// The special tokens of one tokenizer.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    pub(super) bos: SpecialToken,
    pub(super) eos: SpecialToken,
    pub(super) unk: SpecialToken,
    pub(super) pad: SpecialToken,
    /// From `added_tokens_decoder`, by number.
    pub(super) others: Vec<SpecialToken>,
}

impl Default for SpecialTokens {
    fn default() -> Self {
        let end = SpecialToken::new("<|endoftext|>");
        SpecialTokens {
            bos: SpecialToken::new("<|startoftext|>"),
            eos: end.clone(),
            unk: end.clone(),
            pad: end,
            others: Vec::new(),
        }
    }
}

impl SpecialTokens {
    /// All of them, one of each text: the last where two differ in their flags, as transformers
    /// has it. (Published files give `<|endoftext|>` with flags as the end and without as padding.)
    pub(super) fn in_order(&self) -> Vec<&SpecialToken> {
        let named = [&self.bos, &self.eos, &self.unk, &self.pad];
        let mut tokens: Vec<&SpecialToken> = Vec::new();
        for token in self.others.iter().chain(named) {
            if !token.content.is_empty() && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let mut seen = HashSet::new();
        let mut last: Vec<_> =
            tokens.into_iter().rev().filter(|token| seen.insert(&token.content)).collect();
        last.reverse();
        last
    }
}

/// The special tokens of a folder, and the length of a prompt if it says one.
pub(super) fn from_files(
    folder: &Path,
    files: &TokenizerFiles<'_>,
) -> Result<(SpecialTokens, Option<usize>)> {
    let config = Source::parse(folder.join("tokenizer_config.json"), files.config)?;
    let map = Source::parse(folder.join("special_tokens_map.json"), files.special_tokens)?;
    let mut special = SpecialTokens { others: config.others()?, ..SpecialTokens::default() };
    let sources = if config.keys.contains_key("added_tokens_decoder") {
        vec![&config]
    } else {
        vec![&config, &map]
    };
    for source in sources {
        source.replace("bos_token", &mut special.bos)?;
        source.replace("eos_token", &mut special.eos)?;
        source.replace("unk_token", &mut special.unk)?;
        source.replace("pad_token", &mut special.pad)?;
    }
    for token in [&mut special.bos, &mut special.eos, &mut special.unk, &mut special.pad] {
        if let Some(other) = special.others.iter().find(|other| other.content == token.content) {
            *token = other.clone();
        }
    }
    Ok((special, config.length()?))
}

/// The keys of one of the two files, empty if there is none.
struct Source {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Source {
    fn parse(path: PathBuf, text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Source { path, keys: Map::new() }) };
        match serde_json::from_str(text) {
            Ok(keys) => Ok(Source { path, keys }),
            Err(error) => {
                let error = one_line(error);
                Err(Error::file(path, format!("expected a JSON object: {error}")))
            }
        }
    }

    fn refuse(&self, key: &str, expected: &str, got: &Value) -> Error {
        Error::file(&self.path, format!("{key}: expected {expected}, got {}", one_line(got)))
    }

    fn replace(&self, key: &str, token: &mut SpecialToken) -> Result<()> {
        let Some(value) = self.keys.get(key) else { return Ok(()) };
        *token = SpecialToken::from_value(value)
            .ok_or_else(|| self.refuse(key, "a token's text", value))?;
        Ok(())
    }

    /// `added_tokens_decoder`, by number.
    fn others(&self) -> Result<Vec<SpecialToken>> {
        let key = "added_tokens_decoder";
        let refuse = |value: &Value| self.refuse(key, "tokens by number", value);
        let Some(value) = self.keys.get(key) else { return Ok(Vec::new()) };
        let entries = value.as_object().ok_or_else(|| refuse(value))?;
        if entries.len() > MOST_ADDED {
            let expected = format!("at most {MOST_ADDED} tokens");
            return Err(self.refuse(key, &expected, &Value::from(entries.len())));
        }
        let mut tokens = Vec::new();
        for (number, value) in entries {
            let number: u32 = number.parse().map_err(|_| refuse(&Value::from(number.as_str())))?;
            let token = SpecialToken::from_value(value).ok_or_else(|| refuse(value))?;
            tokens.push((number, token));
        }
        tokens.sort_by_key(|(number, _)| *number);
        Ok(tokens.into_iter().map(|(_, token)| token).collect())
    }

    /// `model_max_length`; a huge number is how transformers writes that there is none.
    fn length(&self) -> Result<Option<usize>> {
        let key = "model_max_length";
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if value.as_f64().is_some_and(|length| length > 1e9) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(length) if (2..=LONGEST).contains(&length) => Ok(Some(length as usize)),
                _ => Err(self.refuse(key, &format!("2 to {LONGEST} tokens"), value)),
            },
        }
    }
}
