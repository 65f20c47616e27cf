//! Files that ask for more than they should have: refused with an error, by a process that stays small.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, Folder, Run, command, run};

/// No file that is refused may take as much.
const MOST: u64 = 1 << 30;

/// The run and its peak memory, as the kernel tells it while the process lives. (What it tells afterwards includes the
/// memory of the process that began it, which this test fills.)
fn measured(command: &mut Command) -> (Run, u64) {
    let [out, err] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let told = fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let text = |file: &tempfile::NamedTempFile| fs::read_to_string(file.path()).unwrap();
    (Run { code, stdout: text(&out), stderr: text(&err) }, peak)
}

#[track_caller]
fn refused(what: &str, command: &mut Command, codes: &[i32]) {
    let (run, peak) = measured(command);
    let begin: String = run.stderr.chars().take(500).collect();
    assert!(run.code.is_some_and(|code| codes.contains(&code)), "{what}: {:?}: {begin}", run.code);
    assert!(begin.contains("error: "), "{what}: {begin}");
    assert!(run.stderr.len() < 20_000, "{what}: {} bytes of error", run.stderr.len());
    assert!(peak < MOST, "{what}: {} MiB", peak >> 20);
}

/// A file that begins with `start` and has `len` bytes, most of them not on the disk.
fn sparse(path: &Path, start: &[u8], len: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(start).unwrap();
    file.set_len(len).unwrap();
}

const GIB: u64 = 1 << 30;

fn json_cases() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("an endless list", [b"{\"a\":[".to_vec(), b"1,".repeat(50 << 20), b"1]}".to_vec()].concat()),
        ("deep lists", b"[".repeat(3 << 20)),
        (
            "deep lists, closed",
            [b"{\"a\":".to_vec(), b"[".repeat(100_000), b"]".repeat(100_000), b"}".to_vec()].concat(),
        ),
        ("deep objects", b"{\"a\":".repeat(1 << 20)),
    ]
}

#[test]
fn json_beside_the_weights() {
    for name in [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
    ] {
        let folder = Folder::of("31b");
        for (what, bytes) in json_cases() {
            folder.write(name, bytes);
            refused(&format!("{name}: {what}"), command(["plan", "--type", "q4_0"]).arg(folder.path()), &[3]);
        }
        sparse(&folder.file(name), b"{", 20 * GIB);
        refused(&format!("{name}: sparse"), command(["plan", "--type", "q4_0"]).arg(folder.path()), &[3]);
    }
}

#[test]
fn tokenizers() {
    let folder = Folder::of("31b");
    let parts = [
        (
            "a part without an end",
            format!(
                "{{\"normalizer\":[{}1],\"model\":{{\"type\":\"BPE\",\"vocab\":{{}},\"merges\":[]}}}}",
                "1,".repeat(30 << 20)
            ),
        ),
        (
            "a deep part",
            format!(
                "{{\"normalizer\":{}{},\"model\":{{\"type\":\"BPE\",\"vocab\":{{}},\"merges\":[]}}}}",
                "[".repeat(5000),
                "]".repeat(5000)
            ),
        ),
        ("millions of tokens", {
            let tokens: Vec<String> = (0..4_000_000).map(|id| format!("\"{id:x}\":{id}")).collect();
            format!("{{\"model\":{{\"type\":\"BPE\",\"vocab\":{{{}}},\"merges\":[]}}}}", tokens.join(","))
        }),
        (
            "millions of merges",
            format!(
                "{{\"model\":{{\"type\":\"BPE\",\"vocab\":{{}},\"merges\":[{}\"a b\"]}}}}",
                "\"a b\",".repeat(12_000_000)
            ),
        ),
        (
            "millions of added tokens",
            format!(
                "{{\"added_tokens\":[{}{{\"id\":1,\"content\":\"\"}}],\"model\":{{\"type\":\"BPE\",\"vocab\":{{}},\"merges\":[]}}}}",
                "{\"id\":1,\"content\":\"\"},".repeat(3_000_000)
            ),
        ),
    ];
    for (what, text) in parts {
        folder.write("tokenizer.json", text);
        refused(what, command(["plan", "--type", "q4_0"]).arg(folder.path()), &[3]);
    }
}

