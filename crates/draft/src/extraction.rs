//! Extraction of a draft model: some layers of the target as a model of its own.
//!
//! The layers keep their order; embedding, head and norms are the target's. Data with a part for each layer are reduced
//! to the chosen layers: `layer_types` and `per_layer_config` in the config, or arrays in the keys of a GGUF; the columns of
//! the per-layer embedding table and the rows of its projection in the weights. KV-shared layers stay KV-shared; tensors that no layer reads
//! are left out.
//!
//! The required layers follow from ggml-org/llama.cpp: its cache needs two layers with keys and values of their own;
//! KV-shared full-attention layers read the last of these, sliding ones the one before (`src/llama-model.cpp`,
//! `create_memory`). All models of the family end with a full-attention layer.

use gemma::{Attention, Config, Inventory, KV_OWNERS, ModelSpec, Parameters, both_dialects};
use gguf::Metadata;
use quant::Simd;
use serde_json::Value;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

/// A draft model of some layers of a target: its config and tensors.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// The config.
    pub config: Config,
    layers: Vec<usize>,
    ple: u64,
    tensors: Vec<TensorDesc>,
    from: Vec<SourceTensor>,
    /// Whether the names of the tensors are those of a GGUF.
    is_gguf: bool,
}

/// The description of a draft model, in the form of its target's.
#[derive(Clone, Debug)]
pub enum Description {
    /// The content of `config.json`.
    Json(Value),
    /// The keys of a GGUF.
    Keys(Metadata),
}

/// The origin of a tensor of the draft.
#[derive(Clone, Copy, Debug)]
struct SourceTensor {
    /// Index in the target.
    index: usize,
    slice: Slice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slice {
    Whole,
    /// The columns of the chosen layers: each row has a part per layer.
    Columns,
    /// The rows of the chosen layers: each layer has some rows.
    Rows,
}

impl Extraction {
    /// The draft of `layers` of a model, in ascending order. `tensors` are the target's, indexed as in its inventory.
    ///
    /// # Errors
    /// `Recipe` for layers that do not make a model, see [`check_layers`].
    pub fn new(target: &ModelSpec, tensors: &[TensorDesc], layers: &[usize]) -> Result<Extraction> {
        check_layers(&target.config, layers)?;
        let mut extraction = Extraction {
            config: target.config.of_layers(layers),
            layers: layers.to_vec(),
            ple: target.config.ple,
            tensors: Vec::new(),
            from: Vec::new(),
            is_gguf: target.keys.is_some(),
        };
        let of_layer = if extraction.is_gguf { "blk" } else { "layers" };
        for found in target.inventory.text.iter().filter(|found| !found.slot.unused) {
            let desc = &tensors[found.index];
            let (mut name, mut dtype, mut shape) = (desc.name.clone(), desc.dtype, desc.shape.clone());
            if let Some(layer) = found.slot.layer {
                let Some(at) = layers.iter().position(|&chosen| chosen == layer) else { continue };
                name = name.replacen(&format!("{of_layer}.{layer}."), &format!("{of_layer}.{at}."), 1);
            }
            let width = layers.len() as u64 * extraction.ple;
            let slice = match found.slot.role {
                "per_layer_token_embd" => Slice::Columns,
                "per_layer_model_proj" => Slice::Rows,
                _ => Slice::Whole,
            };
            match slice {
                Slice::Whole => {}
                Slice::Columns => shape[1] = width,
                Slice::Rows => shape[0] = width,
            }
            if slice == Slice::Columns && !extraction.ple.is_multiple_of(dtype.block_len() as u64) {
                dtype = DType::F32; // the columns of a layer are not whole blocks
            }
            extraction.tensors.push(TensorDesc::new(name, dtype, shape)?);
            extraction.from.push(SourceTensor { index: found.index, slice });
        }
        Ok(extraction)
    }

    /// The description of the draft, from that of the target with the tensors `tensors`.
    ///
    /// # Errors
    /// `Malformed` if a value does not fit the type of its key.
    pub fn description(&self, target: &ModelSpec, tensors: &[TensorDesc]) -> Result<Description> {
        let Some(keys) = &target.keys else {
            let json = cut_config(&target.json, &target.config, &self.layers);
            return Ok(Description::Json(both_dialects(&json, &self.config)));
        };
        let experts = self.config.experts.unwrap_or(0);
        let parameters = |tensors: &[TensorDesc]| {
            Parameters::of(tensors.iter().map(|desc| desc.shape.as_slice()), experts)
        };
        let parameters = [parameters(tensors), parameters(&self.tensors)];
        gemma::metadata_of_layers(keys, &self.config, parameters).map(Description::Keys)
    }

    /// The draft's tensors by role.
    ///
    /// # Errors
    /// Those of [`gemma::inventory`].
    pub fn inventory(&self) -> Result<Inventory> {
        match self.is_gguf {
            true => gemma::gguf_inventory(&self.config, &self.tensors),
            false => gemma::inventory(&self.config, &self.tensors, &|_| "the model".to_owned()),
        }
    }

    /// Indices of the layers in the target.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The draft's weights, read from the target's.
    pub fn source<'a>(&'a self, target: &'a dyn TensorSource, simd: Simd) -> ExtractedWeights<'a> {
        ExtractedWeights { extraction: self, target, simd }
    }
}

/// The weights of an [`Extraction`], with the tensor names of a checkpoint or a GGUF of the draft.
pub struct ExtractedWeights<'a> {
    extraction: &'a Extraction,
    target: &'a dyn TensorSource,
    simd: Simd,
}

