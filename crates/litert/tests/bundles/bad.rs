//! Files that lie, and checkpoints that do not belong to the bundle.

use base::Fault;
use litert::{
    Bundle, BundleTypes, LlmMetadata, Mapped, Model, SectionType, Source, Transplant, Wanted, constants,
};
use tensor::{Result, TensorDesc, TensorSource};
use testkit::{MemoryTensors, SplitMix64};

use crate::common::{base_checkpoint, bundle, counterparts, names, section_bytes, tuned_checkpoint, wanted};

/// A change of a file, and what the error says.
type Lie = (&'static str, fn(&mut Vec<u8>), &'static str);

/// Positions in the header of `wi2`: begin of the last section and of the first.
const LAST_BEGIN: usize = 0x70;
const FIRST_BEGIN: usize = 0x210;

#[test]
fn headers_that_lie_are_refused() {
    let lies: [Lie; 9] = [
        ("empty", |file| file.clear(), "not a .litertlm file"),
        ("a task file", |file| file[..2].copy_from_slice(b"PK"), "found a zip archive"),
        ("another version", |file| file[8] = 2, "expected 1, found 2"),
        ("cut in the header", |file| file.truncate(700), "before its header does"),
        ("cut in a section", |file| file.truncate(800_000), "cut short"),
        ("a huge header", |file| file[28] = 1, "implausibly large"),
        ("not aligned", |file| file[FIRST_BEGIN] += 1, "not aligned"),
        ("overlap", |file| file[LAST_BEGIN + 1..][..2].copy_from_slice(&[0, 1]), "overlaps"),
        ("a root beyond the end", |file| file[32..36].fill(0xff), "beyond the end"),
    ];
    assert!(Bundle::read(&bundle("wi2")).is_ok());
    for (lie, change, says) in lies {
        let mut file = bundle("wi2");
        change(&mut file);
        let error = Bundle::read(&file).unwrap_err();
        assert!(error.to_string().contains(says), "{lie}: {error}");
    }
}

