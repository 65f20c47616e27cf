//! Quantization with error feedback (LDLQ), layer after layer, each on the activations of the quantized layers before it.
//!
//! The same holds for the stages of a layer ([`STAGES`]): the output projection of attention is quantized on the output of
//! the quantized queries, keys and values. So for each stage the text runs through a part of the layer up to that stage.
//! The tied head comes before all layers, because it is the embedding that the quantized stream begins with (`lm_head.rs`).
//! The first layer of a later group begins with the activations of the original model (`groups.rs`).

use std::sync::Arc;

use gemma::Inventory;
use runtime::{LayerPart, Model, Weights, activation_bytes_per_token};
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::capture::capture;
use crate::fake_quant::{FakeQuant, FakeQuantSource};
use crate::groups::LayerGroup;
use crate::layer_stats::{self, CapturedPair, LayerStats};
use crate::ldl::factor;
use crate::lm_head;
use crate::overlay::Overlay;
use crate::paired_streams::{PairedStream, embed};
use crate::quantize_matrix;
use crate::resume::CalibrationStore;
use crate::select::{Selected, TensorReport, choose, report};
use crate::tokens::CalibrationTokens;

/// The parts of a layer and their matrices, in the order of the forward pass. The matrices of an inner list share one input
/// and one Gram matrix.
const STAGES: &[(LayerPart, &[&[&[&str]]])] = &[
    (LayerPart::Attention, &[&[&["attn_q", "attn_k", "attn_v"]], &[&["attn_output"]]]),
    (
        LayerPart::FeedForward,
        &[
            &[&["ffn_gate_inp"]],
            &[&["ffn_gate", "ffn_up"], &["ffn_gate_up_exps"]],
            // after the experts: the dense network sees all tokens and corrects the experts' errors
            &[&["ffn_down_exps"]],
            &[&["ffn_down"]],
        ],
    ),
    (LayerPart::PerLayer, &[&[&["inp_gate"]], &[&["proj"]]]),
];

/// All lists of matrices that share an input.
fn inputs_of_a_layer() -> impl Iterator<Item = &'static [&'static str]> {
    STAGES.iter().flat_map(|(_, stages)| stages.iter()).flat_map(|stage| stage.iter().copied())
}

/// Damping: added to the diagonal of H, relative to its mean.
const DAMPING: f32 = 0.03;
/// Copies of the hidden states: both streams, and the stream that is being computed.
const COPIES: u64 = 3;
/// Bytes for each pair of columns of a matrix while it is quantized.
const GRAM_BYTES: u64 = 12;
/// The fewest tokens for a usable Gram matrix.
const ENOUGH: usize = 2048;
/// Weight of the Gram matrix of all experts in that of each expert, in tokens.
const SHARED_TOKENS: f32 = 256.0;
/// Bytes of the Gram matrices of experts that are summed in one pass. The result depends on it, so it is no option.
const EXPERT_BYTES: u64 = 1 << 30;

/// A tensor to quantize.
#[derive(Clone, Debug)]
pub struct QuantTarget {
    /// Role of the tensor.
    pub role: &'static str,
    /// Its layer; the number of layers for the head.
    pub layer: usize,
    /// Its name, shape and type in the output.
    pub desc: TensorDesc,
    /// Its weights are close to a 4-bit quantization grid, on which it is rounded; its type is Q4_0.
    pub keeps_grid: bool,
}

/// Quantizes tensors of some consecutive groups of layers with error feedback on a text, and keeps them in a store. Returns a report
/// for each tensor. `embedding` is the type of the token embedding, which the quantized stream begins with.
///
/// # Errors
/// `Recipe` for too little text, `Limit` for too little memory, `Malformed` for a damaged model, `Target` for a store that
/// cannot be written, `Io`.
pub fn ldlq(
    config: &gemma::Config,
    source: &dyn TensorSource,
    inventory: &Inventory,
    (targets, embedding): (&[QuantTarget], DType),
    groups: &[LayerGroup],
    text: &CalibrationTokens<'_>,
    store: &CalibrationStore,
) -> Result<Vec<TensorReport>> {
    check(config, text)?;
    let [first, ..] = groups else { return Ok(Vec::new()) };
    let missing = || Error::malformed(format!("tensor {}", lm_head::ROLE), "not in the checkpoint");
    let of = inventory.text.iter().find(|found| found.slot.role == lm_head::ROLE).ok_or_else(missing)?.index;
    let desc = TensorDesc { dtype: embedding, ..source.tensors()[of].clone() };
    let embedded =
        FakeQuantSource::new(source, vec![FakeQuant { of, desc, importance: None }], text.compute.simd);
    let overlay = Overlay::new(&embedded, targets.iter().map(|target| target.desc.clone()));
    let original = Weights::new(&overlay, inventory, text.compute)?;
    let mut run = Run {
        config,
        overlay: &overlay,
        targets,
        streams: embed(&Model::new(config, original.clone())?, text.sequences)?
            .into_iter()
            .map(PairedStream::new)
            .collect(),
        weights: original.clone(),
        original,
        text,
    };
    let mut reports = Vec::new();
    if first.layers.start == 0 {
        let head = targets.iter().position(|target| target.layer == config.layers());
        match head {
            Some(number) => reports.extend(run.head(number, store)?),
            None => run.weights.replace(lm_head::ROLE, None, embedded.index(0)),
        }
        let rounded = embed(&Model::new(config, run.weights.clone())?, text.sequences)?;
        run.streams.iter_mut().zip(rounded).for_each(|(stream, (batch, _))| stream.rounded = batch);
        // no layer reads the head
        head.into_iter().for_each(|number| overlay.forget(number));
    }
    (0..first.layers.start).try_for_each(|layer| run.pass(layer))?;
    for LayerGroup { layers, .. } in groups {
        if layers.start > 0 {
            run.streams.iter_mut().for_each(PairedStream::begin_anew);
        }
        for layer in layers.clone() {
            reports.extend(run.layer(layer, store)?);
        }
    }
    Ok(reports)
}

