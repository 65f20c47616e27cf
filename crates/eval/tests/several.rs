//! Several artifacts against one base: each has the bits that it has alone, the base is read once, and an artifact that cannot be
//! read does not keep the others from their figures.

use std::sync::atomic::{AtomicU64, Ordering};

use base::Part;
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
    sequences_of(4, 40)
}

fn sequences_of(count: u32, tokens: u32) -> Vec<Sequence> {
    let ids =
        |n: u32| (0..tokens).map(|at| if at == 0 { 2 } else { 300 + (at * 37 + n * 101) % 1500 }).collect();
    let scored: Vec<usize> = (tokens as usize / 2 + 1..tokens as usize).collect();
    (0..count).map(|n| Sequence { tokens: ids(n), scored: scored.clone(), media: Vec::new() }).collect()
}

/// The results of the short text, and the progress steps.
fn run(
    artifacts: &[&Model<'_>],
    base: Option<Base<'_>>,
    memory: u64,
    logits: Option<&mut LogitsWriter>,
) -> (Vec<Result<Vec<Token>>>, u64) {
    run_on(&sequences(), Part::default(), artifacts, base, memory, logits)
}

fn run_on(
    sequences: &[Sequence],
    part: Part,
    artifacts: &[&Model<'_>],
    base: Option<Base<'_>>,
    memory: u64,
    logits: Option<&mut LogitsWriter>,
) -> (Vec<Result<Vec<Token>>>, u64) {
    let steps = AtomicU64::new(0);
    let progress = |done| {
        steps.fetch_add(done, Ordering::Relaxed);
    };
    let soft_tokens = SoftTokens::default();
    let options = EvalOptions { memory, part, soft_tokens, logits, progress: &progress };
    let results = evaluate(artifacts, base, sequences, options).unwrap();
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
        assert_eq!(steps, eval::work(&[&config, &config], &sequences(), Part::default()));
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
    assert_eq!(steps, eval::work(&[&config, &config, &config], &sequences(), Part::default()));
    let together: Vec<_> = together.into_iter().map(Result::unwrap).collect();
    assert!(together[..] == alone[..], "the figures of an artifact depend on its company");

    let (none, _) = run(&[&fine, &coarse], None, 1 << 30, None);
    for (none, alone) in none.into_iter().map(Result::unwrap).zip(&alone) {
        let pairs = none.iter().zip(alone);
        assert!(pairs.clone().all(|(none, with)| none.nll == with.nll && none.against.is_none()));
    }

    // the logits that are written are the base's, and from their file each has what it has alone
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    let file = ::base::OutputFile::create(&path).unwrap();
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

#[test]
fn tokens_have_the_same_bits_with_any_memory_and_in_any_part() {
    let checkpoint = Checkpoint::open(testkit::fixtures("checkpoints/e2b")).unwrap();
    let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint).unwrap();
    let changed = Changed { checkpoint: &checkpoint, change: |bits| bits & !0x0f };
    let open =
        |source| Model::new(&config, Weights::new(source, &inventory, Compute::detect()).unwrap()).unwrap();
    let [base, artifact] = [&checkpoint as &dyn TensorSource, &changed].map(open);
    // batches of three sequences, the last of two
    let text = sequences_of(11, 300);
    let of = |part, memory| {
        let (mut results, steps) = run_on(&text, part, &[&artifact], Some(Base::Model(&base)), memory, None);
        assert_eq!(steps, eval::work(&[&config, &config], &text, part));
        results.remove(0).unwrap()
    };
    let whole = of(Part::default(), 1 << 30);
    assert_eq!(whole.len(), 11 * 149);
    assert!(of(Part::default(), 1) == whole, "little memory");
    for count in [2, 3, 7] {
        let parts = (1..=count).map(|number| of(Part::new(number, count).unwrap(), 1 << 30));
        assert!(parts.flatten().collect::<Vec<_>>() == whole, "{count} parts");
    }

    // a file of logits of the whole text, in parts
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    let file = ::base::OutputFile::create(&path).unwrap();
    let mut writer = LogitsWriter::new(file, &text, config.vocab).unwrap();
    run_on(&text, Part::default(), &[&artifact], Some(Base::Model(&base)), 1 << 30, Some(&mut writer));
    writer.finish().unwrap();
    let stored = LogitsFile::open(&path).unwrap();
    let of = |part| {
        let (mut results, _) = run_on(&text, part, &[&artifact], Some(Base::Logits(&stored)), 1 << 30, None);
        results.remove(0).unwrap()
    };
    let parts = [1, 2].map(|number| of(Part::new(number, 2).unwrap()));
    assert!(parts.concat() == of(Part::default()));
}
