//! Sensitivity of each tensor: the KL divergence of the model's predictions when only this tensor has a 4-bit type, and the
//! squared error of its weights in every type.
//!
//! The model with a quantized tensor of layer ℓ starts from the original hidden states before ℓ, so only the layers from ℓ
//! on are computed again. In a large model only some layers are measured; [`Sensitivity::kld`] interpolates the others.

use std::collections::BTreeMap;

use base::Part;
use gemma::{Inventory, TypePolicy};
use imatrix::Importance;
use plan::{MEASURED_TYPES, Sensitivity, TensorCost};
use quant::Simd;
use rayon::prelude::*;
use runtime::{Batch, Compute, Matrix, Model, RowMajor, Weights, activation_bytes_per_token};
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::fake_quant::{FakeQuant, FakeQuantSource, of_row};
use crate::ple_imatrix;
use crate::resume::store_id;
use crate::tokens::CalibrationTokens;
use eval::stream;

/// The type of the quantized tensor in the measurement.
const REFERENCE: DType = DType::Q4_0;
/// Approximate number of measured tensors: enough to see how the cost of a role changes over the layers.
const MEASURED: usize = 72;
/// The most tensors measured in one pass. The results are saved after each pass.
const TOGETHER: usize = 16;
/// Tokens to measure on: enough to rank tensors by cost.
const TOKENS: usize = 1024;
/// The fewest tokens for a measurement.
const ENOUGH: usize = 256;
/// Time of a layer of the forward pass, in times of the errors of a tensor. A wrong figure makes parts unequal, and nothing else.
const LAYER: u64 = 10;
/// Approximate number of values of a tensor that are sampled for its errors.
const SAMPLE: u64 = 1 << 18;

/// A tensor that can be quantized.
struct Target {
    role: &'static str,
    layer: Option<usize>,
    name: String,
    /// Index in the source.
    index: usize,
}

impl Target {
    /// The layers to compute again when it changes.
    fn layers_behind(&self, layers: usize) -> u64 {
        (layers - self.layer.unwrap_or(0)) as u64
    }

    /// The importance to quantize with. The PLE table has none, as in calibration, where it is quantized by RTN.
    fn weights(&self, importance: &Importance) -> Option<Vec<f32>> {
        let entry = importance.get(&self.name).filter(|_| self.role != ple_imatrix::ROLE)?;
        Some(entry.weights())
    }
}

/// Tensors with a free choice of type: matrices that layers read, whose rows are whole blocks.
fn targets(inventory: &Inventory, tensors: &[TensorDesc]) -> Vec<Target> {
    let found = inventory.text.iter().filter(|found| {
        let desc = &tensors[found.index];
        found.slot.type_policy == TypePolicy::Recipe
            && !found.slot.unused
            && gguf::ggml_shape(&found.slot.shape).len() > 1
            && REFERENCE.row_bytes(desc.cols()).is_some()
    });
    let target = |found: &gemma::Found| Target {
        role: found.slot.role,
        layer: found.slot.layer,
        name: found.slot.gguf.clone(),
        index: found.index,
    };
    found.map(target).collect()
}

/// The targets to measure, in the order of layers: the same number of each role, evenly spread.
fn chosen(targets: &[Target]) -> Vec<usize> {
    let mut roles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, target) in targets.iter().enumerate() {
        roles.entry(target.role).or_default().push(number);
    }
    let most = (MEASURED / roles.len().max(1)).max(2);
    let spread = |all: &Vec<usize>| -> Vec<usize> {
        let count = all.len().min(most);
        (0..count).map(|n| all[n * (all.len() - 1) / (count - 1).max(1)]).collect()
    };
    let mut chosen: Vec<usize> = roles.values().flat_map(spread).collect();
    chosen.sort_by_key(|&number| (targets[number].layer, number));
    chosen
}

/// The targets of one part, and those of them to measure, both in the order of layers.
struct Share {
    targets: Vec<usize>,
    chosen: Vec<usize>,
}

impl Share {
    fn of(targets: &[Target], layers: usize, part: Part) -> Share {
        let all = chosen(targets);
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|&number| (targets[number].layer, number));
        let cost = |number: &usize| match all.contains(number) {
            true => 1 + LAYER * targets[*number].layers_behind(layers),
            false => 1,
        };
        let costs: Vec<u64> = order.iter().map(cost).collect();
        let targets = order[part.units(&costs)].to_vec();
        let chosen = targets.iter().copied().filter(|number| all.contains(number)).collect();
        Share { targets, chosen }
    }
}

/// Progress steps of a part of [`sensitivity`]: tokens times layers.
pub fn sensitivity_work(
    config: &gemma::Config,
    inventory: &Inventory,
    tensors: &[TensorDesc],
    tokens: u64,
    part: Part,
) -> u64 {
    let targets = targets(inventory, tensors);
    let layers = config.layers();
    let share = Share::of(&targets, layers, part);
    let measured = share.chosen.iter().map(|&number| targets[number].layers_behind(layers));
    // once more for importance, and once for the base
    tokens * (2 * layers as u64 + measured.sum::<u64>())
}

