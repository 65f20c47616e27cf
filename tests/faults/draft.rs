//! Draft models, held against the assistant that they are of.

use super::Good;
use super::edit::Gguf;
use super::gguf_file::{gguf, of_every_key, of_extra_keys, of_few_weights};
use crate::support::fixture;

const FILE: &str = "draft-q4_0.gguf";

fn draft(size: &str, more: &[&str]) -> Good {
    let assistant = format!("{size}-assistant");
    Good::new(&assistant, FILE, |out| {
        let paths = [fixture(&assistant), fixture(size), out.to_owned()]
            .map(|path| path.to_str().unwrap().to_owned());
        let [from, target, out] = paths;
        let args = ["draft", "convert", &from, "--target", &target, "-o", &out, "--type", "q4_0"];
        args.iter().chain(more).map(|arg| arg.to_string()).collect()
    })
}

#[test]
fn every_fault_of_a_draft_is_named() {
    for (size, more) in [("26b-a4b", &[][..]), ("e2b", &["--set", "masked_embedding=keep"])] {
        let good = draft(size, more);
        let tensors = Gguf::read(&good.out().join(FILE)).tensors;
        let names: Vec<String> = tensors.into_iter().map(|(desc, _)| desc.name).collect();
        let mut faults = of_every_key(FILE, &good);
        faults.extend(of_extra_keys(FILE));
        for name in names.iter().filter(|name| !name.starts_with("blk.") || name.starts_with("blk.1.")) {
            let (gone, zero) = (name.clone(), name.clone());
            faults.push(gguf(FILE, format!("{name} is missing"), name, move |g| g.drop(&gone)));
            faults.push(gguf(FILE, format!("{name} is zero"), name, move |g| g.tensor(&zero).1.fill(0)));
        }
        let norm = "blk.1.attn_norm.weight";
        faults.push(gguf(FILE, "norm plus one", norm, move |g| g.map(norm, |w| w + 1.0)));
        let names = ["blk.1.ffn_up.weight", "blk.2.ffn_up.weight"];
        faults.push(gguf(FILE, "two layers exchanged", names[0], move |g| {
            let one = g.tensor(names[0]).1.clone();
            let two = std::mem::replace(&mut g.tensor(names[1]).1, one);
            g.tensor(names[0]).1 = two;
        }));
        if !more.is_empty() {
            let order = "masked_embd_ordering";
            faults.push(gguf(FILE, "two tokens exchanged", order, move |g| g.tensor(order).1.rotate_left(8)));
        }
        faults.extend(of_few_weights(FILE, &["token_embd.weight", "blk.1.ffn_up.weight"]));
        good.all_are_named(&faults);
    }
}
