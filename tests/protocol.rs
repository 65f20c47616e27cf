//! What models read when a text is verified: the chunks of stock llama-perplexity, the conversations of transformers,
//! and which tokens of them are scored. And the texts that are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use checkpoint::Checkpoint;
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::{Fault, Result};
use text::Tokenizer;
use text::{Corpus, Cut, Protocol, Reader, Scored};
use xtask::oracle::Oracle;

/// Of the tiny checkpoints.
const TRAINED: u64 = 2048;

fn template(name: &str) -> String {
    let path = match name {
        "tiny" => "checkpoints/e2b/chat_template.jinja".to_owned(),
        name => format!("chat-templates/{name}.jinja"),
    };
    fs::read_to_string(testkit::fixtures(path)).unwrap()
}

/// The tokenizer of a tiny checkpoint, and a folder for texts.
struct Bench {
    tokenizer: Tokenizer,
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let checkpoint = Checkpoint::open(testkit::fixtures("checkpoints/e2b")).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        Bench { tokenizer, folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn reader<'a>(&'a self, template: Option<&'a str>) -> Reader<'a> {
        Reader { tokenizer: &self.tokenizer, template, context: TRAINED }
    }

    /// Plain text for a base model.
    fn raw(&self, text: &str, context: usize) -> Result<Corpus> {
        let path = self.write("plain.txt", text);
        Corpus::read(&[path], &self.reader(None), &Cut { context, most: None, scored: Scored::All })
    }

    /// Conversations, a line each.
    fn chat(&self, template: &str, lines: &[Value], context: usize, scored: Scored) -> Result<Corpus> {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let path = self.write("chats.jsonl", lines.join("\n"));
        Corpus::read(&[path], &self.reader(Some(template)), &Cut { context, most: None, scored })
    }

    /// Runs of scored tokens, as text.
    fn said(&self, corpus: &Corpus) -> Vec<String> {
        let mut runs = Vec::new();
        for sequence in &corpus.sequences {
            for run in sequence.scored.chunk_by(|a, b| a + 1 == *b) {
                let ids: Vec<u32> = run.iter().map(|&position| sequence.tokens[position]).collect();
                runs.push(self.tokenizer.decode(&ids));
            }
        }
        runs
    }
}

#[test]
fn chunks_are_those_of_llama_perplexity() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let bench = Bench::new();
    let model = bench.folder.path().join("model.gguf");
    let mut convert = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    convert
        .arg("convert")
        .arg(testkit::fixtures("checkpoints/e2b"))
        .args(["--type", "bf16", "-o"])
        .arg(&model);
    assert!(convert.output().unwrap().status.success());
    let cases = [("eval.txt", 512, Some(3)), ("multilingual.txt", 101, Some(6)), ("markers.txt", 64, None)];
    for (name, context, most) in cases {
        let path = testkit::fixtures("text").join(name);
        let logits = bench.folder.path().join("logits");
        let mut stock = oracle.runner("llama-perplexity");
        stock.arg("-m").arg(&model).arg("-f").arg(&path).args(["-t", "2", "-c", &context.to_string()]);
        if let Some(most) = most {
            stock.args(["--chunks", &most.to_string()]);
        }
        stock.arg("--kl-divergence-base").arg(&logits);
        assert!(stock.output().unwrap().status.success(), "{name}");

        let cut = Cut { context, most, scored: Scored::All };
        let corpus = Corpus::read(&[path], &bench.reader(None), &cut).unwrap();
        let file = fs::read(&logits).unwrap();
        assert_eq!(&file[..8], b"_logits_");
        let int = |at: usize| u32::from_le_bytes(file[8 + 4 * at..][..4].try_into().unwrap());
        let (n_ctx, vocab, chunks) = (int(0) as usize, int(1) as usize, int(2) as usize);
        assert_eq!((n_ctx, chunks), (context, corpus.sequences.len()), "{name}");
        for (chunk, ours) in corpus.sequences.iter().enumerate() {
            let mut theirs: Vec<u32> = (0..n_ctx).map(|at| int(3 + chunk * n_ctx + at)).collect();
            theirs[0] = bench.tokenizer.bos(); // done when the chunk is read, and not stored
            assert_eq!(ours.tokens, theirs, "{name}, chunk {chunk}");
        }
        // what is left of the file is a row for each scored token: 16 bits a logit, and two numbers
        let rows = (file.len() - 20 - 4 * chunks * n_ctx) / (2 * (vocab + 4));
        assert_eq!(rows as u64, corpus.scored_tokens(), "{name}");
        assert_eq!(corpus.sequences[0].scored.first(), Some(&(context / 2 + 1)));
        assert_eq!(corpus.sequences[0].scored.last(), Some(&(context - 1)));
    }
}