#[test]
fn cards_and_templates() {
    let folder = Folder::of("31b");
    let laughs: String =
        (1..40).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))).collect();
    for (what, text) in [
        ("anchors of anchors", format!("---\na0: &a0 [x]\n{laughs}---\n")),
        ("deep lists", format!("---\na: {}{}\n---\n", "[".repeat(100_000), "]".repeat(100_000))),
        (
            "deep indents",
            format!("---\n{}---\n", (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>()),
        ),
        ("too long", format!("---\na: [{}]\n---\n", "1,".repeat(8 << 20))),
    ] {
        folder.write("README.md", text);
        refused(what, command(["plan", "--type", "q4_0"]).arg(folder.path()), &[3]);
    }
    folder.remove("README.md");
    folder.write("chat_template.jinja", "a".repeat(9 << 20));
    refused("a long template", command(["plan", "--type", "q4_0"]).arg(folder.path()), &[3]);
    for template in [
        "{{ 'a' * 10 ** 9 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ] {
        folder.write("chat_template.jinja", template);
        refused(template, command(["generate", "--chat", "-n", "1", "-p", "hi"]).arg(folder.path()), &[3]);
    }
}

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

#[test]
fn headers_of_safetensors() {
    let folder = Folder::of("31b");
    let tensors: String = (0..1_500_000)
        .map(|n| format!("\"{n:x}\":{{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[{n},{}]}},", n + 1))
        .collect();
    for (what, header) in [
        ("millions of tensors", format!("{{{}\"a\":{{}}}}", tensors)),
        (
            "millions of dimensions",
            format!(
                "{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{}1],\"data_offsets\":[0,1]}}}}",
                "1,".repeat(45_000_000)
            ),
        ),
        (
            "millions of entries",
            format!(
                "{{\"__metadata__\":{{{}\"a\":\"\"}}}}",
                (0..5_000_000).map(|n| format!("\"{n:x}\":\"\",")).collect::<String>()
            ),
        ),
        ("deep lists", format!("{{\"a\":{}", "[".repeat(5_000_000))),
    ] {
        folder.write(support::WEIGHTS, safetensors(&header));
        refused(what, command(["inspect"]).arg(folder.path()), &[3]);
    }
    sparse(&folder.file(support::WEIGHTS), &(15 * GIB).to_le_bytes(), 20 * GIB);
    refused("a header of gigabytes", command(["inspect"]).arg(folder.path()), &[3]);
}

/// A GGUF header: `tensors` and `pairs` announced, then `rest`.
fn gguf(tensors: u64, pairs: u64, rest: &[u8]) -> Vec<u8> {
    let start =
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
    [&start, rest].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The beginning of a key with an array of `count` items of `kind`.
fn array(key: &str, kind: u32, count: u64) -> Vec<u8> {
    [text(key), 9u32.to_le_bytes().to_vec(), kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()]
        .concat()
}

#[test]
fn headers_of_ggufs() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    let pairs: Vec<u8> =
        (0..5_000_000).flat_map(|n| [text(&format!("{n:x}")), vec![0, 0, 0, 0, 1]].concat()).collect();
    let records: Vec<u8> = (0..2_000_000u64)
        .flat_map(|n| {
            [
                text(&format!("{n:x}")),
                1u32.to_le_bytes().to_vec(),
                1u64.to_le_bytes().to_vec(),
                0u32.to_le_bytes().to_vec(),
                (32 * n).to_le_bytes().to_vec(),
            ]
            .concat()
        })
        .collect();
    let cases = [
        ("millions of empty texts", gguf(0, 1, &[array("a", 8, 20_000_000), vec![0; 160_000_000]].concat())),
        (
            "millions of short texts",
            gguf(0, 1, &[array("a", 8, 20_000_000), [text("a"); 1].concat().repeat(20_000_000)].concat()),
        ),
        ("millions of pairs", gguf(0, 5_000_000, &pairs)),
        ("millions of tensors", gguf(2_000_000, 0, &records)),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        refused(what, command(["inspect"]).arg(&path), &[3]);
    }
    for kind in [0u32, 6, 7, 8, 10, 12] {
        sparse(&path, &gguf(0, 1, &array("a", kind, 1 << 31)), 40 * GIB);
        refused(&format!("an array of gigabytes, {kind}"), command(["inspect"]).arg(&path), &[3]);
    }
}

