//! `cargo xtask bench`: what we take, and what the stock tools take for the same, in one session.

mod convert;
mod files;
mod measure;
mod verify;

/// Measure time and memory, side by side with llama.cpp where it is found.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Convert(convert::Args),
    Verify(verify::Args),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Convert(args) => args.run(),
            What::Verify(args) => args.run(),
        }
    }
}
