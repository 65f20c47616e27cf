//! A tokenizer.json of the real size: 262,144 entries, 514,906 merges, the real markers at their real ids.
//!
//! The words are made of two-letter syllables. What matters to a converter and to BPE holds: every merge joins
//! two entries into a third, and most entries can be reached in more than one way. Not in it: anything that
//! would make real text short in tokens.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

const VOCAB: usize = 262_144;
const MERGES: usize = 514_906;

/// Markers, by id.
const SPECIAL: &[(usize, &str)] = &[
    (0, "<pad>"),
    (1, "<eos>"),
    (2, "<bos>"),
    (3, "<unk>"),
    (4, "<mask>"),
    (46, "<|tool>"),
    (47, "<tool|>"),
    (48, "<|tool_call>"),
    (49, "<tool_call|>"),
    (50, "<|tool_response>"),
    (51, "<tool_response|>"),
    (52, "<|\"|>"),
    (98, "<|think|>"),
    (100, "<|channel>"),
    (101, "<channel|>"),
    (105, "<|turn>"),
    (106, "<turn|>"),
    (255_999, "<|image>"),
    (256_000, "<|audio>"),
    (258_880, "<|image|>"),
    (258_881, "<|audio|>"),
    (258_882, "<image|>"),
    (258_883, "<audio|>"),
    (258_884, "<|video|>"),
];

/// Runs of newlines begin here, of two spaces there; 31 and 30 of them.
const NEWLINES: usize = 107;
const SPACES: usize = 138;
const BYTES: usize = 238;
/// Words begin here and single characters follow them, up to the first marker.
const WORDS: usize = 494;
const WORDS_END: usize = 236_743;
const LETTERS_END: usize = 255_999;

/// How many words of three syllables there are, each with and without a space before it.
const LONG_WORDS: usize = 95_000;

/// The whole document.
pub(super) fn document() -> Value {
    let vocab = vocabulary();
    let merges = merges(&vocab);
    let added = added(&vocab);
    let entries: Map<_, _> = vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "<unk>",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": entries,
            "merges": merges,
        },
    })
}

/// Every token by id; ids without a meaning here are `<unusedN>`, as in the real one.
fn vocabulary() -> Vec<String> {
    let mut vocab: Vec<Option<String>> = vec![None; VOCAB];
    for &(id, token) in SPECIAL {
        vocab[id] = Some(token.to_owned());
    }
    for run in 1..=31 {
        vocab[NEWLINES + run - 1] = Some("\n".repeat(run));
    }
    for run in 2..=31 {
        vocab[SPACES + run - 2] = Some("▁".repeat(run));
    }
    vocab[212] = Some("</s>".to_owned());
    for byte in 0..256 {
        vocab[BYTES + byte] = Some(format!("<0x{byte:02X}>"));
    }
    let letters = letters(LETTERS_END - WORDS_END);
    let words = words(WORDS_END - WORDS, &letters);
    for (slot, token) in vocab[WORDS..LETTERS_END].iter_mut().zip(words.into_iter().chain(letters)) {
        *slot = Some(token);
    }
    let mut unused = 0..;
    vocab
        .into_iter()
        .map(|token| token.unwrap_or_else(|| format!("<unused{}>", unused.next().unwrap_or_default())))
        .collect()
}

/// Single characters: the space mark, ASCII, Latin, then Chinese ones.
fn letters(count: usize) -> Vec<String> {
    let all = ('▁'..='▁').chain('!'..='~').chain('¡'..='ž').chain('一'..='鿿');
    all.take(count).map(String::from).collect()
}

/// Words in an order in which each can be merged from earlier ones.
fn words(count: usize, letters: &[String]) -> Vec<String> {
    let syllables: Vec<String> =
        "bdfgklmnprst".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
    let pairs = product(&syllables, &syllables);
    // A prime step through all of them, so that those taken begin with every syllable.
    let (step, all) = (7919, syllables.len() * pairs.len());
    let long = (0..LONG_WORDS).map(|i| i * step % all);
    let long: Vec<String> =
        long.map(|i| format!("{}{}", syllables[i % syllables.len()], pairs[i / syllables.len()])).collect();
    let mut words = Vec::with_capacity(count);
    for plain in [syllables, pairs, long] {
        let spaced: Vec<_> = plain.iter().map(|word| format!("▁{word}")).collect();
        words.extend(plain);
        words.extend(spaced);
    }
    let chinese = &letters[letters.len() - 1000..];
    let rest = count - words.len();
    words.extend(chinese.iter().flat_map(|a| chinese.iter().map(move |b| format!("{a}{b}"))).take(rest));
    words
}

fn product(first: &[String], second: &[String]) -> Vec<String> {
    first.iter().flat_map(|a| second.iter().map(move |b| format!("{a}{b}"))).collect()
}

/// Ways to make each word from two entries, by id of the word: all of them while there is room, then one each.
fn merges(vocab: &[String]) -> Vec<[&str; 2]> {
    let ids: HashMap<&str, usize> =
        vocab.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let words = (NEWLINES..SPACES + 30).chain(WORDS..WORDS_END).map(|id| vocab[id].as_str());
    let ways: Vec<Vec<[&str; 2]>> = words.map(|word| ways(word, &ids)).collect();
    let mut extra = MERGES - ways.iter().filter(|ways| !ways.is_empty()).count();
    let mut merges = Vec::with_capacity(MERGES);
    for ways in ways.iter().filter(|ways| !ways.is_empty()) {
        let taken = ways.len().min(1 + extra);
        extra -= taken - 1;
        merges.extend_from_slice(&ways[..taken]);
    }
    merges
}

/// Every cut of the word into two entries.
fn ways<'a>(word: &'a str, ids: &HashMap<&str, usize>) -> Vec<[&'a str; 2]> {
    let cuts = word.char_indices().skip(1).map(|(at, _)| word.split_at(at));
    cuts.filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b)).map(|(a, b)| [a, b]).collect()
}

/// The entries that are matched before BPE runs: markers, and as in the real file the unused ones and newlines.
fn added(vocab: &[String]) -> Vec<Value> {
    let special = |id| SPECIAL.iter().any(|&(other, _)| other == id);
    let ids = (0..vocab.len()).filter(|&id| {
        special(id) || vocab[id].starts_with("<unused") || (NEWLINES..SPACES + 30).contains(&id)
    });
    ids.map(|id| {
        json!({
            "id": id, "content": vocab[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special(id),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn real_size_and_every_merge_is_valid() {
        let vocab = vocabulary();
        let known: HashSet<&str> = vocab.iter().map(String::as_str).collect();
        assert_eq!(known.len(), VOCAB, "a token appears twice");
        for &(id, token) in SPECIAL {
            assert_eq!(vocab[id], token);
        }
        assert_eq!(
            (vocab[238].as_str(), vocab[493].as_str(), vocab[107].as_str()),
            ("<0x00>", "<0xFF>", "\n")
        );

        let merges = merges(&vocab);
        assert_eq!(merges.len(), MERGES);
        assert_eq!(merges.iter().collect::<HashSet<_>>().len(), MERGES, "a merge appears twice");
        for [a, b] in &merges {
            assert!(known.contains(a) && known.contains(b) && known.contains(format!("{a}{b}").as_str()));
        }
        let made: HashSet<String> = merges.iter().map(|[a, b]| format!("{a}{b}")).collect();
        assert!(vocab[WORDS..WORDS_END].iter().all(|word| made.contains(word)), "a word cannot be reached");
    }
}
