//! The commands of README.md and docs/ run as they are written.
//!
//! The rules, for those who write a page:
//!
//! - A fenced block `sh` holds commands. All commands of a page run in its order, in one empty folder of the page.
//! - A line that begins with `gemma-convert ` or `cargo run --release -- ` runs the binary under test. Quotes, a `\` at the
//!   end of a line, a comment behind ` # ` and one redirection `> FILE` are understood; variables and pipes are not.
//! - A line that begins with `cargo ` otherwise is not run. Any other line is an error: commands of other programs stand in
//!   blocks `console`, and output in blocks `text`.
//! - A cell of a table that is one code span and begins with `gemma-convert ` is a command too, unless it is shorter than
//!   three words.
//! - A command must exit with 0, or with N where its comment says `exits with N`.
//! - A block `text output` holds lines that the command before it prints, but for lines with a time (`0.3 s`).
//! - A block whose first line is like `toml file=my.toml` is written to that file before the commands of the page run.
//! - The folder holds the names of [`NAMES`], which stand for a user's checkpoints and texts; they are the tiny fixtures.
//!
//! `GEMMA_CONVERT_BIN` names another binary, and `GEMMA_CONVERT_DOCS_TIMES=1` prints the time of each command.

#![allow(clippy::print_stdout, reason = "on request: the time of each command")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A name in a page's folder, and the fixture that it stands for.
const NAMES: &[(&str, &str)] = &[
    ("fixtures", "fixtures"),
    ("recipes", "recipes"),
    ("gemma-4-E2B-it", "fixtures/checkpoints/e2b"),
    ("gemma-4-E2B-it-assistant", "fixtures/checkpoints/e2b-assistant"),
    ("gemma-4-26B-A4B-it", "fixtures/checkpoints/26b-a4b"),
    ("gemma-4-31B-it", "fixtures/checkpoints/31b"),
    ("my-adapter", "fixtures/golden/lora/plain-e2b"),
];

/// Texts are short beginnings of fixtures, so that the commands take seconds: a calibration wants 2,048 tokens.
const TEXTS: &[(&str, &str, usize)] =
    &[("calib.txt", "fixtures/text/calib.txt", 8_192), ("eval.txt", "fixtures/text/eval.txt", 4_608)];

/// A checkpoint of quantization-aware training, made of this one.
const QAT: (&str, &str) = ("gemma-4-E2B-it-qat-q4_0-unquantized", "fixtures/checkpoints/e2b");

/// Conversations for `chats.jsonl`, and a prompt for `prompt.txt`.
const CHATS: &str = r#"{"messages": [{"role": "user", "content": "Which river flows through Cairo?"}, {"role": "assistant", "content": "The Nile flows through Cairo, from the south to the delta."}]}
{"messages": [{"role": "user", "content": "Name the capital of Norway."}, {"role": "assistant", "content": "The capital of Norway is Oslo."}, {"role": "user", "content": "And of Sweden?"}, {"role": "assistant", "content": "The capital of Sweden is Stockholm."}]}
{"messages": [{"role": "user", "content": "What is exported from Chile?"}, {"role": "assistant", "content": "Chile exports copper, fruit, fish products, paper and pulp."}]}
"#;
const PROMPT: &str = "The climate of the island is";

macro_rules! pages {
    ($($name:ident: $path:literal, $least:literal;)*) => {
        /// Pages with commands.
        const PAGES: &[&str] = &[$($path),*];
        $(
            #[test]
            fn $name() {
                run_page($path, $least);
            }
        )*
    };
}