/// Whether [`ldlq`] handles a tensor of this role and type: matrices of layers, the tied head, and the router of a mixture of
/// experts, which stays F32 and is corrected so that the experts of a token stay the same.
pub fn supports_ldlq(config: &gemma::Config, role: &str, dtype: DType) -> bool {
    if role == lm_head::ROLE {
        return config.tied && quant::feeds_back(dtype);
    }
    let known = inputs_of_a_layer().any(|roles| roles.contains(&role));
    known && (quant::feeds_back(dtype) || dtype == DType::F32)
}

/// Progress steps of [`ldlq`] for one token, for these groups of the layers of a model.
pub fn ldlq_passes(targets: &[QuantTarget], layers: usize, groups: &[LayerGroup]) -> u64 {
    let watched = |layer: usize| {
        let wanted = |roles: &&[&str]| targets.iter().any(|t| t.layer == layer && roles.contains(&t.role));
        inputs_of_a_layer().filter(wanted).count() as u64
    };
    let first = groups.first().map_or(0, |group| group.layers.start);
    // the head needs one more pass through all layers
    let has_head = !groups.is_empty() && first == 0 && targets.iter().any(|target| target.layer == layers);
    let head = if has_head { layers } else { 0 };
    let own = groups.iter().flat_map(|group| group.layers.clone()).map(|layer| watched(layer) + 1);
    (head + first) as u64 + own.sum::<u64>()
}

/// Memory of [`ldlq`] in bytes, for a text of this many tokens: hidden states, the Gram matrix of the widest matrix with its factors, and
/// the largest layer in its new types.
pub fn ldlq_memory(config: &gemma::Config, targets: &[QuantTarget], tokens: u64) -> u64 {
    let widest = targets.iter().map(|target| target.desc.cols()).max().unwrap_or(0);
    let bytes = |layer: usize| -> u64 {
        targets.iter().filter(|target| target.layer == layer).map(|target| target.desc.byte_len()).sum()
    };
    let layer = (0..=config.layers()).map(bytes).max().unwrap_or(0);
    hidden_bytes(config, tokens) + GRAM_BYTES * widest * widest + layer
}

fn hidden_bytes(config: &gemma::Config, tokens: u64) -> u64 {
    COPIES * tokens * activation_bytes_per_token(config)
}

fn check(config: &gemma::Config, text: &CalibrationTokens<'_>) -> Result<()> {
    let tokens = text.tokens();
    if tokens < ENOUGH || text.sequences.len() < 2 {
        return Err(Error::recipe("calibration text", "too little to round weights for")
            .expected(format!("at least {ENOUGH} tokens, in several chunks"), tokens)
            .help("16,000 tokens are a good beginning; more of the kinds of text that the model is for are better."));
    }
    let needed = hidden_bytes(config, tokens as u64);
    if needed > text.memory {
        return Err(Error::limit("memory", "the hidden states of the text do not fit")
            .expected(format!("at most {} bytes", text.memory), needed)
            .help("Give more ‹text_memory›, or fewer ‹chunks›."));
    }
    Ok(())
}

/// Roles that share an input, and the numbers of their targets.
type Wanted = (&'static [&'static str], Vec<usize>);

struct Run<'a> {
    config: &'a gemma::Config,
    overlay: &'a Overlay<'a>,
    targets: &'a [QuantTarget],
    original: Weights<'a>,
    weights: Weights<'a>,
    streams: Vec<PairedStream>,
    text: &'a CalibrationTokens<'a>,
}

