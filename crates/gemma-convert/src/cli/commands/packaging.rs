//! `completions` and `man`: for packagers.

use clap::CommandFactory;
use serde_json::json;
use gemma_convert::{Error, Fault, Result};

use crate::cli::args::{self, Args};
use crate::cli::outcome::Output;

/// A completion script.
pub(crate) fn completions(args: &args::Completions) -> Result<Output> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "gemma-convert", &mut script);
    Ok(text(script))
}

/// The manual page, with a section for each command.
pub(crate) fn man() -> Result<Output> {
    let mut page = Vec::new();
    let mut command = Args::command();
    command.build();
    let fail = |e: std::io::Error| Error::new(Fault::Io, "manual page", e);
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(fail)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let man = clap_mangen::Man::new(sub.clone());
        man.render_name_section(&mut page).map_err(fail)?;
        man.render_synopsis_section(&mut page).map_err(fail)?;
        man.render_options_section(&mut page).map_err(fail)?;
    }
    Ok(text(page))
}

fn text(bytes: Vec<u8>) -> Output {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Output::new(text.clone(), json!({ "text": text }))
}
