//! The step of a verification that predicts a text: perplexity and KL divergence. The base reads the text once for all artifacts.

use std::path::PathBuf;
use std::time::Instant;

use base::{OutputFile, Part, Progress, Unit};
use eval::{Base, EvalOptions, EvaluatedText, LogitsFile, LogitsWriter};
use tensor::{Error, Result};
use text::{Corpus, Cut};
use verify::{Finding, Severity, Step};

use super::Verify;
use super::against::Against;
use super::model_info::hashed_files;
use super::verification_steps::Verification;
use crate::conversation_media::ConversationMedia;
use crate::model::Model;

/// An artifact in the text step.
type Reading<'r, 'b> = (&'r mut Verification<'b>, &'r Model);

impl Verify {
    /// Evaluates the artifacts and the base on the text. Artifacts that read the same tokens are evaluated together.
    pub(super) fn text_step(
        &self,
        all: &mut [&mut Verification<'_>],
        mut logits: Option<OutputFile>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut opened: Vec<_> =
            all.iter_mut().filter_map(|one| one.predicting().map(|model| (one, model))).collect();
        // once for all artifacts: an mmproj file may be large
        let inputs = match opened.is_empty() {
            true => Vec::new(),
            false => hashed_files(self.mmproj.iter().chain(&self.texts).map(PathBuf::as_path))?,
        };
        let mut rest: Vec<_> = opened.iter_mut().map(|(one, model)| (&mut ***one, &*model)).collect();
        while let Some((first, artifact)) = rest.first() {
            let start = Instant::now();
            let (against, artifact) = (first.against, *artifact);
            let models = (artifact, against.and_then(Against::model));
            let mut media =
                ConversationMedia::new(models, self.mmproj.as_deref(), self.compute, self.text_memory);
            let corpus = self.corpus(artifact, against, &mut media, progress)?;
            if media.is_used() && first.measuring.is_in_parts() {
                return Err(Error::unsupported(
                    "‹text›",
                    "conversations with images and sounds are read by one process",
                )
                .help("Leave ‹part› and ‹join› out."));
            }
            let bos = artifact.tokenizer.bos();
            let shares = |(one, model): &Reading<'_, '_>| match (against, one.against) {
                (Some(base), Some(other)) if std::ptr::eq(base, other) => match base {
                    // without an mmproj file each folder has soft tokens of its own
                    Against::Model(_) => self.mmproj.is_some() || !media.is_used(),
                    Against::Logits(_) => self.texts.is_empty() && model.tokenizer.bos() == bos,
                    Against::Mmproj(_) => false,
                },
                _ => false,
            };
            let mut number = 0..;
            let (mut group, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|one| number.next() == Some(0) || shares(one));
            rest = others;
            self.evaluate(&mut group, against, &corpus, &media, logits.take(), progress)?;
            for (one, _) in group {
                one.report.run.files.extend(inputs.iter().cloned());
                one.report.seconds.insert("text".to_owned(), start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    /// The text, in tokens of the base. The structure step reports differences of the artifact's tokenizer.
    fn corpus(
        &self,
        artifact: &Model,
        against: Option<&Against>,
        media: &mut ConversationMedia<'_>,
        progress: &dyn Progress,
    ) -> Result<Corpus> {
        let reader = against.and_then(Against::model).unwrap_or(artifact);
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
        match against {
            Some(Against::Logits(file)) if file.sequences(reader.tokenizer.bos()) != corpus.sequences => Err(
                Error::malformed("‹against›", "these logits are of another text, or of other chunks of it")
                    .expected("the same chunks of tokens", "others")
                    .help("Leave ‹text› out: the file has the tokens."),
            ),
            _ => Ok(corpus),
        }
    }

    /// Adds the figures of the text to the report of each artifact.
    fn evaluate(
        &self,
        group: &mut [Reading<'_, '_>],
        against: Option<&Against>,
        corpus: &Corpus,
        media: &ConversationMedia<'_>,
        logits: Option<OutputFile>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let of_base = against.and_then(Against::model);
        let tokenizer = group.first().map(|(_, model)| &of_base.unwrap_or(*model).tokenizer);
        let (mut readers, mut models) = (Vec::new(), Vec::new());
        for (one, model) in group {
            self.remark(media, one, model)?;
            one.report.text = Some(EvaluatedText::of(corpus));
            one.report.findings.extend(corpus.remarks.iter().cloned().map(Finding::from));
            match model.runtime() {
                Ok(model) => {
                    models.push(model);
                    readers.push(one);
                }
                Err(error) => one.error = Some(error),
            }
        }
        let base_model = of_base.map(Model::runtime).transpose()?;
        let base = match (against, &base_model) {
            (Some(Against::Logits(file)), _) => Some(Base::Logits(file)),
            (_, base) => base.as_ref().map(Base::Model),
        };
        let artifacts: Vec<_> = models.iter().collect();
        let configs: Vec<_> = models.iter().chain(&base_model).map(runtime::Model::config).collect();
        let Some(vocab) = configs.last().map(|config| config.vocab) else { return Ok(()) };
        let sequences = &corpus.sequences;
        let (mut part, mut joined) = (Part::default(), None);
        // a set is not verified in parts
        if let [one] = &mut readers[..] {
            part = one.measuring.part();
            joined = one.measuring.joined_tokens(corpus.scored_tokens())?;
        }
        let mut writer = logits.map(|file| LogitsWriter::new(file, sequences, vocab)).transpose()?;
        let task = progress.begin("perplexity", eval::work(&configs, sequences, part), Unit::Steps);
        let options = EvalOptions {
            memory: self.text_memory,
            part,
            soft_tokens: media.soft_tokens(),
            logits: writer.as_mut(),
            progress: &|done| task.advance(done),
        };
        let results = match joined {
            Some(tokens) => vec![Ok(tokens)],
            None => eval::evaluate(&artifacts, base, sequences, options)?,
        };
        let is_complete = results.iter().any(Result::is_ok);
        for (one, result) in readers.into_iter().zip(results) {
            match result {
                Ok(tokens) => {
                    let Some(tokens) = one.measuring.tokens(tokens) else { continue };
                    if let Some(figures) = eval::summarise(&tokens) {
                        one.report.add(figures, tokens.len() as u64);
                    }
                    if let (Some(text), Some(tokenizer)) = (&mut one.report.text, tokenizer) {
                        text.worst = eval::divergent_tokens(&tokens, sequences, tokenizer);
                    }
                }
                Err(error) => one.error = Some(error),
            }
        }
        writer.filter(|_| is_complete).map_or(Ok(()), LogitsWriter::finish)
    }

    /// Says how images and sounds were read.
    fn remark(&self, media: &ConversationMedia<'_>, one: &mut Verification<'_>, model: &Model) -> Result<()> {
        let Some((way, doubt)) = media.remarks(model)? else {
            return match &self.mmproj {
                None => Ok(()),
                Some(_) => {
                    Err(Error::recipe("‹mmproj›", "has no effect: no conversation names an image or a sound"))
                }
            };
        };
        one.report.findings.push(Finding::new(Severity::Note, Step::Text, "soft tokens", way));
        let place = match &self.mmproj {
            Some(path) => path.display().to_string(),
            None => one.report.artifact.path.clone(),
        };
        let doubt = doubt.map(|doubt| Finding::new(Severity::Warning, Step::Text, place, doubt));
        one.report.findings.extend(doubt);
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
