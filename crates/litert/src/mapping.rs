//! Which tensor of a checkpoint is which constant: the tensor that, encoded, has the bytes of the constant. Constants of
//! another rounding are those of the tensor with which they correlate.
//!
//! Names in an exported graph do not say it: norms are `arith.constant12`, and a gate and its up projection have one
//! name. So the checkpoint from which the bundle was made must be given. Equal tensors share a buffer in the bundles of the exporter, also
//! with a constant of the graph; then one constant stands for all of them. Where equal constants have buffers of their own, each stands
//! for all of the tensors that it equals.

use std::collections::BTreeSet;

use quant::IntegerScales;
use tensor::{Error, Result, TensorSource};

use crate::bundle::{Bundle, Section, SectionType};
use crate::constants::{Constant, ConstantEncoding, constants, static_activation};
use crate::similar::similar;
use crate::source::{Source, SourceRange};
use crate::stored::StoredConstant;
use crate::tflite::Model;
use crate::weights::{Weights, rows_at_once};

/// The model of the runtime for the web, which is no TFLite graph.
const WEB_MODEL: &str = "tf_lite_artisan_text_decoder";
/// Names that an error lists.
const LISTED: usize = 5;

/// A model whose weights are to be found.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The key `model_type` of its section.
    pub model_type: String,
    /// Indices of the checkpoint's tensors that it holds, all of them.
    pub tensors: Vec<usize>,
}

/// A constant, and the tensors that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The constant.
    pub constant: Constant,
    /// Indices of tensors of the checkpoint. All have the same values.
    pub tensors: Vec<usize>,
    /// True if the constant has the bytes of the rounded tensor; otherwise it was found by correlation.
    pub is_equal: bool,
}

/// A model and its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Index of its section.
    pub section: usize,
    /// The model.
    pub model: Model,
    /// The constants that are weights.
    pub assignments: Vec<Assignment>,
    /// Scalars of the checkpoint that the exporter left out, because a factor of 1 changes nothing.
    pub folded: Vec<usize>,
}

/// Finds the weights of each wanted model in the bundle.
///
/// # Errors
/// `Unsupported` for a bundle of the web runtime, for weights in other sections, and for activations with static scales;
/// `Malformed` for a bundle without one of the models, for constants that are weights and equal no tensor of `base`, and for
/// tensors without a constant; those of reading.
pub fn map(
    bundle: &Bundle,
    from: &dyn Source,
    base: &dyn TensorSource,
    wanted: &[Wanted],
) -> Result<Vec<Mapped>> {
    if bundle.sections.iter().any(|section| section.model_type() == Some(WEB_MODEL)) {
        return Err(Error::unsupported(WEB_MODEL, "a bundle of the runtime for the web")
            .help("Its weights are not in a TFLite graph. Use a bundle for phones and desktops."));
    }
    let mut mapped = Vec::new();
    for wanted in wanted {
        let of_type = |(_, section): &(usize, &Section)| {
            section.content == SectionType::MODEL && section.model_type() == Some(&wanted.model_type)
        };
        let mut sections = bundle.sections.iter().enumerate().filter(of_type);
        let missing = || Error::missing(format!("model {}", wanted.model_type));
        let (number, section) = sections.next().ok_or_else(missing)?;
        if sections.next().is_some() {
            return Err(Error::unsupported(section.title(), "the bundle has two models of this type"));
        }
        let part = bundle.part(from, section)?;
        let found = map_model(number, &part, base, &wanted.tensors);
        mapped.push(found.map_err(|e| e.within(section.title()))?);
    }
    Ok(mapped)
}