// name: page, the least number of commands that it has
pages! {
    readme: "README.md", 12;
    adapters: "docs/adapters.md", 8;
    budget: "docs/budget.md", 5;
    calibration: "docs/calibration.md", 1;
    choosing_a_type: "docs/choosing-a-type.md", 2;
    ci: "docs/ci.md", 4;
    commands: "docs/commands.md", 8;
    convert: "docs/convert.md", 8;
    drafts: "docs/drafts.md", 8;
    edit: "docs/edit.md", 5;
    generate: "docs/generate.md", 13;
    importance: "docs/importance.md", 7;
    inputs: "docs/inputs.md", 3;
    manifest: "docs/manifest.md", 1;
    memory: "docs/memory.md", 1;
    mmproj: "docs/mmproj.md", 11;
    offload: "docs/offload.md", 5;
    ollama: "docs/ollama.md", 6;
    release: "docs/release.md", 4;
    plan: "docs/plan.md", 1;
    qat: "docs/qat.md", 4;
    safetensors: "docs/safetensors.md", 4;
    verify: "docs/verify.md", 18;
    recipes: "recipes/README.md", 2;
    sfp8_safetensors: "formats/sfp8-safetensors.md", 2;
}

/// No page with commands is forgotten here.
#[test]
fn every_page_with_commands_is_listed() {
    let root = testkit::root();
    let mut pages = vec![
        root.join("README.md"),
        root.join("recipes/README.md"),
        root.join("formats/sfp8-safetensors.md"),
    ];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 20, "too few pages: {pages:?}");
    let mut problems = Vec::new();
    for path in pages {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let page = match Page::parse(&fs::read_to_string(&path).unwrap()) {
            Ok(page) => page,
            Err(error) => {
                problems.push(format!("{name}:{error}"));
                continue;
            }
        };
        if !page.commands.is_empty() && !PAGES.contains(&name.as_str()) {
            problems.push(format!(
                "{name} has {} commands and is not in the list of tests/docs.rs",
                page.commands.len()
            ));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Runs the commands of a page; all that fail are named.
fn run_page(path: &str, least: usize) {
    let root = testkit::root();
    let page = Page::parse(&fs::read_to_string(root.join(path)).unwrap());
    let page = page.unwrap_or_else(|error| panic!("{path}:{error}"));
    assert!(page.commands.len() >= least, "{path} has {} commands, not {least} or more", page.commands.len());
    let folder = lay_out(&root, path, &page);
    let mut problems = Vec::new();
    for command in &page.commands {
        let begin = Instant::now();
        if let Err(problem) = command.run(&folder) {
            problems.push(format!("{path}:{}: {}\n{problem}", command.line, command.text));
        }
        if std::env::var_os("GEMMA_CONVERT_DOCS_TIMES").is_some() {
            println!("{:6.2} s  {path}:{}  {}", begin.elapsed().as_secs_f64(), command.line, command.text);
        }
    }
    assert!(
        problems.is_empty(),
        "{} of {} commands:\n{}",
        problems.len(),
        page.commands.len(),
        problems.join("\n\n")
    );
    fs::remove_dir_all(&folder).unwrap();
}

fn binary() -> PathBuf {
    let named = std::env::var_os("GEMMA_CONVERT_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_gemma-convert").into())
}

/// The folder of a page, with the names that stand for a user's files.
fn lay_out(root: &Path, path: &str, page: &Page) -> PathBuf {
    let above = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = above.join(format!("docs-{}", path.replace(['/', '.'], "-")));
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    for (name, target) in NAMES {
        link(&root.join(target), &folder.join(name));
    }
    for (name, source, bytes) in TEXTS {
        let text = fs::read_to_string(root.join(source)).unwrap();
        let end = (0..=*bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap();
        fs::write(folder.join(name), &text[..end]).unwrap();
    }
    fs::write(folder.join("chats.jsonl"), CHATS).unwrap();
    fs::write(folder.join("prompt.txt"), PROMPT).unwrap();
    if page.commands.iter().any(|command| command.text.contains(QAT.0)) {
        on_a_grid(&root.join(QAT.1), &folder.join(QAT.0));
    }
    for (name, text) in &page.files {
        fs::write(folder.join(name), text).unwrap();
    }
    folder
}

#[cfg(unix)]
fn link(target: &Path, name: &Path) {
    std::os::unix::fs::symlink(target, name).unwrap();
}

#[cfg(not(unix))]
fn link(target: &Path, name: &Path) {
    fs::create_dir_all(name).unwrap();
    for entry in fs::read_dir(target).unwrap() {
        let path = entry.unwrap().path();
        let name = name.join(path.file_name().unwrap());
        if path.is_dir() {
            link(&path, &name);
        } else {
            fs::copy(&path, &name).unwrap();
        }
    }
}

/// Copies a checkpoint of BF16 weights, each of them moved to the nearest of −8 … 7 times 1/64.
fn on_a_grid(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|end| end == "safetensors") {
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            for value in bytes[8 + header as usize..].chunks_exact_mut(2) {
                let weight = f32::from_bits(u32::from(u16::from_le_bytes([value[0], value[1]])) << 16);
                let code = (weight * 64.0).round().clamp(-8.0, 7.0);
                value.copy_from_slice(&((code / 64.0).to_bits() >> 16).to_le_bytes()[..2]);
            }
        }
        fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
    }
}

