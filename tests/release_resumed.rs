//! A `release` that was killed goes on.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use crate::release::{SHORT, gguf_names, release};
use crate::support::held::held;
use crate::support::{self, command, fixture, names, sha256};

/// Killed while it converts, and again while it verifies: what is finished is not made again, and the files are those of a
/// release that was left alone.
#[test]
fn a_killed_release_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (recipe, out, whole) =
        (home.path().join("mine.toml"), home.path().join("out"), home.path().join("whole"));
    fs::write(&recipe, "text = [{ recipe = 'q4_k_m', importance = true }, { recipe = 'q8_0' }]").unwrap();
    let (calib, model) = (support::text("calib.txt"), fixture("e2b"));
    let more = ["--recipe", recipe.to_str().unwrap(), "--text", calib.to_str().unwrap(), "--chunks", "4"];
    release(&model, &whole, &more).good();

    let place = ["release", model.to_str().unwrap(), "-o", out.to_str().unwrap(), "--skip-existing"];
    let args = [&place[..], &SHORT, &more].concat();
    let start = || command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let kill = |mut child: Child| {
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    };
    let modified = |name: &str| fs::metadata(out.join(name)).unwrap().modified().unwrap();
    let (matrix, models) = ("imatrix-e2b.gguf", ["e2b-Q4_K_M.gguf", "e2b-Q8_0.gguf"]);

    let afresh = || {
        let _ = fs::remove_dir_all(&out);
        start()
    };
    kill(held(afresh, || out.join(matrix).exists() && models.iter().all(|name| !out.join(name).exists())));
    let of_matrix = modified(matrix);
    let again = || {
        let _ = fs::remove_file(out.join("README.md"));
        start()
    };
    kill(held(again, || out.join("manifest.json").exists() && !out.join("README.md").exists()));
    let of_models = models.map(modified);

    let made = release(&model, &out, &[&more[..], &["--skip-existing"]].concat()).good();
    assert!(made.stdout.contains("skipped, because they exist"), "{}", made.stdout);
    assert_eq!((modified(matrix), models.map(modified)), (of_matrix, of_models));
    assert_eq!(names(&out), names(&whole));
    for name in gguf_names(&whole) {
        assert_eq!(sha256(&out.join(&name)), sha256(&whole.join(&name)), "{name}");
    }
}
