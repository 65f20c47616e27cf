//! Bundles of graph skeletons: `same.skeleton` was recorded from the golden bundle `mixed48` itself, `tiny.skeleton` from exports with a
//! quarter and with half of its widths, whose cache has another length, and `same-gpu.skeleton` from an export of the golden checkpoint for
//! graphics processors, in which matrices are fused.

use std::collections::BTreeMap;

use base::{OutputFile, Silent};
use litert::{
    Bundle, BundleScales, BundleTypes, GraphTensorName, GraphTensors, SectionType, Skeleton,
    SkeletonSections, SkeletonWeight, Transplant,
};
use quant::IntegerBits;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};
use testkit::MemoryTensors;

use crate::common::{base_checkpoint, bundle, expected, section_bytes, sha256, tuned_checkpoint};

/// A skeleton, and the units of the golden checkpoint.
pub(crate) const SAME: (&str, u64) = ("same", 1);
const TINY: (&str, u64) = ("tiny", 4);
const SAME_GPU: (&str, u64) = ("same-gpu", 1);

pub(crate) fn skeleton(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/litertlm/{name}.skeleton"))
}

/// The bits of a weight in a recipe of the exporter.
fn bits(recipe: &str, name: &str) -> IntegerBits {
    match recipe {
        "wi2" => IntegerBits::Two,
        "wi8" => IntegerBits::Eight,
        _ if name.contains("per_layer") && !name.starts_with("embed") => IntegerBits::Eight,
        _ => IntegerBits::Four,
    }
}

/// The index of the tensor of this name in the text model.
fn index(tensors: &MemoryTensors, name: &str) -> Result<usize> {
    let full = format!("model.language_model.{name}");
    let tensor = tensors.tensors().iter().position(|desc| desc.name == full);
    tensor.ok_or_else(|| Error::missing(full))
}

/// The tensor of this name, with the type of a recipe of the exporter.
pub(crate) fn weight(tensors: &MemoryTensors, recipe: &str, name: &str) -> Result<SkeletonWeight> {
    let tensor = index(tensors, name)?;
    Ok(SkeletonWeight { tensor, elements: tensors.tensors()[tensor].elements(), bits: bits(recipe, name) })
}

/// The weights of a skeleton, and their indices by name.
fn graph_tensors<'t>(
    skeleton: &Skeleton,
    tensors: &'t MemoryTensors,
) -> (GraphTensors<'t>, BTreeMap<String, usize>) {
    let (mut graph, mut indices) = (GraphTensors::new(tensors), BTreeMap::new());
    for name in skeleton.weights().unwrap() {
        let GraphTensorName { parts, divisor } = GraphTensorName::parse(name).unwrap();
        let parts: Vec<_> = parts.iter().map(|part| index(tensors, part).unwrap()).collect();
        indices.insert(name.to_owned(), graph.add(&parts, divisor).unwrap());
    }
    (graph, indices)
}

/// The bundle of a checkpoint, with metadata and tokenizer of the exporter's.
pub(crate) fn made((name, units): (&str, u64), tensors: &MemoryTensors, recipe: &str) -> Vec<u8> {
    let file = bundle(recipe);
    let exported = Bundle::read(&file).unwrap();
    let section = |content: SectionType| {
        let section = exported.sections.iter().find(|section| section.content == content).unwrap();
        section_bytes(&exported, &file, section)
    };
    let sections = SkeletonSections {
        metadata: section(SectionType::METADATA),
        tokenizer: section(SectionType::TOKENIZER),
        id: [7; 16],
    };
    let skeleton = Skeleton::read(&skeleton(name)).unwrap();
    let (graph, indices) = graph_tensors(&skeleton, tensors);
    let weight = |name: &str| {
        let tensor = indices[name];
        let elements = graph.tensors()[tensor].elements();
        Ok(SkeletonWeight { tensor, elements, bits: bits(recipe, name) })
    };
    let empty = skeleton.bundle(units, &weight, sections, &graph).unwrap();
    let same = (0..graph.tensors().len()).map(|index| (index, index)).collect();
    let plan = Transplant::plan(&empty.bundle, &empty.mapped, &graph, &graph, &same, &|_| BundleTypes::Keep)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.litertlm");
    let out = OutputFile::create(&path).unwrap();
    plan.write(&empty.source, &graph, &BundleScales::MinMax, &out, &Silent).unwrap();
    out.publish().unwrap();
    std::fs::read(path).unwrap()
}

