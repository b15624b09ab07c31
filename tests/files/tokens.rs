//! The tokenizer against transformers' answers.

use std::path::Path;

use ellesmere::models::tokenizer::{Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

use crate::{assert_fails, golden, golden_json};

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

/// The texts of a golden model's tokenizer folder.
struct Texts([String; 4]);

impl Texts {
    fn of(kind: &str) -> Self {
        let names =
            ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
        let read =
            |name| std::fs::read_to_string(golden(&format!("models/{kind}/tokenizer/{name}")));
        Texts(names.map(|name| read(name).unwrap()))
    }

    fn files(&self) -> TokenizerFiles<'_> {
        let [vocabulary, merges, config, special_tokens] = &self.0;
        TokenizerFiles {
            vocabulary: Some(vocabulary),
            merges: Some(merges),
            combined: None,
            config: Some(config),
            special_tokens: Some(special_tokens),
        }
    }
}

fn read(files: TokenizerFiles<'_>) -> ellesmere::Result<Tokenizer> {
    Tokenizer::from_files(Path::new("tokenizer"), &files, 77)
}

#[test]
fn folders_of_both_generations_give_the_ids_of_transformers() {
    let cases = golden_json("tokenizer.json");
    let mut compared = 0;
    for kind in ["sd15", "sd21-base"] {
        let texts = Texts::of(kind);
        let tokenizer = read(texts.files()).unwrap();
        for case in cases.as_array().unwrap().iter().filter(|case| case["model"] == kind) {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap().ids, ids(case), "{kind}: {text:?}");
            compared += 1;
        }
    }
    assert!(compared >= 40, "{compared} cases");
}

#[test]
fn the_built_in_vocabulary_gives_the_ids_of_transformers() {
    let cases = golden_json("clip_tokenizer.json");
    let tokenizers = ["<|endoftext|>", "!"].map(|pad| (pad, Tokenizer::clip(pad).unwrap()));
    for case in cases.as_array().unwrap() {
        let (_, tokenizer) =
            tokenizers.iter().find(|(pad, _)| case["pad"] == *pad).expect("a known pad token");
        let text = case["text"].as_str().unwrap();
        let mut expected = ids(case);
        expected.resize(77, tokenizer.pad());
        assert_eq!(tokenizer.encode(text).unwrap().ids, expected, "{text:?}");
    }
    let ends = &tokenizers[0].1;
    assert_eq!((ends.bos(), ends.eos(), ends.pad()), (49406, 49407, 49407));
    assert_eq!((ends.vocabulary_size(), ends.length()), (49408, 77));
    assert_eq!(tokenizers[1].1.pad(), 0);
}

#[test]
fn what_does_not_fit_is_told_as_it_was_written() {
    let tokenizer = Tokenizer::clip("<|endoftext|>").unwrap();
    let fits = tokenizer.encode(&"cat ".repeat(75)).unwrap();
    assert_eq!(fits.dropped, None);
    let text = format!("{}A Big\nDog", "Cat ".repeat(75));
    let tokens = tokenizer.encode(&text).unwrap();
    assert_eq!(tokens.dropped.as_deref(), Some("A Big\nDog"));
    assert_eq!(tokens.ids[..76], fits.ids[..76]);
    assert_eq!((tokens.ids.len(), tokens.ids[76]), (77, tokenizer.eos()));
    // The cut may fall inside a word or a character of several bytes.
    let tokens = tokenizer.encode(&"🐈‍⬛é".repeat(60)).unwrap();
    assert!(tokens.dropped.is_some_and(|text| !text.is_empty()));
}

#[test]
fn one_file_of_transformers_5_is_as_good_as_two() {
    let texts = Texts::of("sd15");
    let tokens: Value = serde_json::from_str(&texts.0[0]).unwrap();
    let lines = texts.0[1].lines().skip(1);
    let pairs: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    let combined = json!({"model": {"type": "BPE", "vocab": tokens, "merges": pairs}}).to_string();
    let alone = TokenizerFiles {
        vocabulary: None,
        merges: None,
        combined: Some(&combined),
        ..texts.files()
    };
    let (one, two) = (read(alone).unwrap(), read(texts.files()).unwrap());
    for text in ["a photo of a cat", "It's 1999!"] {
        assert_eq!(one.encode(text).unwrap(), two.encode(text).unwrap());
    }
}

#[test]
fn the_pad_token_is_found_where_transformers_finds_it() {
    let texts = Texts::of("sd21-base");
    let tokenizer = read(texts.files()).unwrap();
    assert_eq!(tokenizer.pad(), 0, "special_tokens_map.json comes first");
    let without = TokenizerFiles { special_tokens: None, ..texts.files() };
    let tokenizer = read(without).unwrap();
    assert_eq!(tokenizer.pad(), tokenizer.eos(), "tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&texts.0[2]).unwrap();
    config["added_tokens_decoder"] = json!({"710": {"content": "<|endoftext|>", "special": true}});
    let config = config.to_string();
    let newer = TokenizerFiles { config: Some(&config), ..texts.files() };
    let tokenizer = read(newer).unwrap();
    assert_eq!(tokenizer.pad(), tokenizer.eos(), "special_tokens_map.json is not read");
}

#[test]
fn each_defect_of_a_tokenizer_is_named() {
    let texts = Texts::of("sd15");
    let good = texts.files();
    let cases = [
        (
            "no vocabulary",
            TokenizerFiles { vocabulary: None, ..good },
            "tokenizer/vocab.json: is missing",
        ),
        ("no merges", TokenizerFiles { merges: None, ..good }, "tokenizer/merges.txt: is missing"),
        ("not JSON", TokenizerFiles { vocabulary: Some("{"), ..good }, "vocab.json: expected JSON"),
        (
            "not numbers",
            TokenizerFiles { vocabulary: Some(r#"{"a": "b"}"#), ..good },
            "expected tokens with numbers below 1048576, got a: \"b\"",
        ),
        (
            "a list",
            TokenizerFiles { vocabulary: Some("[]"), ..good },
            "expected tokens with numbers below 1048576, got []",
        ),
        (
            "three in a line",
            TokenizerFiles { merges: Some("#version: 0.2\na b c"), ..good },
            "merges.txt: line 2: expected two tokens and a space, got a b c",
        ),
        (
            "an unknown merge",
            TokenizerFiles { merges: Some("zz zz"), ..good },
            "merges.txt: merge zz zz: expected a token of the vocabulary, got zz",
        ),
        (
            "an unknown pad token",
            TokenizerFiles { special_tokens: Some(r#"{"pad_token": "[PAD]"}"#), ..good },
            "expected pad_token in the vocabulary, got [PAD]",
        ),
        (
            "no pad token",
            TokenizerFiles { special_tokens: Some(r#"{"pad_token": null}"#), ..good },
            "special_tokens_map.json: pad_token: expected a token's text, got null",
        ),
        (
            "no room",
            TokenizerFiles { config: Some(r#"{"model_max_length": 1}"#), ..good },
            "tokenizer_config.json: model_max_length: expected 2 to 4096 tokens, got 1",
        ),
    ];
    for (why, files, expected) in cases {
        assert_fails(why, read(files), &[expected]);
    }
    assert_fails(
        "an unknown token",
        Tokenizer::clip("[PAD]"),
        &["pad: expected pad_token in the vocabulary"],
    );
}