#[test]
fn each_file_is_cut_by_itself() {
    let bench = Bench::new();
    let [a, b] = ["One fish, two fish, red fish. ", "Blue fish, and a very old one. "];
    let files = [bench.write("a.txt", a.repeat(9)), bench.write("b.txt", b.repeat(9))];
    let cut = Cut { context: 16, most: Some(2), scored: Scored::All };
    let corpus = Corpus::read(&files, &bench.reader(None), &cut).unwrap();
    assert_eq!((corpus.sequences.len(), corpus.files.len()), (4, 2));
    let alone = Corpus::read(&files[1..], &bench.reader(None), &cut).unwrap();
    assert_eq!(corpus.sequences[2..], alone.sequences);
    assert!(corpus.sequences.iter().all(|s| s.tokens[0] == bench.tokenizer.bos()));
}

#[test]
fn conversations_have_the_tokens_of_transformers() {
    let bench = Bench::new();
    let read = |path: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(testkit::fixtures(path)).unwrap()).unwrap()
    };
    let (golden, conversations) = (read("text/chat-ids.json"), read("chat-templates/conversations.json"));
    for (name, template) in [("tiny", template("tiny")), ("small", template("gemma-4-small.2026-07"))] {
        let golden = golden[name].as_object().unwrap();
        assert!(golden.len() > 15);
        for (title, ids) in golden {
            if title == "arguments as text" {
                continue; // transformers leaves them as text: see the next test but one
            }
            let conversation = conversations[title].clone();
            if conversation.to_string().contains("\"image\"") {
                // it names no file, and the mark alone is not what the model was trained on
                let error = bench.chat(&template, &[conversation], 2048, Scored::All).unwrap_err();
                assert!(error.to_string().contains("names no local file"), "{name}: {title}: {error}");
                continue;
            }
            let corpus = bench.chat(&template, &[conversation], 2048, Scored::All).unwrap();
            let [sequence] = &corpus.sequences[..] else { panic!("{name}: {title}") };
            assert_eq!(json!(sequence.tokens), *ids, "{name}: {title}");
            assert_eq!(sequence.scored, (1..sequence.tokens.len()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn answers_are_what_the_model_says() {
    let bench = Bench::new();
    let weather = json!([
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "reasoning": "I need two.", "tool_calls": [
            {"id": "a", "function": {"name": "sky", "arguments": {"city": "Lima"}}},
            {"id": "b", "function": {"name": "now", "arguments": {}}}]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "12:00"},
        {"role": "assistant", "content": "Sunny at noon."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "reasoning": "He is kind.", "content": "<|channel>thought\nold<channel|> Bye.\n"}
    ]);
    let tools = json!({"messages": [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "x", "function": {"name": "now", "arguments": {}}}]},
        {"role": "tool", "tool_call_id": "x", "content": "12:00"}],
        "tools": [{"type": "function", "function": {"name": "now", "description": "The time"}}]});
    let joined = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "c"}, {"role": "user", "content": "model"}]);
    let calls = "<|tool_call>call:sky{city:<|\"|>Lima<|\"|>}<tool_call|><|tool_call>call:now{}<tool_call|><|tool_response>";
    // Thoughts of the last turn are kept (in April only with a call), those of earlier turns are not.
    for (name, last) in [
        ("gemma-4-small.2026-07", "<|channel>thought\nHe is kind.\n<channel|>Bye.<turn|>"),
        ("gemma-4-large.2026-07", "<|channel>thought\nHe is kind.\n<channel|>Bye.<turn|>"),
        ("gemma-4-31B.2026-04", "Bye.<turn|>"),
    ] {
        let lines = [weather.clone(), tools.clone(), joined.clone()];
        let corpus = bench.chat(&template(name), &lines, 2048, Scored::Answers).unwrap();
        let call = "<|tool_call>call:now{}<tool_call|><|tool_response>";
        let said = bench.said(&corpus);
        let expected = [calls, "Sunny at noon.<turn|>", last, call];
        assert_eq!(said[..4], expected, "{name}");
        // the templates of July join two answers
        let joined = if name.ends_with("04") { "b<turn|>c<turn|>" } else { "bc<turn|>" };
        assert_eq!(said[4..].concat(), joined, "{name}");
        assert!(corpus.remarks.is_empty(), "{:?}", corpus.remarks);
    }
    let corpus = bench.chat(&template("tiny"), &[weather], 2048, Scored::Answers).unwrap();
    assert_eq!(
        bench.said(&corpus)[1..],
        ["Sunny at noon.<turn|>", "<|channel>thought\nold<channel|> Bye.<turn|>"]
    );
}

