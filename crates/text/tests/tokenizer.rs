//! Token ids from both sources, compared with those of transformers and llama.cpp (`fixtures/text/ids.json`).

use std::fs;
use std::path::PathBuf;

use checkpoint::Checkpoint;
use gguf::Metadata;
use serde_json::{Value, json};
use tensor::{Error, Fault};
use text::Tokenizer;

fn fixtures() -> PathBuf {
    testkit::fixtures("")
}

fn open() -> Checkpoint {
    Checkpoint::open(fixtures().join("checkpoints/e2b")).unwrap()
}

fn text(name: &str) -> String {
    fs::read_to_string(fixtures().join("text").join(name)).unwrap()
}

/// The keys of a GGUF made from the checkpoint; the tests of the command line read them from a real file.
fn metadata() -> Metadata {
    let file = open().tokenizer().unwrap();
    let visible =
        ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"];
    let control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"];
    let kind = |text: &str| match text {
        _ if visible.contains(&text) || text == "<|\"|>" => 4,
        _ if control.contains(&text) => 3,
        _ if text.starts_with("<0x") && text.len() == 6 => 6,
        _ => 1,
    };
    let mut keys = Metadata::new();
    keys.insert("tokenizer.ggml.model", "gemma4");
    keys.insert(
        "tokenizer.ggml.tokens",
        file.vocab_by_id().map(|(text, _)| text.to_owned()).collect::<Vec<_>>(),
    );
    keys.insert(
        "tokenizer.ggml.token_type",
        file.vocab_by_id().map(|(text, _)| kind(text)).collect::<Vec<i32>>(),
    );
    keys.insert("tokenizer.ggml.merges", file.merges().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>());
    for (key, id) in [("bos", 2u32), ("eos", 1), ("padding", 0)] {
        keys.insert(format!("tokenizer.ggml.{key}_token_id"), id);
    }
    keys
}

