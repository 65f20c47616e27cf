//! Token ids compared with those of the `tokenizers` crate, which transformers uses: random texts, with the
//! tokenizers of the tiny checkpoints.

use std::sync::LazyLock;

use checkpoint::Checkpoint;
use proptest::collection::vec;
use proptest::prelude::*;
use text::Tokenizer;

struct Both {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
}

static ALL: LazyLock<Vec<Both>> = LazyLock::new(|| {
    let folder = testkit::fixtures("checkpoints");
    let open = |name: &str| Both {
        ours: Tokenizer::from_checkpoint(&Checkpoint::open(folder.join(name)).unwrap()).unwrap(),
        theirs: tokenizers::Tokenizer::from_file(folder.join(name).join("tokenizer.json")).unwrap(),
    };
    ["e2b", "26b-a4b", "31b"].map(open).into()
});

/// Words, white space, markers and characters of all Unicode planes.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z ,.'\n-]{0,12}",
        2 => any::<char>().prop_map(|letter| letter.to_string()),
        2 => "\\PC{0,6}",
        1 => prop::sample::select(vec!["<bos>", "<eos>", "<pad>", "<unk>", "<|turn>", "<turn|>", "<start_of_turn>", "<0x0A>", "\u{2581}", "\r\n", "\t", "  ", "\n\n\n", "\0"])
            .prop_map(str::to_owned),
        1 => "[0-9]{1,20}",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ids_are_those_of_the_crate(text in texts()) {
        for Both { ours, theirs } in ALL.iter() {
            let expected = theirs.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(ours.encode(&text, false, true).unwrap(), expected.get_ids(), "{:?}", text);
        }
    }
}