#[test]
fn arguments_may_be_text_as_openai_sends_them() {
    let bench = Bench::new();
    let chat = |arguments: Value| {
        let call = json!({"id": "x", "function": {"name": "now", "arguments": arguments}});
        let chat = json!([{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]);
        bench.chat(&template("gemma-4-large.2026-07"), &[chat], 2048, Scored::Answers)
    };
    let expected = chat(json!({"zone": "UTC", "b": 1})).unwrap();
    assert_eq!(chat(json!("{\"zone\": \"UTC\", \"b\": 1}")).unwrap().sequences, expected.sequences);
    let refused = chat(json!("now")).unwrap_err();
    assert!(refused.place().contains("chats.jsonl: line 1: chat template: line "), "{refused}");
}

#[test]
fn long_conversations_are_cut() {
    let bench = Bench::new();
    let chat = |answer: &str| json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]);
    let long =
        json!([{"role": "user", "content": "Hello ".repeat(30)}, {"role": "assistant", "content": "Hi"}]);
    let lines = [chat("Hi"), chat(&"yes ".repeat(30)), long];
    let corpus = bench.chat(&template("tiny"), &lines, 24, Scored::Answers).unwrap();
    assert_eq!(corpus.sequences.len(), 2);
    assert_eq!(corpus.sequences[1].tokens.len(), 24);
    assert_eq!(corpus.sequences[1].scored.last(), Some(&23));
    let notes: Vec<&str> = corpus.remarks.iter().map(|f| f.problem.as_str()).collect();
    assert_eq!(
        notes,
        [
            "2 of 3 conversations are longer than 24 tokens and were cut there",
            "1 of 3 conversations have no answer before that and were left out",
        ]
    );
    assert!(corpus.remarks.iter().all(|f| !f.is_warning));
    let nothing = bench.chat(&template("tiny"), &lines[2..], 24, Scored::Answers).unwrap_err();
    assert!(nothing.problem().contains("nothing in it to score"), "{nothing}");
}

#[test]
fn bos_comes_once_whether_the_template_writes_it_or_not() {
    let bench = Bench::new();
    let chat = [json!([{"role": "user", "content": "Hi"}])];
    let ids =
        |template: &str| bench.chat(template, &chat, 64, Scored::All).unwrap().sequences.remove(0).tokens;
    let expected = ids("{{ bos_token }}{{ messages[0].content }}");
    assert_eq!(ids("{{ messages[0].content }}"), expected);
    assert_eq!(ids("<bos>{{ bos_token }}{{ messages[0].content }}"), expected);
    assert_eq!(expected[0], bench.tokenizer.bos());
    assert_ne!(expected[1], bench.tokenizer.bos());
}

#[test]
fn the_protocol_is_known_from_the_model_and_from_the_file() {
    assert_eq!(Protocol::of_model(None), Protocol::Raw);
    assert_eq!(Protocol::of_model(Some("{{ messages }}")), Protocol::Chat);
    assert_eq!(Protocol::of_file(Path::new("a/chats.JSONL")), Protocol::Chat);
    assert_eq!(Protocol::of_file(Path::new("a.jsonl/wiki.test.raw")), Protocol::Raw);

    let bench = Bench::new();
    let text = bench.write("a.txt", "One fish, two fish, red fish. ".repeat(9));
    let cut = Cut { context: 16, most: None, scored: Scored::All };
    let tiny = template("tiny");
    let tuned = Corpus::read(std::slice::from_ref(&text), &bench.reader(Some(&tiny)), &cut).unwrap();
    let base = Corpus::read(&[text], &bench.reader(None), &cut).unwrap();
    assert_eq!(tuned.sequences, base.sequences);
    assert!(base.remarks.is_empty());
    let [warning] = &tuned.remarks[..] else { panic!("{:?}", tuned.remarks) };
    assert!(warning.is_warning);
    assert!(warning.problem.contains("instruction-tuned"), "{warning:?}");
}