/// What a page asks for.
#[derive(Default)]
struct Page {
    commands: Vec<Line>,
    files: Vec<(String, String)>,
}

/// A command of a page.
struct Line {
    line: usize,
    text: String,
    arguments: Vec<String>,
    stdout: Option<String>,
    exit: i32,
    prints: Vec<String>,
}

impl Page {
    /// Errors begin with the number of the line.
    fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            if line.starts_with('|') {
                page.table(number + 1, line)?;
                continue;
            }
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            let mut block = Vec::new();
            loop {
                match lines.next() {
                    Some((_, line)) if line.trim_start().starts_with("```") => break,
                    Some((number, line)) => block.push((number + 1, line)),
                    None => return Err(format!("{}: a block without an end", number + 1)),
                }
            }
            if let Some((_, name)) = info.split_once("file=") {
                let text: String = block.iter().map(|(_, line)| format!("{line}\n")).collect();
                page.files.push((name.trim().to_owned(), text));
            } else if info == "sh" {
                page.block(&block)?;
            } else if info == "text output" {
                let command = page.commands.last_mut();
                let command = command.ok_or_else(|| format!("{}: output of no command", number + 1))?;
                let lines = block.iter().map(|(_, line)| (*line).to_owned());
                command.prints = lines.filter(|line| !line.is_empty() && !line.contains(" s ")).collect();
            }
        }
        Ok(page)
    }

    fn block(&mut self, block: &[(usize, &str)]) -> Result<(), String> {
        let mut lines = block.iter();
        while let Some((number, line)) = lines.next() {
            let mut whole = (*line).trim().to_owned();
            while let Some(part) = whole.strip_suffix('\\') {
                let (_, next) = lines.next().ok_or_else(|| format!("{number}: nothing follows the \\"))?;
                whole = format!("{}{}", part, next.trim_start());
            }
            if whole.is_empty() || whole.starts_with('#') {
                continue;
            }
            let command = Line::parse(*number, &whole)?;
            match command {
                Some(command) => self.commands.push(command),
                None if whole.starts_with("cargo ") => {}
                None => return Err(format!("{number}: not a command of this program: {whole}")),
            }
        }
        Ok(())
    }

    fn table(&mut self, number: usize, line: &str) -> Result<(), String> {
        for cell in line.trim_matches('|').split(" | ") {
            let span = cell.trim().strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            if let Some(span) = span
                && !span.contains('`')
                && span.split_whitespace().count() > 2
            {
                self.commands.extend(Line::parse(number, span)?);
            }
        }
        Ok(())
    }
}

