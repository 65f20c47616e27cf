//! The golden bundles of `fixtures/golden/litertlm`, and the checkpoint from which they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Range;

use litert::{Bundle, ElementType, Model, Quantization, Section, SectionType, Source, Wanted};
use serde_json::Value;
use tensor::{DType, TensorDesc, TensorSource};
use testkit::MemoryTensors;

/// The exporter's bundle of a recipe.
pub(crate) fn bundle(recipe: &str) -> Vec<u8> {
    let packed = testkit::read(format!("golden/litertlm/base.{recipe}.litertlm.gz"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn expected() -> Value {
    testkit::json("golden/litertlm/expected.json")
}

pub(crate) fn section_bytes(bundle: &Bundle, file: &dyn Source, section: &Section) -> Vec<u8> {
    let mut bytes = vec![0; (section.range.end - section.range.start) as usize];
    bundle.part(file, section).unwrap().read_at(0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    base::sha256(bytes, &|_| ()).unwrap().1
}

/// The checkpoint, its tensors changed by `change`, which gets BF16 values and the number of rows.
pub(crate) fn checkpoint(change: impl Fn(&mut Vec<[u8; 2]>, usize)) -> MemoryTensors {
    let file = testkit::read("golden/litertlm/base.safetensors");
    let (len, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let mut tensors = MemoryTensors::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers = |key: &str| serde_json::from_value::<Vec<u64>>(entry[key].clone()).unwrap();
        let (shape, range) = (numbers("shape"), numbers("data_offsets"));
        let bytes = &data[range[0] as usize..range[1] as usize];
        let mut values = bytes.as_chunks().0.to_vec();
        change(&mut values, shape[0] as usize);
        let desc = TensorDesc::new(name, DType::BF16, shape).unwrap();
        tensors.add(desc, values.concat());
    }
    tensors
}

pub(crate) fn base_checkpoint() -> MemoryTensors {
    checkpoint(|_, _| ())
}

/// The other checkpoint of the goldens: rows reversed, scalars halved.
pub(crate) fn tuned_checkpoint() -> MemoryTensors {
    checkpoint(|values, rows| match values.as_mut_slice() {
        [one] => *one = (u16::from_le_bytes(*one) - 0x80).to_le_bytes(),
        _ => {
            let row = values.len() / rows;
            *values = values.chunks(row).rev().flatten().copied().collect();
        }
    })
}

pub(crate) fn names(tensors: &MemoryTensors) -> Vec<String> {
    tensors.tensors().iter().map(|desc| desc.name.clone()).collect()
}

/// The tensors of the same name.
pub(crate) fn counterparts(base: &MemoryTensors, tuned: &MemoryTensors) -> BTreeMap<usize, usize> {
    let tuned = names(tuned);
    let same = |name: &String| tuned.iter().position(|other| other == name);
    names(base).iter().enumerate().filter_map(|(n, name)| Some((n, same(name)?))).collect()
}

/// The models of a text bundle, and their tensors.
pub(crate) fn wanted(tensors: &MemoryTensors) -> Vec<Wanted> {
    let names = names(tensors);
    let of = |model: &str, is_in: &dyn Fn(&str) -> bool| Wanted {
        model_type: model.into(),
        tensors: (0..names.len()).filter(|n| is_in(&names[*n])).collect(),
    };
    vec![
        of("tf_lite_prefill_decode", &|name| !name.contains("embed_tokens_per_layer")),
        of("tf_lite_embedder", &|name| name.ends_with("embed_tokens.weight")),
        of("tf_lite_per_layer_embedder", &|name| name.contains("embed_tokens_per_layer")),
    ]
}

/// Model, subgraph and index of a tensor; its type, codes and scales.
type Quantized = BTreeMap<(String, usize, usize), (ElementType, Vec<u8>, Vec<u8>)>;

/// Every tensor with scales of a channel.
pub(crate) fn quantized(file: &Vec<u8>) -> Quantized {
    let bundle = Bundle::read(file).unwrap();
    let mut found = BTreeMap::new();
    for section in bundle.sections.iter().filter(|section| section.content == SectionType::MODEL) {
        let bytes = section_bytes(&bundle, file, section);
        let model = Model::read(&bytes).unwrap();
        let read = |range: Range<u64>| bytes[range.start as usize..range.end as usize].to_vec();
        for (graph, subgraph) in model.subgraphs.iter().enumerate() {
            for (index, tensor) in subgraph.tensors.iter().enumerate() {
                let Quantization::Channel { scales, .. } = &tensor.quantization else { continue };
                let codes = read(model.buffers[tensor.buffer].range.clone());
                let place = (section.title(), graph, index);
                found.insert(place, (tensor.element, codes, read(scales.clone())));
            }
        }
    }
    found
}

/// Sets the scales of blocks of zeros to 0, as ai-edge-quantizer writes them. Returns their number.
pub(crate) fn zero_scales(file: &mut [u8]) -> usize {
    let whole = file.to_vec();
    let bundle = Bundle::read(&whole).unwrap();
    let mut places = BTreeSet::new();
    for section in bundle.sections.iter().filter(|section| section.content == SectionType::MODEL) {
        let model = Model::read(&bundle.part(&whole, section).unwrap()).unwrap();
        for subgraph in &model.subgraphs {
            for tensor in &subgraph.tensors {
                let Quantization::Block { scales, .. } = tensor.quantization else { continue };
                let range = model.buffers[subgraph.tensors[scales].buffer].range.clone();
                places.extend(range.step_by(2).map(|at| (section.range.start + at) as usize));
            }
        }
    }
    places.retain(|at| file[*at..at + 2] == quant::ZERO_BLOCK.to_le_bytes());
    for at in &places {
        file[*at..at + 2].fill(0);
    }
    places.len()
}
