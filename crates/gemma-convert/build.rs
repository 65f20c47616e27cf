//! Passes the commit of the sources to the compiler; an empty text outside of a repository.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    };
    println!(
        "cargo:rustc-env=GEMMA_CONVERT_COMMIT={}",
        git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default()
    );
    println!("cargo:rerun-if-changed=build.rs");
    // changes with every checkout
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
}
