//! Weights that must be refused though every file is in order: values that are not finite, and values that the chosen
//! type cannot hold. Exit 3, one message with the tensor and where in it, nothing in the target.

use crate::support::refused::{Seen, all_refused, case, refused};
use crate::support::{Folder, WEIGHTS, convert};

const Q4_0: &[&str] = &["--type", "q4_0"];
const Q_PROJ: &str = "layers.0.self_attn.q_proj.weight";
const NORM: &str = "layers.1.input_layernorm.weight";

#[test]
fn weights_that_are_not_finite() {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    all_refused(
        Seen::Reading,
        Q4_0,
        &[
            case(
                "NaN in BF16",
                "31b",
                &[WEIGHTS, Q_PROJ, "3 values", "element 700 (row 2, column 188)", "found NaN"],
                |f| {
                    f.reweigh(|w| {
                        let tensor = w.get(Q_PROJ);
                        tensor.poke(700, NAN);
                        tensor.poke(701, INF);
                        tensor.poke(256 * 256 - 1, -INF);
                    })
                },
            ),
            case(
                "an infinity in F16",
                "31b",
                &[Q_PROJ, "1 value", "element 0 (row 0, column 0)", "found -inf"],
                |f| {
                    f.reweigh(|w| {
                        w.get(Q_PROJ).retype("F16");
                        w.get(Q_PROJ).poke(0, -INF);
                    })
                },
            ),
            case("NaN in F32", "31b", &[Q_PROJ, "2 values", "element 65534 (row 255, column 254)"], |f| {
                f.reweigh(|w| {
                    w.get(Q_PROJ).retype("F32");
                    w.get(Q_PROJ).poke(65_534, NAN);
                    w.get(Q_PROJ).poke(65_535, NAN);
                })
            }),
            case("NaN in a norm", "31b", &[NORM, "1 value", "element 255 (row 0, column 255)"], |f| {
                f.reweigh(|w| w.get(NORM).poke(255, NAN))
            }),
            case(
                "NaN in an expert",
                "26b-a4b",
                &["layers.2.experts.gate_up_proj", "1 value", "element 327689 (row 1280, column 9)"],
                |f| f.reweigh(|w| w.get("layers.2.experts.gate_up_proj").poke(5 * 256 * 256 + 9, NAN)),
            ),
            case(
                "NaN in two tensors: the first in the file is named",
                "31b",
                &["layers.0.mlp.down_proj.weight", "1 value", "element 5 "],
                |f| {
                    f.reweigh(|w| {
                        w.get("language_model.layers.0.mlp.down_proj.weight").poke(5, INF);
                        w.get("language_model.layers.4.mlp.down_proj.weight").poke(0, INF);
                    })
                },
            ),
        ],
    );
    // also where rows are copied as they are
    let folder = Folder::of("31b");
    folder.reweigh(|w| w.get(Q_PROJ).poke(9, INF));
    refused(&folder, Seen::Reading, &["--type", "bf16"], &[Q_PROJ, "element 9 "]);
}

#[test]
fn weights_too_large_for_their_type() {
    let large = |value: f32| {
        let folder = Folder::of("31b");
        folder.reweigh(|w| {
            w.get(Q_PROJ).retype("F32");
            w.get(Q_PROJ).poke(77, value);
        });
        folder
    };
    let says = [WEIGHTS, Q_PROJ, "too large for q4_0", "scale fits into an f16", "found 1e30"];
    refused(&large(1e30), Seen::Reading, &["--type", "q4_0"], &says);
    for dtype in ["q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"]
    {
        let rule = format!(r"blk\.0\.attn_q\.weight={dtype}");
        let problem = format!("too large for {dtype}");
        for (value, found) in [(1e10, "found 1e10"), (1e30, "found 1e30")] {
            let says = [WEIGHTS, Q_PROJ, &problem, found];
            refused(&large(value), Seen::Reading, &["--type", "f32", "--tensor-type", &rule], &says);
        }
    }
    refused(&large(7e4), Seen::Reading, &["--type", "f16"], &[Q_PROJ, "too large for f16", "found 7e4"]);
    refused(
        &large(f32::MAX),
        Seen::Reading,
        &["--type", "bf16"],
        &[Q_PROJ, "too large for bf16", "3.4028235e38"],
    );
    // what is too large for one type is not for another
    convert(&large(1e30).path(), &large(1e30).out(), &["--type", "f32"]).good();
    // nor is it for mxfp4, whose scale is a power of two
    let folder = large(1e30);
    let rule = ["--type", "f32", "--tensor-type", r"blk\.0\.attn_q\.weight=mxfp4"];
    convert(&folder.path(), &folder.out(), &rule).good();
}