/// An evenly spread sample of a text that is enough to measure on.
pub fn sample(sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    // every n-th, with the smallest stride first that leaves no more than enough
    let all: usize = sequences.iter().map(Vec::len).sum();
    let stride = (all / TOKENS).clamp(1, sequences.len().max(1));
    let mut left = TOKENS;
    let spread = (0..stride).flat_map(|first| sequences.iter().skip(first).step_by(stride));
    let enough = spread.map_while(|sequence| {
        let taken = sequence.len().min(left);
        left -= taken;
        (taken > 0).then(|| sequence[..taken].to_vec())
    });
    enough.collect()
}

/// The [`Sensitivity::id`] of a measurement.
pub fn sensitivity_id(fingerprint: &[u8], sequences: &[Vec<u32>], compute: Compute) -> String {
    let kernel = compute.kernel.name();
    let how = format!("{REFERENCE} {MEASURED_TYPES:?} {MEASURED} {SAMPLE} {kernel}");
    store_id(&[fingerprint, how.as_bytes()], sequences)
}

/// Measures the sensitivity of a model's tensors, or of those of one part of the job. `fingerprint` identifies the model in the result.
/// `known` is the result of an earlier run: with the same id, only missing tensors are measured. `keep` gets the result after each pass.
///
/// The figures of a tensor do not depend on the others, so parts are [put together](Sensitivity::add) to the same result, however many
/// there are.
///
/// # Errors
/// `Recipe` for too little text, `Malformed` for a damaged model, `Io`; the errors of `keep`.
pub fn sensitivity(
    model: &Model<'_>,
    (source, inventory): (&dyn TensorSource, &Inventory),
    text: &CalibrationTokens<'_>,
    (fingerprint, part): (&[u8], Part),
    known: Option<Sensitivity>,
    keep: &mut dyn FnMut(&Sensitivity) -> Result<()>,
) -> Result<Sensitivity> {
    if text.tokens() < ENOUGH {
        return Err(Error::recipe("calibration text", "too little to measure what rounding costs")
            .expected(format!("at least {ENOUGH} tokens"), text.tokens())
            .help("A few pages are enough; of the kinds of text that the model is for."));
    }
    let id = sensitivity_id(fingerprint, text.sequences, model.compute());
    let targets = targets(inventory, source.tensors());
    let share = Share::of(&targets, model.config().layers(), part);
    let known = known.filter(|known| known.id == id);
    let missing = |found: &Sensitivity| -> Vec<usize> {
        let unknown = |name: &str| found.tensors.get(name).is_some_and(|cost| cost.kld.is_none());
        share.chosen.iter().copied().filter(|&number| unknown(&targets[number].name)).collect()
    };
    if let Some(known) = known.as_ref().filter(|known| missing(known).is_empty()) {
        return Ok(known.clone());
    }
    let importance = crate::importance(model, inventory, text)?;
    let mut found = match known {
        Some(known) => known,
        None => Sensitivity {
            model: base::hex(fingerprint),
            id,
            texts: text.names.clone(),
            tokens: text.tokens() as u64,
            reference: REFERENCE,
            tensors: costs(model.compute().simd, source, (&targets, &share.targets), &importance)?,
        },
    };
    let mut whole = stream::embed(model, text.sequences)?;
    stream::layers(model, &mut whole, text.progress)?;
    let reference = hidden(model, &whole);
    drop(whole);
    let bytes = activation_bytes_per_token(model.config()) * text.tokens() as u64;
    // three more copies: the original stream, its final hidden states, the stream that is being computed
    let together = ((text.memory / bytes) as usize).saturating_sub(3).clamp(1, TOGETHER);
    keep(&found)?;
    for group in missing(&found).chunks(together) {
        let group: Vec<&Target> = group.iter().map(|&number| &targets[number]).collect();
        let klds = measure(model, (source, inventory), &group, &importance, text, &reference)?;
        for (target, kld) in group.iter().zip(klds) {
            if let Some(cost) = found.tensors.get_mut(&target.name) {
                cost.kld = Some(kld.max(0.0));
            }
        }
        keep(&found)?;
    }
    Ok(found)
}

/// The squared errors of some targets in all types; KL divergences are left empty.
fn costs(
    simd: Simd,
    source: &dyn TensorSource,
    (targets, some): (&[Target], &[usize]),
    importance: &Importance,
) -> Result<BTreeMap<String, TensorCost>> {
    let cost = |&number: &usize| {
        let target = &targets[number];
        let weights = target.weights(importance);
        let errors = errors(simd, source, target.index, weights.as_deref())?;
        Ok((
            target.name.clone(),
            TensorCost { role: target.role.to_owned(), layer: target.layer, kld: None, errors },
        ))
    };
    some.par_iter().map(cost).collect()
}