#[test]
fn texts_that_cannot_be_read_are_refused() {
    let bench = Bench::new();
    let tiny = template("tiny");
    let chats = |bytes: &[u8], scored| {
        let path = bench.write("chats.jsonl", bytes);
        Corpus::read(&[path], &bench.reader(Some(&tiny)), &Cut { context: 64, most: None, scored })
    };
    let all = |bytes: &[u8]| chats(bytes, Scored::All);
    let answers = |line: &str| chats(line.as_bytes(), Scored::Answers);
    let user = r#"[{"role": "user", "content": "Hi"}]"#;
    let plain = |bytes: &[u8]| {
        let path = bench.write("plain.txt", bytes);
        Corpus::read(&[path], &bench.reader(None), &Cut { context: 64, most: None, scored: Scored::All })
    };
    let fish = "One fish, two fish. ".repeat(20);
    let read = |names: &[&str], template| {
        let paths: Vec<_> = names.iter().map(|name| bench.write(name, format!("{user}\n"))).collect();
        Corpus::read(&paths, &bench.reader(template), &Cut { context: 64, most: None, scored: Scored::All })
    };
    let cases = [
        (plain(b""), Fault::Malformed, "plain.txt: text: empty"),
        (plain(b"\n"), Fault::Malformed, "plain.txt: text: empty"),
        (plain(b"One fish.\n"), Fault::Malformed, "plain.txt: text: too short for a context of 64"),
        (
            plain(b"\xEF\xBB\xBFa\nb\n\xC3(\n"),
            Fault::Malformed,
            "plain.txt: line 3: not UTF-8 (expected text in UTF-8, found byte 0xC3 at offset 7)",
        ),
        (bench.raw(&fish, 7), Fault::Recipe, "context: too short"),
        (
            bench.raw(&fish, 4096),
            Fault::Recipe,
            "context: longer than the model's (expected at most 2048 tokens, found 4096)",
        ),
        (all(b""), Fault::Malformed, "chats.jsonl: conversations: there are none"),
        (all(b"\n \r\n"), Fault::Malformed, "chats.jsonl: conversations: there are none"),
        (
            all(&[user.as_bytes(), b"\n\nHello"].concat()),
            Fault::Malformed,
            "chats.jsonl: line 3: conversation: expected value",
        ),
        (all(b"[\"\xFF\"]"), Fault::Malformed, "found byte 0xFF at offset 2"),
        (all(b"[]"), Fault::Malformed, "line 1: messages: there are none"),
        (
            all(b"\"Hi\""),
            Fault::Malformed,
            "line 1: messages: not a list (expected a JSON list, found a string)",
        ),
        (all(br#"{"messages": [{}], "tools": {}}"#), Fault::Malformed, "line 1: tools: not a list"),
        (all(b"[\"Hi\"]"), Fault::Malformed, "line 1: message 0: not a message"),
        (answers(user), Fault::Malformed, "line 1: messages: none is the model's"),
        (
            answers(r#"[{"role": "user", "content": "<turn|>"}, {"role": "model", "content": "a"}]"#),
            Fault::Malformed,
            "line 1: message 0: contains <turn|>",
        ),
        (
            bench.chat("", &[json!([{}])], 64, Scored::All),
            Fault::Malformed,
            "the chat template makes nothing of it",
        ),
        (
            bench.chat("{{ messages }}", &[json!([{"role": "assistant"}])], 64, Scored::Answers),
            Fault::Malformed,
            "does not show what the model says",
        ),
        (
            read(&["a.jsonl"], None),
            Fault::Recipe,
            "a.jsonl: conversations, and this model has no chat template",
        ),
        (
            read(&["a.jsonl", "b.txt"], Some(&tiny)),
            Fault::Recipe,
            "b.txt: conversations and plain text do not add up",
        ),
        (read(&[], None), Fault::Recipe, "no file to read"),
        (
            Corpus::read(
                &[bench.folder.path().join("absent")],
                &bench.reader(None),
                &Cut { context: 64, most: None, scored: Scored::All },
            ),
            Fault::Malformed,
            "absent: ",
        ),
    ];
    for (result, fault, says) in cases {
        let error = result.expect_err(says);
        assert_eq!(error.fault(), fault, "{error}");
        assert!(error.to_string().contains(says), "{error}\ninstead of {says}");
    }
    assert!(
        plain(&fish.as_bytes()[..300]).unwrap_err().help_text().unwrap().contains("‹context› of 53 or less")
    );
}
