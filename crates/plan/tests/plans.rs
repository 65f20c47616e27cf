//! Plans of the tiny checkpoints: types by rule, preset and fall-back, file layout, split points, names, budgets.
//! Only headers are read.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use gemma::ModelSpec;
use plan::{
    Budget, Origin, Plan, PlannedFile, Recipe, Request, Sensitivity, Shards, TensorCost, allocate, plan,
};
use tensor::{DType, Result};

const MODELS: [&str; 3] = ["e2b", "26b-a4b", "31b"];

/// The alignment of tensor data in a GGUF.
const ALIGNMENT: u64 = 32;

fn with_model<T>(name: &str, work: impl FnOnce(&ModelSpec, &Shards<'_>) -> T) -> T {
    let checkpoint = Checkpoint::open(testkit::fixtures("checkpoints").join(name)).unwrap();
    let model = ModelSpec::open(&checkpoint).unwrap();
    work(&model, &Shards::of(&checkpoint))
}

fn request(toml: &str) -> Request {
    let recipe = Recipe::from_toml(toml, "test").unwrap();
    let stem = plan::stem("model", "test", &recipe);
    Request::new("test", recipe, stem)
}

fn planned(name: &str, toml: &str) -> Result<Plan> {
    with_model(name, |model, shards| plan(model, shards, &[request(toml)]))
}

/// Types by tensor name, over all files.
fn types(plan: &Plan) -> BTreeMap<&str, DType> {
    let tensors = plan.artifacts[0].files.iter().flat_map(|file| &file.tensors);
    tensors.map(|tensor| (tensor.desc.name.as_str(), tensor.desc.dtype)).collect()
}

/// Checks that tensors follow the header at aligned offsets, without gaps except padding, and that the file ends
/// after the last.
fn check_layout(file: &PlannedFile) {
    let data = (file.header.len() as u64).next_multiple_of(ALIGNMENT);
    let end = file.tensors.iter().fold(data, |end, tensor| {
        assert_eq!(tensor.offset, end, "{} {}", file.name, tensor.desc.name);
        assert_eq!(tensor.bytes, tensor.desc.byte_len(), "{}", tensor.desc.name);
        (end + tensor.bytes).next_multiple_of(ALIGNMENT)
    });
    assert_eq!(file.bytes, end, "{}", file.name);
}

#[test]
fn every_byte_of_a_gguf_has_its_place() {
    for name in MODELS {
        for preset in ["f32", "bf16", "q8_0", "q4_0", "q4_k_m", "iq4_xs"] {
            let plan = planned(name, &format!("types.preset = '{preset}'")).unwrap();
            assert_eq!(plan.artifacts[0].files.len(), 1);
            check_layout(&plan.artifacts[0].files[0]);
            assert_eq!(plan.artifacts[0].files[0].name, format!("model-test-{preset}.gguf"));
        }
    }
}

/// Every tensor of the checkpoint is either used by an output or dropped with a reason.
#[test]
fn every_tensor_is_used_or_dropped() {
    for name in MODELS {
        with_model(name, |model, shards| {
            let plan = plan(model, shards, &[request("types.preset = 'q4_0'")]).unwrap();
            let used = plan.artifacts[0].files[0].tensors.iter().filter_map(|tensor| match &tensor.from {
                Origin::Checkpoint(stored) => Some(stored.tensor.as_str()),
                _ => None,
            });
            let dropped = plan.dropped.iter().map(|dropped| {
                assert!(!dropped.reason.is_empty(), "{}", dropped.tensor);
                dropped.tensor.as_str()
            });
            let mut accounted: Vec<&str> = used.chain(dropped).collect();
            accounted.sort_unstable();
            accounted.dedup();
            let mut all: Vec<&str> = shards.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            all.sort_unstable();
            assert_eq!(accounted, all, "{name}");
        });
    }
}

#[test]
fn types_come_from_rules_before_presets_and_fall_back_where_rows_do_not_divide() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, DType)] = &[
        // the preset
        ("e2b", "types.preset = 'q8_0'", "blk.0.attn_q.weight", DType::Q8_0),
        ("e2b", "types.preset = 'bf16'", "blk.0.attn_q.weight", DType::BF16),
        // vectors stay f32 whatever the preset
        ("e2b", "types.preset = 'q4_0'", "blk.0.attn_norm.weight", DType::F32),
        // named embeddings
        ("e2b", "types = { preset = 'q8_0', token_embd = 'q4_0' }", "token_embd.weight", DType::Q4_0),
        ("e2b", "types = { preset = 'q8_0', per_layer_token_embd = 'q4_0' }", "per_layer_token_embd.weight", DType::Q4_0),
        // a rule overrides the preset, for one layer only
        ("e2b", "types = { preset = 'q8_0', rules = [{ tensors = 'blk\\.1\\.attn_q', type = 'q4_0' }] }", "blk.1.attn_q.weight", DType::Q4_0),
        ("e2b", "types = { preset = 'q8_0', rules = [{ tensors = 'blk\\.1\\.attn_q', type = 'q4_0' }] }", "blk.0.attn_q.weight", DType::Q8_0),
        // rows of 32 values do not fill a super-block
        ("e2b", "types.preset = 'q4_k_m'", "blk.0.proj.weight", DType::Q5_0),
    ];
    for (model, toml, tensor, expected) in cases {
        let plan = planned(model, toml).unwrap_or_else(|e| panic!("{toml}: {e}"));
        assert_eq!(types(&plan).get(tensor), Some(expected), "{toml}: {tensor}");
    }
}

