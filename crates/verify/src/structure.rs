//! Step 1, structure: comparison of all keys and tensors of an artifact with the plan. No weights are read.

use std::collections::{BTreeMap, HashMap};

use checkpoint::Checkpoint;
use gemma::Config;
use gguf::{GgufSet, Metadata, ggml_shape};
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::alone::file_type;
use crate::artifact::{Artifact, is_readable};
use crate::expected::{Expected, ExpectedTensor};
use crate::unread::unread;
use crate::{Finding, Severity, Step, Structure, folder, keys};

/// Keys that determine the shapes of tensors, and differ between variants.
const SIZES: &[&str] = &[
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "embedding_length_per_layer_input",
    "expert_count",
    "vision.block_count",
    "vision.embedding_length",
    "vision.projection_dim",
];

/// Compares the keys and tensors of `artifact` with the expected ones. [`Structure::hashed`] comes from
/// [`crate::Provenance::check_files`].
///
/// # Errors
/// `Unsupported` for another architecture or a tensor whose type cannot be read as weights; `Malformed` for an artifact
/// of another variant than the base, which cannot be compared at all.
pub fn structure<'a>(
    artifact: impl Into<Artifact<'a>>,
    expected: &Expected,
) -> Result<(Structure, Vec<Finding>)> {
    match artifact.into() {
        Artifact::Gguf(set) => of_gguf(set, expected),
        Artifact::Folder(folder) => of_folder(folder, expected),
    }
}

fn of_gguf(artifact: &GgufSet, expected: &Expected) -> Result<(Structure, Vec<Finding>)> {
    let path = artifact.parts()[0].path().display();
    same_variant(artifact.metadata(), artifact.tensors(), expected).map_err(|e| e.within(&path))?;
    // integer tensors are copied, if the plan has some
    let copied = |desc: &TensorDesc| {
        let is = |tensor: &ExpectedTensor| tensor.desc.name == desc.name && tensor.desc.dtype == desc.dtype;
        expected.tensors.iter().any(is)
    };
    let strange = |desc: &&TensorDesc| !quant::can_encode(desc.dtype) && !copied(desc);
    if let Some(strange) = artifact.tensors().iter().find(strange) {
        return Err(Error::unsupported(
            format!("{path}: tensor {}", strange.name),
            "its elements cannot be read as weights",
        )
        .expected("a float or a quantised type of GGUF", strange.dtype));
    }
    let (keys, mut findings) = keys::compare(&expected.metadata, artifact.metadata(), expected.binding);
    let (tensors, of_tensors) = compare_tensors(artifact.tensors(), expected);
    findings.extend(of_tensors);
    findings.extend(unread(artifact)?);
    if !expected.binding && !has_planned_types(artifact.tensors(), expected) {
        findings.extend(file_type(artifact.metadata(), artifact.tensors()));
    }
    Ok((Structure { plan: expected.plan.clone(), keys, tensors, hashed: 0 }, findings))
}

fn of_folder(artifact: &Checkpoint, expected: &Expected) -> Result<(Structure, Vec<Finding>)> {
    let path = artifact.dir().display();
    let Some(folder) = &expected.folder else {
        return Err(Error::recipe(&expected.plan, "makes a GGUF, and this is a folder of safetensors"));
    };
    let config = Config::any_of_checkpoint(artifact).map_err(|e| e.within(&path))?;
    let (mut keys, mut findings) = (0, Vec::new());
    match folder::keys(artifact, &config) {
        Ok(metadata) => {
            same_variant(&metadata, artifact.tensors(), expected).map_err(|e| e.within(&path))?;
            // with a binding plan, the files themselves are compared
            (keys, findings) = keys::compare(&expected.metadata, &metadata, false);
        }
        Err(error) => {
            let (expected, found) = error.expected_found().unzip();
            findings.push(Finding {
                expected: expected.map(str::to_owned),
                found: found.map(str::to_owned),
                ..Finding::new(Severity::Failure, Step::Structure, error.place(), error.problem())
            });
        }
    }
    findings.extend(folder::compare(artifact, folder, expected));
    let stored: Vec<TensorDesc> = Artifact::Folder(artifact).stored().into_iter().map(|s| s.desc).collect();
    let (tensors, of_tensors) = compare_tensors(&stored, expected);
    findings.extend(of_tensors);
    Ok((Structure { plan: expected.plan.clone(), keys, tensors, hashed: 0 }, findings))
}

