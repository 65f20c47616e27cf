//! The step of a verification that predicts a text: perplexity and KL divergence.

use std::path::PathBuf;

use base::{OutputFile, Progress, Unit};
use eval::{Base, EvalOptions, EvaluatedText, LogitsFile, LogitsWriter};
use tensor::{Error, Result};
use text::{Corpus, Cut};
use verify::{Finding, Report, Severity, Step};

use super::verification::{Against, Verify};
use crate::conversation_media::ConversationMedia;
use crate::model::Model;

impl Verify {
    /// Evaluates both models on the text.
    pub(super) fn text_step(
        &self,
        artifact: &Model,
        against: Option<&Against>,
        logits: Option<OutputFile>,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let base_of_models = match against {
            Some(Against::Model(base)) => Some(&**base),
            _ => None,
        };
        let mut media = ConversationMedia::new(
            (artifact, base_of_models),
            self.mmproj.as_deref(),
            self.compute,
            self.text_memory,
        );
        // the base's tokenizer is right; the structure step reports differences
        let reader = base_of_models.unwrap_or(artifact);
        let mut corpus = match against {
            Some(Against::Logits(file)) if self.texts.is_empty() => of_logits(file, &self.base, reader),
            _ => {
                let cut = Cut {
                    context: self.context,
                    most: self.chunks.as_ref().map(|chunks| chunks.0.end),
                    scored: self.scored,
                };
                Corpus::read_with_media(&self.texts, &reader.reader(), &cut, &mut |file| {
                    let _task = progress.begin(&file.path().display().to_string(), 1, Unit::Steps);
                    media.encode(file)
                })?
            }
        };
        corpus.skip(self.chunks.as_ref().map_or(0, |chunks| chunks.0.start))?;
        self.remark(&media, report)?;
        report.text = Some(EvaluatedText::of(&corpus));
        report.findings.extend(corpus.remarks.into_iter().map(Finding::from));
        let sequences = corpus.sequences;
        if let Some(Against::Logits(file)) = against
            && file.sequences(reader.tokenizer.bos()) != sequences
        {
            return Err(Error::malformed(
                "‹against›",
                "these logits are of another text, or of other chunks of it",
            )
            .expected("the same chunks of tokens", "others")
            .help("Leave ‹text› out: the file has the tokens."));
        }

        let model = artifact.runtime()?;
        let base_model = base_of_models.map(Model::runtime).transpose()?;
        let base = match (against, &base_model) {
            (Some(Against::Logits(file)), _) => Some(Base::Logits(file)),
            (_, base) => base.as_ref().map(Base::Model),
        };
        let mut writer =
            logits.map(|file| LogitsWriter::new(file, &sequences, artifact.config().vocab)).transpose()?;
        let configs: Vec<_> =
            std::iter::once(&model).chain(&base_model).map(runtime::Model::config).collect();
        let task = progress.begin("perplexity", eval::work(&configs, &sequences), Unit::Steps);
        let options = EvalOptions {
            memory: self.text_memory,
            soft_tokens: media.soft_tokens(),
            logits: writer.as_mut(),
            progress: &|done| task.advance(done),
        };
        let tokens = eval::evaluate(&model, base, &sequences, options)?;
        if let Some(figures) = eval::summarise(&tokens) {
            report.add(figures, tokens.len() as u64);
        }
        if let Some(text) = &mut report.text {
            text.worst = eval::divergent_tokens(&tokens, &sequences, &reader.tokenizer);
        }
        writer.map_or(Ok(()), LogitsWriter::finish)
    }

    /// Says how images and sounds were read.
    fn remark(&self, media: &ConversationMedia<'_>, report: &mut Report) -> Result<()> {
        let Some((way, doubt)) = media.remarks()? else {
            return match &self.mmproj {
                None => Ok(()),
                Some(_) => {
                    Err(Error::recipe("‹mmproj›", "has no effect: no conversation names an image or a sound"))
                }
            };
        };
        report.findings.push(Finding::new(Severity::Note, Step::Text, "soft tokens", way));
        let place = self.mmproj.as_deref().unwrap_or(&self.artifact).display().to_string();
        let doubt = doubt.map(|doubt| Finding::new(Severity::Warning, Step::Text, place, doubt));
        report.findings.extend(doubt);
        Ok(())
    }
}

/// The text in a file of logits.
fn of_logits(file: &LogitsFile, path: &Option<PathBuf>, reader: &Model) -> Corpus {
    Corpus {
        sequences: file.sequences(reader.tokenizer.bos()),
        files: path.iter().map(|path| path.display().to_string()).collect(),
        context: file.context(),
        ..Corpus::default()
    }
}