impl<'a> Run<'a> {
    /// Quantizes a layer, or reads it from the store, and runs both streams through it.
    fn layer(&mut self, layer: usize, store: &CalibrationStore) -> Result<Vec<TensorReport>> {
        let targets = self.targets;
        let mine: Vec<usize> = (0..targets.len()).filter(|&n| targets[n].layer == layer).collect();
        let kept = self.kept(layer, &mine, store)?;
        let mut reports = Vec::new();
        let mut done: Vec<(usize, Arc<Vec<u8>>)> = Vec::new();
        for (part, stages) in STAGES {
            for stage in stages.iter().filter(|_| kept.is_none()) {
                let of = |roles: &[&str]| {
                    mine.iter().copied().filter(|&n| roles.contains(&targets[n].role)).collect()
                };
                let wanted: Vec<Wanted> = stage.iter().map(|roles| (*roles, of(roles))).collect();
                for (number, bytes, report) in self.stage((layer, *part), &wanted)? {
                    let bytes = Arc::new(bytes);
                    reports.push(report);
                    done.push((number, bytes.clone()));
                    // the next stages see the quantized output
                    self.put(number, bytes);
                }
            }
            self.advance(layer, *part)?;
        }
        match kept {
            Some(kept) => reports = kept,
            None => {
                done.sort_by_key(|(number, _)| *number);
                let rounded = done.iter().map(|(n, bytes)| (targets[*n].desc.clone(), bytes.as_slice()));
                store.keep(layer, &rounded.collect::<Vec<_>>(), &reports)?;
            }
        }
        self.streams.iter().for_each(|stream| (self.text.progress)(stream.rounded.hidden().nrows() as u64));
        mine.into_iter().for_each(|number| self.overlay.forget(number));
        Ok(reports)
    }

    /// Runs the text through a layer of the original model alone.
    fn pass(&mut self, layer: usize) -> Result<()> {
        let original = Model::new(self.config, self.original.clone())?;
        self.streams.iter_mut().try_for_each(|stream| {
            original.layer(layer, &mut stream.original)?;
            (self.text.progress)(stream.original.hidden().nrows() as u64);
            Ok(())
        })
    }

    /// Runs both streams through a part of a layer.
    fn advance(&mut self, layer: usize, part: LayerPart) -> Result<()> {
        let original = Model::new(self.config, self.original.clone())?;
        let rounded = Model::new(self.config, self.weights.clone())?;
        self.streams.iter_mut().try_for_each(|stream| {
            original.part(layer, part, &mut stream.original)?;
            rounded.part(layer, part, &mut stream.rounded)
        })
    }

    /// Quantizes the head on the original model's hidden states, or reads it from the store.
    fn head(&mut self, number: usize, store: &CalibrationStore) -> Result<Vec<TensorReport>> {
        let (targets, after) = (self.targets, self.config.layers());
        if let Some(reports) = self.kept(after, &[number], store)? {
            return Ok(reports);
        }
        let model = Model::new(self.config, self.original.clone())?;
        let mut prepared = lm_head::prepare(&model, &self.streams, self.text.progress)?;
        let factors = factor(prepared.take_hessian(), DAMPING);
        let QuantTarget { desc, keeps_grid, .. } = &targets[number];
        let original = self.original.global().get(lm_head::ROLE)?;
        let matrix = quantize_matrix::MatrixSource {
            dtype: desc.dtype,
            rows: desc.rows() as usize,
            cols: desc.cols() as usize,
            read: &|row, out| original.read(row, &mut Vec::new(), out),
            held_out: &prepared.held_out,
            keeps_grid: *keeps_grid,
            simd: self.text.compute.simd,
        };
        let chosen = [choose(&matrix, factors.as_ref(), &prepared)?];
        let reports = vec![report(&desc.name, &chosen)];
        let [Selected { rounded, .. }] = chosen;
        store.keep(after, &[(desc.clone(), &rounded.bytes)], &reports)?;
        self.put(number, Arc::new(rounded.bytes));
        Ok(reports)
    }

    /// Reads quantized tensors of a layer from the store, if it has all of them.
    fn kept(
        &mut self,
        layer: usize,
        numbers: &[usize],
        store: &CalibrationStore,
    ) -> Result<Option<Vec<TensorReport>>> {
        let Some(kept) = store.layer(layer)? else { return Ok(None) };
        for &number in numbers {
            let wanted = &self.targets[number].desc;
            let Some(index) = kept.file.tensors().iter().position(|desc| desc == wanted) else {
                return Ok(None);
            };
            let mut bytes = vec![0; wanted.byte_len() as usize];
            kept.file.read_rows(index, 0, &mut bytes)?;
            self.put(number, Arc::new(bytes));
        }
        Ok(Some(kept.reports))
    }