/// The tensors of the artifact that can be compared, by index, each with the expected one: present, readable, with the
/// right shape.
pub(crate) fn comparable<'a>(
    tensors: &[TensorDesc],
    expected: &'a Expected,
) -> Vec<(usize, &'a ExpectedTensor)> {
    let by_name: HashMap<&str, &ExpectedTensor> =
        expected.tensors.iter().map(|tensor| (tensor.desc.name.as_str(), tensor)).collect();
    let pair = |(index, desc): (usize, &TensorDesc)| {
        let expected = by_name.get(desc.name.as_str())?;
        let fits = same_shape(desc, &expected.desc) && is_readable(desc.dtype) && desc.elements() > 0;
        fits.then_some((index, *expected))
    };
    tensors.iter().enumerate().filter_map(pair).collect()
}

/// Shapes are compared without leading dimensions of one, which some writers leave out.
fn same_shape(a: &TensorDesc, b: &TensorDesc) -> bool {
    ggml_shape(&a.shape) == ggml_shape(&b.shape)
}

/// Refuses an artifact of another variant: one with other sizes and tensors to match. If the tensors are those of the
/// base, only a key is wrong, and that is a finding.
fn same_variant(theirs: &Metadata, tensors: &[TensorDesc], expected: &Expected) -> Result<()> {
    let ours = &expected.metadata;
    let architecture: &str = ours.required("general.architecture")?;
    let found: &str = theirs.required("general.architecture")?;
    if found != architecture {
        return Err(Error::unsupported("key general.architecture", "not a model of the base's architecture")
            .expected(architecture, found));
    }
    let value = |metadata: &Metadata, size: &str| metadata.get(&format!("{architecture}.{size}")).cloned();
    let differs = |size: &&&str| match (value(ours, size), value(theirs, size)) {
        (Some(a), Some(b)) => crate::values::difference(&a, &b).is_some(),
        _ => false,
    };
    let Some(size) = SIZES.iter().find(differs) else { return Ok(()) };
    let needed = expected.tensors.iter().filter(|tensor| !tensor.unused).count();
    let there = comparable(tensors, expected).iter().filter(|(_, tensor)| !tensor.unused).count();
    // one or two missing tensors are a finding too
    if there + 2 >= needed {
        return Ok(());
    }
    let describe = |metadata| {
        let number =
            |size: &str| value(metadata, size).map_or("no".to_owned(), |value| crate::values::show(&value));
        let experts = value(metadata, "expert_count")
            .map_or(String::new(), |_| format!(" with {} experts", number("expert_count")));
        if architecture == "clip" {
            let [layers, hidden, soft] = ["block_count", "embedding_length", "projection_dim"]
                .map(|size| number(&format!("vision.{size}")));
            return format!("{layers} layers of {hidden}, soft tokens of {soft}");
        }
        format!("{} layers of {}{experts}", number("block_count"), number("embedding_length"))
    };
    let named =
        |name: Option<&str>, size: String| name.map_or(size.clone(), |name| format!("{name}, {size}"));
    let ours_named = expected.config.as_ref().and_then(gemma::Config::variant);
    let theirs_named =
        gemma::Config::any_from_metadata(theirs, tensors).ok().and_then(|config| config.variant());
    Err(Error::malformed(
        format!("key {architecture}.{size}"),
        "an artifact of another variant than the checkpoint that it is compared with",
    )
    .expected(named(ours_named, describe(ours)), named(theirs_named, describe(theirs)))
    .help("Give the checkpoint that the artifact was made from with ‹against›."))
}

/// Whether all tensors have the types that the preset of the artifact gives them, with fall-back types for rows that
/// are not whole blocks.
fn has_planned_types(tensors: &[TensorDesc], expected: &Expected) -> bool {
    let types: HashMap<&str, DType> =
        expected.tensors.iter().map(|tensor| (tensor.desc.name.as_str(), tensor.desc.dtype)).collect();
    tensors.iter().all(|desc| types.get(desc.name.as_str()).is_none_or(|dtype| *dtype == desc.dtype))
}

