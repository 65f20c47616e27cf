//! The commands of a card that run its files.

use std::fmt::Write;

use crate::hub_files::HubRole;
use crate::ollama::{REQUIRES, REQUIRES_FOR_DRAFTS};

use super::{Card, CardFile};

/// The version of llama.cpp that the tests of this program run, see docs/clients.md.
const TESTED_LLAMA_CPP: &str = "the one of llama-cpp-python 0.3.36";
/// Room for the largest image, 1,120 soft tokens, which llama.cpp computes at once.
const IMAGE_BATCH: &str = " --ubatch-size 1120";
/// Browsers load files of at most 2 GB.
const MOST_IN_BROWSERS: u64 = 2_000_000_000;

pub(super) fn usage(card: &Card, text: &mut String) {
    let Some(model) = recommended(card) else { return };
    let (repository, tag) = (&card.repository, &model.label);
    let has = |role| card.of(role).next().is_some();
    let _ = write!(
        text,
        "## Use\n\n**llama.cpp**, any version with the architecture `gemma4` (tested: {TESTED_LLAMA_CPP}):\n\n```sh\n"
    );
    let (batch, towers) = match has(HubRole::Mmproj) {
        true => (
            if card.model.image_is_one_batch { IMAGE_BATCH } else { "" },
            "   # with the mmproj file, which is found",
        ),
        false => ("", ""),
    };
    let _ = writeln!(text, "llama-server -hf {repository}:{tag}{batch}{towers}");
    if has(HubRole::Draft) {
        let _ = writeln!(
            text,
            "llama-server -hf {repository}:{tag}{batch} --spec-type draft-mtp   # with the draft model"
        );
    }
    text.push_str("```\n\n");
    if model.parts == 1 {
        let _ = write!(
            text,
            "**Ollama** {REQUIRES} and later:\n\n```sh\nollama run hf.co/{repository}:{tag}\n```\n\n"
        );
        let _ = write!(
            text,
            "That way Ollama has no switch for thinking and no draft model. `gemma-convert` puts downloaded files with both into its \
             store (with a draft model, Ollama {REQUIRES_FOR_DRAFTS} and later):\n\n```sh\nhf download {repository} --local-dir model\n\
             gemma-convert pack ollama model --name {}:{}\n```\n\n",
            card.model.name.to_lowercase(),
            tag.to_lowercase(),
        );
        let _ = write!(text, "**LM Studio**:\n\n```sh\nlms get {repository}@{}\n```\n\n", tag.to_lowercase());
    }
    if let Some(small) =
        card.of(HubRole::Model).find(|file| file.bytes / file.parts as u64 <= MOST_IN_BROWSERS)
    {
        let _ = write!(
            text,
            "**Browsers**, with [wllama](https://github.com/ngxson/wllama):\n\n```js\nawait wllama.loadModelFromUrl(\n  \
             'https://huggingface.co/{repository}/resolve/main/{}'\n)\n```\n\n",
            small.path.replace(' ', "%20"),
        );
    }
}

/// The text model of the commands: what llama.cpp takes without a tag (Q4_K_M, then Q8_0, then the first).
fn recommended(card: &Card) -> Option<&CardFile> {
    let labelled = |label: &str| card.of(HubRole::Model).find(|file| file.label.eq_ignore_ascii_case(label));
    labelled("Q4_K_M").or_else(|| labelled("Q8_0")).or_else(|| card.of(HubRole::Model).next())
}
