//! Reports to show: what a verification of a model of real size finds, and what is at the edge of what can be shown.
//! No real model was measured for the figures; only their sizes and their scatter are like real ones.

use std::collections::BTreeMap;

use eval::{
    Along, DeltaP, DivergentToken, Document, EvaluatedText, FirstGuess, HashedFile, Invocation, Kld,
    ModelInfo, Perplexity,
};
use plan::Allocation;
use text::{Protocol, Scored};
use verify::{
    Compared, FeatureErrors, Finding, Outcome, Report, RoleError, SCHEMA, Severity, Skipped, StageError,
    Step, Structure, TensorError, Tensors, Threshold, WorstBlock,
};

/// All of them by name.
pub(crate) fn all() -> Vec<(&'static str, Report)> {
    vec![
        ("good", good()),
        ("large", large()),
        ("identical", identical()),
        ("refused", refused()),
        ("one", one()),
        ("extreme", extreme()),
        ("empty", Report { schema: SCHEMA, ..Report::default() }),
    ]
}

/// Role, weights of a layer, type, and what its relative error is near.
type Role = (&'static str, u64, &'static str, f64);

const E2B: &[Role] = &[
    ("attn_norm", 1536, "F32", 0.0),
    ("attn_q", 3_145_728, "Q4_0", 0.081),
    ("attn_k", 393_216, "Q4_0", 0.084),
    ("attn_v", 393_216, "Q6_K", 0.019),
    ("attn_q_norm", 256, "F32", 0.0),
    ("attn_output", 3_145_728, "Q4_0", 0.079),
    ("ffn_norm", 1536, "F32", 0.0),
    ("ffn_gate", 9_437_184, "Q4_0", 0.083),
    ("ffn_up", 9_437_184, "Q4_0", 0.082),
    ("ffn_down", 9_437_184, "Q4_1", 0.071),
    ("inp_gate", 393_216, "Q4_0", 0.088),
    ("proj", 393_216, "Q4_0", 0.091),
    ("layer_output_scale", 1, "F32", 0.0),
];

const LARGE: &[Role] = &[
    ("attn_norm", 5376, "BF16", 0.0012),
    ("attn_q", 44_040_192, "Q4_0", 0.081),
    ("attn_k", 22_020_096, "Q4_0", 0.084),
    ("attn_v", 22_020_096, "Q6_K", 0.019),
    ("attn_q_norm", 256, "BF16", 0.0011),
    ("attn_k_norm", 256, "BF16", 0.0011),
    ("attn_output", 44_040_192, "Q4_0", 0.079),
    ("post_attention_norm", 5376, "BF16", 0.0013),
    ("ffn_norm", 5376, "BF16", 0.0014),
    ("ffn_gate", 115_605_504, "Q4_0", 0.083),
    ("ffn_up", 115_605_504, "Q4_0", 0.082),
    ("ffn_down", 115_605_504, "Q3_K", 0.151),
    ("ffn_gate_inp", 688_128, "Q8_0", 0.0061),
    ("post_ffw_norm", 5376, "BF16", 0.0013),
    ("layer_output_scale", 1, "BF16", 0.001),
];

/// An E2B in Q4_0 that passes.
pub(crate) fn good() -> Report {
    let outside = [
        ("token_embd", 402_653_184, "Q6_K", 0.0177),
        ("per_layer_token_embd", 2_348_810_240, "Q6_K", 0.0181),
        ("per_layer_model_proj", 13_762_560, "BF16", 0.0),
        ("output_norm", 1536, "F32", 0.0),
        ("rope_freqs", 256, "F32", 0.0),
    ];
    let tensors = tensors(35, E2B, &outside);
    let limits = [("kld.mean", 0.05, 0.0331), ("perplexity.ratio", 1.05, 1.0213), ("top1", 0.92, 0.9414)];
    let mut report = measured("E2B", tensors, 16, 0.02, &limits);
    report.allocation = Some(Allocation {
        bytes: 3_199_998_976,
        predicted_kld: 0.0402,
        tokens: 1024,
        sensitivity: "0f3a".repeat(16),
        curve: (0..60).map(|n| (2_634_510_336 + 40_000_000 * n, 0.11 * 0.94f64.powi(n as i32))).collect(),
    });
    report.findings.push(Finding::new(
        Severity::Note,
        Step::Structure,
        "general.name",
        "differs from the checkpoint's; it changes nothing that is computed",
    ));
    report
}

