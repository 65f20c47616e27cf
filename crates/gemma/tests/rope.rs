//! RoPE frequencies compared with those of the real transformers, for many forms of rope_parameters: equal, or
//! refused. See `fixtures/configs/as_transformers_reads.py`.

use gemma::Config;
use serde_json::json;

/// Forms that transformers reads and this crate refuses, because their meaning would be lost silently.
const REFUSED: [&str; 1] = ["full: no rope_type"];

fn frequencies(base: f32, divisors: &[f32]) -> Vec<f64> {
    let pairs = divisors.len() as f64;
    let frequency = |(pair, divisor): (usize, &f32)| {
        let turns = f64::from(base).powf(-(pair as f64) / pairs) / f64::from(*divisor);
        if *divisor > 1e20 { 0.0 } else { turns }
    };
    divisors.iter().enumerate().map(frequency).collect()
}

#[test]
fn frequencies_are_those_of_transformers_or_the_config_is_refused() {
    let read = testkit::json("configs/as_transformers_reads.json");
    let cases = read["rope"].as_array().unwrap();
    assert!(cases.len() > 20);
    let (mut equal, mut refused) = (0, Vec::new());
    for case in cases {
        let mut config = read["base"].as_object().unwrap().clone();
        config.insert("model_type".into(), json!("gemma4_text"));
        config.insert("architectures".into(), json!(["Gemma4ForCausalLM"]));
        config.extend(case["edit"].as_object().unwrap().clone());
        let name = case["name"].as_str().unwrap();
        match (Config::from_json(&config.into()), case.get("inv_freq")) {
            (Ok(config), Some(theirs)) => {
                equal += 1;
                let kinds = [("sliding_attention", config.rope_swa, 16), ("full_attention", config.rope, 32)];
                for (kind, rope, head_dim) in kinds {
                    let theirs: Vec<f64> =
                        theirs[kind].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
                    let ours = frequencies(rope.base, &rope.divisors(head_dim));
                    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * b.abs();
                    assert!(
                        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(near),
                        "{name}, {kind}: {ours:?}, transformers has {theirs:?}"
                    );
                }
            }
            (Ok(_), None) => panic!("{name}: read, and transformers refuses it"),
            (Err(error), Some(_)) => refused.push((name, error.to_string())),
            (Err(_), None) => {}
        }
    }
    assert!(equal > 10, "{equal}");
    let names: Vec<&str> = refused.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, REFUSED, "{refused:#?}");
}