#[test]
fn what_options_name() {
    let folder = Folder::of("31b");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    let model = folder.path();
    let name = |options: &[&str]| {
        let mut command = command(options);
        command.arg(&model);
        command
    };
    let endless = "/dev/zero";
    refused("a prompt", &mut name(&["generate", "-n", "1", "--prompt-file", endless]), &[2, 3]);
    refused("tools", &mut name(&["generate", "-n", "1", "--chat", "-p", "a", "--tools", endless]), &[2, 3]);
    let mut piped = name(&["generate", "-n", "1", "-p", "-"]);
    piped.stdin(File::open(endless).map(Stdio::from).unwrap());
    refused("a prompt from stdin", &mut piped, &[2, 3]);

    let recipe = home.path().join("recipe.toml");
    for (what, text) in [
        ("a long recipe", "# a\n".repeat(1 << 20)),
        ("a deep recipe", format!("a = {}{}", "[".repeat(200_000), "]".repeat(200_000))),
        ("a recipe of tables", "[a.a.a.a.a.a.a.a.a.a.a.a.a.a]\n".repeat(20_000)),
    ] {
        fs::write(&recipe, text).unwrap();
        refused(what, &mut name(&["plan", "--recipe", recipe.to_str().unwrap()]), &[2, 3]);
    }

    sparse(
        &file,
        &[
            1i32.to_le_bytes().to_vec(),
            1i32.to_le_bytes().to_vec(),
            b"a".to_vec(),
            1i32.to_le_bytes().to_vec(),
            i32::MAX.to_le_bytes().to_vec(),
        ]
        .concat(),
        9 * GIB,
    );
    refused(
        "importance",
        &mut name(&["plan", "--type", "q4_0", "--importance", file.to_str().unwrap()]),
        &[2, 3],
    );
    let header = [
        b"_logits_".to_vec(),
        (1i32 << 30).to_le_bytes().to_vec(),
        1i32.to_le_bytes().to_vec(),
        2i32.to_le_bytes().to_vec(),
    ]
    .concat();
    let rows = 2 * ((1u64 << 30) - 1 - (1 << 29));
    sparse(&file, &header, 20 + 8 * GIB + rows * 12);
    refused("logits", command(["verify", "--against"]).arg(&file).arg(&model), &[2, 3]);
}

#[test]
fn numbers_beyond_reason_are_usage_errors() {
    let folder = Folder::of("31b");
    let model = folder.path();
    let model = model.to_str().unwrap();
    let text = support::text("eval.txt");
    let text = text.to_str().unwrap();
    let (out, huge, beyond) = (folder.out(), u64::MAX.to_string(), "99999999999999999999999");
    let out = out.to_str().unwrap();
    for (option, args) in [
        ("--threads", vec!["convert", model, "--type", "q4_0", "-o", out, "--threads", &huge]),
        ("--threads", vec!["convert", model, "--type", "q4_0", "-o", out, "--threads", "100000"]),
        ("context", vec!["generate", model, "-p", "a", "--context", &huge]),
        ("context", vec!["generate", model, "-p", "a", "-n", &huge]),
        ("--max-tokens", vec!["generate", model, "-p", "a", "-n", beyond]),
        ("context", vec!["plan", model, "--type", "q4_0", "--context", &huge]),
        ("context", vec!["plan", model, "--type", "q4_0", "--context", beyond]),
        ("context", vec!["calibrate", model, "--text", text, "-o", out, "--context", &huge]),
        ("context", vec!["sensitivity", model, "--text", text, "-o", out, "--context", &huge]),
        ("context", vec!["verify", model, "--against", model, "--text", text, "--context", &huge]),
    ] {
        let (run, peak) = measured(&mut command(&args));
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(option), "{args:?}: {}", run.stderr);
        assert!(peak < MOST, "{args:?}");
    }
}

/// Names in files can hold what terminals obey.
#[test]
fn nothing_that_a_terminal_obeys_is_shown() {
    let evil = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r";
    let acts = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    type Make = fn(&Folder, &str);
    let cases: [(&str, Make); 6] = [
        ("a tensor", |folder, evil| {
            folder.reweigh(|w| w.get("layers.0.mlp.up_proj.weight").name = format!("a{evil}"))
        }),
        ("an extra tensor", |folder, evil| {
            folder.reweigh(|w| w.add(&format!("model.vision_tower.{evil}"), "F32", &[1], 4))
        }),
        ("a shard", |folder, evil| {
            folder.shard(2, |map| {
                map["model.language_model.norm.weight"] = format!("{evil}.safetensors").into()
            })
        }),
        ("a config value", |folder, evil| folder.configure("hidden_activation", evil)),
        ("a card", |folder, evil| {
            let escaped: String = evil.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
            folder.write("README.md", format!("---\nname: \"{escaped}\"\n---\n"));
        }),
        ("a template", |folder, evil| {
            folder.write("chat_template.jinja", format!("{{{{ raise_exception('{evil}') }}}}"))
        }),
    ];
    for (what, change) in cases {
        let folder = Folder::of("31b");
        change(&folder, evil);
        let path = folder.path();
        let model = path.to_str().unwrap();
        for args in [
            vec!["inspect", model],
            vec!["inspect", model, "--json"],
            vec!["plan", model, "--type", "q4_0"],
            vec!["plan", model, "--type", "q4_0", "--json"],
            vec!["generate", model, "--chat", "-p", "a", "-n", "1", "-q"],
        ] {
            let Run { stdout, stderr, .. } = run(&args);
            assert!(args[0] == "generate" || !acts(&stdout), "{what}: {args:?}: {stdout:?}");
            assert!(!acts(&stderr), "{what}: {args:?}: {stderr:?}");
        }
    }
}
