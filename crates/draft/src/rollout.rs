//! Rollouts: greedy text of a target model, and the number of correct draft tokens at each position of it.
//!
//! A draft token is accepted if it equals the target's token. One rollout of the target alone therefore gives the
//! acceptance of every burst size. The draft model proposes tokens after each token as if a burst began there.

use std::collections::BTreeSet;
use std::time::Instant;

use generate::mask_suppressed;
use runtime::{DraftSession, Drafter, KvCache, Model, RowMajor, TargetState, argmax};
use tensor::Result;

use crate::LONGEST;

/// Number of timed passes of each size.
const TIMES: usize = 3;

/// The greedy text after a prompt, with times.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// For each token, the number of correct draft tokens after it up to the first wrong one: at most [`LONGEST`], and
    /// no more than the tokens that follow.
    pub right: Vec<usize>,
    /// Seconds of each step of the target.
    pub step_seconds: Vec<f64>,
    /// Seconds of each draft token.
    pub guess_seconds: Vec<f64>,
    /// Seconds of passes of the target over 2, 3, … `LONGEST + 1` tokens.
    pub pass_seconds: Vec<Vec<f64>>,
}

/// Stop conditions and suppressed tokens of a rollout.
#[derive(Clone, Copy, Debug)]
pub struct RolloutOptions<'a> {
    /// The most tokens to generate.
    pub most: usize,
    /// Tokens that end a text.
    pub end: &'a BTreeSet<u32>,
    /// Tokens that are never generated.
    pub suppressed: &'a [u32],
}

impl RolloutOptions<'_> {
    /// The most probable token that is not suppressed.
    fn choose(&self, logits: &[f32]) -> u32 {
        argmax(&mask_suppressed(self.suppressed, logits)) as u32
    }
}

/// Generates the greedy text of the target after a prompt, and the draft tokens at each position.
///
/// # Errors
/// `Io` for a source that cannot be read.
pub fn rollout(
    target: &Model<'_>,
    draft: &Drafter<'_>,
    prompt: &[u32],
    how: &RolloutOptions<'_>,
) -> Result<Rollout> {
    let config = target.config();
    let mut said = Rollout { pass_seconds: vec![Vec::new(); LONGEST], ..Rollout::default() };
    let mut cache = KvCache::new(config).with_rollback(LONGEST + 1);
    let mut hidden = target.norm(&target.forward_last(prompt, &mut cache)?)?;
    let mut token = how.choose(target.logits(&hidden, 0..config.vocab)?.row_values(0));
    let mut sequence = prompt.to_vec();
    let mut guesser = DraftSession::new(draft, LONGEST);
    let mut guesses: Vec<Vec<u32>> = Vec::new();
    while !how.end.contains(&token) && said.tokens.len() < how.most {
        said.tokens.push(token);
        sequence.push(token);
        let fits = (draft.context() as usize).saturating_sub(sequence.len());
        let count = LONGEST.min(how.most - said.tokens.len()).min(fits);
        let at = TargetState { target, cache: &cache, hidden: &hidden };
        let mut burst: Vec<u32> = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let logits = match burst.last() {
                None => guesser.first(&at, &sequence)?,
                Some(&guess) => guesser.next(&at, guess)?,
            };
            burst.push(how.choose(&logits));
            // the first draft token may include the prefill of the prompt
            if !guesses.is_empty() {
                said.guess_seconds.push(start.elapsed().as_secs_f64());
            }
        }
        guesses.push(burst);
        if said.tokens.len() == how.most {
            break;
        }
        let start = Instant::now();
        hidden = target.norm(&target.forward_last(&[token], &mut cache)?)?;
        token = how.choose(target.logits(&hidden, 0..config.vocab)?.row_values(0));
        said.step_seconds.push(start.elapsed().as_secs_f64());
    }
    let right = |(at, burst): (usize, &Vec<u32>)| {
        let follows = &said.tokens[at + 1..];
        burst.iter().zip(follows).take_while(|(guess, token)| guess == token).count()
    };
    said.right = guesses.iter().enumerate().map(right).collect();
    time_passes(target, &mut cache, &sequence, &mut said)?;
    Ok(said)
}

/// Times passes over the last tokens of the sequence, and rolls the cache back after each.
fn time_passes(target: &Model<'_>, cache: &mut KvCache, sequence: &[u32], said: &mut Rollout) -> Result<()> {
    let (config, len) = (target.config(), cache.len());
    let room = (config.context as usize).saturating_sub(len).min(sequence.len());
    for tokens in (2..=LONGEST + 1).filter(|&tokens| tokens <= room) {
        for _ in 0..TIMES {
            let start = Instant::now();
            for pass in sequence[sequence.len() - tokens..].chunks(quant::DOT_VECTORS) {
                let hidden = target.norm(&target.forward(pass, cache, |_, _| ())?)?;
                target.logits(&hidden, 0..config.vocab)?;
            }
            said.pass_seconds[tokens - 2].push(start.elapsed().as_secs_f64());
            cache.truncate(config, len)?;
        }
    }
    Ok(())
}