/// 60 layers of 15 roles, conversations, findings of every kind, names that mean harm; it fails.
pub(crate) fn large() -> Report {
    let outside = [("token_embd", 1_409_286_144, "Q6_K", 0.0177), ("output_norm", 5376, "F32", 0.0)];
    let limits = [("kld.mean", 0.05, 0.2131), ("top1", 0.95, 0.8123), ("size", 20e9, 18.2e9)];
    let mut report = measured("31B", tensors(60, LARGE, &outside), 120, 0.2, &limits);
    (report.passed, report.outcome) = (false, Outcome::Failed);
    report.artifact.path = "out/<script>alert(\"1\")</script>|`x`&\u{1b}[31m.gguf".to_owned();
    report.intervals.clear();
    (report.kld.as_mut().unwrap().mean, report.top1) = (0.2131, Some(0.8123));
    let text = report.text.as_mut().unwrap();
    (text.protocol, text.scored) = (Protocol::Chat, Some(Scored::Answers));
    report.features = vec![
        features("photos/<b>wide</b>.png", 27, grey_image(320, 90)),
        features("sounds/talk.wav", 12, media::spectrogram(&[0.1; 16_000]).unwrap()),
    ];
    report.findings = vec![
        Finding::new(Severity::Note, Step::Structure, "general.name", "differs from the checkpoint's"),
        Finding::new(
            Severity::Failure,
            Step::Tensors,
            "blk.17.attn_q.weight",
            "its weights are those of blk.17.attn_k.weight in another order: Q and K of this layer are exchanged",
        )
        .expected("cosine ≥ 0.99", "0.013"),
        Finding::new(Severity::Warning, Step::Text, "eval.txt", "raw text says little of an instruction-tuned model"),
        Finding::new(Severity::Failure, Step::Thresholds, "kld.mean", "above its limit").expected("≤ 0.05", "0.2131"),
        Finding::new(Severity::Failure, Step::Thresholds, "top1", "below its limit").expected("≥ 0.95", "0.8123"),
    ];
    report
}

/// The errors of an image or a sound in a tower of this many blocks.
fn features(file: &str, blocks: usize, picture: Vec<u8>) -> FeatureErrors {
    let stage = |block: usize| StageError {
        stage: format!("block{block}"),
        relative_rms: 1e-4 * (1 + block * block) as f64,
    };
    FeatureErrors {
        file: file.to_owned(),
        soft_tokens: 264,
        relative_rms: 0.0102,
        worst: 0.0391,
        worst_token: 17,
        cosine: 0.99995,
        reader_rms: Some(0.0073),
        stages: (0..blocks).map(stage).collect(),
        picture,
    }
}

/// The small picture of a grey image.
fn grey_image(width: usize, height: usize) -> Vec<u8> {
    media::Image::new(width, height, vec![120; 3 * width * height]).unwrap().picture().unwrap()
}

/// A file against itself: every divergence is 0.
pub(crate) fn identical() -> Report {
    let mut report = good();
    report.artifact = report.base.clone().unwrap();
    let tensors = report.tensors.as_mut().unwrap();
    for tensor in &mut tensors.tensors {
        (tensor.rmse, tensor.relative, tensor.cosine) = (0.0, 0.0, 1.0);
        tensor.worst_block = WorstBlock::default();
    }
    for role in &mut tensors.roles {
        (role.rmse, role.relative, role.cosine, role.bytes) = (0.0, 0.0, 1.0, role.base_bytes);
        role.types = [("BF16".to_owned(), role.base_bytes)].into();
    }
    let text = report.text.as_mut().unwrap();
    text.along.iter_mut().for_each(|point| point.kld = 0.0);
    text.worst.clear();
    for document in &mut text.documents {
        (document.kld, document.top1, document.base) = (Some(0.0), Some(1.0), Some(document.artifact));
    }
    report.allocation = None;
    report.perplexity = Some(Perplexity { base: Some(19.81), artifact: 19.81, ratio: Some(1.0) });
    (report.kld, report.top1) = (Some(Kld::default()), Some(1.0));
    let mut histogram = vec![0; 200];
    histogram[100] = text.tokens;
    report.delta_p =
        Some(DeltaP { quantiles: vec![[0.01, 0.0], [0.99, 0.0]], histogram, ..DeltaP::default() });
    report.intervals = [("kld.mean".to_owned(), [0.0, 0.0]), ("top1".to_owned(), [1.0, 1.0])].into();
    report.thresholds.clear();
    report
}

