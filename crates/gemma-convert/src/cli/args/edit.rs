//! The arguments of `edit`.

use std::path::PathBuf;

use gemma_convert::Result;

use super::jobs::out;

#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// GGUF file (any part of a split): text model, draft model or projector (mmproj)
    file: PathBuf,
    /// Set a key: general.name="My Gemma". A key that no Gemma 4 file has needs a type: my.key:u32=7, my.list:[string]='["a"]'
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Remove a key
    #[arg(long, visible_alias = "unset", alias = "remove-metadata", value_name = "KEY")]
    remove: Vec<String>,
    /// Set the chat template to the content of a file
    #[arg(long, alias = "chat-template-file", value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Split the file into parts with at most this many bytes of tensors: 2GB, 500MB; by default the parts are those of the source
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    split_max_size: Option<String>,
    /// Merge the parts of a split into one file
    #[arg(long, conflicts_with = "split_max_size")]
    merge: bool,
    /// Write a file of Ollama's converter (towers in the text model, tokenizer.ggml.model = llama) as llama.cpp's: text model and mmproj
    #[arg(long, conflicts_with_all = ["set", "remove", "chat_template", "split_max_size", "merge"])]
    stock: bool,
    /// Folder, or a file name that ends in .gguf
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    out: PathBuf,
    /// Replace existing outputs
    #[arg(long)]
    force: bool,
    /// Do not flush outputs to disk: a power cut may lose them; a killed run still leaves no incomplete file
    #[arg(long)]
    no_sync: bool,
}

impl Edit {
    pub(crate) fn job(&self) -> Result<gemma_convert::Edit> {
        Ok(gemma_convert::Edit {
            file: self.file.clone(),
            set: self.set.clone(),
            remove: self.remove.clone(),
            chat_template: self.chat_template.clone(),
            split_max_size: self.split_max_size.clone(),
            merge: self.merge,
            stock: self.stock,
            out: out(&self.out)?,
            force: self.force,
            sync: !self.no_sync,
        })
    }
}
