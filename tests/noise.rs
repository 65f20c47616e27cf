//! Damage without a plan: files cut at every kind of place, flipped bits, impossible numbers. The run is good or refused
//! with exit 3; it never panics. Damage with a name belongs in `bad_input.rs`.

use std::fs;

use crate::support::{self, Folder, WEIGHTS, Weights, convert, names, run};
use serde_json::json;
use testkit::SplitMix64;

const Q4_0: &[&str] = &["--type", "q4_0"];

/// A file cut anywhere is refused by every command: all of the header's first KiB, then steps through the rest.
#[test]
fn a_file_cut_anywhere() {
    let folder = Folder::of("31b");
    folder.reweigh(Weights::drop_towers);
    let len = fs::metadata(folder.file(WEIGHTS)).unwrap().len();
    let header =
        8 + fs::read(folder.file(WEIGHTS)).unwrap()[..8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let mut random = SplitMix64(0x9e37_79b9_7f4a_7c15);
    let mut cuts: Vec<u64> = (0..1032).collect();
    cuts.extend((0..60).map(|_| random.below(header)));
    cuts.extend((0..60).map(|_| header + random.below(len - header)));
    cuts.extend([header - 1, header, header + 1, len - 1]);
    cuts.sort_unstable_by_key(|&at| std::cmp::Reverse(at)); // so that cutting is enough
    let file = fs::File::options().write(true).open(folder.file(WEIGHTS)).unwrap();
    let path = folder.path();
    let model = path.to_str().unwrap();
    for (number, at) in cuts.into_iter().enumerate() {
        file.set_len(at).unwrap();
        let attempt = match number % 3 {
            0 => run(["inspect", model]),
            1 => run(["plan", model, "--type", "q4_0"]),
            _ => convert(&path, &folder.out(), Q4_0),
        };
        let message = attempt.refusal(3);
        assert!(message.contains(WEIGHTS) && !message.contains("panicked"), "cut to {at} bytes: {message}");
    }
    assert_eq!(names(&folder.out()), [""; 0]);
}

/// Random bytes in header and config: good or refused, never a crash.
#[test]
fn noise_never_panics() {
    let folder = Folder::of("e2b");
    folder.reweigh(Weights::drop_towers);
    let path = folder.path();
    let mut random = SplitMix64(0x2545_f491_4f6c_dd1d);
    for (name, rounds, span) in [
        (WEIGHTS, 120, 16_000),
        ("config.json", 80, 3373),
        ("tokenizer.json", 40, 57_000),
        ("tokenizer_config.json", 40, 275),
    ] {
        let good = fs::read(folder.file(name)).unwrap();
        let mut refusals = 0;
        for _ in 0..rounds {
            let mut bytes = good.clone();
            bytes[random.below(span) as usize] ^= 1 << random.below(7);
            folder.write(name, bytes);
            let attempt = run(["plan", path.to_str().unwrap(), "--type", "q4_0"]);
            assert!(matches!(attempt.code, Some(0 | 3)), "{name}: {}", attempt.stderr);
            refusals += i32::from(attempt.code == Some(3));
        }
        assert!(refusals > rounds / 8, "{name}: only {refusals} changes were noticed");
        folder.write(name, good);
    }
}

/// Numbers no config has: good where the text model does not depend on them, refused where it does.
#[test]
fn impossible_numbers_in_a_config() {
    let folder = Folder::of("e2b");
    folder.reweigh(Weights::drop_towers);
    let path = folder.path();
    let config = support::json(&folder.file("config.json"));
    let fields: Vec<String> = config["text_config"].as_object().unwrap().keys().cloned().collect();
    for field in fields.iter().filter(|field| config["text_config"][*field].is_number()) {
        for value in
            [json!(0), json!(-1), json!(1u64 << 31), json!(1u64 << 62), json!(u64::MAX), json!(1e300)]
        {
            folder.configure(field, value.clone());
            let attempt = run(["plan", path.to_str().unwrap(), "--type", "q4_0"]);
            assert!(matches!(attempt.code, Some(0 | 3)), "{field} {value}: {}", attempt.stderr);
            let sizes = ["hidden_size", "head_dim", "num_attention_heads", "num_hidden_layers", "vocab_size"];
            assert!(
                attempt.code == Some(3) || !sizes.contains(&field.as_str()),
                "{field} {value} was accepted"
            );
        }
        folder.configure(field, config["text_config"][field].clone());
    }
}
