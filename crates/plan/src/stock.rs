//! Planning the stock files of a GGUF that Ollama's converter made: a text model and an mmproj file. Tensors are copied, under other
//! names.

use gemma::{Stock, StockFile, StockTensor};
use gguf::Layout;
use tensor::Result;

use crate::artifact::{Artifact, Origin, OutputTensor, Pieces, Plan, PlannedFile, StoredPiece};
use crate::output::Format;
use crate::request::{Shards, dropped, stored};

/// Plans `stem.gguf` and, if there are towers, `mmproj-stem.gguf`.
///
/// # Errors
/// Those of [`Layout::new`].
pub fn plan_stock(stock: &Stock, shards: &Shards<'_>, stem: &str) -> Result<Plan> {
    let mut artifacts = vec![artifact(&stock.text, Format::Gguf, shards, ("edit", stem))?];
    if let Some(file) = &stock.mmproj {
        artifacts.push(artifact(file, Format::Mmproj, shards, ("edit-mmproj", &format!("mmproj-{stem}")))?);
    }
    Ok(Plan {
        variant: None,
        architecture: stock.text.metadata.required::<&str>("general.architecture")?.to_owned(),
        inputs: shards.files.clone(),
        adapters: Vec::new(),
        notes: stock.notes.clone(),
        artifacts,
        dropped: stock.dropped.iter().map(|&(index, reason)| dropped(shards, index, reason)).collect(),
        target: None,
    })
}

fn artifact(
    file: &StockFile,
    format: Format,
    shards: &Shards<'_>,
    (recipe, stem): (&str, &str),
) -> Result<Artifact> {
    let layout =
        Layout::new(&file.metadata, file.tensors.iter().map(|tensor| tensor.desc.clone()).collect())?;
    let tensors = file.tensors.iter().zip(&layout.tensors).map(|(tensor, placed)| OutputTensor {
        bytes: tensor.desc.byte_len(),
        desc: tensor.desc.clone(),
        role: tensor.role,
        layer: tensor.layer,
        offset: placed.offset,
        why: "copied".to_owned(),
        free: false,
        from: origin(tensor, shards),
    });
    let tensors = tensors.collect();
    Ok(Artifact {
        recipe: recipe.to_owned(),
        format,
        preset: "copy",
        files: vec![PlannedFile {
            name: format!("{stem}.gguf"),
            bytes: layout.len,
            header: layout.header,
            tensors,
            copy: None,
        }],
        offloaded: Vec::new(),
        importance: None,
        allocation: None,
        calibration: None,
        dropped: Vec::new(),
        notes: Vec::new(),
    })
}

/// The source of a tensor. Of two, an expert of the first precedes the same one of the second.
fn origin(tensor: &StockTensor, shards: &Shards<'_>) -> Origin {
    let mut first = stored(shards, tensor.index, None);
    if let Some(second) = tensor.second {
        let second = stored(shards, second, None);
        let experts = tensor.desc.shape[0];
        let expert = |piece: StoredPiece, number: u64| {
            let bytes = piece.bytes / experts;
            StoredPiece { offset: piece.offset + number * bytes, bytes, ..piece }
        };
        let both = [first.pieces.first(), second.pieces.first()];
        let pieces = (0..experts).flat_map(|number| both.map(|piece| expert(piece, number)));
        first.pieces = Pieces::new(pieces.collect());
    }
    Origin::Checkpoint(first)
}