fn compare_tensors(tensors: &[TensorDesc], expected: &Expected) -> (u64, Vec<Finding>) {
    let by_name: HashMap<&str, &TensorDesc> = tensors.iter().map(|desc| (desc.name.as_str(), desc)).collect();
    let failure = |name: &str, problem: &str| {
        Finding::new(Severity::Failure, Step::Structure, format!("tensor {name}"), problem)
    };
    let mut good = 0;
    let mut findings = Vec::new();
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut retyped: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for tensor in &expected.tensors {
        let ExpectedTensor { desc, .. } = tensor;
        let Some(found) = by_name.get(desc.name.as_str()) else {
            if !tensor.unused || expected.binding {
                findings.push(failure(&desc.name, missing(tensor)).expected(shape(desc), "none"));
            }
            continue;
        };
        if !same_shape(found, desc) {
            let transposed = ggml_shape(&found.shape).iter().rev().eq(ggml_shape(&desc.shape));
            let problem = if transposed { "wrong shape: it is transposed" } else { "wrong shape" };
            findings.push(failure(&desc.name, problem).expected(shape(desc), shape(found)));
        } else if found.dtype != desc.dtype && (expected.binding || !quant::can_encode(desc.dtype)) {
            retyped.entry((desc.dtype.to_string(), found.dtype.to_string())).or_default().push(&desc.name);
        } else if expected.folder.is_some() && is_coded(found.dtype) != is_coded(desc.dtype) {
            let problem =
                "stored in another way than the folder says: readers would take the scale for another";
            findings.push(failure(&desc.name, problem).expected(desc.dtype, found.dtype));
        } else {
            good += 1;
            if found.dtype != desc.dtype {
                let change = format!("{} instead of {}", found.dtype, desc.dtype);
                types.entry(change).or_default().push(tensor.role);
            }
        }
    }
    findings.extend(retyped.iter().flat_map(|(types, names)| wrong_types(types, names, &expected.plan)));

    let known: HashMap<&str, ()> = expected.tensors.iter().map(|t| (t.desc.name.as_str(), ())).collect();
    for desc in tensors.iter().filter(|desc| !known.contains_key(desc.name.as_str())) {
        if !expected.is_unused_kv(&desc.name) {
            let problem = "no tensor of the model has this name";
            findings.push(failure(&desc.name, problem).expected("none", shape(desc)));
        } else if expected.binding {
            let problem = "the recipe leaves out K/V that no layer reads";
            findings.push(failure(&desc.name, problem).expected("none", shape(desc)));
        } else {
            let problem =
                "K/V that no layer reads, and that the checkpoint does not have: nothing is known of them";
            let place = format!("tensor {}", desc.name);
            findings.push(Finding::new(Severity::Warning, Step::Structure, place, problem));
        }
    }
    findings.extend(other_types(&types, &expected.plan));
    (good, findings)
}

/// Findings about tensors of another type than planned: one for each, or one for many with a common cause.
fn wrong_types((planned, found): &(String, String), names: &[&str], plan: &str) -> Vec<Finding> {
    /// The fewest tensors of a common finding, and the number of names that it lists.
    const MANY: usize = 4;
    if names.len() < MANY {
        let problem = "another type than the recipe gives it";
        let finding = |name| {
            let place = format!("tensor {name}");
            Finding::new(Severity::Failure, Step::Structure, place, problem).expected(planned, found)
        };
        return names.iter().map(finding).collect();
    }
    let listed = names[..MANY].join(", ");
    let problem = format!("{} tensors are {found}, {plan} says {planned}: {listed}, …", names.len());
    vec![Finding::new(Severity::Failure, Step::Structure, "types", problem).expected(planned, found)]
}

/// Whether weights of this type have separate scales.
fn is_coded(dtype: DType) -> bool {
    quant::scale_is_apart(dtype)
}

fn missing(tensor: &ExpectedTensor) -> &'static str {
    match tensor.role {
        gemma::ROPE_FREQS => {
            "missing: without it full-attention layers rotate every dimension, not only the first quarter"
        }
        "layer_output_scale" => "missing: without it the layer's output is not scaled",
        _ => "missing",
    }
}

fn shape(desc: &TensorDesc) -> String {
    format!("{:?} {}", desc.shape, desc.dtype)
}

/// One finding for all tensors with other types than the preset gives them.
fn other_types(types: &BTreeMap<String, Vec<&str>>, plan: &str) -> Option<Finding> {
    if types.is_empty() || plan.starts_with("file ") {
        return None;
    }
    let changes: Vec<String> = types
        .iter()
        .map(|(change, roles)| {
            let mut roles = roles.clone();
            roles.sort_unstable();
            roles.dedup();
            format!("{change} for {}", roles.join(", "))
        })
        .collect();
    let problem = format!("other types than {plan} gives: {}", changes.join("; "));
    Some(Finding::new(Severity::Note, Step::Structure, "types", problem))
}
