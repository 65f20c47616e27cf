//! `gemma-convert`: turns Gemma 4 checkpoints into GGUF files and safetensors, proves them, and runs them.
//!
//! The jobs are in the library of this package. The command line in `cli/` has arguments, progress bars, tables and exit
//! codes. Results go to stdout, everything else to stderr; with `--json` stdout is one document.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