/// Refused at the structure: nothing else ran.
pub(crate) fn refused() -> Report {
    let good = good();
    let why = "the artifact cannot be read as this model".to_owned();
    Report {
        passed: false,
        outcome: Outcome::Failed,
        compared: true,
        findings: (0..140)
            .map(|i| {
                Finding::new(Severity::Failure, Step::Structure, format!("blk.{i}.attn_q.weight"), "missing")
                    .expected("[1536, 2048]", "nothing")
            })
            .collect(),
        skipped: vec![
            Skipped { step: Step::Tensors, why: why.clone() },
            Skipped { step: Step::Text, why: "no --text was given".to_owned() },
        ],
        tensors: None,
        text: None,
        allocation: None,
        perplexity: None,
        kld: None,
        top1: None,
        delta_p: None,
        intervals: BTreeMap::new(),
        thresholds: Vec::new(),
        ..good
    }
}

/// One layer, one role, one document, one token, no base.
pub(crate) fn one() -> Report {
    let mut report = measured("", tensors(1, &E2B[1..2], &[]), 1, 0.03, &[]);
    (report.artifact.variant, report.base) = (None, None);
    let text = report.text.as_mut().unwrap();
    text.tokens = 1;
    text.documents.truncate(1);
    text.along = vec![Along { document: 0, token: 0, kld: 0.0312 }];
    text.worst.truncate(1);
    report.delta_p = Some(DeltaP { mean: -0.01, rms: 0.01, quantiles: Vec::new(), histogram: vec![0, 1, 0] });
    report.intervals.clear();
    // a budget that left nothing to choose
    let (bytes, predicted_kld) = (1 << 20, 0.02);
    let curve = vec![(bytes, predicted_kld)];
    report.allocation =
        Some(Allocation { bytes, predicted_kld, tokens: 300, sensitivity: String::new(), curve });
    report
}

/// Numbers as large and as small as they come, 200 layers, a text in which some runs agree exactly.
pub(crate) fn extreme() -> Report {
    let outside = [("token_embd", 1 << 50, "Q8_0", 1e-30)];
    let mut report =
        measured("31B", tensors(200, &LARGE[..4], &outside), 2, 1e-9, &[("kld.mean", 1e-300, 1e200)]);
    let text = report.text.as_mut().unwrap();
    for (index, point) in text.along.iter_mut().enumerate() {
        point.kld = [0.0, 1e-300, 2e-9, 17.0, 1e200][index % 5];
    }
    let tensors = report.tensors.as_mut().unwrap();
    tensors.tensors[0].relative = 1e200;
    tensors.tensors[1].relative = 1e-200;
    report.perplexity = Some(Perplexity { base: Some(1e-5), artifact: 38123.4, ratio: Some(3.8e9) });
    report.kld = Some(Kld { mean: 1e200, median: 1e-300, p99: 1e12, p999: 1e100, max: 1e300 });
    report.top1 = Some(0.999_999_9);
    (report.passed, report.outcome) = (false, Outcome::Failed);
    report.findings.push(Finding::new(Severity::Failure, Step::Thresholds, "kld.mean", "above its limit"));
    report.delta_p = Some(DeltaP {
        mean: -1.0,
        rms: 1.0,
        quantiles: vec![[0.001, -1.0], [0.999, 1.0]],
        histogram: (0..2000).map(|bin| if bin == 1 { u64::MAX / 4 } else { bin % 3 }).collect(),
    });
    report
}

/// The same numbers each time, evenly between 0 and 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

