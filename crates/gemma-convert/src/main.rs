//! `gemma-convert`: converts Gemma 4 checkpoints to GGUF and safetensors, verifies the files, and runs them.
//!
//! The jobs are in the library of this package; `cli/` has arguments, progress bars, tables and exit codes. Results go
//! to stdout, everything else to stderr. With `--json`, stdout is one document.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
