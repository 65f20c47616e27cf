//! `draft extract`: a draft model that is cut out of its target.
//!
//! The layers are chosen by a text, or given. What is cut is written as a checkpoint into a temporary folder in the output's,
//! which goes the way of every checkpoint and is removed at the end.

use std::fs;
use std::path::Path;

use ::checkpoint::{Checkpoint, SafetensorsWriter};
use ::draft::Extraction;
use ::draft::LayerSelection;
use ::gemma::Model;
use ::plan::{Format, Request, Target, hex};
use ::text::Tokenizer;
use ::text::{Corpus, Cut, Scored};
use base::WorkFolder;
use serde_json::json;
use tensor::{Error, Result, TensorSink, TensorSource};

use crate::args::{self, Layers};
use crate::commands::draft::{companions, draft_name, no_budget};
use crate::commands::opened::reader;
use crate::commands::{Out, Planned, convert, requests, shards};
use crate::outcome::Output;
use crate::progress::Bar;

/// Pieces of the text to choose by, if nothing is said.
const PIECES: usize = 8;
/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;
/// What a model has besides weights and config, as far as a draft needs it.
const COMPANIONS: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "README.md"];

pub(crate) fn run(args: &args::DraftExtract) -> Result<Output> {
    made(args)
}

/// As [`run`], where the threads are there.
pub(crate) fn made(args: &args::DraftExtract) -> Result<Output> {
    let mut convert = args.convert.clone();
    if convert.what.recipes.is_empty() && convert.what.types.is_empty() {
        convert.what.types.push("bf16".to_owned());
    }
    let out = Out::new(&convert.out);
    // the layers are chosen by it; a recipe may round for it besides
    if args.is_by_text()
        && requests(&convert.what, &out)?.iter().all(|request| request.recipe.calibration.is_none())
    {
        convert.text.text.clear();
    }
    let mut choice = LayerSelection::default();
    // lives until the conversion has ended
    let mut folder = None;
    let mut output = convert::run_with(&convert, |requests, _| {
        no_budget(&args.convert, requests)?;
        for request in requests.iter_mut() {
            if out.named.is_none() {
                draft_name(request);
            }
            // its towers are not cut out
            request.recipe.text_only |= request.recipe.output.format == Format::Safetensors;
        }
        planned(args, requests, (&out.folder, &mut folder), &mut choice)
    })?;
    let layers: Vec<_> = choice.layers.iter().map(usize::to_string).collect();
    output.text += &format!("layers: {}\n", layers.join(", "));
    output.json["layers"] = json!(choice.layers);
    if args.is_by_text() {
        output.text += &format!(
            "the likeliest token is the target's at {:.2} % of the text; a guess is taken with a probability of {:.2} %\n",
            100.0 * choice.top1,
            100.0 * choice.acceptance
        );
        output.json["choice"] = json!(choice);
    }
    Ok(output)
}

/// Chooses the layers, writes the cut and plans its conversion.
fn planned(
    args: &args::DraftExtract,
    requests: &[Request],
    (target, folder): (&Path, &mut Option<WorkFolder>),
    choice: &mut LayerSelection,
) -> Result<Planned> {
    let whole = Checkpoint::open(&args.convert.model)?;
    let model = Model::open(&whole)?;
    *choice = match &args.layers {
        Layers::These(layers) => LayerSelection { layers: layers.clone(), ..LayerSelection::default() },
        Layers::Count(count) => chosen(args, &whole, &model, *count)?,
    };
    let extraction =
        Extraction::new(&model.config, &model.json, &model.inventory, whole.tensors(), &choice.layers)?;
    let folder = folder.insert(WorkFolder::create(target, "draft.extract")?).path();
    write(&whole, &extraction, folder)?;

    let checkpoint = Checkpoint::open(folder)?;
    let draft = Model::open(&checkpoint)?;
    let mut plan = ::plan::plan(&draft, &shards(&checkpoint, &draft, requests)?, requests)?;
    plan.target = Some(Target {
        variant: model.config.variant().map(str::to_owned),
        fingerprint: hex(&model.fingerprint),
        layers: Some(choice.layers.clone()),
    });
    let mut given = companions(&whole)?;
    if args.is_by_text() {
        let texts = args.convert.text.text.iter().map(|path| ::convert::file_entry(path));
        given.extend(texts.collect::<Result<Vec<_>>>()?);
    }
    Ok(Planned { checkpoint, model: draft, plan, given })
}

/// The layers that agree most with the whole model on the text.
fn chosen(
    args: &args::DraftExtract,
    whole: &Checkpoint,
    model: &Model,
    count: usize,
) -> Result<LayerSelection> {
    ::draft::check_count(&model.config, count)?;
    let text = &args.convert.text;
    if text.text.is_empty() {
        return Err(Error::recipe(format!("--layers {count}"), "no text to choose the layers by")
            .help("Give one with --text, or the numbers of the layers: --layers 0,3,7."));
    }
    let tokenizer = Tokenizer::from_checkpoint(whole)?;
    let pieces = text.chunks.as_ref().map_or(0..PIECES, |chunks| chunks.0.clone());
    let cut = Cut { context: args.context, most: Some(pieces.end), scored: Scored::Answers };
    let Corpus { mut sequences, .. } = Corpus::read(&text.text, &reader(&tokenizer, model), &cut)?;
    let first = pieces.start.min(sequences.len());
    sequences.drain(..first);
    if sequences.is_empty() {
        return Err(
            Error::recipe("--chunks", "beyond the text").expected(format!("less than {first}"), pieces.start)
        );
    }
    let bar = Bar::steps("choosing layers", LayerSelection::tries(model.config.layers(), count));
    let parts = (&model.config, &model.json, &model.inventory);
    let choice = ::draft::choose_layers(whole, parts, &sequences, count, &|done| bar.advance(done));
    bar.finish();
    choice
}

/// Writes the cut as a checkpoint.
fn write(whole: &Checkpoint, extraction: &Extraction, folder: &Path) -> Result<()> {
    let config = folder.join("config.json");
    fs::write(&config, format!("{:#}\n", extraction.json)).map_err(failed(&config))?;
    for name in COMPANIONS.iter().filter(|name| whole.dir().join(name).exists()) {
        let copy = folder.join(name);
        fs::copy(whole.dir().join(name), &copy).map_err(failed(&copy))?;
    }

    let source = extraction.source(whole);
    let tensors = source.tensors().to_vec();
    let bar = Bar::new("cutting", tensors.iter().map(::tensor::TensorDesc::byte_len).sum());
    let writer = SafetensorsWriter::create(folder.join("model.safetensors"), tensors, &[("format", "pt")])?;
    let mut bytes = Vec::new();
    for (index, desc) in source.tensors().iter().enumerate() {
        let piece = (PIECE / desc.row_bytes().max(1)).max(1);
        for first in (0..desc.rows()).step_by(piece as usize) {
            let rows = piece.min(desc.rows() - first);
            bytes.resize((rows * desc.row_bytes()) as usize, 0);
            source.read_rows(index, first, &mut bytes)?;
            writer.write_rows(index, first, &bytes)?;
            bar.advance(bytes.len() as u64);
        }
    }
    bar.finish();
    writer.finish()
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::write(path.display(), &e)
}