fn both() -> [(&'static str, Tokenizer); 2] {
    [
        ("checkpoint", Tokenizer::from_checkpoint(&open()).unwrap()),
        ("metadata", Tokenizer::from_metadata(&metadata()).unwrap()),
    ]
}

/// Asserts equal ids; the message shows the tokens around the first difference.
fn assert_ids(tokenizer: &Tokenizer, found: &[u32], expected: &Value, what: &str) {
    let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
    let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    if same < found.len().max(expected.len()) {
        let around = |ids: &[u32]| {
            let range = same.saturating_sub(8).min(ids.len())..(same + 8).min(ids.len());
            ids[range].iter().map(|&id| tokenizer.token(id).unwrap_or("?").to_owned()).collect::<Vec<_>>()
        };
        panic!("{what}: at {same}: {:?}, expected {:?}", around(found), around(&expected));
    }
}

#[test]
fn ids_are_those_of_transformers_and_llama_cpp() {
    let golden: Value = serde_json::from_str(&text("ids.json")).unwrap();
    for name in ["multilingual", "markers"] {
        let text = text(&format!("{name}.txt"));
        for (source, tokenizer) in both() {
            // the reference for a checkpoint is transformers, for a GGUF llama.cpp
            let parses = if source == "metadata" { "llama" } else { "transformers" };
            for (program, mode, parse) in [(parses, "parsed", true), ("llama", "plain", false)] {
                let ids = tokenizer.encode(&text, true, parse).unwrap();
                assert_ids(
                    &tokenizer,
                    &ids,
                    &golden[name][program][mode],
                    &format!("{name} {source} {mode}"),
                );
            }
        }
    }
    assert_eq!(golden["multilingual"]["llama"]["parsed"], golden["multilingual"]["transformers"]["parsed"]);
    // Known differences: this checkpoint's tokenizer_config.json does not name all of its markers, so llama.cpp's
    // file types them as words. And transformers has no mode in which plain text keeps the visible markers.
    assert_ne!(golden["markers"]["llama"]["parsed"], golden["markers"]["transformers"]["parsed"]);
    assert_ne!(golden["markers"]["llama"]["plain"], golden["markers"]["transformers"]["plain"]);
}

#[test]
fn text_comes_back() {
    let text = text("multilingual.txt");
    for (source, tokenizer) in both() {
        for parse in [false, true] {
            let ids = tokenizer.encode(&text, false, parse).unwrap();
            // the normalizer does not distinguish `▁` from a space
            assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "), "{source} {parse}");
        }
    }
}

/// The cuts of long texts into pieces must not change the ids. A newline merges with nothing here, so it only moves
/// the cuts.
#[test]
fn cuts_do_not_show() {
    let text = text("eval.txt");
    let [(_, tokenizer), _] = both();
    let encode = |text: &str| tokenizer.encode(text, false, false).unwrap();
    let ids = encode(&text);
    for count in [1, 2, 5, 1000] {
        let newlines = "\n".repeat(count);
        assert!(encode(&format!("{newlines}{text}")) == [encode(&newlines), ids.clone()].concat(), "{count}");
    }
}

#[test]
fn a_stream_holds_back_unfinished_characters() {
    let [(_, tokenizer), _] = both();
    let zero = tokenizer.encode("\0", false, false).unwrap()[0];
    let byte = |byte: u8| zero + u32::from(byte);
    let mut stream = tokenizer.decoder();
    let pushed: Vec<String> = "🦀".bytes().map(|b| stream.push(byte(b))).collect();
    assert_eq!(pushed, ["", "", "", "🦀"]);
    assert_eq!(stream.finish(), "");

    let mut push = |bytes: &[u8]| bytes.iter().map(|&b| stream.push(byte(b))).collect::<String>();
    assert_eq!(push(b"a\xFFb\xE2\x82"), "a\u{FFFD}b");
    assert_eq!(push(b"\xACc\xE2"), "€c");
    let word = tokenizer.encode("the", false, false).unwrap()[0];
    assert!(stream.push(word).starts_with("\u{FFFD}t"));
    stream.push(byte(0xF0));
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(
        tokenizer.decode(&[byte(0xE2), 1_000_000, byte(0x82), byte(0xAC)]),
        "\u{FFFD}\u{FFFD}\u{FFFD}"
    );
}

#[test]
fn special_tokens() {
    for (source, tokenizer) in both() {
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (2, Some(1), Some(0)), "{source}");
        let ends: Vec<_> =
            tokenizer.end_of_generation().iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(ends, ["<eos>", "<|tool_response>", "<turn|>"], "{source}");
        assert_eq!((tokenizer.len(), tokenizer.token(2048)), (2048, None), "{source}");
        assert_eq!(tokenizer.encode("", true, true).unwrap(), [2], "{source}");
        assert_eq!(tokenizer.encode("<bos>", true, true).unwrap(), [2, 2], "{source}");
    }
    let mut keys = metadata();
    keys.insert("tokenizer.ggml.add_eos_token", true);
    assert_eq!(Tokenizer::from_metadata(&keys).unwrap().encode("", true, true).unwrap(), [2, 1]);
}

/// A vocabulary unlike Gemma's is handled as in llama.cpp.
#[test]
fn newlines_of_a_gguf_stand_apart() {
    let mut keys = metadata();
    let mut tokens = keys.required::<&[String]>("tokenizer.ggml.tokens").unwrap().to_vec();
    let mut types = keys.required::<&[i32]>("tokenizer.ggml.token_type").unwrap().to_vec();
    let mut merges = keys.required::<&[String]>("tokenizer.ggml.merges").unwrap().to_vec();
    for token in ["\n\n\n", "a\n", "Ġ", "\u{120}\u{120}"] {
        tokens.push(token.into());
        types.push(1);
    }
    merges.extend(["a \n", "Ġ Ġ"].map(String::from));
    keys.insert("tokenizer.ggml.tokens", tokens);
    keys.insert("tokenizer.ggml.token_type", types);
    keys.insert("tokenizer.ggml.merges", merges);
    let tokenizer = Tokenizer::from_metadata(&keys).unwrap();
    let tokens = |text| {
        let ids = tokenizer.encode(text, false, false).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect::<Vec<_>>()
    };
    // a run that is a token becomes that token although no merge yields it, and newlines merge with nothing else
    assert_eq!(tokens("a\n\n\na\n\na"), ["a", "\n\n\n", "a", "\n", "\n", "a"]);
    assert_eq!(tokens("ĠĠ"), ["ĠĠ"]);
}