#[test]
fn a_split_holds_the_same_tensors_in_the_same_order() {
    let names = |files: &[PlannedFile]| -> Vec<(String, DType)> {
        let tensors = files.iter().flat_map(|file| &file.tensors);
        tensors.map(|tensor| (tensor.desc.name.clone(), tensor.desc.dtype)).collect()
    };
    for name in MODELS {
        let whole = planned(name, "types.preset = 'q8_0'").unwrap();
        for limit in [500_000, 1_000_000, 3_000_000] {
            let toml = format!("types.preset = 'q8_0'\noutput.split_max_size = '{limit}'");
            let plan = planned(name, &toml).unwrap();
            let files = &plan.artifacts[0].files;
            assert!(files.len() > 1, "{name} {limit}");
            assert_eq!(names(files), names(&whole.artifacts[0].files));
            for (number, file) in files.iter().enumerate() {
                check_layout(file);
                let expected = format!("model-test-q8_0-{:05}-of-{:05}.gguf", number + 1, files.len());
                assert_eq!(file.name, expected);
                let data: u64 = file.tensors.iter().map(|tensor| tensor.bytes).sum();
                assert!(data <= limit || file.tensors.len() == 1, "{}: {data} bytes of {limit}", file.name);
            }
        }
    }
}

#[test]
fn two_outputs_of_one_name_are_refused() {
    with_model("31b", |model, shards| {
        let twice = [request("types.preset = 'q8_0'"), request("types.preset = 'q8_0'")];
        let message = plan(model, shards, &twice).unwrap_err().to_string();
        assert!(message.contains("two outputs have this name"), "{message}");
    });
}

#[test]
fn rules_that_cannot_take_effect_are_refused() {
    let toml = "types = { preset = 'q8_0', rules = [{ tensors = 'no_such_tensor', type = 'q4_0' }] }";
    let error = planned("31b", toml).map(|_| ()).unwrap_err();
    assert_eq!(error.fault(), tensor::Fault::Recipe, "{error}");
    assert!(error.to_string().contains("no_such_tensor"), "{error}");
}

/// Synthetic sensitivities: costs fall with the bytes of a type and are larger for earlier layers.
fn sensitivity(model: &ModelSpec, plan: &Plan) -> Sensitivity {
    let error = |dtype: DType| (-8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64).exp2();
    let cost = |tensor: &plan::OutputTensor| TensorCost {
        role: tensor.role.to_owned(),
        layer: tensor.layer,
        kld: Some(0.01 / (1 + tensor.layer.unwrap_or(0)) as f64),
        errors: plan::MEASURED_TYPES.iter().map(|dtype| (dtype.to_string(), error(*dtype))).collect(),
    };
    let tensors = plan.artifacts[0].files.iter().flat_map(|file| &file.tensors);
    Sensitivity {
        model: base::hex(&model.fingerprint),
        id: "test".to_owned(),
        texts: Vec::new(),
        tokens: 1000,
        reference: DType::Q4_0,
        tensors: tensors.filter(|t| t.free).map(|t| (t.desc.name.clone(), cost(t))).collect(),
    }
}

#[test]
fn a_budget_is_kept_and_more_bytes_cost_less() {
    with_model("e2b", |model, shards| {
        let plain = plan(model, shards, &[request("types.preset = 'q4_0'")]).unwrap();
        let sensitivity = sensitivity(model, &plain);
        let with = |size: u64| {
            let mut request = request("types.preset = 'q4_0'");
            request.recipe.budget = Some(Budget { size: Some(size.to_string()), ..Budget::default() });
            allocate(model, shards, &request, &sensitivity)
        };
        let smallest = plain.artifacts[0].bytes();
        let mut last = f64::INFINITY;
        for size in [smallest + smallest / 100, smallest + smallest / 20, 2 * smallest] {
            let request = with(size).unwrap();
            let allocation = request.allocation.clone().unwrap();
            let plan = plan(model, shards, &[request]).unwrap();
            assert_eq!(plan.artifacts[0].bytes(), allocation.bytes);
            assert!(allocation.bytes <= size && allocation.predicted_kld < last, "{allocation:?} of {size}");
            // the largest tensor takes 3 % of the model: nothing that fits is left out
            assert!(allocation.bytes * 20 > size * 19 || size == 2 * smallest, "{allocation:?} of {size}");
            last = allocation.predicted_kld;
        }
        let message = with(1000).unwrap_err();
        assert_eq!(message.fault(), tensor::Fault::Recipe, "{message}");
    });
}
