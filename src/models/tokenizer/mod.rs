//! From a prompt to token numbers: CLIP's byte-pair encoding.

use std::path::Path;
use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::io::one_line;
use crate::{Error, Result};

mod special;
mod vocabulary;

use special::{SpecialToken, SpecialTokens};
use vocabulary::Vocabulary;

/// How a text is cut into words before any merging: CLIP's own expression.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The number of tokens that Stable Diffusion's text encoders take.
const CLIP_LENGTH: usize = 77;

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The start, the words, the end and the padding: always [`Tokenizer::length`] of them.
    pub ids: Vec<u32>,
    /// The end of the prompt that did not fit, as it was written.
    pub dropped: Option<String>,
}

/// The texts of a `tokenizer` folder; `None` for a file that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `vocab.json`: token to number.
    pub vocabulary: Option<&'a str>,
    /// `merges.txt`: the pairs to merge, most urgent first.
    pub merges: Option<&'a str>,
    /// `tokenizer.json`: both in one file, which is all that transformers 5 writes. Read where
    /// `vocab.json` is missing.
    pub combined: Option<&'a str>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`: what it names comes before what `tokenizer_config.json` names,
    /// except where that has an `added_tokens_decoder`; then this file is not read.
    pub special_tokens: Option<&'a str>,
}

/// CLIP's tokenizer: transformers' `CLIPTokenizer`.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Shared: every pipeline, and every dry run of one, has a tokenizer.
    inner: Arc<tokenizers::Tokenizer>,
    bos: u32,
    eos: u32,
    pad: u32,
    vocabulary_size: usize,
    length: usize,
}

impl Tokenizer {
    /// CLIP's own vocabulary of 49,408 tokens, which is part of this crate, padded with `pad`:
    /// `<|endoftext|>` for Stable Diffusion 1.x, `!` for 2.x.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `pad` is not a token.
    pub fn clip(pad: &str) -> Result<Self> {
        let special = SpecialTokens { pad: SpecialToken::new(pad), ..SpecialTokens::default() };
        Self::build(Vocabulary::clip(), &special, CLIP_LENGTH)
            .map_err(|detail| Error::argument("pad", detail))
    }

    /// The tokenizer of a model folder; `folder` names it in messages. `longest` is the length
    /// where `tokenizer_config.json` gives none.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if a file is missing or is not what it should be.
    pub fn from_files(folder: &Path, files: &TokenizerFiles<'_>, longest: usize) -> Result<Self> {
        let vocabulary = Vocabulary::from_files(folder, files)?;
        let (special, length) = special::from_files(folder, files)?;
        Self::build(vocabulary, &special, length.unwrap_or(longest))
            .map_err(|detail| Error::file(folder, detail))
    }

    fn build(
        vocabulary: Vocabulary,
        special: &SpecialTokens,
        length: usize,
    ) -> Result<Self, String> {
        let number = |what: &str, token: &SpecialToken| {
            vocabulary.tokens.get(&token.content).copied().ok_or_else(|| {
                format!("expected {what} in the vocabulary, got {}", one_line(&token.content))
            })
        };
        let bos = number("bos_token", &special.bos)?;
        let eos = number("eos_token", &special.eos)?;
        let pad = number("pad_token", &special.pad)?;
        number("unk_token", &special.unk)?;
        let vocabulary_size = vocabulary.tokens.values().max().map_or(0, |&last| last as usize + 1);
        let added: Vec<AddedToken> = special
            .in_order()
            .into_iter()
            .filter(|token| vocabulary.tokens.contains_key(&token.content))
            .map(SpecialToken::to_added)
            .collect();
        let failed = |error: tokenizers::Error| one_line(error);
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.tokens, vocabulary.merges)
            .unk_token(special.unk.content.clone())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_string())
            .build()
            .map_err(failed)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_string());
        inner.with_normalizer(Some(Normalizers::new(vec![
            NFC.into(),
            Replace::new(spaces, " ").map_err(failed)?.into(),
            Lowercase.into(),
        ])));
        let words = SplitPattern::Regex(WORDS.to_string());
        let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(failed)?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
        inner.add_special_tokens(&added);
        Ok(Tokenizer { inner: Arc::new(inner), bos, eos, pad, vocabulary_size, length })
    }

    /// The numbers of a prompt: cut to fit, between start and end, padded.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if the text cannot be cut into words.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| Error::argument("prompt", one_line(error)))?;
        let room = self.length - 2;
        let dropped = encoding.get_offsets().get(room).map(|&(start, _)| {
            let rest = text.get(start..).unwrap_or(text);
            rest.trim().to_string()
        });
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.bos);
        ids.extend(encoding.get_ids().iter().take(room));
        ids.push(self.eos);
        ids.resize(self.length, self.pad);
        Ok(Tokens { ids, dropped })
    }

    /// The number of tokens that every prompt is cut or padded to.
    pub fn length(&self) -> usize {
        self.length
    }

    /// One more than the largest token number.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The token that starts every prompt.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that ends every prompt.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The token that fills up every prompt.
    pub fn pad(&self) -> u32 {
        self.pad
    }
}
