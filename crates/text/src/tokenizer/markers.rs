//! The special tokens of Gemma 4, identified by their text.
//!
//! Sources: the vocabulary of google/gemma-4; llama.cpp `conversion/gemma.py` (visible tokens) and
//! `src/llama-vocab.cpp` (end-of-generation tokens).

/// Tokens that chat parsers read in the output, so llama.cpp recognises them in plain text as well.
pub(super) const VISIBLE: [&str; 7] = [
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

/// End-of-generation tokens of Gemma. A visible token in this list is a control token.
pub(super) const END_OF_GENERATION: [&str; 3] = ["<eos>", "<turn|>", "<|tool_response>"];

/// All end-of-generation texts of llama.cpp, of any model family; it makes them control tokens. A fine-tune may have
/// some of them. `</s>` is missing, because it is one for other families only.
pub(super) const ENDS_IN_LLAMA_CPP: [&str; 22] = [
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
];

/// Whether a visible token is recognised in plain text.
pub(super) fn in_plain_text(text: &str) -> bool {
    !END_OF_GENERATION.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The converter gives the same tokens the type USER_DEFINED.
    #[test]
    fn visible_tokens_are_those_of_the_contract() {
        let contract = include_str!("../../../../formats/gemma4.vocabulary.toml");
        let list = contract.split("visible = [").nth(1).unwrap().split(']').next().unwrap();
        let quoted =
            |text: &&str| list.contains(&format!("\"{text}\"")) || list.contains(&format!("'{text}'"));
        assert!(VISIBLE.iter().all(quoted));
        assert_eq!(list.trim().trim_end_matches(',').split(", ").count(), VISIBLE.len());
    }
}
