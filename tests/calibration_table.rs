//! Importance of the per-layer table is what an error in a column of it does to the residual stream: held against models
//! whose table has such an error.

use crate::support::{convert, fixture};
use calibrate::{CalibrationTokens, importance};
use gemma::{Config, gguf_inventory};
use gguf::GgufSet;
use runtime::{Compute, KvCache, Matrix, Model, Stage, Weights};
use tensor::{Result, TensorDesc, TensorSource};

/// A model in f32 whose per-layer table has an error in one column.
struct Wrong<'a> {
    model: &'a GgufSet,
    table: usize,
    column: usize,
    error: f32,
}

impl TensorSource for Wrong<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        self.model.tensors()
    }

    fn read_rows(&self, tensor: usize, first: u64, out: &mut [u8]) -> Result<()> {
        self.model.read_rows(tensor, first, out)?;
        if tensor == self.table {
            for row in out.chunks_exact_mut(self.tensors()[tensor].row_bytes() as usize) {
                let value: &mut [u8; 4] = row[4 * self.column..].first_chunk_mut().unwrap();
                *value = (f32::from_le_bytes(*value) + self.error).to_le_bytes();
            }
        }
        Ok(())
    }
}

fn square(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|x| f64::from(x).powi(2)).sum()
}

#[test]
fn an_error_moves_the_residual_stream_by_the_importance_of_its_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f32.gguf");
    convert(&fixture("e2b"), &path, &["--type", "f32"]).good();
    let file = GgufSet::open(&path).unwrap();
    let config = Config::from_metadata(file.metadata(), file.tensors()).unwrap();
    let inventory = gguf_inventory(&config, file.tensors()).unwrap();
    let tokens: Vec<u32> =
        (0..100).map(|n| if n == 0 { 2 } else { 300 + (n * n * 37 + n * 11) % 1700 }).collect();

    let model = Model::new(&config, Weights::new(&file, &inventory, Compute::detect()).unwrap()).unwrap();
    let text = CalibrationTokens {
        sequences: std::slice::from_ref(&tokens),
        names: Vec::new(),
        memory: u64::MAX,
        compute: Compute::detect(),
        progress: &|_| (),
    };
    let found = importance(&model, &inventory, &text).unwrap();
    let sums = found.get("per_layer_token_embd.weight").unwrap().sums();

    let table = file.tensors().iter().position(|t| t.name == "per_layer_token_embd.weight").unwrap();
    let after = |layer: usize, column: usize, error: f32| {
        let wrong = Wrong { model: &file, table, column, error };
        let model =
            Model::new(&config, Weights::new(&wrong, &inventory, Compute::detect()).unwrap()).unwrap();
        let mut seen = Matrix::zeros((0, 0));
        let see = |stage, hidden: &Matrix| {
            if stage == Stage::Layer(layer) {
                seen = hidden.clone();
            }
        };
        model.forward(&tokens, &mut KvCache::new(&config), see).unwrap();
        seen
    };
    let ple = config.ple as usize;
    for layer in [0, 5] {
        let weights = Weights::new(&file, &inventory, Compute::detect()).unwrap();
        let scale = weights.layer(layer).get("layer_output_scale").unwrap().vector().unwrap()[0];
        let sums = &sums[layer * ple..][..ple];
        for at in (0..ple).step_by(3) {
            // both ways, so that what is not of first order goes away
            const ERROR: f32 = 1e-3;
            let [more, less] = [ERROR, -ERROR].map(|error| after(layer, layer * ple + at, error));
            let moved = square(more.iter().zip(&less).map(|(a, b)| (a - b) / (2.0 * ERROR * scale)));
            let ratio = moved / f64::from(sums[at]);
            // the norm takes up to a tenth away
            assert!((0.88..1.04).contains(&ratio), "layer {layer}, column {at}: {ratio} of {}", sums[at]);
        }
    }
}
