//! Several artifacts against one base: each has the bits that it has alone, the base is read once, and an artifact that cannot be
//! read does not keep the others from their figures.

use std::sync::atomic::{AtomicU64, Ordering};

use checkpoint::Checkpoint;
use eval::{Base, EvalOptions, LogitsFile, LogitsWriter, SoftTokens, Token, evaluate};
use gemma::ModelSpec;
use runtime::{Compute, Model, Weights};
use tensor::{Result, TensorDesc, TensorSource};
use text::Sequence;

/// A checkpoint with changed weights, in BF16.
struct Changed<'c> {
    checkpoint: &'c Checkpoint,
    change: fn(u16) -> u16,
}

impl TensorSource for Changed<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        self.checkpoint.tensors()
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        self.checkpoint.read_rows(index, first, out)?;
        for pair in out.as_chunks_mut::<2>().0 {
            *pair = (self.change)(u16::from_le_bytes(*pair)).to_le_bytes();
        }
        Ok(())
    }
}

/// Four sequences with reproducible tokens, of which the second half is scored.
fn sequences() -> Vec<Sequence> {
    let tokens =
        |n: u32| (0..40).map(|at| if at == 0 { 2 } else { 300 + (at * 37 + n * 101) % 1500 }).collect();
    (0..4).map(|n| Sequence { tokens: tokens(n), scored: (21..40).collect(), media: Vec::new() }).collect()
}

/// The results, and the progress steps.
fn run(
    artifacts: &[&Model<'_>],
    base: Option<Base<'_>>,
    memory: u64,
    logits: Option<&mut LogitsWriter>,
) -> (Vec<Result<Vec<Token>>>, u64) {
    let steps = AtomicU64::new(0);
    let progress = |done| {
        steps.fetch_add(done, Ordering::Relaxed);
    };
    let options = EvalOptions { memory, soft_tokens: SoftTokens::default(), logits, progress: &progress };
    let results = evaluate(artifacts, base, &sequences(), options).unwrap();
    (results, steps.into_inner())
}

#[test]
fn each_artifact_has_the_bits_that_it_has_alone() {
    let checkpoint = Checkpoint::open(testkit::fixtures("checkpoints/e2b")).unwrap();
    let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint).unwrap();
    let compute = Compute::detect();
    let open = |source| Model::new(&config, Weights::new(source, &inventory, compute).unwrap()).unwrap();
    let changed = |change| Changed { checkpoint: &checkpoint, change };
    let [fine, coarse] = [changed(|bits| bits & !0x0f), changed(|bits| bits & !0x7f)];
    let [base, fine, coarse] = [&checkpoint as &dyn TensorSource, &fine, &coarse].map(open);

    let alone = [&fine, &coarse].map(|model| {
        let (mut results, steps) = run(&[model], Some(Base::Model(&base)), 1 << 30, None);
        assert_eq!(steps, eval::work(&[&config, &config], &sequences()));
        results.remove(0).unwrap()
    });
    let mean =
        |tokens: &[Token]| tokens.iter().map(|t| t.against.unwrap().kld).sum::<f64>() / tokens.len() as f64;
    assert!(
        mean(&alone[0]) > 0.0 && mean(&alone[1]) > 2.0 * mean(&alone[0]),
        "{} {}",
        mean(&alone[0]),
        mean(&alone[1])
    );

    // three passes, not four: the base is read once
    let (together, steps) = run(&[&fine, &coarse], Some(Base::Model(&base)), 1 << 30, None);
    assert_eq!(steps, eval::work(&[&config, &config, &config], &sequences()));
    let together: Vec<_> = together.into_iter().map(Result::unwrap).collect();
    assert!(together[..] == alone[..], "the figures of an artifact depend on its company");

    // so little memory that each sequence is read by itself; without a base
    let (little, _) = run(&[&fine, &coarse], Some(Base::Model(&base)), 1, None);
    for (little, alone) in little.into_iter().map(Result::unwrap).zip(&alone) {
        assert_eq!(little.len(), alone.len());
        assert!((mean(&little) - mean(alone)).abs() < 1e-4 * mean(alone));
    }
    let (none, _) = run(&[&fine, &coarse], None, 1 << 30, None);
    for (none, alone) in none.into_iter().map(Result::unwrap).zip(&alone) {
        let pairs = none.iter().zip(alone);
        assert!(pairs.clone().all(|(none, with)| none.nll == with.nll && none.against.is_none()));
    }

    // the logits that are written are the base's, and from their file each has what it has alone
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    let file = base::OutputFile::create(&path).unwrap();
    let mut writer = LogitsWriter::new(file, &sequences(), config.vocab).unwrap();
    run(&[&fine, &coarse], Some(Base::Model(&base)), 1 << 30, Some(&mut writer));
    writer.finish().unwrap();
    let stored = LogitsFile::open(&path).unwrap();
    let of_file = |models: &[&Model<'_>]| {
        let (results, _) = run(models, Some(Base::Logits(&stored)), 1 << 30, None);
        results.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let both = of_file(&[&fine, &coarse]);
    assert!(both == [of_file(&[&fine]), of_file(&[&coarse])].concat());
    for (stored, alone) in both.iter().zip(&alone) {
        assert!((mean(stored) - mean(alone)).abs() < 1e-2 * mean(alone), "{} {}", mean(stored), mean(alone));
    }

    // weights that are no numbers: an error in the place of the artifact
    let nan = changed(|_| 0x7fc0);
    let (mut results, _) = run(&[&open(&nan), &coarse], Some(Base::Model(&base)), 1 << 30, None);
    assert!(results.remove(1).unwrap() == alone[1]);
    assert!(results.remove(0).unwrap_err().to_string().contains("not finite"));
}
