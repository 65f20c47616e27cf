//! Extraction of a draft model from its target.
//!
//! The layers are selected by measurement on a text, or given. They are written as a checkpoint, or as a GGUF if the target is
//! one, into a temporary folder beside the outputs, which is converted like any other and removed at the end.

use std::fs;
use std::path::Path;

use base::{OutputFile, Progress, Unit, WorkFolder};
use checkpoint::{Checkpoint, SafetensorsWriter};
use convert::Options;
use draft::{Description, ExtractedWeights, Extraction, LayerSelection};
use gemma::ModelSpec;
use gguf::Layout;
use plan::{DraftTarget, Format, Request};
use tensor::{Error, Result, TensorDesc, TensorSink, TensorSource};
use text::{Cut, Scored, Tokenizer};

use super::drafts::{check_recipes, companions, draft_name};
use super::rounding::corpus;
use super::{Convert, Converted, Planned};
use crate::model::{open_checkpoint, reader};
use crate::options::Layers;
use crate::requests::{Destination, requests, shards};

/// Default tokens per chunk of the text that selects layers.
pub(super) const CONTEXT: usize = 512;
/// Default number of chunks of that text.
const CHUNKS: usize = 8;
/// Bytes copied at a time (at least a row).
const PIECE: u64 = 1 << 20;
/// Files of a model other than weights and config that a draft model needs.
const COMPANIONS: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "README.md"];

/// Extracts a draft model: some layers of a model as a model of its own.
#[derive(Clone, Debug)]
pub struct DraftExtract {
    /// The layers, or their number.
    pub layers: Layers,
    /// Tokens per chunk of the text that selects layers.
    pub context: usize,
    /// The conversion of the extracted checkpoint: its model is the target, and its text selects the layers. The
    /// default recipe is `bf16`.
    pub convert: Convert,
}

impl DraftExtract {
    /// Whether the layers are selected on the text.
    pub fn is_by_text(&self) -> bool {
        matches!(self.layers, Layers::Count(_))
    }

    /// Selects the layers, extracts and converts them. Outputs in a folder are named `draft-…`.
    ///
    /// # Errors
    /// The errors of [`Convert::run`]; `Recipe` for layers that do not make a model.
    pub fn run(&self, progress: &dyn Progress) -> Result<Converted> {
        let mut convert = self.convert.clone();
        if convert.recipes.recipes.is_empty() && convert.recipes.presets.is_empty() {
            convert.recipes.presets.push("bf16".to_owned());
        }
        let destination = Destination::new(&convert.out);
        // the text selects the layers; a recipe may also use it for calibration
        if self.is_by_text()
            && requests(&convert.recipes, &destination)?.iter().all(|r| r.recipe.calibration.is_none())
        {
            convert.text.files.clear();
        }
        let mut selection = LayerSelection::default();
        // exists until the conversion has ended
        let mut folder = None;
        let mut converted = convert.run_planned(progress, |requests, options| {
            check_recipes(&self.convert.recipes, requests)?;
            for request in requests.iter_mut() {
                if destination.file_name.is_none() {
                    draft_name(request);
                }
                // the towers are not extracted
                request.recipe.text_only |= request.recipe.output.format == Format::Safetensors;
            }
            self.planned((requests, options), &mut folder, &mut selection, progress)
        })?;
        converted.layers = Some(selection);
        Ok(converted)
    }

    /// Selects the layers, writes the extracted checkpoint and plans its conversion.
    fn planned(
        &self,
        (requests, options): (&[Request], &Options),
        folder: &mut Option<WorkFolder>,
        selection: &mut LayerSelection,
        progress: &dyn Progress,
    ) -> Result<Planned> {
        let whole = open_checkpoint(&self.convert.model, &self.convert.adapters)?.with_simd(options.simd);
        let model = ModelSpec::open(&whole)?;
        *selection = match &self.layers {
            Layers::These(layers) => LayerSelection { layers: layers.clone(), ..LayerSelection::default() },
            Layers::Count(count) => self.select(&whole, &model, *count, progress)?,
        };
        let extraction = Extraction::new(&model, whole.tensors(), &selection.layers)?;
        let folder = folder.insert(WorkFolder::create(&options.folder, "draft.extract")?).path();
        let checkpoint = write((&whole, &model), &extraction, folder, progress)?;
        let draft = ModelSpec::open(&checkpoint)?;
        let mut plan =
            plan::plan(&draft, &shards(self.convert.compute.simd, &checkpoint, &draft, requests)?, requests)?;
        // the conversion reads the extracted layers, and knows nothing of the target
        convert::not_the_source(&whole, &plan, &options.folder)?;
        plan.adapters = plan::Shards::of(&whole).adapters;
        plan.target = Some(DraftTarget {
            variant: model.config.variant().map(str::to_owned),
            fingerprint: base::hex(&model.fingerprint),
            layers: Some(selection.layers.clone()),
        });
        let mut given = companions(&whole)?;
        if self.is_by_text() {
            let texts = self.convert.text.files.iter().map(|path| convert::file_entry(path));
            given.extend(texts.collect::<Result<Vec<_>>>()?);
        }
        Ok(Planned { checkpoint, model: Some(draft), plan, given })
    }

