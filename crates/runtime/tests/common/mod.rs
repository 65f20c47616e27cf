//! Tiny checkpoints as models, and what transformers computed with them.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod media;

use std::path::PathBuf;

use checkpoint::Checkpoint;
use gemma::Config;
use ndarray::Axis;
use runtime::{Compute, Kernel, KvCache, Matrix, Model, RowMajor, Stage, Weights};
use safetensors::SafeTensors;
use tensor::{Result, TensorSource};

pub(crate) fn fixtures() -> PathBuf {
    testkit::fixtures("")
}

/// A checkpoint folder with its config and the roles of its tensors.
pub(crate) struct Folder {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: Config,
}

impl Folder {
    pub(crate) fn open(path: &str) -> Folder {
        let checkpoint = Checkpoint::open(fixtures().join(path)).unwrap();
        let config = Config::from_json(checkpoint.config()).unwrap();
        Folder { checkpoint, config }
    }

    pub(crate) fn model(&self) -> Model<'_> {
        self.model_over(&self.checkpoint).unwrap()
    }

    /// One model for each way to multiply that this machine has.
    pub(crate) fn models(&self) -> Vec<Model<'_>> {
        let kernels = testkit::available("kernel", [Kernel::F32, Kernel::AmxBf16], Kernel::is_available);
        let with = |kernel| {
            let compute = Compute { kernel, ..Compute::detect() };
            Model::new(&self.config, self.weights(&self.checkpoint, compute).unwrap()).unwrap()
        };
        kernels.into_iter().map(with).collect()
    }

    fn weights<'a>(&self, source: &'a dyn TensorSource, compute: Compute) -> Result<Weights<'a>> {
        let inventory = gemma::inventory(&self.config, source.tensors(), &|_| "the fixture".into()).unwrap();
        Weights::new(source, &inventory, compute)
    }

    /// The model with another source of the same tensors.
    pub(crate) fn model_over<'a>(&'a self, source: &'a dyn TensorSource) -> Result<Model<'a>> {
        Model::new(&self.config, self.weights(source, Compute::detect())?)
    }

    /// As many tokens as asked for, of those that text has.
    pub(crate) fn tokens(&self, count: usize) -> Vec<u32> {
        (0..count as u32)
            .map(|n| if n == 0 { 2 } else { (n * n * 7919 + n * 31) % (self.config.vocab as u32 - 16) })
            .collect()
    }
}

/// Logits of all tokens, in one pass.
pub(crate) fn logits(model: &Model<'_>, tokens: &[u32]) -> Matrix {
    let hidden = model.forward(tokens, &mut KvCache::new(model.config()), |_, _| ()).unwrap();
    model.head(&hidden).unwrap()
}

/// The tokens with the highest logits, one after the other.
pub(crate) fn greedy(model: &Model<'_>, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = KvCache::new(model.config());
    let mut tokens = prompt.to_vec();
    let mut next = 0;
    for _ in 0..count {
        let hidden = model.forward(&tokens[next..], &mut cache, |_, _| ()).unwrap();
        let last = model.head(&hidden.select(Axis(0), &[hidden.nrows() - 1])).unwrap();
        next = tokens.len();
        tokens.push(runtime::argmax(last.row_values(0)) as u32);
    }
    tokens
}

/// The last token's hidden state at each stage, and all tokens' hidden states at the end.
pub(crate) fn stages(model: &Model<'_>, tokens: &[u32]) -> (Vec<Vec<f32>>, Matrix) {
    let mut last = Vec::new();
    let mut see = |_: Stage, hidden: &Matrix| last.push(hidden.row(hidden.nrows() - 1).to_vec());
    let hidden = model.forward(tokens, &mut KvCache::new(model.config()), &mut see).unwrap();
    (last, hidden)
}

pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d <= max { max } else { d })
}

/// A file of tensors that transformers made.
pub(crate) struct Golden(pub(crate) Vec<u8>);

impl Golden {
    pub(crate) fn read(path: &str) -> Golden {
        Golden(std::fs::read(fixtures().join(path)).unwrap())
    }

    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap().data().as_chunks().0.to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).into_iter().map(u32::from_le_bytes).collect()
    }
}

/// Holds a model to what transformers computed for a prompt, in the layout of `fixtures/golden/transformers`.
pub(crate) fn check_prompt(model: &Model<'_>, golden: &Golden, prompt: &str, max_logit_difference: f32) {
    let ids = golden.ids(&format!("{prompt}.input_ids"));
    let (mut last, hidden) = stages(model, &ids);
    let normed = model.norm(&hidden).unwrap();
    // transformers shows the last state after the final norm
    *last.last_mut().unwrap() = normed.row(normed.nrows() - 1).to_vec();
    let expected = golden.floats(&format!("{prompt}.hidden_last"));
    let width = hidden.ncols();
    assert_eq!(expected.len(), last.len() * width, "{prompt}: stages");
    for (stage, (expected, found)) in expected.chunks(width).zip(&last).enumerate() {
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let difference = max_difference(expected, found);
        assert!(difference <= 1e-4 * largest, "{prompt}: stage {stage} differs by {difference} of {largest}");
    }
    let logits = model.head(&hidden).unwrap();
    let best: Vec<u32> =
        logits.outer_iter().map(|row| runtime::argmax(row.to_slice().unwrap()) as u32).collect();
    assert_eq!(best, golden.ids(&format!("{prompt}.argmax")), "{prompt}: argmax");
    let expected = golden.floats(&format!("{prompt}.logits"));
    let shown = &logits.values()[logits.len() - expected.len()..];
    let difference = max_difference(&expected, shown);
    assert!(difference <= max_logit_difference, "{prompt}: logits differ by {difference}");
}