/// Relative squared error by type, from a sample of rows.
fn errors(
    simd: Simd,
    source: &dyn TensorSource,
    index: usize,
    importance: Option<&[f32]>,
) -> Result<BTreeMap<String, f64>> {
    let desc = &source.tensors()[index];
    let (rows, cols) = (desc.rows(), desc.cols() as usize);
    let count = (SAMPLE / desc.cols()).clamp(1, rows);
    let types = || MEASURED_TYPES.iter().filter(|dtype| dtype.row_bytes(desc.cols()).is_some());
    let mut sums: BTreeMap<DType, f64> = types().map(|dtype| (*dtype, 0.0)).collect();
    let (mut size, mut bytes, mut rounded) = (0.0, Vec::new(), vec![0.0; cols]);
    for n in 0..count {
        let row = n * rows / count;
        let x = quant::decode_rows(simd, source, index, row..row + 1)?;
        let weights = importance.map(|all| of_row(all, desc, row));
        let weighted = |of: &dyn Fn(usize) -> f64| -> f64 {
            (0..cols).map(|col| weights.map_or(1.0, |w| f64::from(w[col])) * of(col)).sum()
        };
        size += weighted(&|col| f64::from(x[col]).powi(2));
        for (dtype, sum) in &mut sums {
            bytes.resize(dtype.row_bytes(desc.cols()).unwrap_or_default() as usize, 0);
            quant::encode(simd, *dtype, cols, &x, weights, &mut bytes);
            quant::decode(simd, *dtype, &bytes, &mut rounded);
            *sum += weighted(&|col| f64::from(x[col] - rounded[col]).powi(2));
        }
    }
    Ok(sums
        .into_iter()
        .map(|(dtype, sum)| (dtype.name().to_owned(), if size > 0.0 { sum / size } else { 0.0 }))
        .collect())
}

/// The hidden states of all batches, a row a token.
fn hidden(model: &Model<'_>, batches: &[Batch]) -> Matrix {
    let mut all = Matrix::zeros((0, model.config().hidden as usize));
    batches.iter().for_each(|batch| all.append_rows(batch.hidden()));
    all
}

/// For each target, the KL divergence of the model in which only this tensor is quantized.
fn measure(
    base: &Model<'_>,
    (source, inventory): (&dyn TensorSource, &Inventory),
    targets: &[&Target],
    importance: &Importance,
    text: &CalibrationTokens<'_>,
    reference: &Matrix,
) -> Result<Vec<f64>> {
    let rounding = |target: &&Target| {
        let desc = &source.tensors()[target.index];
        Ok(FakeQuant {
            of: target.index,
            desc: TensorDesc::new(&desc.name, REFERENCE, desc.shape.clone())?,
            importance: target.weights(importance),
        })
    };
    let roundings = FakeQuantSource::new(
        source,
        targets.iter().map(rounding).collect::<Result<_>>()?,
        base.compute().simd,
    );
    let weights = Weights::new(&roundings, inventory, base.compute())?;
    let config = base.config();
    let mut models = Vec::with_capacity(targets.len());
    for (number, target) in targets.iter().enumerate() {
        let mut rounded = weights.clone();
        rounded.replace(target.role, target.layer, roundings.index(number));
        models.push(Model::new(config, rounded)?);
    }
    let last = targets.iter().filter_map(|target| target.layer).max();
    let mut before = stream::embed(base, text.sequences)?;
    // tensors without a layer come first, then layer by layer
    let of_none = models.iter().zip(targets).take_while(|(_, target)| target.layer.is_none());
    let mut streams: Vec<Vec<Batch>> =
        of_none.map(|(model, _)| stream::embed(model, text.sequences)).collect::<Result<_>>()?;
    for layer in 0..config.layers() {
        let here = targets.iter().filter(|target| target.layer == Some(layer)).count();
        streams.extend(std::iter::repeat_n(&before, here).cloned());
        for (stream, model) in streams.iter_mut().zip(&models) {
            stream::layer(model, layer, stream, text.progress)?;
        }
        if last.is_some_and(|last| layer < last) {
            stream::layer(base, layer, &mut before, &|_| {})?;
        }
    }
    let others: Vec<(&Model<'_>, Matrix)> =
        models.iter().zip(&streams).map(|(model, stream)| (model, hidden(model, stream))).collect();
    eval::mean_divergences((base, reference), &others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_enough_and_from_everywhere() {
        let text = |lengths: &[usize]| -> Vec<Vec<u32>> {
            lengths.iter().enumerate().map(|(n, len)| vec![n as u32; *len]).collect()
        };
        let first = |sample: &[Vec<u32>]| sample.iter().map(|s| s[0]).collect::<Vec<_>>();
        let tokens = |sample: &[Vec<u32>]| sample.iter().map(Vec::len).sum::<usize>();
        let even = sample(&text(&[256; 40]));
        assert_eq!((first(&even), tokens(&even)), (vec![0, 10, 20, 30], TOKENS));
        // conversations: short, but for one
        let mut lengths = [40; 200];
        lengths[3] = 512;
        let short = sample(&text(&lengths));
        assert_eq!(tokens(&short), TOKENS);
        assert!(first(&short).iter().any(|n| *n > 150), "{:?}", first(&short));
        let long = sample(&text(&[4000, 4000]));
        assert_eq!(tokens(&long), TOKENS);
        assert_eq!(tokens(&sample(&text(&[100, 100]))), 200);
        assert!(sample(&[]).is_empty());
    }
}
