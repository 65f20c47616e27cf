//! Table of the tokens that diverge most.

use eval::{DivergentToken, FirstGuess};

use super::number;
use super::tables::{Align, Cell, Grid, cell, exact};
use Align::{Left, Right};

/// The tokens with the largest KL divergence, with the text before them and both models' first guess.
pub(super) fn tokens(tokens: &[DivergentToken]) -> Grid {
    let row = |token: &DivergentToken| {
        vec![
            cell(format!("…{}", visible(&token.before))),
            piece(&token.next),
            guess(&token.base),
            guess(&token.artifact),
            exact(number::significant(token.kld), token.kld),
            cell(super::grouped(token.document as u64)),
        ]
    };
    Grid {
        head: vec![
            ("text", Left),
            ("next token", Left),
            ("base says", Left),
            ("artifact says", Left),
            ("KL (nats)", Right),
            ("document", Right),
        ],
        rows: tokens.iter().map(row).collect(),
    }
}

fn piece(text: &str) -> Cell {
    Cell { code: true, ..cell(visible(text)) }
}

/// A token with its probability: `the 41.20 %`.
fn guess(guess: &FirstGuess) -> Cell {
    Cell { note: Some(number::share(guess.p)), ..piece(&guess.text) }
}

/// Text with visible ends of lines, and spaces at its ends.
fn visible(text: &str) -> String {
    let text = number::plain(&text.replace("\r\n", "⏎").replace('\n', "⏎").replace('\t', "⇥"));
    let inner = text.trim_matches(' ');
    let at = text.find(inner).unwrap_or(0);
    let (before, after) = (at, text.len() - at - inner.len());
    format!("{}{inner}{}", "␣".repeat(before), "␣".repeat(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_visible() {
        let cases = [
            (" the", "␣the"),
            ("a\n\n", "a⏎⏎"),
            ("  ", "␣␣"),
            ("a b", "a b"),
            ("", ""),
            ("\u{1b}x", "\u{fffd}x"),
        ];
        for (text, shown) in cases {
            assert_eq!(visible(text), shown);
        }
    }
}