    /// The layers that agree most with the whole model on the text.
    fn select(
        &self,
        whole: &Checkpoint,
        model: &ModelSpec,
        count: usize,
        progress: &dyn Progress,
    ) -> Result<LayerSelection> {
        draft::check_count(&model.config, count)?;
        let text = &self.convert.text;
        if text.files.is_empty() {
            return Err(Error::recipe(format!("‹layers› {count}"), "no text to select the layers on")
                .help("Give one with ‹text›, or the numbers of the layers: ‹layers› 0,3,7."));
        }
        let tokenizer = Tokenizer::from_checkpoint(whole)?;
        let chunks = text.chunks.as_ref().map_or(0..CHUNKS, |chunks| chunks.0.clone());
        let cut = Cut { context: self.context, most: Some(chunks.end), scored: Scored::Answers };
        let corpus = corpus(&text.files, &reader(&tokenizer, model), &cut, chunks.start, progress)?;
        let tries = LayerSelection::tries(model.config.layers(), count);
        let task = progress.begin("selecting layers", tries, Unit::Steps);
        draft::choose_layers(whole, model, &corpus.sequences, count, self.convert.compute, &|done| {
            task.advance(done);
        })
    }
}

/// Writes the extracted layers as a model in the container of the target, and opens it.
fn write(
    (whole, model): (&Checkpoint, &ModelSpec),
    extraction: &Extraction,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let source = extraction.source(whole, whole.simd());
    let tensors = source.tensors().to_vec();
    match extraction.description(model, whole.tensors())? {
        Description::Json(json) => {
            let config = folder.join("config.json");
            fs::write(&config, format!("{json:#}\n")).map_err(failed(&config))?;
            for name in COMPANIONS.iter().filter(|name| whole.dir().join(name).exists()) {
                let copy = folder.join(name);
                fs::copy(whole.dir().join(name), &copy).map_err(failed(&copy))?;
            }
            let path = folder.join("model.safetensors");
            let writer = SafetensorsWriter::create(path, tensors, &[("format", "pt")])?;
            copy(&source, progress, |index, first, rows| writer.write_rows(index, first, rows))?;
            writer.finish()?;
            Checkpoint::open(folder)
        }
        Description::Keys(keys) => {
            let path = folder.join("model.gguf");
            let layout = Layout::new(&keys, tensors)?;
            let output = OutputFile::create(&path)?;
            output.set_len(layout.len)?;
            output.write_at(&layout.header, 0)?;
            copy(&source, progress, |index, first, rows| {
                let placed = &layout.tensors[index];
                output.write_at(rows, placed.offset + first * placed.desc.row_bytes())
            })?;
            output.publish()?;
            Checkpoint::open_gguf(path)
        }
    }
}

/// Copies all tensors, some rows at a time: `put` gets the index of the tensor, the first row, and the bytes.
fn copy(
    source: &ExtractedWeights<'_>,
    progress: &dyn Progress,
    put: impl Fn(usize, u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let tensors = source.tensors();
    let task = progress.begin("extracting", tensors.iter().map(TensorDesc::byte_len).sum(), Unit::Bytes);
    let mut bytes = Vec::new();
    for (index, desc) in tensors.iter().enumerate() {
        let piece = (PIECE / desc.row_bytes().max(1)).max(1);
        for first in (0..desc.rows()).step_by(piece as usize) {
            let rows = piece.min(desc.rows() - first);
            bytes.resize((rows * desc.row_bytes()) as usize, 0);
            source.read_rows(index, first, &mut bytes)?;
            put(index, first, &bytes)?;
            task.advance(bytes.len() as u64);
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::write(path.display(), &e)
}
