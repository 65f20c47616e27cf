//! Draft models: transformers guesses the same; several tokens at a time, and taking some back, change no bit.

mod common;

use checkpoint::Checkpoint;
use common::{Folder, Golden, fixtures, max_difference};
use gemma::Config;
use runtime::{Assistant, Compute, KvCache, Matrix, Model, RowMajor, argmax};
use tensor::TensorSource;

/// What f32 sums in another order may do to a logit.
const LOGITS: f32 = 2e-3;

/// A draft model and the one that it drafts for.
struct Pair {
    target: Folder,
    draft: Checkpoint,
    config: Config,
}

impl Pair {
    fn open(name: &str) -> Pair {
        let draft = Checkpoint::open(fixtures().join(format!("checkpoints/{name}-assistant"))).unwrap();
        let config = Config::draft_from_json(draft.config()).unwrap();
        Pair { target: Folder::open(&format!("checkpoints/{name}")), draft, config }
    }

    fn drafter(&self) -> Assistant<'_> {
        let inventory =
            gemma::inventory(&self.config, self.draft.tensors(), &|_| "the fixture".into()).unwrap();
        let compute = Compute::detect();
        Assistant::new(&self.config, &self.draft, &inventory, &self.target.config, compute).unwrap()
    }
}

/// A prompt through the model: the cache, the normalised last hidden state, the likeliest next token.
fn read(model: &Model<'_>, prompt: &[u32], undo: usize) -> (KvCache, Matrix, u32) {
    let mut cache = KvCache::new(model.config()).with_rollback(undo);
    let hidden = model.forward_last(prompt, &mut cache).unwrap();
    let next = argmax(model.head(&hidden).unwrap().row_values(0)) as u32;
    (cache, model.norm(&hidden).unwrap(), next)
}

fn agrees(name: &str) {
    let pair = Pair::open(name);
    let golden = Golden::read(&format!("golden/transformers/{name}-assistant.transformers.safetensors"));
    let (drafter, vocab) = (pair.drafter(), pair.config.vocab as usize);
    for model in pair.target.models() {
        for prompt in ["short", "long"] {
            let (cache, mut hidden, mut token) = read(&model, &golden.ids(&format!("{prompt}.input_ids")), 0);
            assert_eq!([token], golden.ids(&format!("{prompt}.next"))[..]);
            let ids = golden.ids(&format!("{prompt}.draft_ids"));
            let logits = golden.floats(&format!("{prompt}.draft_logits"));
            assert_eq!(logits.len(), ids.len() * vocab);
            for (step, (id, expected)) in ids.iter().zip(logits.chunks(vocab)).enumerate() {
                let guess = drafter.guess(&model, &cache, token, &hidden).unwrap();
                let difference = max_difference(expected, &guess.logits);
                assert!(difference <= LOGITS, "{name} {prompt}: guess {step} differs by {difference}");
                (hidden, token) = (guess.hidden, argmax(&guess.logits) as u32);
                assert_eq!(token, *id, "{name} {prompt}: guess {step}");
            }
        }
    }
}

#[test]
fn transformers_guesses_the_same_with_an_ordered_embedding() {
    agrees("e2b");
}

#[test]
fn transformers_guesses_the_same_with_a_dense_head() {
    agrees("26b-a4b");
}

/// Tokens one by one, and in bursts of which a part is taken back: hidden states have the same bits, beyond the window of
/// sliding layers too.
#[test]
fn what_is_taken_back_leaves_no_trace() {
    for name in ["e2b", "26b-a4b", "31b"] {
        let folder = Folder::open(&format!("checkpoints/{name}"));
        let model = folder.model();
        let tokens = folder.tokens(60 + 48);
        let prompt = &tokens[..60];
        let (mut alone, _, _) = read(&model, prompt, 0);
        let steps: Vec<Matrix> =
            tokens[60..].iter().map(|&t| model.forward(&[t], &mut alone, |_, _| ()).unwrap()).collect();

        let (mut cache, _, _) = read(&model, prompt, 3);
        let mut at = 60;
        for kept in [4, 1, 3, 2, 4, 4, 1, 1, 2, 3, 4, 2, 1, 4, 3, 2, 4, 3] {
            // what is not kept is nonsense
            let mut burst = [7; 4];
            burst[..kept].copy_from_slice(&tokens[at..at + kept]);
            let hidden = model.forward(&burst, &mut cache, |_, _| ()).unwrap();
            for row in 0..kept {
                assert!(hidden.row(row) == steps[at - 60 + row].row(0), "{name}: position {}", at + row);
            }
            at += kept;
            cache.truncate(model.config(), at).unwrap();
            assert_eq!(cache.len(), at);
        }
        assert_eq!(at, tokens.len());
        let error = cache.truncate(model.config(), 20).unwrap_err();
        assert_eq!((error.fault(), cache.len()), (tensor::Fault::Limit, at));
    }
}

#[test]
fn a_drafter_of_another_model_is_refused() {
    let (e2b, moe) = (Pair::open("e2b"), Pair::open("26b-a4b"));
    let inventory = gemma::inventory(&e2b.config, e2b.draft.tensors(), &|_| "the fixture".into()).unwrap();
    let error = Assistant::new(&e2b.config, &e2b.draft, &inventory, &moe.target.config, Compute::detect())
        .err()
        .unwrap();
    assert_eq!(error.problem(), "key heads of sliding layers differs from the target's");
    let nothing = KvCache::new(&e2b.target.config);
    let hidden = Matrix::zeros((1, e2b.target.config.hidden as usize));
    let error = e2b.drafter().guess(&e2b.target.model(), &nothing, 2, &hidden).unwrap_err();
    assert_eq!(error.problem(), "there is nothing to look back to");
}
