//! Bundles of the public exporter: what is read, and bundles with other weights, byte for byte.

mod common;

use std::collections::BTreeSet;

use base::{OutputFile, Silent};
use common::{base_checkpoint, bundle, expected, names, section_bytes, sha256, tuned_checkpoint, wanted};
use litert::{Bundle, Mapped, SectionType, Source, Transplant, Types};
use testkit::MemoryTensors;

const RECIPES: [&str; 4] = ["mixed48", "mixed48_b32", "wi2", "wi8"];

/// Sections, their types, positions and bytes, as the tool of the exporter lists them.
#[test]
fn sections_are_where_the_exporter_put_them() {
    for recipe in RECIPES {
        let file = bundle(recipe);
        let bundle = Bundle::read(&file).unwrap();
        let expected = &expected()["recipes"][recipe]["base"];
        assert_eq!(bundle.file_len(), expected["bytes"].as_u64().unwrap());
        let sections = expected["sections"].as_array().unwrap();
        assert_eq!(bundle.sections.len(), sections.len());
        for (section, expected) in bundle.sections.iter().zip(sections) {
            assert_eq!(section.content.name(), expected["type"].as_str());
            assert_eq!(section.model_type(), expected["model_type"].as_str());
            assert_eq!(Some(section.range.start), expected["begin"].as_u64());
            assert_eq!(Some(section.range.end), expected["end"].as_u64());
            let bytes = section_bytes(&bundle, &file, section);
            assert_eq!(sha256(&bytes), expected["sha256"].as_str().unwrap(), "{recipe}: {}", section.title());
        }
    }
}

#[test]
fn the_tokenizer_is_packed_and_unpacked() {
    let file = bundle("wi2");
    let bundle = Bundle::read(&file).unwrap();
    let section = bundle.sections.iter().find(|s| s.content == SectionType::TOKENIZER).unwrap();
    let json = litert::unpack_tokenizer(&section_bytes(&bundle, &file, section)).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&json).unwrap()["model"]["vocab"].is_object());
    let again = litert::pack_tokenizer(&json).unwrap();
    assert_eq!(litert::unpack_tokenizer(&again).unwrap(), json);
}

/// The mapping that was made by name when the bundle was exported: buffer and tensor of every weight.
#[test]
fn weights_are_found_by_value() {
    let base = base_checkpoint();
    let file = bundle("mixed48");
    let bundle = Bundle::read(&file).unwrap();
    let mapped = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
    let mut found = BTreeSet::new();
    for mapped in &mapped {
        let model = bundle.sections[mapped.section].model_type().unwrap();
        for assignment in &mapped.assignments {
            let [tensor] = assignment.tensors[..] else { panic!("{assignment:?}") };
            let encoding = assignment.constant.encoding.unwrap();
            found.insert((
                model,
                assignment.constant.buffer,
                encoding.element().to_string(),
                names(&base)[tensor].clone(),
            ));
        }
    }
    let table = &expected()["mapping_mixed48"]["rows"];
    let rows = table.as_array().unwrap().iter().map(|row| {
        let text = |n: usize| row[n].as_str().unwrap();
        let buffer = row[3].as_u64().unwrap() as usize;
        (text(0), buffer, text(4).to_owned(), format!("model.language_model.{}", text(9)))
    });
    assert_eq!(found, rows.collect());
}

/// Every section of a bundle with the weights of another checkpoint is what the exporter makes of that checkpoint. The
/// scales of its blocks of zeros are 0, which the runtime refuses.
#[test]
fn a_transplant_has_the_bytes_of_an_export() {
    let (base, tuned) = (base_checkpoint(), tuned_checkpoint());
    for recipe in RECIPES {
        let file = bundle(recipe);
        let bundle = Bundle::read(&file).unwrap();
        let mapped = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
        let mut bytes = transplant(&bundle, &file, &mapped, &base, &tuned, Types::Keep);
        assert_eq!(bytes.len(), file.len());
        assert_eq!(
            bytes[..bundle.sections[0].range.start as usize],
            file[..bundle.sections[0].range.start as usize]
        );
        let changed = common::zero_scales(&mut bytes);
        assert_eq!(changed > 0, recipe == "mixed48_b32", "{recipe}: {changed} blocks");
        for section in expected()["recipes"][recipe]["tuned"]["sections"].as_array().unwrap() {
            let [begin, end] = ["begin", "end"].map(|key| section[key].as_u64().unwrap() as usize);
            assert_eq!(
                sha256(&bytes[begin..end]),
                section["sha256"].as_str().unwrap(),
                "{recipe}: {section}"
            );
        }
    }
}

fn transplant(
    bundle: &Bundle,
    file: &dyn Source,
    mapped: &[Mapped],
    base: &MemoryTensors,
    tuned: &MemoryTensors,
    types: Types,
) -> Vec<u8> {
    let plan = Transplant::plan(bundle, mapped, base, tuned, types).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.litertlm");
    let out = OutputFile::create(&path).unwrap();
    plan.write(file, tuned, &out, 2, &Silent).unwrap();
    out.publish().unwrap();
    std::fs::read(path).unwrap()
}
