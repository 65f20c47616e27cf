//! Bundles of graph skeletons: `same.skeleton` was recorded from the golden bundle `mixed48` itself, `tiny.skeleton` from exports with a
//! quarter and with half of its widths, whose cache has another length.

use base::{OutputFile, Silent};
use litert::{
    Bundle, BundleScales, BundleTypes, SectionType, Skeleton, SkeletonSections, SkeletonWeight, Transplant,
};
use quant::IntegerBits;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};
use testkit::MemoryTensors;

use crate::common::{
    base_checkpoint, bundle, counterparts, expected, section_bytes, sha256, tuned_checkpoint,
};

/// A skeleton, and the units of the golden checkpoint.
pub(crate) const SAME: (&str, u64) = ("same", 1);
const TINY: (&str, u64) = ("tiny", 4);

pub(crate) fn skeleton(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/litertlm/{name}.skeleton"))
}

/// The tensor of this name, with the type of a recipe of the exporter.
pub(crate) fn weight(tensors: &MemoryTensors, recipe: &str, name: &str) -> Result<SkeletonWeight> {
    let full = format!("model.language_model.{name}");
    let tensor = tensors.tensors().iter().position(|desc| desc.name == full);
    let tensor = tensor.ok_or_else(|| Error::missing(full))?;
    let bits = match recipe {
        "wi2" => IntegerBits::Two,
        "wi8" => IntegerBits::Eight,
        _ if name.contains("per_layer") && !name.starts_with("embed") => IntegerBits::Eight,
        _ => IntegerBits::Four,
    };
    Ok(SkeletonWeight { tensor, elements: tensors.tensors()[tensor].elements(), bits })
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
    let empty = skeleton.bundle(units, &|name| weight(tensors, recipe, name), sections, tensors).unwrap();
    let same = counterparts(tensors, tensors);
    let plan =
        Transplant::plan(&empty.bundle, &empty.mapped, tensors, tensors, &same, &|_| BundleTypes::Keep)
            .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.litertlm");
    let out = OutputFile::create(&path).unwrap();
    plan.write(&empty.source, tensors, &BundleScales::MinMax, &out, &Silent).unwrap();
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

/// Four times the widths that were recorded.
#[test]
fn a_skeleton_at_another_width_has_the_bytes_of_an_export() {
    let file = made(TINY, &base_checkpoint(), "mixed48");
    let bundle = Bundle::read(&file).unwrap();
    let (expected, mut compared) = (&expected()["cache_80_mixed48"], 0);
    for section in &bundle.sections {
        let same = |one: &&Value| {
            one["type"].as_str() == section.content.name()
                && one["model_type"].as_str() == section.model_type()
        };
        let Some(expected) = expected.as_array().unwrap().iter().find(same) else { continue };
        let bytes = section_bytes(&bundle, &file, section);
        assert_eq!(Some(bytes.len() as u64), expected["bytes"].as_u64(), "{}", section.title());
        assert_eq!(Some(sha256(&bytes).as_str()), expected["sha256"].as_str(), "{}", section.title());
        compared += 1;
    }
    assert_eq!(compared, 4);
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
