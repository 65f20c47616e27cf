//! Experts one by one, by part, in shards.

use std::fs;

use super::{Clean, all_the_same, form, rename};
use crate::support::{self, Folder, Tensor, WEIGHTS, convert, fixture, recipe, run, sha256};

const MOE: &[&str] = &["26b-a4b"];

/// Splits the fused experts of each layer into a matrix an expert and part, called as `named` says.
fn split_experts(folder: &Folder, named: impl Fn(&str, usize, &str) -> String) {
    folder.reweigh(|w| {
        let mut apart = Vec::new();
        for tensor in std::mem::take(&mut w.tensors) {
            let Some((layer, fused)) = tensor.name.rsplit_once(".experts.") else {
                apart.push(tensor);
                continue;
            };
            let (experts, rows, cols) = (tensor.shape[0] as usize, tensor.shape[1], tensor.shape[2]);
            let size = tensor.data.len() / experts;
            for expert in 0..experts {
                let data = &tensor.data[expert * size..][..size];
                let mut add = |part: &str, rows: u64, data: &[u8]| {
                    let name = named(layer, expert, part);
                    apart.push(Tensor {
                        name,
                        dtype: tensor.dtype.clone(),
                        shape: vec![rows, cols],
                        data: data.to_vec(),
                    });
                };
                if fused == "down_proj" {
                    add("down", rows, data);
                } else {
                    add("gate", rows / 2, &data[..size / 2]);
                    add("up", rows / 2, &data[size / 2..]);
                }
            }
        }
        w.tensors = apart;
    });
}

#[test]
fn experts_apart() {
    const SAYS: &[&str] = &["expert tensors are stored separately"];
    fn one_by_one(f: &Folder) {
        split_experts(f, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    }
    all_the_same(&[
        form("one by one", MOE, SAYS, one_by_one),
        form("as Mixtral names them", MOE, SAYS, |f| {
            split_experts(f, |layer, expert, part| {
                let part =
                    ["w1", "w2", "w3"][["gate", "down", "up"].iter().position(|p| *p == part).unwrap()];
                format!("{layer}.block_sparse_moe.experts.{expert}.{part}.weight")
            })
        }),
        form("by part", MOE, SAYS, |f| {
            split_experts(f, |layer, expert, part| format!("{layer}.mlp.experts.{part}_proj.{expert}"))
        }),
        form("in a wrapper, backwards", MOE, &["stored separately", "as a wrapper"], |f| {
            one_by_one(f);
            rename(f, |name| format!("module.{name}"));
            f.reweigh(|w| w.tensors.reverse());
        }),
        form("gate and up apart, all experts in one", MOE, SAYS, |f| {
            f.reweigh(|w| {
                let mut apart = Vec::new();
                for tensor in std::mem::take(&mut w.tensors) {
                    let Some(layer) = tensor.name.strip_suffix(".experts.gate_up_proj") else {
                        let name =
                            tensor.name.replace(".experts.down_proj", ".experts.switch_glu.down_proj.weight");
                        apart.push(Tensor { name, ..tensor });
                        continue;
                    };
                    let (experts, rows, cols) = (tensor.shape[0], tensor.shape[1] / 2, tensor.shape[2]);
                    let half = tensor.data.len() / experts as usize / 2;
                    for (part, skip) in [("gate", 0), ("up", 1)] {
                        let data =
                            tensor.data.chunks_exact(half).skip(skip).step_by(2).flatten().copied().collect();
                        let name = format!("{layer}.experts.switch_glu.{part}_proj.weight");
                        apart.push(Tensor {
                            name,
                            dtype: tensor.dtype.clone(),
                            shape: vec![experts, rows, cols],
                            data,
                        });
                    }
                }
                w.tensors = apart;
            })
        }),
        form("fused, with .weight", MOE, SAYS, |f| {
            rename(
                f,
                |name| if name.contains(".experts.") { format!("{name}.weight") } else { name.to_owned() },
            )
        }),
    ]);
}

/// The experts of a layer may lie in several shards.
#[test]
fn experts_dealt_to_shards() {
    let folder = Folder::of("26b-a4b");
    split_experts(&folder, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    folder.shard(3, |_| {});
    let gguf = folder.home().join("q4_0.gguf");
    convert(&folder.path(), &gguf, &["--type", "q4_0"]).good();
    assert_eq!(sha256(&gguf), Clean::default().of("26b-a4b").gguf);
}

/// Every other way to read a checkpoint sees the joined tensors too.
#[test]
fn experts_apart_are_verified_calibrated_and_rounded_by_importance() {
    let (apart, home) = (Folder::of("26b-a4b"), tempfile::tempdir().unwrap());
    split_experts(&apart, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    let text = home.path().join("text.txt");
    fs::write(&text, &fs::read_to_string(support::text("calib.txt")).unwrap()[..3000]).unwrap();
    let mut digests = Vec::new();
    for (name, model) in [("clean", fixture("26b-a4b")), ("apart", apart.path())] {
        let importance = home.path().join(format!("{name}.gguf"));
        run([
            "calibrate",
            model.to_str().unwrap(),
            "--text",
            text.to_str().unwrap(),
            "-o",
            importance.to_str().unwrap(),
        ])
        .good();
        let out = home.path().join(name);
        let args = ["--type", "q4_k_m", "--importance", importance.to_str().unwrap()];
        let args = [&args[..], &["--set", "metadata.name=\"x\""]].concat();
        // the name of the file of importance is in the keys
        let shared = home.path().join("importance.gguf");
        fs::copy(&importance, &shared).unwrap();
        let args: Vec<_> = args
            .iter()
            .map(|arg| if *arg == importance.to_str().unwrap() { shared.to_str().unwrap() } else { arg })
            .collect();
        let gguf = out.join("q4_k_m.gguf");
        convert(&model, &gguf, &args).good();
        run(["verify", gguf.to_str().unwrap(), "--against", apart.path().to_str().unwrap()]).good();
        digests.push((sha256(&importance), sha256(&gguf)));
        for recipe_name in ["fp8", "sfp8"] {
            let folder = out.join(recipe_name);
            recipe(&model, &folder, recipe_name, &[]).good();
            digests.push((recipe_name.to_owned(), sha256(&folder.join(WEIGHTS))));
            run(["verify", folder.to_str().unwrap(), "--against", apart.path().to_str().unwrap()]).good();
        }
    }
    assert_eq!(digests[..3], digests[3..]);
}
