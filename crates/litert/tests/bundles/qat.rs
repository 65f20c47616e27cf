//! Bundles and checkpoints of another rounding than min-max, as those of quantization-aware training.

use std::cell::RefCell;
use std::collections::BTreeSet;

use base::{OutputFile, Silent};
use litert::{Bundle, BundleScales, BundleTypes, Mapped, Model, StoredConstant, Transplant};
use quant::{IntegerScales, Simd};
use tensor::TensorSource;
use testkit::{MemoryTensors, SplitMix64};

use crate::common::{base_checkpoint, bundle, checkpoint, counterparts, names, wanted};

/// A model, a buffer and the name of its tensor.
fn found(bundle: &Bundle, mapped: &[Mapped], base: &MemoryTensors) -> BTreeSet<(String, usize, String)> {
    let names = names(base);
    let of = |mapped: &Mapped| {
        let title = bundle.sections[mapped.section].title();
        let one =
            |tensors: &[usize]| tensors.iter().map(|n| names[*n].clone()).collect::<Vec<_>>().join(", ");
        let pairs =
            mapped.assignments.iter().map(move |a| (title.clone(), a.constant.buffer, one(&a.tensors)));
        pairs.collect::<Vec<_>>()
    };
    mapped.iter().flat_map(of).collect()
}

/// Matrices that differ by 25 % from those of the bundle, in every type: the same constants are found, those of matrices by correlation.
#[test]
fn constants_of_another_rounding_are_found_by_correlation() {
    for recipe in ["wi2", "mixed48", "mixed48_b32", "wi8"] {
        let file = bundle(recipe);
        let bundle = Bundle::read(&file).unwrap();
        let base = base_checkpoint();
        let exact = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
        let random = RefCell::new(SplitMix64(3));
        let near = checkpoint(|values, rows| {
            if values.len() > rows {
                for value in values.iter_mut() {
                    let x = f32::from_bits(u32::from(u16::from_le_bytes(*value)) << 16);
                    let x = x * (1.0 + 0.25 * random.borrow_mut().normal());
                    *value = ((x.to_bits() >> 16) as u16).to_le_bytes();
                }
            }
        });
        let mapped = litert::map(&bundle, &file, &near, &wanted(&near)).unwrap();
        assert_eq!(found(&bundle, &mapped, &near), found(&bundle, &exact, &base), "{recipe}");
        for assignment in mapped.iter().flat_map(|mapped| &mapped.assignments) {
            let is_matrix = near.tensors()[assignment.tensors[0]].shape.len() == 2;
            assert_eq!(assignment.is_equal, !is_matrix, "{recipe}: {}", assignment.constant.title());
        }
    }
}

/// A checkpoint in f32 whose rows are codes of four bits, from −8 on, times a scale: the decoded constants are its values.
#[test]
fn a_checkpoint_of_codes_and_scales_keeps_them() {
    let (file, base) = (bundle("mixed48"), base_checkpoint());
    let bundle = Bundle::read(&file).unwrap();
    let mapped = litert::map(&bundle, &file, &base, &wanted(&base)).unwrap();
    let mut random = SplitMix64(5);
    let mut qat = MemoryTensors::new();
    for desc in base.tensors() {
        let row = |_: u64| {
            let scale = 0.01 + 0.02 * random.unit() as f32;
            (0..desc.cols()).map(|_| (random.below(16) as f32 - 8.0) * scale).collect::<Vec<_>>()
        };
        let values: Vec<f32> = (0..desc.rows()).flat_map(row).collect();
        qat.add_f32(&desc.name, &desc.shape, &values);
    }
    let types = &|_| BundleTypes::Keep;
    let plan = Transplant::plan(&bundle, &mapped, &base, &qat, &counterparts(&base, &qat), types).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qat.litertlm");
    let out = OutputFile::create(&path).unwrap();
    plan.write(&file, &qat, &BundleScales::MinMax, &out, &Silent).unwrap();
    out.publish().unwrap();
    let made = std::fs::read(path).unwrap();
    let mut compared = 0;
    for Mapped { section, assignments, .. } in &mapped {
        let part = bundle.part(&made, &bundle.sections[*section]).unwrap();
        let model = Model::read(&part).unwrap();
        for assignment in assignments {
            let index = assignment.tensors[0];
            let rows = assignment.constant.rows;
            let values = quant::decode_rows(Simd::detect(), &qat, index, 0..rows).unwrap();
            let stored = StoredConstant::new(&model, &part, &assignment.constant).unwrap();
            assert!(stored.values(0, rows).unwrap() == values, "{}", qat.tensors()[index].name);
            assert_eq!(stored.differing(0, &values, IntegerScales::MinMax).unwrap(), 0);
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}
