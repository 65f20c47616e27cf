//! `pack ollama`: stores and Modelfiles.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tensor::{DType, TensorDesc};

use crate::faults::edit::Gguf;
use crate::mmproj::with_overlay;
use crate::support::{Run, command, convert, fixture, json, names, run, sha256};

/// The files of the tiny e2b, by names in the order of Ollama's layers.
pub(crate) struct Files {
    home: TempDir,
}

impl Files {
    pub(crate) fn new() -> Files {
        let home = tempfile::tempdir().unwrap();
        let [target, assistant] = ["e2b", "e2b-assistant"].map(fixture);
        convert(&target, home.path(), &["--type", "q4_0", "--mmproj", "bf16", "-q"]).good();
        let [target, assistant] = [target, assistant].map(|path| path.to_str().unwrap().to_owned());
        let out = home.path().to_str().unwrap();
        run(["draft", "convert", &assistant, "--target", &target, "--type", "q8_0", "-o", out, "-q"]).good();
        let files = Files { home };
        fs::rename(files.home().join("model-q4_0.gguf"), files.text()).unwrap();
        files
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home().join("store")
    }

    pub(crate) fn text(&self) -> PathBuf {
        self.home().join("gemma-Q4_0.gguf")
    }

    pub(crate) fn projector(&self) -> PathBuf {
        self.home().join("mmproj-bf16.gguf")
    }

    pub(crate) fn draft(&self) -> PathBuf {
        self.home().join("draft-q8_0.gguf")
    }

    pub(crate) fn all(&self) -> [PathBuf; 3] {
        [self.text(), self.projector(), self.draft()]
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.store().join("manifests/registry.ollama.ai/library").join(name.replace(':', "/"))
    }

    fn blob(&self, file: &Path) -> PathBuf {
        self.store().join("blobs").join(format!("sha256-{}", sha256(file)))
    }
}

pub(crate) fn pack_args(files: &[&Path], name: &str, store: &Path, more: &[&str]) -> Vec<String> {
    let files = files.iter().map(|file| file.to_str().unwrap());
    let rest = ["--name", name, "--store", store.to_str().unwrap()].into_iter().chain(more.iter().copied());
    ["pack", "ollama"].into_iter().chain(files).chain(rest).map(str::to_owned).collect()
}

pub(crate) fn pack(files: &[&Path], name: &str, store: &Path, more: &[&str]) -> Run {
    run(pack_args(files, name, store, more))
}

/// Every file of the store, with its SHA-256.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), sha256(&path))),
        }
    }
    found
}

#[test]
fn a_folder_becomes_a_model() {
    let files = Files::new();
    let license = testkit::root().join("LICENSE");
    let more = ["--license", license.to_str().unwrap(), "--json"];
    let packed = pack(&[files.home()], "Tiny", &files.store(), &more).good().json();
    let manifest_path = files.manifest("Tiny:latest");
    let manifest = json(&manifest_path);
    assert_eq!(packed["store"]["id"], sha256(&manifest_path));
    assert_eq!(packed["store"]["name"], "Tiny:latest");

    let layers = manifest["layers"].as_array().unwrap();
    let kind = |layer: &serde_json::Value| {
        layer["mediaType"].as_str().unwrap().strip_prefix("application/vnd.ollama.image.").unwrap().to_owned()
    };
    let kinds: Vec<_> = layers.iter().map(kind).collect();
    assert_eq!(kinds, ["model", "projector", "draft", "license", "params"]);
    let from: Vec<_> = layers.iter().filter_map(|layer| layer["from"].as_str()).collect();
    assert_eq!(from, ["mmproj-bf16.gguf", "draft-q8_0.gguf"]);
    for (layer, file) in layers.iter().zip(files.all()) {
        assert_eq!(layer["digest"], format!("sha256:{}", sha256(&file)));
        let [blob, file] = [files.blob(&file), file].map(|path| fs::metadata(path).unwrap());
        assert_eq!((blob.dev(), blob.ino()), (file.dev(), file.ino()), "a hard link");
    }
    for (path, digest) in contents(&files.store().join("blobs")) {
        assert!(path.ends_with(format!("sha256-{digest}")), "{path:?}");
    }
    let config = packed["config"].clone();
    assert_eq!((&config["renderer"], &config["file_type"]), (&"gemma4-small".into(), &"Q4_0".into()));
    assert_eq!(config["draft"]["architecture"], "gemma4-assistant");
    let digest = manifest["config"]["digest"].as_str().unwrap().replace(':', "-");
    assert_eq!(json(&files.store().join("blobs").join(digest)), config);

    // again: nothing changes, also by another spelling of the name
    let before = contents(&files.store());
    let again = pack(&[files.home()], "tiny:LATEST", &files.store(), &more).good().json();
    assert_eq!(
        (&again["store"]["unchanged"], &again["store"]["name"]),
        (&true.into(), &"Tiny:latest".into())
    );
    assert_eq!(contents(&files.store()), before);

    // another model replaces it only if it is told to, and every blob stays
    let store = files.store();
    let text = files.text();
    let refused = pack(&[&text], "tiny", &store, &[]);
    assert!(refused.refusal(3).contains("has another model Tiny:latest"), "{}", refused.stderr);
    assert_eq!(contents(&files.store()), before);
    let replaced = pack(&[&text], "tiny", &store, &["--force", "--json"]).good().json();
    assert_eq!(replaced["store"]["replaced"], true);
    assert_eq!(json(&manifest_path)["layers"].as_array().unwrap().len(), 2);
    assert!(files.blob(&files.projector()).is_file());
}