/// Any byte of the header and of a graph may be wrong: an error or another content, never a panic.
#[test]
fn wrong_bytes_never_panic() {
    let original = bundle("wi2");
    let header = Bundle::read(&original).unwrap();
    let model = header.sections.iter().rfind(|s| s.content == SectionType::MODEL).unwrap();
    let graph = section_bytes(&header, &original, model);
    let metadata = section_bytes(&header, &original, &header.sections[0]);
    let (mut random, mut refused) = (SplitMix64(7), 0);
    for at in 0..820 {
        for value in [0, 0x7f, 0xff, random.next() as u8] {
            let mut file = original.clone();
            file[at] = value;
            refused += u32::from(Bundle::read(&file).is_err());
        }
    }
    for _ in 0..2000 {
        let mut graph = graph.clone();
        // most of the model is one payload
        let at = random.next() as usize % graph.len();
        let at = if at < 70_000 { at % 700 } else { at };
        graph[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.next() as usize % 6];
        refused += u32::from(Model::read(&graph).and_then(|model| constants(&model)).is_err());
    }
    for at in 0..metadata.len() {
        let mut metadata = metadata.clone();
        metadata[at] = random.next() as u8;
        refused += u32::from(LlmMetadata::read(&metadata).is_err());
        refused += u32::from(litert::unpack_tokenizer(&metadata).is_err());
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_cut_model_is_refused() {
    let file = bundle("wi8");
    let bundle = Bundle::read(&file).unwrap();
    for section in bundle.sections.iter().filter(|section| section.content == SectionType::MODEL) {
        let bytes = section_bytes(&bundle, &file, section);
        for len in [0, 3, 7, 8, 100, bytes.len() / 4, bytes.len() / 2] {
            let error = Model::read(&bytes[..len].to_vec())
                .and_then(|model| constants(&model).map(|_| ()))
                .unwrap_err();
            assert_eq!(error.fault(), Fault::Malformed, "{len}: {error}");
        }
    }
}

/// A checkpoint with more tensors than the golden one.
fn with(tensors: &MemoryTensors, more: &[(&str, u64, &[f32])]) -> MemoryTensors {
    let mut all = MemoryTensors::new();
    for (index, desc) in tensors.tensors().iter().enumerate() {
        let mut bytes = vec![0; desc.byte_len() as usize];
        tensors.read_rows(index, 0, &mut bytes).unwrap();
        all.add(desc.clone(), bytes);
    }
    for (name, len, values) in more {
        all.add_f32(name, &[*len], values);
    }
    all
}

fn values(tensors: &MemoryTensors, name: &str) -> Vec<f32> {
    let index = tensors.tensors().iter().position(|desc| desc.name.ends_with(name)).unwrap();
    let mut bytes = vec![0; tensors.tensors()[index].byte_len() as usize];
    tensors.read_rows(index, 0, &mut bytes).unwrap();
    let value = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    bytes.as_chunks().0.iter().map(value).collect()
}

fn map(file: &Vec<u8>, base: &MemoryTensors) -> Result<(Bundle, Vec<Mapped>)> {
    let bundle = Bundle::read(file)?;
    let mapped = litert::map(&bundle, file, base, &wanted(base))?;
    Ok((bundle, mapped))
}

fn plan(file: &Vec<u8>, base: &MemoryTensors, tuned: &MemoryTensors) -> Result<Transplant> {
    let (bundle, mapped) = map(file, base)?;
    Transplant::plan(&bundle, &mapped, base, tuned, &counterparts(base, tuned), &|_| BundleTypes::Keep)
}

#[test]
fn another_base_is_refused_with_what_is_left() {
    let (file, base, tuned) = (bundle("mixed48"), base_checkpoint(), tuned_checkpoint());
    let error = map(&file, &tuned).unwrap_err().to_string();
    assert!(error.contains("not those of the base checkpoint: 0 constants found"), "{error}");
    let more = with(&base, &[("model.language_model.layers.9.norm.weight", 64, &[0.5; 64])]);
    let error = map(&file, &more).unwrap_err().to_string();
    assert!(
        error.contains("tensors without a constant: model.language_model.layers.9.norm.weight\n"),
        "{error}"
    );
    // a tensor that the caller does not name: its constant is left
    let bundle = Bundle::read(&file).unwrap();
    let mut few = wanted(&base);
    let down = |index: &usize| names(&base)[*index].ends_with("layers.2.mlp.down_proj.weight");
    few[0].tensors.retain(|index| !down(index));
    let error = litert::map(&bundle, &file, &base, &few).unwrap_err().to_string();
    let left = "Gemma4TextDecoderLayer_2/Gemma4TextMLP_mlp/Linear_down_proj [64, 192]; tensors without a constant: none";
    assert!(error.contains(left), "{error}");
    let other = [Wanted { model_type: "tf_lite_vision_encoder".into(), tensors: Vec::new() }];
    let error = litert::map(&bundle, &file, &base, &other).unwrap_err().to_string();
    assert_eq!(error, "model tf_lite_vision_encoder: missing");
}

#[test]
fn tensors_that_share_a_constant_must_stay_equal() {
    let (file, base, tuned) = (bundle("mixed48"), base_checkpoint(), tuned_checkpoint());
    let (norm, copy) = ("layers.2.input_layernorm.weight", "copy.weight");
    let alone = plan(&file, &base, &tuned).unwrap().replacements.len();
    let base = with(&base, &[(copy, 64, &values(&base, norm))]);
    let same = with(&tuned, &[(copy, 64, &values(&tuned, norm))]);
    assert_eq!(plan(&file, &base, &same).unwrap().replacements.len(), alone);
    let other = with(&tuned, &[(copy, 64, &[0.25; 64])]);
    let error = plan(&file, &base, &other).unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported);
    assert!(error.to_string().contains("shares a constant with another tensor"), "{error}");
}

#[test]
fn a_factor_that_the_exporter_left_out_must_stay_1() {
    let (file, base, tuned) = (bundle("mixed48"), base_checkpoint(), tuned_checkpoint());
    let base = with(&base, &[("layers.9.layer_scalar", 1, &[1.0])]);
    assert!(plan(&file, &base, &with(&tuned, &[("layers.9.layer_scalar", 1, &[1.0])])).is_ok());
    let error = plan(&file, &base, &with(&tuned, &[("layers.9.layer_scalar", 1, &[0.5])])).unwrap_err();
    assert!(error.to_string().contains("the graph has no place for it"), "{error}");
}

/// A scalar of the graph that several operators use, and that a tensor equals by chance.
#[test]
fn a_constant_that_the_graph_uses_otherwise_must_keep_its_value() {
    let (file, base, tuned) = (bundle("mixed48"), base_checkpoint(), tuned_checkpoint());
    let bundle = Bundle::read(&file).unwrap();
    let section = bundle.sections.iter().find(|s| s.model_type() == Some("tf_lite_prefill_decode")).unwrap();
    let part = bundle.part(&file, section).unwrap();
    let model = Model::read(&part).unwrap();
    let constants = constants(&model).unwrap();
    let is_shared = |c: &&litert::Constant| c.uses > 1 && (c.rows, c.cols) == (1, 1);
    let shared = constants.iter().find(is_shared).expect("a scalar with several uses");
    let mut bytes = [0; 4];
    part.read_at(model.buffers[shared.buffer].range.start, &mut bytes).unwrap();
    let value = f32::from_le_bytes(bytes);
    let base = with(&base, &[("layers.9.layer_scalar", 1, &[value])]);
    assert!(plan(&file, &base, &with(&tuned, &[("layers.9.layer_scalar", 1, &[value])])).is_ok());
    let error =
        plan(&file, &base, &with(&tuned, &[("layers.9.layer_scalar", 1, &[value / 2.0])])).unwrap_err();
    assert!(error.to_string().contains("uses its values for something else"), "{error}");
}

#[test]
fn a_fine_tune_of_another_shape_is_refused() {
    let (file, base) = (bundle("mixed48"), base_checkpoint());
    let error = plan(&file, &base, &MemoryTensors::new()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let mut other = MemoryTensors::new();
    for desc in base.tensors() {
        let shape: Vec<u64> = desc.shape.iter().map(|n| 2 * n).collect();
        let desc = TensorDesc::new(&desc.name, desc.dtype, shape).unwrap();
        let bytes = vec![0; desc.byte_len() as usize];
        other.add(desc, bytes);
    }
    let error = plan(&file, &base, &other).unwrap_err();
    assert!(error.to_string().contains("another shape than in the base checkpoint"), "{error}");
}
