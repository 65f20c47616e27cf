//! The tokens at which the artifact's prediction diverges most from the base's, as text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use text::{Sequence, Tokenizer};

use crate::{Against, Guess, Token};

/// The most tokens of the list.
const MOST: usize = 20;
/// Tokens of text before a token.
const BEFORE: usize = 24;

/// A scored token with a large KL divergence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DivergentToken {
    /// Index of the document.
    pub document: usize,
    /// Index among the scored tokens of all documents.
    pub token: u64,
    /// KL divergence in nats.
    pub kld: f64,
    /// The text before the token: up to 24 tokens.
    pub before: String,
    /// The token itself.
    pub next: String,
    /// The base's first guess.
    pub base: FirstGuess,
    /// The artifact's first guess.
    pub artifact: FirstGuess,
}

/// The most probable token of a prediction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FirstGuess {
    /// The token.
    pub text: String,
    /// Its probability.
    pub p: f64,
}

/// The tokens that diverge most, the largest divergence first. `tokens` are the scored tokens of these sequences, in order.
/// Empty without a base, and where both models predict the same.
pub fn divergent_tokens(
    tokens: &[Token],
    sequences: &[Sequence],
    tokenizer: &Tokenizer,
) -> Vec<DivergentToken> {
    let places = sequences.iter().flat_map(|s| s.scored.iter().map(move |&position| (s, position)));
    let mut worst: Vec<_> = tokens
        .iter()
        .zip(places)
        .zip(0u64..)
        .filter_map(|((token, place), index)| Some((token.against?, token.document, place, index)))
        .filter(|(against, ..)| against.kld > 0.0)
        .collect();
    // a stable sort: of equal divergences the first of the text is first
    worst.sort_by(|a, b| b.0.kld.total_cmp(&a.0.kld));
    worst.truncate(MOST);
    let guess = |guess: Guess| FirstGuess { text: tokenizer.decode(&[guess.token]), p: f64::from(guess.p) };
    let describe = |(against, document, (sequence, position), token): (Against, _, (&Sequence, usize), _)| {
        let before = &sequence.tokens[position.saturating_sub(BEFORE)..position];
        DivergentToken {
            document,
            token,
            kld: against.kld,
            before: tokenizer.decode(before.strip_prefix(&[tokenizer.bos()]).unwrap_or(before)),
            next: tokenizer.decode(&[sequence.tokens[position]]),
            base: guess(against.base_guess),
            artifact: guess(against.guess),
        }
    };
    worst.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use checkpoint::Checkpoint;

    use super::*;

    #[test]
    fn the_worst_tokens_come_with_their_text() {
        let folder = testkit::fixtures("checkpoints/e2b");
        let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(&folder).unwrap()).unwrap();
        let text = "The island lies in the north. It has two harbours and a lighthouse.";
        let tokens = tokenizer.encode(text, true, false).unwrap();
        let half = tokens.len() / 2;
        let sequence = |scored: Vec<usize>| Sequence { tokens: tokens.clone(), scored, media: Vec::new() };
        let sequences = [sequence((1..half).collect()), sequence((half..tokens.len()).collect())];
        let count = tokens.len() - 1;
        let token = |index: usize| Token {
            document: usize::from(index + 1 >= half),
            nll: 1.0,
            against: Some(Against {
                // the last but one is the worst; the first does not diverge
                kld: if index + 2 == count { 99.0 } else { index as f64 },
                guess: Guess { token: tokens[1], p: 0.25 },
                base_guess: Guess { token: tokenizer.bos(), p: 0.5 },
                ..Against::default()
            }),
        };
        let scored: Vec<Token> = (0..count).map(token).collect();
        let worst = divergent_tokens(&scored, &sequences, &tokenizer);
        assert_eq!(worst.len(), MOST.min(count - 1));
        assert!(worst.windows(2).all(|pair| pair[0].kld >= pair[1].kld));
        let first = &worst[0];
        assert_eq!((first.document, first.token, first.kld), (1, count as u64 - 2, 99.0));
        // what stands before the token and the token itself are the text up to there
        let end = tokens.len() - 1;
        let all = tokenizer.decode(&tokens[1..end]);
        let shown = format!("{}{}", first.before, first.next);
        assert!(all.ends_with(&shown) && first.before.len() > 10, "{shown:?} of {all:?}");
        assert_eq!(first.artifact, FirstGuess { text: tokenizer.decode(&tokens[1..2]), p: 0.25 });
        assert_eq!(first.base, FirstGuess { text: tokenizer.decode(&tokens[..1]), p: 0.5 });
        let alone = Token { against: None, ..scored[0] };
        assert_eq!(divergent_tokens(&[alone], &sequences, &tokenizer), []);
    }
}
