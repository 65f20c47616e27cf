//! The subcommands.

mod bench;
mod cross;
mod deny;
mod dist;
mod fixtures;
mod fuzz;
mod oracle;
mod schema;
mod skeleton;
mod synth;
mod test_log;
mod tidy;
mod tools;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Oracle(oracle::Args),
    Aarch64(cross::Aarch64),
    Windows(cross::Windows),
    Fixtures(fixtures::Args),
    Fuzz(fuzz::Args),
    Deny(deny::Args),
    Dist(dist::Args),
    Schema(schema::Args),
    Skeleton(skeleton::Args),
    Tidy(tidy::Args),
    Synth(synth::Args),
    TestLog(test_log::Args),
    Bench(bench::Args),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Oracle(args) => args.run(),
            Command::Aarch64(args) => args.run(),
            Command::Windows(args) => args.run(),
            Command::Fixtures(args) => args.run(),
            Command::Fuzz(args) => args.run(),
            Command::Deny(args) => args.run(),
            Command::Dist(args) => args.run(),
            Command::Schema(args) => args.run(),
            Command::Skeleton(args) => args.run(),
            Command::Tidy(args) => args.run(),
            Command::Synth(args) => args.run(),
            Command::TestLog(args) => args.run(),
            Command::Bench(args) => args.run(),
        }
    }
}
