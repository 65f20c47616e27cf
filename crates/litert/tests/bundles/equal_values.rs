//! Bundles whose weights equal each other, or a constant of the graph.

use base::Fault;
use litert::{Bundle, BundleTypes, Mapped, Skeleton, StoredConstant, Transplant};
use quant::IntegerScales;
use tensor::{Result, TensorSource};
use testkit::MemoryTensors;

use crate::common::{base_checkpoint, checkpoint, counterparts, wanted};
use crate::skeleton::{SAME, made, skeleton, weight};

const ONE: [u8; 2] = 0x3f80u16.to_le_bytes();

/// The golden checkpoint with norms and scalars of 1, as the constant norm of values in the graph has.
fn ones() -> MemoryTensors {
    checkpoint(|values, rows| {
        if values.len() == rows {
            values.fill(ONE);
        }
    })
}

/// The weights of a bundle that `same.skeleton` made.
fn recognised(file: &Vec<u8>, tensors: &MemoryTensors) -> Result<Option<Vec<Mapped>>> {
    let by_name = |name: &str| weight(tensors, "mixed48", name).map(|found| (found.tensor, found.elements));
    let bundle = Bundle::read(file)?;
    Skeleton::read(&skeleton(SAME.0))?.recognise((&bundle, file), SAME.1, &by_name, tensors)
}

/// Names of the tensors whose constants do not have their values.
fn differing(file: &Vec<u8>, tensors: &MemoryTensors, mapped: &[Mapped]) -> Vec<String> {
    let bundle = Bundle::read(file).unwrap();
    let mut names = Vec::new();
    for Mapped { section, model, assignments, .. } in mapped {
        let part = bundle.part(file, &bundle.sections[*section]).unwrap();
        for assignment in assignments {
            let desc = &tensors.tensors()[assignment.tensors[0]];
            let mut bytes = vec![0; desc.byte_len() as usize];
            tensors.read_rows(assignment.tensors[0], 0, &mut bytes).unwrap();
            let value = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            let values: Vec<f32> = bytes.as_chunks().0.iter().map(value).collect();
            let stored = StoredConstant::new(model, &part, &assignment.constant).unwrap();
            if stored.differing(0, &values, IntegerScales::MinMax).unwrap() > 0 {
                names.push(desc.name.clone());
            }
        }
    }
    names
}

#[test]
fn equal_weights_are_found_by_name_in_the_graph_of_a_skeleton() {
    let tensors = ones();
    for recipe in ["mixed48", "wi2"] {
        let file = made(SAME, &tensors, recipe);
        let mapped = recognised(&file, &tensors).unwrap().expect("the graph of the skeleton");
        let all: Vec<_> = mapped.iter().flat_map(|mapped| &mapped.assignments).collect();
        assert!(all.iter().all(|assignment| assignment.tensors.len() == 1));
        // the embedding is in two models
        let used = tensors.tensors().len() + 1;
        assert_eq!(all.len(), used);
        assert!(differing(&file, &tensors, &mapped).is_empty());
    }
}

/// By value, the other constants stand for the tensor of the one that was changed.
#[test]
fn a_changed_constant_among_equal_ones_is_found_by_name() {
    let tensors = ones();
    let mut file = made(SAME, &tensors, "mixed48");
    let bundle = Bundle::read(&file).unwrap();
    let mapped = recognised(&file, &tensors).unwrap().unwrap();
    let name = "model.language_model.layers.1.input_layernorm.weight";
    let of_name = |mapped: &&Mapped| {
        let is_it = |tensor: &usize| tensors.tensors()[*tensor].name == name;
        mapped.assignments.iter().find(|one| one.tensors.iter().any(is_it)).map(|one| one.constant.buffer)
    };
    let decoder = mapped.iter().find(|mapped| of_name(mapped).is_some()).unwrap();
    let at = decoder.model.buffers[of_name(&decoder).unwrap()].range.start;
    file[(bundle.sections[decoder.section].range.start + at) as usize] ^= 1;
    let by_value = litert::map(&bundle, &file, &tensors, &wanted(&tensors)).unwrap();
    assert!(differing(&file, &tensors, &by_value).is_empty());
    let by_name = recognised(&file, &tensors).unwrap().unwrap();
    assert_eq!(differing(&file, &tensors, &by_name), [name]);
}

#[test]
fn another_graph_is_not_that_of_the_skeleton() {
    let tensors = base_checkpoint();
    let file = made(SAME, &tensors, "mixed48");
    let bundle = Bundle::read(&file).unwrap();
    let section = bundle.sections.iter().find(|s| s.model_type() == Some("tf_lite_prefill_decode")).unwrap();
    assert!(recognised(&file, &tensors).unwrap().is_some());
    // inverse frequencies of RoPE
    let table: Vec<u8> = [1.0f32, 0.562_341_33].iter().flat_map(|x| x.to_le_bytes()).collect();
    let range = section.range.start as usize..section.range.end as usize;
    let at = file[range.clone()].windows(table.len()).position(|bytes| bytes == table).expect("the table");
    let mut other = file.clone();
    other[range.start + at + 5] ^= 1;
    assert!(recognised(&other, &tensors).unwrap().is_none());
}

/// A given bundle: equal constants cannot be told apart, and need not be as long as they stay equal.
#[test]
fn equal_weights_of_a_bundle_must_not_change() {
    let base = ones();
    let file = made(SAME, &base, "mixed48");
    let bundle = Bundle::read(&file).unwrap();
    let mapped = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
    let plan = |tuned: &MemoryTensors| {
        Transplant::plan(&bundle, &mapped, &base, tuned, &counterparts(&base, tuned), &|_| BundleTypes::Keep)
    };
    // other matrices, the same norms
    let tuned = checkpoint(|values, rows| {
        let row = values.len() / rows;
        *values =
            if row > 1 { values.chunks(row).rev().flatten().copied().collect() } else { vec![ONE; rows] };
    });
    assert!(plan(&tuned).is_ok());
    let error = plan(&base_checkpoint()).unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported);
    assert!(error.to_string().contains("uses its values for something else"), "{error}");
}