    fn put(&mut self, number: usize, bytes: Arc<Vec<u8>>) {
        self.overlay.put(number, bytes);
        let target = &self.targets[number];
        let layer = Some(target.layer).filter(|&layer| layer < self.config.layers());
        self.weights.replace(target.role, layer, self.overlay.index(number));
    }

    /// Quantizes the matrices of a stage. Returns number, bytes and report of each target.
    fn stage(
        &self,
        (layer, part): (usize, LayerPart),
        wanted: &[Wanted],
    ) -> Result<Vec<(usize, Vec<u8>, TensorReport)>> {
        let mut out = Vec::new();
        for (roles, numbers) in wanted {
            let Some(&first) = numbers.first() else { continue };
            let first = &self.targets[first];
            // each expert is a matrix of its own
            let experts = if roles[0].ends_with("_exps") { first.desc.shape[0] as usize } else { 1 };
            let cols = first.desc.cols();
            let normed = !self.norms(roles[0]).is_empty();
            let outputs = if normed { first.desc.rows() / experts as u64 } else { 0 };
            let together = ((EXPERT_BYTES / (cols * (8 * cols + 4 * outputs))) as usize).clamp(1, experts);
            let mut matrices: Vec<Vec<Selected>> = numbers.iter().map(|_| Vec::new()).collect();
            for from in (0..experts).step_by(together) {
                let group = from..(from + together).min(experts);
                let inputs = self.inputs((layer, part), roles, cols as usize, group.clone())?;
                let shared = (experts > 1).then(|| LayerStats::shared(&inputs));
                for (expert, input) in group.zip(inputs) {
                    let mut prepared = input.prepare(shared.as_ref().map(|shared| (shared, SHARED_TOKENS)));
                    let factors = factor(prepared.take_hessian(), DAMPING);
                    for (matrices, &number) in matrices.iter_mut().zip(numbers) {
                        let QuantTarget { role, desc, keeps_grid, .. } = &self.targets[number];
                        let original = self.original.layer(layer);
                        let original = original.get(role)?;
                        let rows = desc.rows() as usize / experts;
                        let read = |row: u64, out: &mut [f32]| {
                            original.read((expert * rows) as u64 + row, &mut Vec::new(), out)
                        };
                        let matrix = quantize_matrix::MatrixSource {
                            dtype: desc.dtype,
                            rows,
                            cols: cols as usize,
                            read: &read,
                            held_out: &prepared.held_out,
                            keeps_grid: *keeps_grid,
                            simd: self.text.compute.simd,
                        };
                        matrices.push(choose(&matrix, factors.as_ref(), &prepared)?);
                    }
                }
            }
            for (matrices, &number) in matrices.into_iter().zip(numbers) {
                let report = report(&self.targets[number].desc.name, &matrices);
                let bytes = matrices.into_iter().flat_map(|matrix| matrix.rounded.bytes).collect();
                out.push((number, bytes, report));
            }
        }
        Ok(out)
    }

    /// Input statistics of the first of these roles, for some experts.
    fn inputs(
        &self,
        (layer, part): (usize, LayerPart),
        roles: &[&'static str],
        cols: usize,
        experts: std::ops::Range<usize>,
    ) -> Result<Vec<LayerStats>> {
        let role = roles[0];
        let norm =
            |role: &&'static str| Ok(layer_stats::norm(&self.original.layer(layer).get(role)?.vector()?));
        let norms = self.norms(role).iter().map(norm).collect::<Result<Vec<_>>>()?;
        let outputs = norms.first().map_or(0, Vec::len);
        let mut inputs: Vec<LayerStats> = experts.clone().map(|_| LayerStats::new(cols, outputs)).collect();
        for stream in &self.streams {
            let see =
                |weights, batch| capture(self.config, weights, (layer, part), batch, role, experts.clone());
            let original = see(&self.original, &stream.original)?;
            let rounded = see(&self.weights, &stream.rounded)?;
            let pair = CapturedPair {
                original: &original,
                rounded: &rounded,
                starts: &stream.starts,
                held_out: stream.held_out,
            };
            inputs
                .iter_mut()
                .zip(experts.clone())
                .for_each(|(input, number)| input.add(number, &pair, &norms));
            (self.text.progress)(stream.rounded.hidden().nrows() as u64);
        }
        Ok(inputs)
    }

    /// The norms between a matrix and the residual stream. In a mixture of experts the other branch is added before the last
    /// norm. Empty for matrices with anything else in between.
    fn norms(&self, role: &str) -> &'static [&'static str] {
        match role {
            "attn_output" => &["post_attention_norm"],
            "ffn_down" if self.config.experts.is_some() => &["post_ffw_norm_1", "post_ffw_norm"],
            "ffn_down" => &["post_ffw_norm"],
            "ffn_down_exps" => &["post_ffw_norm_2", "post_ffw_norm"],
            "proj" => &["post_norm"],
            _ => &[],
        }
    }
}