fn byte_len(weights: u64, dtype: &str) -> u64 {
    let bits =
        [("Q3_K", 3.4375), ("Q4_0", 4.5), ("Q4_1", 5.0), ("Q6_K", 6.5625), ("Q8_0", 8.5), ("BF16", 16.0)];
    (weights as f64 * bits.iter().find(|(name, _)| *name == dtype).map_or(32.0, |(_, bits)| *bits) / 8.0)
        as u64
}

fn tensors(layers: usize, roles: &[Role], outside: &[Role]) -> Tensors {
    let mut noise = Noise(7);
    let mut tensor = |layer: Option<usize>, (role, weights, dtype, error): &Role| {
        let relative =
            error * (0.08 * noise.normal()).exp() * (1.0 + 0.4 * (layer.unwrap_or(20) as f64 / -6.0).exp());
        TensorError {
            name: layer.map_or(format!("{role}.weight"), |layer| format!("blk.{layer}.{role}.weight")),
            role: (*role).to_owned(),
            layer,
            dtype: (*dtype).to_owned(),
            bytes: byte_len(*weights, dtype),
            weights: *weights,
            rmse: 0.021 * relative,
            relative,
            cosine: 1.0 - relative * relative / 2.0,
            worst_block: WorstBlock { row: 1017, column: 480, relative: relative * 3.1 },
            compared: if *weights > 2_000_000_000 { Compared::Limits } else { Compared::Bytes },
            blocks: weights / 32,
            differing: if *weights > 2_000_000_000 { weights / 64 } else { 0 },
        }
    };
    let mut tensors: Vec<_> = outside.iter().map(|role| tensor(None, role)).collect();
    tensors
        .extend((0..layers).flat_map(|l| roles.iter().map(move |r| (l, r))).map(|(l, r)| tensor(Some(l), r)));
    let roles = outside.iter().map(|role| (role, 1)).chain(roles.iter().map(|role| (role, layers as u64)));
    let roles = roles.map(|((role, weights, dtype, error), count)| RoleError {
        role: (*role).to_owned(),
        tensors: count,
        types: [((*dtype).to_owned(), count * byte_len(*weights, dtype))].into(),
        bytes: count * byte_len(*weights, dtype),
        base_bytes: count * weights * 2,
        rmse: 0.021 * error,
        relative: *error,
        cosine: 1.0 - error * error / 2.0,
    });
    Tensors { roles: roles.collect(), tensors }
}

fn model(path: &str, variant: &str, types: BTreeMap<String, u64>, weights: u64) -> ModelInfo {
    let variant = Some(variant.to_owned());
    ModelInfo {
        path: path.to_owned(),
        variant,
        bytes: types.values().sum(),
        file_bytes: types.values().sum::<u64>() + 8192,
        weights,
        types,
    }
}

/// A command and two files.
fn run() -> Invocation {
    let file = |path: &str, bytes, digit: &str| HashedFile {
        path: path.to_owned(),
        bytes,
        sha256: digit.repeat(64),
    };
    Invocation {
        command: "gemma-convert verify out/model-q4_0.gguf --against checkpoints/model --text eval.txt"
            .to_owned(),
        date: "2026-11-29T22:49:00Z".to_owned(),
        files: vec![file("out/model-q4_0.gguf", 3_199_998_976, "a"), file("eval.txt", 421_527, "b")],
    }
}

/// A token that diverges much: text as it is found in files.
fn divergent(number: usize) -> DivergentToken {
    let guess = |text: &str, p| FirstGuess { text: text.to_owned(), p };
    let befores = [
        "The island lies in the north of the archipelago, and its harbour is open in",
        "| year | inhabitants |\n|---|---|\n| 1911 |",
        "<b>if</b> (a && b) {\n\t",
    ];
    DivergentToken {
        document: number % 3,
        token: 200 * number as u64,
        kld: 3.87 / (number + 1) as f64,
        before: befores[number % 3].to_owned(),
        next: [" summer", " 4", "return"][number % 3].to_owned(),
        base: guess([" summer", " 12", "\n"][number % 3], 0.612),
        artifact: guess([" winter", " 12", "<|image|>"][number % 3], 0.233),
    }
}

