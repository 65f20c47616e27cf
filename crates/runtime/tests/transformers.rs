//! transformers computes the same: hidden states, logits, the choice of every token.

mod common;

use common::{Folder, Golden, check_prompt, greedy};

/// What f32 sums in another order may do to a logit.
const LOGITS: f32 = 2e-3;

fn agrees(name: &str) {
    let folder = Folder::open(&format!("checkpoints/{name}"));
    let golden = Golden::read(&format!("golden/transformers/{name}.transformers.safetensors"));
    let expected = golden.ids("greedy.output_ids");
    let prompt = golden.ids("greedy.input_ids");
    for model in folder.models() {
        for prompt in ["short", "medium", "long"] {
            check_prompt(&model, &golden, prompt, LOGITS);
        }
        assert_eq!(greedy(&model, &prompt, expected.len() - prompt.len()), expected);
    }
}

#[test]
fn e2b() {
    agrees("e2b");
}

#[test]
fn mixture_of_experts() {
    agrees("26b-a4b");
}

#[test]
fn keys_as_values() {
    agrees("31b");
}
