//! The terms of the page: each explained in one line, with a link to its definition.

use super::tables::{Cell, cell};

/// A term with its explanation.
pub(super) struct Term {
    /// One sentence.
    pub(super) meaning: &'static str,
    /// The definition.
    pub(super) link: &'static str,
}

impl Term {
    /// The explanation as a cell of a table.
    pub(super) fn cell(&self) -> Cell {
        Cell { link: Some(self.link), ..cell(self.meaning) }
    }
}

const DIVERGENCE: &str = "https://en.wikipedia.org/wiki/Kullback%E2%80%93Leibler_divergence";
const OF_TEXT: &str = "https://en.wikipedia.org/wiki/Perplexity";
/// llama.cpp's own explanation of what its perplexity tool prints.
const LLAMA_PERPLEXITY: &str = "https://github.com/ggml-org/llama.cpp/blob/master/tools/perplexity/README.md";
const SPECULATIVE: &str = "https://arxiv.org/abs/2211.17192";

pub(super) const KLD: Term =
    term("Distance of the predictions from the base's, in nats per token; an exact copy has 0.", DIVERGENCE);
pub(super) const MEDIAN: Term = term("Half of the tokens diverge less.", DIVERGENCE);
pub(super) const P99: Term = term("99 % of the tokens diverge less.", DIVERGENCE);
pub(super) const P999: Term = term("99.9 % of the tokens diverge less.", DIVERGENCE);
pub(super) const LARGEST: Term = term("The token that diverges most.", DIVERGENCE);
pub(super) const TOP1: Term =
    term("Share of tokens at which both models have the same most probable token.", LLAMA_PERPLEXITY);
pub(super) const RATIO: Term =
    term("Perplexity of the artifact, divided by the base's; an exact copy has 1.", OF_TEXT);
pub(super) const PERPLEXITY: Term =
    term("Among how many equally likely tokens the model would have to guess; less is better.", OF_TEXT);
pub(super) const DELTA_P: Term =
    term("Change of the probability of the token that follows; negative is worse.", LLAMA_PERPLEXITY);
pub(super) const DELTA_P_RMS: Term =
    term("Typical change of that probability, in either direction.", LLAMA_PERPLEXITY);
pub(super) const FEATURES: Term = term(
    "Difference of an image's or a sound's soft tokens from the base's, relative to them; the largest of all files.",
    "https://en.wikipedia.org/wiki/Root_mean_square_deviation",
);
pub(super) const SIZE: Term = term(
    "All files of weights; bits per weight are those of the text model's tensors.",
    "https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md",
);
pub(super) const SIZE_OF_ROLE: Term = term(
    "Bytes of all tensors of a role in the base and in the artifact, with the artifact's type.",
    "https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md",
);
pub(super) const INTERVAL: Term = term(
    "95 % interval: where the figure would lie with other texts of this kind, by bootstrap over documents.",
    "https://en.wikipedia.org/wiki/Bootstrapping_(statistics)",
);
pub(super) const RELATIVE_ERROR: Term = term(
    "Relative error of a tensor: √(Σ(y − x)² / Σx²), with x the weights of the base; an exact copy has 0.",
    "https://en.wikipedia.org/wiki/Approximation_error",
);
pub(super) const SPEED_UP: Term = term(
    "Time of the target alone, divided by the time with the draft model; below 1 the draft model costs time.",
    SPECULATIVE,
);
pub(super) const ACCEPTANCE: Term =
    term("Probability that the target accepts a token that is drawn from the draft model.", SPECULATIVE);
pub(super) const SAME_TOKEN: Term = term(
    "Share of tokens of the text at which draft model and target have the same most probable token.",
    SPECULATIVE,
);
pub(super) const COST: Term = term("Time of a draft token, relative to a step of the target.", SPECULATIVE);

const fn term(meaning: &'static str, link: &'static str) -> Term {
    Term { meaning, link }
}