/// Also with types and weights that were not recorded.
#[test]
fn the_graph_of_a_skeleton_has_the_bytes_of_an_export() {
    for recipe in ["mixed48", "wi2", "wi8"] {
        for (which, tensors) in [("base", base_checkpoint()), ("tuned", tuned_checkpoint())] {
            let bytes = made(SAME, &tensors, recipe);
            let expected = &expected()["recipes"][recipe][which];
            assert_eq!(Some(bytes.len() as u64), expected["bytes"].as_u64(), "{recipe} {which}");
            for section in expected["sections"].as_array().unwrap() {
                let [begin, end] = ["begin", "end"].map(|key| section[key].as_u64().unwrap() as usize);
                let found = sha256(&bytes[begin..end]);
                assert_eq!(Some(found.as_str()), section["sha256"].as_str(), "{recipe} {which}: {section}");
            }
        }
    }
}

/// Compares the models and the metadata of the runtime with those that the exporter makes.
fn assert_same_sections(file: &Vec<u8>, expected: &Value, title: &str) {
    let bundle = Bundle::read(file).unwrap();
    let mut compared = 0;
    for section in &bundle.sections {
        let same = |one: &&Value| {
            one["type"].as_str() == section.content.name()
                && one["model_type"].as_str() == section.model_type()
        };
        let Some(expected) = expected.as_array().unwrap().iter().find(same) else { continue };
        let bytes = section_bytes(&bundle, file, section);
        assert_eq!(Some(bytes.len() as u64), expected["bytes"].as_u64(), "{title}: {}", section.title());
        assert_eq!(
            Some(sha256(&bytes).as_str()),
            expected["sha256"].as_str(),
            "{title}: {}",
            section.title()
        );
        compared += 1;
    }
    assert_eq!(compared, 4, "{title}");
}

/// Four times the widths that were recorded.
#[test]
fn a_skeleton_at_another_width_has_the_bytes_of_an_export() {
    let file = made(TINY, &base_checkpoint(), "mixed48");
    assert_same_sections(&file, &expected()["cache_80_mixed48"], "tiny");
}

/// Also with weights that were not recorded.
#[test]
fn fused_matrices_have_the_bytes_of_an_export() {
    for (which, tensors) in [("base", base_checkpoint()), ("tuned", tuned_checkpoint())] {
        let file = made(SAME_GPU, &tensors, "mixed48");
        assert_same_sections(&file, &expected()["gpu_cache_80_mixed48"][which], which);
    }
}

/// The header differs in uuid and time.
#[test]
fn the_header_is_that_of_an_export() {
    let (made, file) = (made(SAME, &base_checkpoint(), "wi8"), bundle("wi8"));
    let [new, old] = [&made, &file].map(|file| Bundle::read(file).unwrap());
    let end = new.sections[0].range.start as usize;
    let differing = made[..end].iter().zip(&file[..end]).filter(|(a, b)| a != b).count();
    assert!((1..=68).contains(&differing), "{differing}");
    let without_own = |bundle: &Bundle| {
        let mut items = bundle.items.clone();
        items.retain(|(key, _)| key != "uuid" && key != "creation_timestamp");
        items
    };
    assert_eq!(without_own(&new), without_own(&old));
    assert_eq!(new.items[1].1.to_string(), "07070707-0707-0707-0707-070707070707");
}

#[test]
fn other_shapes_and_damage_are_refused() {
    let tensors = base_checkpoint();
    let packed = skeleton("same");
    let skeleton = Skeleton::read(&packed).unwrap();
    let larger = |name: &str| {
        let weight = weight(&tensors, "wi8", name)?;
        Ok(SkeletonWeight { elements: weight.elements + 8, ..weight })
    };
    let made = skeleton.bundle(1, &larger, SkeletonSections::default(), &tensors);
    let error = made.map(drop).unwrap_err().to_string();
    assert!(error.contains("its buffer does not fit its shape"), "{error}");
    let missing = |_: &str| Err(Error::missing("tensor x"));
    let made = skeleton.bundle(1, &missing, SkeletonSections::default(), &tensors);
    let error = made.map(drop).unwrap_err();
    assert!(error.to_string().contains("tensor x"), "{error}");
    for len in [0, 7, 11, 12, 100, packed.len() - 1] {
        assert!(Skeleton::read(&packed[..len]).is_err(), "{len}");
    }
    let mut other = packed.clone();
    other[3] ^= 1;
    assert!(Skeleton::read(&other).unwrap_err().to_string().contains("not a graph skeleton"));
}