/// All steps ran; the divergence is near `kld`.
fn measured(
    variant: &str,
    tensors: Tensors,
    documents: usize,
    kld: f64,
    limits: &[(&str, f64, f64)],
) -> Report {
    let mut noise = Noise(3);
    let weights = tensors.tensors.iter().map(|tensor| tensor.weights).sum::<u64>();
    let mut types = BTreeMap::new();
    for tensor in &tensors.tensors {
        *types.entry(tensor.dtype.clone()).or_insert(0) += tensor.bytes;
    }
    let mut drift = 0.0;
    let along: Vec<_> = (0..360)
        .map(|run| {
            drift = 0.8 * drift + 0.4 * noise.normal();
            Along { document: run * documents / 360, token: 12 * run as u64, kld: kld * drift.exp() }
        })
        .collect();
    let mut histogram = vec![0; 200];
    for _ in 0..4320 {
        let change = -0.004 + 0.05 * noise.normal() * noise.next().powi(3);
        histogram[((change + 1.0) * 100.0).clamp(0.0, 199.0) as usize] += 1;
    }
    let document = |noise: &mut Noise| {
        let base = 19.8 * (0.3 * noise.normal()).exp();
        let kld = Some(kld * (0.3 * noise.normal()).exp());
        Document {
            tokens: 270,
            base: Some(base),
            artifact: base * 1.02,
            kld,
            top1: Some(0.93 + 0.02 * noise.next()),
        }
    };
    let threshold = |&(figure, limit, found): &(&str, f64, f64)| {
        let holds = if figure == "top1" { found >= limit } else { found <= limit };
        Threshold { figure: figure.to_owned(), limit, found, holds }
    };
    let intervals = [
        ("perplexity.base", [18.92, 20.77]),
        ("perplexity.artifact", [19.31, 21.22]),
        ("perplexity.ratio", [1.0171, 1.0257]),
        ("kld.mean", [0.0302, 0.0361]),
        ("kld.p99", [0.266, 0.351]),
        ("top1", [0.9362, 0.9467]),
        ("delta_p.mean", [-0.0046, -0.0021]),
        ("delta_p.rms", [0.0241, 0.0276]),
    ];
    Report {
        schema: SCHEMA,
        tool: "gemma-convert 0.1.0".to_owned(),
        compute: "avx512, amx".to_owned(),
        run: run(),
        passed: true,
        outcome: Outcome::Passed,
        compared: true,
        artifact: model("out/model-q4_0.gguf", variant, types, weights),
        base: Some(model("checkpoints/model", variant, [("BF16".to_owned(), 2 * weights)].into(), weights)),
        structure: Some(Structure {
            plan: "recipe q4_0".to_owned(),
            keys: 43,
            tensors: tensors.tensors.len() as u64,
            hashed: 1,
        }),
        tensors: Some(tensors),
        text: Some(EvaluatedText {
            protocol: Protocol::Raw,
            scored: None,
            files: vec!["eval.txt".to_owned()],
            context: 512,
            documents: (0..documents).map(|_| document(&mut noise)).collect(),
            tokens: 4320,
            media: 2,
            along,
            worst: (0..20).map(divergent).collect(),
        }),
        perplexity: Some(Perplexity { base: Some(19.8123), artifact: 20.2343, ratio: Some(1.0213) }),
        kld: Some(Kld { mean: 0.0331, median: 0.0124, p99: 0.304, p999: 1.21, max: 3.87 }),
        top1: Some(0.9414),
        delta_p: Some(DeltaP {
            mean: -0.0033,
            rms: 0.0258,
            quantiles: vec![
                [0.001, -0.21],
                [0.01, -0.09],
                [0.05, -0.03],
                [0.5, -0.0001],
                [0.95, 0.02],
                [0.99, 0.07],
                [0.999, 0.16],
            ],
            histogram,
        }),
        intervals: intervals.into_iter().map(|(figure, interval)| (figure.to_owned(), interval)).collect(),
        thresholds: limits.iter().map(threshold).collect(),
        seconds: [("structure", 0.0801), ("tensors", 14.2), ("text", 412.0)]
            .map(|(s, t)| (s.to_owned(), t))
            .into(),
        ..Report::default()
    }
}