fn refused(key: &str, value: impl Into<gguf::Value>) -> Error {
    let mut keys = metadata();
    keys.insert(key, value);
    Tokenizer::from_metadata(&keys).unwrap_err()
}

#[test]
fn keys_that_make_no_tokenizer() {
    let other = refused("tokenizer.ggml.model", "llama");
    assert_eq!((other.fault(), other.expected_found()), (Fault::Unsupported, Some(("gemma4", "llama"))));
    assert!(refused("tokenizer.ggml.token_type", vec![1i32]).to_string().contains("2048 types"));
    assert!(refused("tokenizer.ggml.merges", vec!["ab".to_owned()]).to_string().contains("merge 0"));
    assert!(
        refused("tokenizer.ggml.merges", vec!["q zzz".to_owned()]).to_string().contains(r#"token "zzz""#)
    );
    let twice = vec!["t h".to_owned(), "i n".to_owned(), "t h".to_owned()];
    assert!(refused("tokenizer.ggml.merges", twice).to_string().contains("merge 2: is listed twice"));
    assert!(refused("tokenizer.ggml.tokens", vec!["a".to_owned(); 2048]).to_string().contains("has two ids"));
    let poor = (0..2048).map(|id| format!("w{id}")).collect::<Vec<_>>();
    assert!(refused("tokenizer.ggml.tokens", poor).to_string().contains("<0x00>"));
    assert!(refused("tokenizer.ggml.bos_token_id", 2048u32).to_string().contains("bos token"));
    let mut keys = metadata();
    keys.remove("tokenizer.ggml.bos_token_id");
    assert!(Tokenizer::from_metadata(&keys).unwrap_err().to_string().contains("bos token"));
}

/// The tiny checkpoint with a modified tokenizer.json.
fn changed(change: impl FnOnce(&mut Value)) -> tensor::Result<Tokenizer> {
    let original = fixtures().join("checkpoints/e2b");
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer_config.json"] {
        fs::copy(original.join(name), dir.path().join(name)).unwrap();
    }
    // no weights, because they would need a row for each token
    fs::write(dir.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let text = fs::read_to_string(original.join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_checkpoint(&Checkpoint::open(dir.path()).unwrap())
}

#[test]
fn what_a_fine_tune_adds() {
    let tokenizer = changed(|json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.push(json!({"id": 2048, "content": "<two words>", "normalized": true}));
        added.push(json!({"id": 2049, "content": "<hidden>", "special": true}));
        let eos = json!({"SpecialToken": {"id": "<eos>", "type_id": 0}});
        json["post_processor"]["single"].as_array_mut().unwrap().push(eos);
    })
    .unwrap();
    let text = "<hidden><two words><two▁words>";
    assert_eq!(tokenizer.encode(text, true, true).unwrap(), [2, 2049, 2048, 2048, 1]);
    let plain = tokenizer.encode(text, false, false).unwrap();
    assert!(plain.len() > 3 && plain.ends_with(&[2048, 2048]));
}

#[test]
fn checkpoints_of_another_make() {
    let refusal = |change: &dyn Fn(&mut Value)| changed(change).map(|_| ()).unwrap_err();
    for (key, value) in [("normalizer", Value::Null), ("pre_tokenizer", json!({"type": "ByteLevel"}))] {
        let error = refusal(&|json| json[key] = value.clone());
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.place().ends_with(&format!("tokenizer.json: {key}")), "{error}");
    }
    let error = refusal(&|json| json["model"]["byte_fallback"] = false.into());
    assert!(error.place().ends_with("model.byte_fallback"), "{error}");
    let error = refusal(&|json| json["added_tokens"][3]["lstrip"] = true.into());
    assert!(error.place().ends_with("token \"<unk>\""), "{error}");
    let error = refusal(&|json| json["added_tokens"][23]["id"] = 1_000_000.into());
    assert!(error.to_string().contains("<|video|>"), "{error}");
}
