//! The tokenizer in a GGUF that we write is the tokenizer of the checkpoint, for us and for the real llama.cpp.
//! The latter is skipped, with a word, where llama.cpp is not built (`cargo xtask oracle`); `.ci/run` requires it.

use std::path::Path;
use std::process::Command;

use checkpoint::Checkpoint;
use gguf::GgufFile;
use text::Tokenizer;
use xtask::oracle::Oracle;

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn convert(out: &Path) -> [Tokenizer; 2] {
    let folder = testkit::fixtures("checkpoints/e2b");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    output(command.arg("convert").arg(&folder).args(["--type", "q4_0", "-o"]).arg(out));
    [
        Tokenizer::from_checkpoint(&Checkpoint::open(folder).unwrap()).unwrap(),
        Tokenizer::from_metadata(GgufFile::open(out).unwrap().metadata()).unwrap(),
    ]
}

#[test]
fn both_sources_give_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    let [checkpoint, metadata] = convert(&dir.path().join("model.gguf"));
    assert_eq!(checkpoint.len(), metadata.len());
    assert!((0..checkpoint.len() as u32).all(|id| checkpoint.token(id) == metadata.token(id)));
    let special = |t: &Tokenizer| (t.bos(), t.eos(), t.pad(), t.end_of_generation().clone());
    assert_eq!(special(&checkpoint), special(&metadata));
    for name in ["multilingual.txt", "markers.txt", "eval.txt"] {
        let text = std::fs::read_to_string(testkit::fixtures("text").join(name)).unwrap();
        let pieces = text.split_inclusive('\n').chain([text.as_str(), ""]);
        for (piece, parse) in pieces.flat_map(|piece| [(piece, false), (piece, true)]) {
            // The file types some markers as words, because tokenizer_config.json does not name them, and a GGUF is read
            // as llama.cpp reads it: it spells them out. The test below holds that against llama.cpp.
            if parse && name == "markers.txt" {
                continue;
            }
            let [a, b] = [&checkpoint, &metadata].map(|t| t.encode(piece, true, parse).unwrap());
            assert_eq!(a, b, "{name}, parse_special {parse}: {piece:?}");
        }
    }
}

#[test]
fn llama_tokenize_reads_the_file_alike() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    let [_, tokenizer] = convert(&model);
    let cases = ["multilingual.txt", "markers.txt", "eval.txt"].map(|name| [(name, true), (name, false)]);
    for (name, parse) in cases.into_iter().flatten() {
        let path = testkit::fixtures("text").join(name);
        let mut tool = oracle.tool("llama-tokenize");
        tool.arg("-m").arg(&model).arg("-f").arg(&path).args(["--ids", "--log-disable"]);
        let printed = output(if parse { &mut tool } else { tool.arg("--no-parse-special") });
        let theirs: Vec<u32> = serde_json::from_str(printed.trim()).unwrap();
        let ours = tokenizer.encode(&std::fs::read_to_string(path).unwrap(), true, parse).unwrap();
        assert!(ours == theirs, "{name}, parse_special {parse}");
    }
}