fn map_model(
    section: usize,
    part: &SourceRange<'_>,
    base: &dyn TensorSource,
    tensors: &[usize],
) -> Result<Mapped> {
    let model = Model::read(part)?;
    if let Some(tensor) = static_activation(&model) {
        return Err(Error::unsupported(format!("tensor {}", tensor.name), "a value with a static scale")
            .expected("weights with scales only", "activations with scales")
            .help("The scales were measured with the weights of the bundle, and do not fit others."));
    }
    let weights = tensors.iter().map(|&n| Weights::new(base, n)).collect::<Result<Vec<_>>>()?;
    let mut assignments = Vec::new();
    let mut left = Vec::new();
    for constant in constants(&model)? {
        let stored = StoredConstant::new(&model, part, &constant);
        let found = stored.map_or(Ok(Vec::new()), |stored| equal_to(&stored, &weights))?;
        let found: Vec<usize> = found.into_iter().map(|n| tensors[n]).collect();
        if found.is_empty() {
            left.push(constant);
        } else {
            assignments.push(Assignment { constant, tensors: found, is_equal: true });
        }
    }
    let assigned: BTreeSet<usize> = assignments.iter().flat_map(|a| &a.tensors).copied().collect();
    let mut folded = Vec::new();
    let mut unassigned = Vec::new();
    for (&index, weights) in tensors.iter().zip(&weights).filter(|(index, _)| !assigned.contains(index)) {
        let is_one = weights.desc().elements() == 1 && weights.rows(0, 1)? == [1.0];
        if is_one { folded.push(index) } else { unassigned.push((index, *weights)) }
    }
    for (constant, index) in similar(&model, part, &mut left, &mut unassigned)? {
        assignments.push(Assignment { constant, tensors: vec![index], is_equal: false });
    }
    assignments.sort_by_key(|assignment| assignment.constant.buffer);
    left.retain(|constant| constant.encoding != Some(ConstantEncoding::Float32));
    if !left.is_empty() || !unassigned.is_empty() {
        let unassigned: Vec<_> = unassigned.iter().map(|(_, weights)| weights.desc().name.clone()).collect();
        return Err(not_a_bijection(assignments.len(), &left, &unassigned));
    }
    Ok(Mapped { section, model, assignments, folded })
}

fn not_a_bijection(assigned: usize, left: &[Constant], unassigned: &[String]) -> Error {
    let list = |names: Vec<String>| {
        let more = names.len().saturating_sub(LISTED);
        let first = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match (names.len(), more) {
            (0, _) => "none".into(),
            (_, 0) => first,
            _ => format!("{first} and {more} more"),
        }
    };
    let unhandled = left.iter().filter(|constant| constant.encoding.is_none()).count();
    let problem = format!(
        "its weights are not those of the base checkpoint: {assigned} constants found; constants without a tensor: {}; tensors \
         without a constant: {}",
        list(left.iter().map(Constant::title).collect()),
        list(unassigned.to_vec()),
    );
    let error = Error::malformed("weights", problem);
    if unhandled > 0 {
        return error.help(format!(
            "{unhandled} of these constants have a kind of quantization that this tool does not write."
        ));
    }
    error.help(
        "The base must be the checkpoint from which the bundle was made, or one near to it, without fused matrices.",
    )
}

/// Indices in `weights` of the tensors whose encoded bytes are those of the constant.
fn equal_to(stored: &StoredConstant<'_>, weights: &[Weights<'_>]) -> Result<Vec<usize>> {
    let Constant { rows, cols, .. } = *stored.constant;
    let few = [0, rows / 2, rows.saturating_sub(1)].map(|row| (row, 1));
    let step = rows_at_once(cols);
    let mut equal = Vec::new();
    for (number, tensor) in weights.iter().enumerate().filter(|(_, tensor)| tensor.has_shape(rows, cols)) {
        let all = (0..rows).step_by(step as usize).map(|first| (first, step.min(rows - first)));
        let mut is_equal = true;
        for (first, count) in few.into_iter().chain(all) {
            is_equal = stored.differing(first, &tensor.rows(first, count)?, IntegerScales::MinMax)? == 0;
            if !is_equal {
                break;
            }
        }
        if is_equal {
            equal.push(number);
        }
    }
    Ok(equal)
}
