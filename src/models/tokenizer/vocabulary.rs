//! The tokens and the merges that make them.

use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab};

use super::TokenizerFiles;
use crate::io::one_line;
use crate::{Error, Result};

/// CLIP's merges as pairs of token numbers, 16 bits each, little-endian; written by
/// `tools/clip_merges.py` from OpenAI's `bpe_simple_vocab_16e6.txt.gz` (MIT licence).
const CLIP_MERGES: &[u8] = include_bytes!("clip_merges.bin");

/// The largest token number of a vocabulary, plus one.
const MOST_TOKENS: u32 = 1 << 20;

/// A vocabulary as byte-pair encoding takes it.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vocab,
    pub(super) merges: Merges,
}

impl Vocabulary {
    /// CLIP's own: the 256 bytes, the same at the end of a word, the merges, start and end.
    pub(super) fn clip() -> Self {
        let bytes = characters_of_bytes();
        let mut texts: Vec<String> = bytes.iter().map(char::to_string).collect();
        texts.extend(bytes.iter().map(|character| format!("{character}</w>")));
        let mut merges = Vec::with_capacity(CLIP_MERGES.len() / 4);
        for &[left_low, left_high, right_low, right_high] in CLIP_MERGES.as_chunks().0 {
            let text = |low, high| texts[usize::from(u16::from_le_bytes([low, high]))].clone();
            let (left, right) = (text(left_low, left_high), text(right_low, right_high));
            texts.push(format!("{left}{right}"));
            merges.push((left, right));
        }
        texts.extend(["<|startoftext|>", "<|endoftext|>"].map(String::from));
        let tokens = texts.into_iter().zip(0..).collect();
        Vocabulary { tokens, merges }
    }

    /// From `vocab.json` and `merges.txt`, or from `tokenizer.json` where the first is missing.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if they are missing or are not what they should be.
    pub(super) fn from_files(folder: &Path, files: &TokenizerFiles<'_>) -> Result<Self> {
        match (files.vocabulary, files.merges, files.combined) {
            (Some(tokens), Some(merges), _) => {
                let tokens_path = folder.join("vocab.json");
                let tokens = parse(&tokens_path, tokens)?;
                let tokens = tokens_of(&tokens_path, &tokens)?;
                let merges_path = folder.join("merges.txt");
                Vocabulary { tokens, merges: merges_of_text(&merges_path, merges)? }
                    .check(&merges_path)
            }
            (None, _, Some(combined)) => {
                let path = folder.join("tokenizer.json");
                let combined = parse(&path, combined)?;
                let model = &combined["model"];
                let tokens = tokens_of(&path, &model["vocab"])?;
                Vocabulary { tokens, merges: merges_of_json(&path, &model["merges"])? }.check(&path)
            }
            (None, _, None) => Err(missing(folder, "vocab.json")),
            (Some(_), None, _) => Err(missing(folder, "merges.txt")),
        }
    }

    /// Every merge must join two tokens to a third.
    fn check(self, path: &Path) -> Result<Self> {
        for (left, right) in &self.merges {
            let joined = format!("{left}{right}");
            for token in [left, right, &joined] {
                if !self.tokens.contains_key(token) {
                    let merge = one_line(format_args!("{left} {right}"));
                    let token = one_line(token);
                    let detail =
                        format!("merge {merge}: expected a token of the vocabulary, got {token}");
                    return Err(Error::file(path, detail));
                }
            }
        }
        Ok(self)
    }
}

fn missing(folder: &Path, name: &str) -> Error {
    Error::file(folder.join(name), "is missing: expected the tokenizer's vocabulary here")
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| Error::file(path, format!("expected JSON: {}", one_line(error))))
}

fn tokens_of(path: &Path, value: &Value) -> Result<Vocab> {
    let refuse = |got: String| {
        let detail = format!("expected tokens with numbers below {MOST_TOKENS}, got {got}");
        Error::file(path, detail)
    };
    let entries = value.as_object().ok_or_else(|| refuse(one_line(value)))?;
    let mut tokens = Vocab::default();
    for (token, value) in entries {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|&number| number < MOST_TOKENS);
        let number = number.ok_or_else(|| refuse(one_line(format_args!("{token}: {value}"))))?;
        tokens.insert(token.clone(), number);
    }
    Ok(tokens)
}

fn merges_of_text(path: &Path, text: &str) -> Result<Merges> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    lines.map(|(index, line)| pair_of(path, &format!("line {}", index + 1), line)).collect()
}

fn merges_of_json(path: &Path, value: &Value) -> Result<Merges> {
    let refuse = |got: &Value| {
        Error::file(path, format!("merges: expected pairs of tokens, got {}", one_line(got)))
    };
    let pairs = value.as_array().ok_or_else(|| refuse(value))?;
    let pair = |pair: &Value| match pair {
        Value::String(text) => pair_of(path, "merges", text),
        Value::Array(both) => match both.as_slice() {
            [Value::String(left), Value::String(right)] => Ok((left.clone(), right.clone())),
            _ => Err(refuse(pair)),
        },
        _ => Err(refuse(pair)),
    };
    pairs.iter().map(pair).collect()
}

fn pair_of(path: &Path, place: &str, text: &str) -> Result<(String, String)> {
    match text.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_string(), right.to_string()))
        }
        _ => {
            let got = one_line(text);
            Err(Error::file(path, format!("{place}: expected two tokens and a space, got {got}")))
        }
    }
}

/// The printable stand-in of each byte, in CLIP's order: printable bytes first.
fn characters_of_bytes() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let stand_ins = ('\u{100}'..).take(256);
    let others = (0..=255).filter(|byte| !printable(byte));
    (0..=255)
        .filter(printable)
        .map(char::from)
        .chain(others.zip(stand_ins).map(|(_, c)| c))
        .collect()
}