impl Line {
    /// `None` for the command of another program.
    fn parse(line: usize, text: &str) -> Result<Option<Self>, String> {
        let starts = ["gemma-convert ", "cargo run --release -- "];
        let Some(rest) = starts.iter().find_map(|start| text.strip_prefix(start)) else { return Ok(None) };
        let (mut arguments, comment) = words(rest).map_err(|error| format!("{line}: {error}"))?;
        let exit = comment.split_once("exits with ").map(|(_, code)| code);
        let exit =
            exit.map_or(Some(0), |code| code.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        let exit = exit.ok_or_else(|| format!("{line}: which exit code?"))?;
        let mut stdout = None;
        if let Some(at) = arguments.iter().position(|word| word == ">") {
            stdout = arguments.get(at + 1).cloned();
            arguments.truncate(at);
        }
        Ok(Some(Self { line, text: text.to_owned(), arguments, stdout, exit, prints: Vec::new() }))
    }

    fn run(&self, folder: &Path) -> Result<(), String> {
        let mut command = Command::new(binary());
        command.args(&self.arguments).current_dir(folder).stdin(Stdio::null());
        // without it `pack ollama` writes into the store of whoever runs the tests
        command.env("OLLAMA_MODELS", folder.join("ollama-models"));
        if let Some(name) = &self.stdout {
            command.stdout(File::create(folder.join(name)).map_err(|error| error.to_string())?);
        }
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.code() == Some(self.exit) {
            let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let missing = self.prints.iter().find(|line| told.lines().all(|other| other != *line));
            return missing.map_or(Ok(()), |line| Err(format!("  this line is not printed: {line}\n{told}")));
        }
        let show = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .lines()
                .rev()
                .take(6)
                .map(|l| format!("    {l}\n"))
                .collect::<Vec<_>>()
        };
        let mut told = show(&output.stderr);
        told.extend(show(&output.stdout));
        told.reverse();
        Err(format!("  {}, not {}\n{}", output.status, self.exit, told.concat()))
    }
}

/// The words of a command as a shell has them, and the comment behind it.
fn words(text: &str) -> Result<(Vec<String>, &str), String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => return Ok((words, &text[at + 1..])),
            (None, ' ') => words.extend(word.take()),
            (None, '$' | '`' | '|' | ';' | '&' | '<' | '…') => {
                return Err(format!("a shell would act on {c}: {text}"));
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote without an end: {text}"));
    }
    words.extend(word);
    Ok((words, ""))
}

/// The rules above, on small pages.
mod rules {
    use super::{Page, words};

    fn arguments(text: &str) -> Vec<Vec<String>> {
        Page::parse(text).unwrap().commands.into_iter().map(|command| command.arguments).collect()
    }

    #[test]
    fn commands_are_found_in_blocks_and_tables_only() {
        let page = "`gemma-convert a b c`\n```text\ngemma-convert no\n```\n```sh\n# a comment\ncargo test --release\n\
                    gemma-convert one \\\n  two # three\ncargo run --release -- four\n```\n\
                    | goal | `gemma-convert five six` | `gemma-convert seven` | see `gemma-convert a b c` |\n";
        assert_eq!(arguments(page), [vec!["one", "two"], vec!["four"], vec!["five", "six"]]);
    }

    #[test]
    fn quotes_comments_redirections_and_exit_codes_are_understood() {
        let (found, comment) = words("--set 'a=\"b c\"' -p \"it's\" x#y # exits with 3: why").unwrap();
        assert_eq!(found, ["--set", "a=\"b c\"", "-p", "it's", "x#y"]);
        assert_eq!(comment, " exits with 3: why");
        let page = Page::parse("```sh\ngemma-convert man > man.1  # exits with 2\n```").unwrap();
        assert_eq!(page.commands[0].arguments, ["man"]);
        assert_eq!((page.commands[0].stdout.as_deref(), page.commands[0].exit), (Some("man.1"), 2));
    }

    #[test]
    fn files_are_written_and_bad_pages_refused() {
        let page =
            Page::parse("```sh\ngemma-convert a\n```\n```text output\none\nin 0.3 s (x)\n```").unwrap();
        assert_eq!(page.commands[0].prints, ["one"]);
        let page = Page::parse("```toml file=a.toml\nx = 1\n```\n").unwrap();
        assert_eq!(page.files, [("a.toml".to_owned(), "x = 1\n".to_owned())]);
        for bad in [
            "```sh\nls\n```",
            "```sh\ngemma-convert a | b\n```",
            "```sh\ngemma-convert 'a\n```",
            "```sh\ngemma-convert a",
        ] {
            assert!(Page::parse(bad).is_err(), "{bad}");
        }
    }
}
