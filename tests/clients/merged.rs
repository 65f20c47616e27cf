//! What llama-gguf-split makes of our parts is one file, and `inspect` says so.

use std::fs;

use xtask::oracle::Oracle;

use crate::support::{convert, fixture, names, run};

#[test]
fn a_merged_file_is_no_part() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    for (number, (recipe, more)) in
        [("q4_0-offload", &[][..]), ("browser", &["--split-max-size", "1MB"][..])].into_iter().enumerate()
    {
        let parts = home.path().join(number.to_string());
        convert(&fixture("e2b"), &parts, &[&["--recipe", recipe], more].concat()).good();
        let first = names(&parts).into_iter().find(|name| name.contains("-00001-of-")).unwrap();
        let merged = home.path().join(format!("{recipe}.gguf"));
        super::output(oracle.tool("llama-gguf-split").arg("--merge").arg(parts.join(&first)).arg(&merged));
        fs::remove_dir_all(&parts).unwrap();

        let said = run(["inspect", merged.to_str().unwrap()]).good();
        for word in ["part", "split"] {
            let line = said.stdout.lines().chain(said.stderr.lines()).find(|line| line.contains(word));
            assert_eq!(line, None, "{recipe}");
        }
        let verified =
            run(["verify", merged.to_str().unwrap(), "--against", fixture("e2b").to_str().unwrap()]);
        verified.good();
        assert!(super::ours(&merged, super::PROMPTS[0], 4)["text"].is_string());
    }
}
