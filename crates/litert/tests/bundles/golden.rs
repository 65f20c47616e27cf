//! Bundles of the public exporter: what is read, and bundles with other weights, byte for byte.

use std::collections::BTreeSet;

use base::{OutputFile, Silent};
use litert::{
    ALIGNMENT, Bundle, BundleScales, BundleTypes, LlmMetadata, Mapped, MetadataToken, SectionType, Source,
    Transplant,
};
use quant::IntegerBits;
use testkit::MemoryTensors;

use crate::common::{
    base_checkpoint, bundle, counterparts, expected, names, quantized, section_bytes, sha256,
    tuned_checkpoint, wanted, zero_scales,
};

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

#[test]
fn metadata_is_what_the_exporter_wrote() {
    let file = bundle("wi2");
    let bundle = Bundle::read(&file).unwrap();
    let section = bundle.sections.iter().find(|s| s.content == SectionType::METADATA).unwrap();
    let metadata = LlmMetadata::read(&section_bytes(&bundle, &file, section)).unwrap();
    assert_eq!(metadata.start, Some(MetadataToken::Text("<bos>".into())));
    assert!(
        metadata.stop.contains(&MetadataToken::Ids(vec![1]))
            && metadata.stop.contains(&MetadataToken::Text("<turn|>\n".into()))
    );
    assert_eq!((metadata.stop.len(), metadata.max_tokens, metadata.is_gemma4), (15, Some(64), true));
    assert!(metadata.template.unwrap().starts_with("{{- bos_token -}}"));
    assert_eq!(metadata.channels, ["thought"]);
}

/// Without any model to change, the written file is the one that was read.
#[test]
fn a_bundle_is_written_as_it_was_read() {
    let base = base_checkpoint();
    for recipe in RECIPES {
        let file = bundle(recipe);
        let bundle = Bundle::read(&file).unwrap();
        assert!(transplant(&bundle, &file, &[], &base, &base, BundleTypes::Keep) == file, "{recipe}");
        let mapped = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
        let mut same = transplant(&bundle, &file, &mapped, &base, &base, BundleTypes::Keep);
        zero_scales(&mut same);
        assert!(same == file, "{recipe}");
    }
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
        let mut bytes = transplant(&bundle, &file, &mapped, &base, &tuned, BundleTypes::Keep);
        assert_eq!(bytes.len(), file.len());
        assert_eq!(
            bytes[..bundle.sections[0].range.start as usize],
            file[..bundle.sections[0].range.start as usize]
        );
        let changed = zero_scales(&mut bytes);
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

/// Constants with other types are those of the exporter's bundle with these types. The graphs are the same, so that tensors
/// have the same index.
#[test]
fn other_types_have_the_constants_of_an_export() {
    let base = base_checkpoint();
    let (two, mixed, eight) = (bundle("wi2"), bundle("mixed48"), bundle("wi8"));
    let cases = [
        (&two, BundleTypes::AtLeast(IntegerBits::Eight), &eight),
        (&mixed, BundleTypes::AtLeast(IntegerBits::Eight), &eight),
        (&mixed, BundleTypes::Exactly(IntegerBits::Two), &two),
        (&eight, BundleTypes::Exactly(IntegerBits::Two), &two),
        (&mixed, BundleTypes::AtLeast(IntegerBits::Four), &mixed),
    ];
    for (number, (file, types, like)) in cases.into_iter().enumerate() {
        let bundle = Bundle::read(file).unwrap();
        let mapped = litert::map(&bundle, file, &base, &wanted(&base)).unwrap();
        let changed = transplant(&bundle, file, &mapped, &base, &base, types);
        assert_eq!(changed.len() % ALIGNMENT as usize, 0, "a padded file stays padded");
        assert!(quantized(&changed) == quantized(like), "case {number}");
        // and it is a bundle again
        let bundle = Bundle::read(&changed).unwrap();
        litert::map(&bundle, &changed, &base, &wanted(&base)).unwrap();
    }
}

fn transplant(
    bundle: &Bundle,
    file: &dyn Source,
    mapped: &[Mapped],
    base: &MemoryTensors,
    tuned: &MemoryTensors,
    types: BundleTypes,
) -> Vec<u8> {
    let plan = Transplant::plan(bundle, mapped, base, tuned, &counterparts(base, tuned), &|_| types).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.litertlm");
    let out = OutputFile::create(&path).unwrap();
    plan.write(file, tuned, &BundleScales::MinMax, &out, &Silent).unwrap();
    out.publish().unwrap();
    std::fs::read(path).unwrap()
}
