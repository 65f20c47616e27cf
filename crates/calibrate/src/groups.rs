//! Groups of layers that are quantized independently. Within a group each layer is quantized on the activations of the quantized
//! layers before it; the first one on those of the original model, as if no layer before it were quantized.
//!
//! The groups depend on the model and on what is quantized, and not on machines. A process that has some of them runs the original
//! model up to the first one: a pass of the text through a layer takes about a tenth of the time that quantizing the layer takes.

use std::ops::Range;

use crate::ldlq::QuantTarget;

/// Picoseconds to quantize a weight on one core, for a text of 16,384 tokens: E2B at its real size (docs/calibration.md). A wrong
/// figure makes parts of a job unequal, and nothing else.
const QUANTIZE: u64 = 2_500_000;

/// Picoseconds for the pass of such a text through a weight of the original model, at 120 GFLOP/s.
const PASS: u64 = 270_000;

/// Consecutive layers that are quantized one after the other. The head belongs to the first group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// The layers.
    pub layers: Range<usize>,
    /// Predicted time on one core in picoseconds, for a process that has this group alone.
    pub picoseconds: u64,
}

impl LayerGroup {
    /// Whether a tensor of this layer is quantized with the group; the head has the number after the last layer.
    pub fn has(&self, layer: usize, layers: usize) -> bool {
        self.layers.contains(&if layer == layers { 0 } else { layer })
    }
}

/// Cuts the layers of a model into groups with about as many weights to quantize each. There are as many as `count` says, which is
/// between 1 and `layers`.
pub fn layer_groups(targets: &[QuantTarget], layers: usize, count: usize) -> Vec<LayerGroup> {
    let weights = |layer: usize| -> u64 {
        targets.iter().filter(|target| target.layer == layer).map(|target| target.desc.elements()).sum()
    };
    let head = weights(layers);
    // weights before each layer, and all of them
    let before: Vec<u64> =
        (0..layers).scan(head, |sum, layer| Some(std::mem::replace(sum, *sum + weights(layer)))).collect();
    let all = head + (0..layers).map(weights).sum::<u64>();
    let mut starts = vec![0];
    for number in 1..count {
        let share = (u128::from(all) * number as u128 / count as u128) as u64;
        let least = starts[number - 1] + 1;
        // a layer for each group that follows
        starts.push(before.partition_point(|&before| before < share).clamp(least, layers - (count - number)));
    }
    let ends = starts.iter().skip(1).copied().chain([layers]);
    let group = |(&start, end): (&usize, usize)| {
        let passed = match start {
            // the head is quantized on the last hidden states
            0 if head > 0 => all - head,
            _ => before[start] - head,
        };
        let own = before.get(end).unwrap_or(&all) - if start == 0 { 0 } else { before[start] };
        let picoseconds = own.saturating_mul(QUANTIZE).saturating_add(passed.saturating_mul(PASS));
        LayerGroup { layers: start..end, picoseconds }
    };
    starts.iter().zip(ends).map(group).collect()
}

#[cfg(test)]
mod tests {
    use tensor::{DType, TensorDesc};

    use super::*;

    fn targets(rows: &[u64]) -> Vec<QuantTarget> {
        let target = |(layer, &rows): (usize, &u64)| QuantTarget {
            role: "ffn_up",
            layer,
            desc: TensorDesc::new(format!("blk.{layer}.ffn_up.weight"), DType::Q4_0, [rows, 32]).unwrap(),
            keeps_grid: false,
        };
        rows.iter().enumerate().map(target).collect()
    }

    fn cut(targets: &[QuantTarget], layers: usize, count: usize) -> Vec<Range<usize>> {
        layer_groups(targets, layers, count).into_iter().map(|group| group.layers).collect()
    }

    #[test]
    fn groups_have_as_many_weights_each() {
        assert_eq!(cut(&targets(&[1; 8]), 8, 4), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(cut(&targets(&[1, 1, 1, 1, 2, 2]), 6, 2), [0..4, 4..6]);
        // the head is of the first group, and costs a pass through all layers
        let with_head = targets(&[1, 1, 1, 1, 2]);
        assert_eq!(cut(&with_head, 4, 2), [0..1, 1..4]);
        let groups = layer_groups(&with_head, 4, 2);
        assert_eq!(groups[0].picoseconds, 32 * (3 * QUANTIZE + 4 * PASS));
        assert_eq!(groups[1].picoseconds, 32 * (3 * QUANTIZE + PASS));
        assert!(groups[0].has(4, 4) && !groups[1].has(4, 4) && groups[1].has(3, 4));
    }

    #[test]
    fn each_group_has_a_layer() {
        for rows in [&[9, 1, 1, 1][..], &[1, 1, 1, 9], &[0, 0, 0, 0], &[1, 1, 1, 1, 50]] {
            for count in 1..=4 {
                let groups = cut(&targets(rows), 4, count);
                assert_eq!(groups.len(), count);
                assert!(groups.iter().all(|group| !group.is_empty()), "{rows:?}: {groups:?}");
                assert!(groups.into_iter().flatten().eq(0..4));
            }
        }
    }
}
