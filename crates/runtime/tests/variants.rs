//! transformers computes the same on random models with the traits that the trained ones lack.

mod common;

use common::{Folder, Golden, check_prompt, greedy};

fn agrees(name: &str) {
    let folder = format!("golden/transformers-random/{name}");
    let golden = Golden::read(&format!("{folder}/golden.safetensors"));
    let folder = Folder::open(&folder);
    let expected = golden.ids("greedy.output_ids");
    let prompt = golden.ids("greedy.input_ids");
    for model in folder.models() {
        for prompt in ["short", "long"] {
            check_prompt(&model, &golden, prompt, 1e-4);
        }
        assert_eq!(greedy(&model, &prompt, expected.len() - prompt.len()), expected);
    }
}

#[test]
fn per_layer_embeddings_without_double_width() {
    agrees("e4b");
}

#[test]
fn one_key_head_and_no_cap() {
    agrees("12b");
}

#[test]
fn three_experts_of_five() {
    agrees("moe");
}