/// The documents are those that `ollama create` makes of the same files.
#[test]
fn documents_are_ollamas() {
    let files = Files::new();
    let packed = pack(&[files.home()], "tiny:1", &files.store(), &["--json"]).good().json();
    let golden = |name: &str| String::from_utf8(testkit::read(format!("ollama/tiny/{name}.json"))).unwrap();
    assert_eq!(fs::read_to_string(files.manifest("tiny:1")).unwrap(), golden("manifest"));
    let digest = packed["store"]["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap();
    let config = files.store().join("blobs").join(digest.replace(':', "-"));
    assert_eq!(fs::read_to_string(config).unwrap(), golden("config"));
}

#[test]
fn larger_variants_have_another_renderer_and_links_are_followed() {
    let home = tempfile::tempdir().unwrap();
    convert(&fixture("31b"), home.path(), &["--type", "q8_0", "-q"]).good();
    let link = home.path().join("link.gguf");
    std::os::unix::fs::symlink("model-q8_0.gguf", &link).unwrap();
    let packed = pack(&[&link], "big:q8_0", &home.path().join("store"), &["--json"]).good().json();
    assert_eq!(packed["config"]["renderer"], "gemma4-large");
    assert_eq!(packed["capabilities"], serde_json::json!(["completion", "tools", "thinking"]));
    let blobs = home.path().join("store/blobs");
    for name in names(&blobs) {
        assert!(!blobs.join(name).is_symlink());
    }
}

#[test]
fn a_folder_with_a_choice_is_refused() {
    let files = Files::new();
    fs::copy(files.text(), files.home().join("other.gguf")).unwrap();
    let refused = pack(&[files.home()], "tiny", &files.store(), &[]);
    let said = refused.refusal(2);
    for word in ["more than one text model", "gemma-Q4_0.gguf", "other.gguf", "name the files"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(pack(&[files.home()], "tiny:q8_0", &files.store(), &[]).refusal(2).contains("NAME:q4_0"));
    let empty = tempfile::tempdir().unwrap();
    assert!(pack(&[empty.path()], "tiny", &files.store(), &[]).refusal(3).contains("no text model"));
    assert!(pack(&[&files.text()], "a/b/c/d", &files.store(), &[]).refusal(2).contains("host"));
    assert!(!files.store().exists());
}

/// The tag chooses the text model of a release, and its type the projector.
#[test]
fn the_tag_chooses_among_the_files_of_a_folder() {
    let files = Files::new();
    fs::copy(files.text(), files.home().join("gemma-BF16.gguf")).unwrap();
    fs::copy(files.projector(), files.home().join("mmproj-q8_0.gguf")).unwrap();
    pack(&[files.home()], "tiny:q4_0", &files.store(), &[]).good();
    let manifest = json(&files.manifest("tiny:q4_0"));
    let from: Vec<_> =
        manifest["layers"].as_array().unwrap().iter().filter_map(|layer| layer["from"].as_str()).collect();
    assert_eq!(from, ["mmproj-q8_0.gguf", "draft-q8_0.gguf"]);
    // named files are a choice of the user
    let (text, other) = (files.text(), files.home().join("gemma-BF16.gguf"));
    assert!(
        pack(&[&text, &other], "tiny:q4_0", &files.store(), &[])
            .refusal(2)
            .contains("more than one text model")
    );
}

/// A change that makes a file unfit, and a word of the error.
type Fault = (&'static str, fn(&mut Gguf), &'static str);

#[test]
fn what_ollama_cannot_run_is_refused_before_anything_is_written() {
    let files = Files::new();
    let text: [Fault; 8] = [
        ("adapter", |gguf| gguf.set("general.type", "adapter"), "type adapter"),
        ("architecture", |gguf| gguf.set("general.architecture", "llama"), "architecture llama"),
        (
            "tower",
            |gguf| {
                let desc = TensorDesc::new("v.patch_embd.weight", DType::F32, [32]).unwrap();
                gguf.tensors.push((desc, vec![0; 128]));
            },
            "tensor v.patch_embd.weight",
        ),
        ("mtp", |gguf| gguf.set("gemma4.nextn_predict_layers", 1u32), "nextn_predict_layers"),
        ("type", |gguf| gguf.set("general.file_type", 2u64), "general.file_type"),
        ("blocks", |gguf| gguf.set("gemma4.block_count", 8u64), "gemma4.block_count"),
        ("tensor", |gguf| gguf.drop("blk.0.attn_q.weight"), "attn_q"),
        ("part", |gguf| gguf.set("split.count", 2u16), "llama-gguf-split --merge"),
    ];
    let projector: [Fault; 3] = [
        ("images", |gguf| gguf.set("clip.vision.projection_dim", 128u32), "clip.vision.projection_dim"),
        ("sounds", |gguf| gguf.set("clip.audio.projection_dim", 128u32), "clip.audio.projection_dim"),
        ("flag", |gguf| gguf.set("clip.has_audio_encoder", 1u8), "clip.has_audio_encoder"),
    ];
    let draft: [Fault; 2] = [
        (
            "size",
            |gguf| gguf.set("gemma4-assistant.embedding_length_out", 128u32),
            "hidden size of the target",
        ),
        ("words", |gguf| gguf.texts("tokenizer.ggml.tokens", |tokens| tokens[40].push('x')), "token"),
    ];
    let broken = files.home().join("broken.gguf");
    let mut faults: Vec<(PathBuf, Fault)> = Vec::new();
    faults.extend(text.map(|fault| (files.text(), fault)));
    faults.extend(projector.map(|fault| (files.projector(), fault)));
    faults.extend(draft.map(|fault| (files.draft(), fault)));
    for (file, (name, change, word)) in faults {
        let mut gguf = Gguf::read(&file);
        change(&mut gguf);
        gguf.write(&broken);
        let all = files.all();
        let chosen = all.iter().map(|path| if *path == file { &broken } else { path });
        let given: Vec<&Path> = chosen.map(PathBuf::as_path).collect();
        let refused = pack(&given, "tiny", &files.store(), &[]);
        let said = refused.refusal(3);
        assert!(said.contains(word) && said.contains("broken.gguf"), "{name}: {said}");
        assert!(!files.store().exists(), "{name}");
    }
    // a type that Ollama does not know
    let mut bytes = fs::read(files.text()).unwrap();
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16;
    bytes[at..at + 4].copy_from_slice(&34u32.to_le_bytes());
    fs::write(&broken, bytes).unwrap();
    assert!(pack(&[&broken], "tiny", &files.store(), &[]).refusal(3).contains("TQ1_0"));
}

/// Text model and mmproj file of two fine-tunes fit together and say nothing true; their manifests tell.
#[test]
fn files_of_different_checkpoints_are_noted() {
    let (files, other) = (Files::new(), with_overlay("e2b"));
    convert(&other.path(), &other.out(), &["--mmproj", "bf16", "-q"]).good();
    let note = "of different checkpoints: their manifests list different model.safetensors";
    let same = pack(&[&files.text(), &files.projector()], "same", &files.store(), &[]).good();
    assert!(!same.stderr.contains(note), "{}", same.stderr);
    let mixed =
        pack(&[&files.text(), &other.out().join("mmproj-bf16.gguf")], "mixed", &files.store(), &[]).good();
    assert!(mixed.stderr.contains(note), "{}", mixed.stderr);
}

#[test]
fn a_split_is_refused_with_a_remedy() {
    let home = tempfile::tempdir().unwrap();
    convert(&fixture("e2b"), home.path(), &["--type", "q4_0", "--split-max-size", "1MB", "-q"]).good();
    let refused = pack(&[home.path()], "tiny", &home.path().join("store"), &[]);
    assert!(refused.refusal(3).contains("llama-gguf-split --merge"), "{}", refused.stderr);
}

#[test]
fn a_store_is_never_broken() {
    let files = Files::new();
    let (store, text) = (files.store(), files.text());
    // not a store, or the folder above one
    let refused = pack(&[&text], "tiny", files.home(), &[]);
    assert!(refused.refusal(3).contains("not an Ollama store"), "{}", refused.stderr);
    fs::create_dir_all(files.home().join("above/models/blobs")).unwrap();
    let refused = pack(&[&text], "tiny", &files.home().join("above"), &[]);
    assert!(refused.refusal(3).contains("above/models"), "{}", refused.stderr);

    // a truncated blob
    fs::create_dir_all(store.join("blobs")).unwrap();
    fs::write(store.join("blobs/sha256-unknown"), "of another program").unwrap();
    fs::write(files.blob(&text), "short").unwrap();
    let before = contents(&store);
    let refused = pack(&[&text], "tiny", &store, &[]);
    assert!(refused.refusal(3).contains("the blob in the store is damaged"), "{}", refused.stderr);
    assert_eq!(contents(&store), before);
    fs::remove_file(files.blob(&text)).unwrap();

    // a folder with the name of a manifest
    fs::create_dir_all(files.manifest("tiny:latest")).unwrap();
    let refused = pack(&[&text], "tiny", &store, &[]);
    assert!(refused.refusal(3).contains("tiny/latest"), "{}", refused.stderr);
    fs::remove_dir(files.manifest("tiny:latest")).unwrap();
    pack(&[&text], "tiny", &store, &[]).good();
    assert_eq!(fs::read(store.join("blobs/sha256-unknown")).unwrap(), b"of another program");
}

/// Another user's store: the error names the path. The superuser may write anywhere, so that the program runs as nobody.
#[test]
fn a_store_of_another_user_is_named() {
    let files = Files::new();
    let store = files.store();
    fs::create_dir_all(store.join("blobs")).unwrap();
    fs::create_dir_all(store.join("manifests")).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(files.home(), 0o755);
    for folder in [store.join("blobs"), store.clone()] {
        mode(&folder, 0o555);
    }
    let mut command = command(pack_args(&[&files.text()], "tiny", &store, &[]));
    if fs::metadata(files.home()).unwrap().uid() == 0 {
        let program = files.home().join("program");
        fs::copy(command.get_program(), &program).unwrap();
        mode(&program, 0o755);
        let mut other = std::process::Command::new(program);
        other.args(command.get_args()).uid(65534).gid(65534);
        command = other;
    }
    let run = Run::of(command.output().unwrap());
    let said = run.refusal(3);
    assert!(said.contains("store/blobs/sha256-") && said.contains("another user"), "{said}");
    mode(&store, 0o755);
    mode(&store.join("blobs"), 0o755);
    assert_eq!(names(&store.join("blobs")), [""; 0]);
}

#[test]
fn a_modelfile_has_all_that_a_store_has() {
    let files = Files::new();
    let modelfile = files.home().join("Modelfile");
    let license = files.home().join("license.txt");
    fs::write(&license, "Do what you want.\n").unwrap();
    let args = [files.home(), Path::new("--modelfile"), &modelfile, Path::new("--license"), &license];
    let args = [&[Path::new("pack"), Path::new("ollama")][..], &args[..]].concat();
    run(&args).good();
    assert_eq!(
        fs::read_to_string(&modelfile).unwrap(),
        "FROM ./gemma-Q4_0.gguf\nFROM ./mmproj-bf16.gguf\nDRAFT ./draft-q8_0.gguf\nRENDERER gemma4-small\nPARSER gemma4\n\
         PARAMETER temperature 1\nPARAMETER top_k 64\nPARAMETER top_p 0.95\nREQUIRES 0.31.0\n\
         LICENSE \"\"\"Do what you want.\n\"\"\"\n"
    );
    assert!(run(&args).refusal(3).contains("the file exists"));
}
