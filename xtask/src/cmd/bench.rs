//! `cargo xtask bench`: what we take, and what the stock tools take for the same, in one session.

mod codecs;
mod convert;
mod files;
mod formats;
mod lora;
mod measure;
mod parts;
mod quality;
mod towers;
mod turns;
mod verify;

/// Measure time and memory, side by side with llama.cpp where it is found.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Codecs(codecs::Args),
    Convert(convert::Args),
    Formats(formats::Args),
    Lora(lora::Args),
    Parts(parts::Args),
    Quality(quality::Args),
    Towers(towers::Args),
    Verify(verify::Args),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Codecs(args) => args.run(),
            What::Convert(args) => args.run(),
            What::Formats(args) => args.run(),
            What::Lora(args) => args.run(),
            What::Parts(args) => args.run(),
            What::Quality(args) => args.run(),
            What::Towers(args) => args.run(),
            What::Verify(args) => args.run(),
        }
    }
}