impl TensorSource for ExtractedWeights<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.extraction.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Extraction { layers, ple, tensors, from, .. } = self.extraction;
        let SourceTensor { index: there, slice } = from[index];
        let whole = &self.target.tensors()[there];
        match slice {
            Slice::Whole => self.target.read_rows(there, first, out),
            Slice::Rows => {
                let row_bytes = whole.row_bytes() as usize;
                let mut at = first;
                let mut rest = out;
                while !rest.is_empty() {
                    let (layer, row) = ((at / ple) as usize, at % ple);
                    let rows = ((ple - row) as usize).min(rest.len() / row_bytes);
                    let (piece, after) = rest.split_at_mut(rows * row_bytes);
                    self.target.read_rows(there, layers[layer] as u64 * ple + row, piece)?;
                    (at, rest) = (at + rows as u64, after);
                }
                Ok(())
            }
            Slice::Columns => {
                let part = (tensors[index].row_bytes() / layers.len() as u64) as usize;
                let is_decoded = tensors[index].dtype != whole.dtype;
                let mut bytes = vec![0; whole.row_bytes() as usize];
                for (row, out) in (first..).zip(out.chunks_exact_mut(part * layers.len())) {
                    if is_decoded {
                        let values = quant::decode_rows(self.simd, self.target, there, row..row + 1)?;
                        bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
                    } else {
                        self.target.read_rows(there, row, &mut bytes)?;
                    }
                    for (part_of_row, &layer) in out.chunks_exact_mut(part).zip(layers) {
                        part_of_row.copy_from_slice(&bytes[layer * part..][..part]);
                    }
                }
                Ok(())
            }
        }
    }
}

/// Checks that these layers, in ascending order, make a model that llama.cpp accepts.
///
/// # Errors
/// `Recipe`: an index that is not a layer, no full-attention layer at the end, or no layer with the keys and values
/// that a KV-shared layer reads.
pub fn check_layers(target: &Config, layers: &[usize]) -> Result<()> {
    let list = || layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let refused = |problem: String, expected: String| {
        Err(Error::recipe(format!("layers {}", list()), problem).expected(expected, list()))
    };
    if !layers.is_sorted_by(|a, b| a < b) || layers.last().is_some_and(|&last| last >= target.layers()) {
        return refused(
            "not layers of this model".to_owned(),
            format!("ascending numbers below {}", target.layers()),
        );
    }
    let kind = |layer: &usize| target.attention[*layer];
    if !layers.iter().any(|layer| kind(layer) == Attention::Full) {
        return refused("no full-attention layer is left".to_owned(), full_layers(target));
    }
    if layers.last().map(kind) != Some(Attention::Full) {
        return refused("the last layer must be a full-attention one".to_owned(), full_layers(target));
    }
    let (owners, sharing): (Vec<usize>, Vec<usize>) =
        layers.iter().partition(|&&layer| !target.shares_kv(layer));
    if owners.len() < KV_OWNERS {
        let expected =
            format!("{KV_OWNERS} layers below {}", target.layers() - target.shared_kv_layers as usize);
        return refused(format!("fewer than {KV_OWNERS} layers have keys and values of their own"), expected);
    }
    for (kind_of, behind) in [(Attention::Full, 1), (Attention::Sliding, 2)] {
        let owner = owners[owners.len() - behind];
        if let Some(reader) = sharing.iter().find(|layer| kind(layer) == kind_of)
            && kind(&owner) != kind_of
        {
            let place = if behind == 1 { "last" } else { "last but one" };
            return refused(
                format!("no layer is left to own the keys and values that layer {reader} reads"),
                format!(
                    "a {kind_of:?} layer {place} among those that own some, as layer {}",
                    donor(target, kind_of)
                )
                .to_lowercase(),
            );
        }
    }
    Ok(())
}

fn donor(target: &Config, kind: Attention) -> usize {
    target.last_owner(kind).unwrap_or_default()
}

fn full_layers(target: &Config) -> String {
    let full = (0..target.layers()).filter(|&layer| target.attention[layer] == Attention::Full);
    format!("one of {}", full.map(|layer| layer.to_string()).collect::<Vec<_>>().join(", "))
}

/// The config of the draft.
fn cut_config(json: &Value, target: &Config, layers: &[usize]) -> Value {
    let mut json = json.clone();
    // the weights are presented dequantized
    if let Some(fields) = json.as_object_mut() {
        fields.shift_remove("quantization_config");
    }
    let text = match json.get_mut("text_config") {
        Some(text) if !text.is_null() => text,
        _ => &mut json,
    };
    let name = |&layer: &usize| match target.attention[layer] {
        Attention::Sliding => "sliding_attention",
        Attention::Full => "full_attention",
    };
    text["num_hidden_layers"] = layers.len().into();
    text["layer_types"] = layers.iter().map(name).collect::<Vec<_>>().into();
    text["num_kv_shared_layers"] = layers.iter().filter(|&&layer| target.shares_kv(layer)).count().into();
    if let Some(Value::Object(sizes)) = text.get_mut("per_layer_config") {
        let of = |key: &str| layers.iter().position(|&layer| key.parse() == Ok(layer));
        let kept = sizes.iter().filter_map(|(key, size)| Some((of(key)?.to_string(), size.clone())));
        *sizes = kept.collect();
    }
    json
}

/// Checks that `count` layers of a model can be selected: at least [`KV_OWNERS`], and not all.
///
/// # Errors
/// `Recipe`.
pub fn check_count(target: &Config, count: usize) -> Result<()> {
    if (KV_OWNERS..target.layers()).contains(&count) {
        return Ok(());
    }
    Err(Error::recipe(
        format!("‹layers› {count}"),
        format!("not a possible number of layers for a draft of a model with {} layers", target.layers()),
    )
    .expected(format!("{KV_OWNERS} to {}", target.layers() - 1), count))
}
