//! The real Ollama judges stores and Modelfiles of `pack ollama`. Skipped, with a word, where it is not built
//! (`cargo xtask oracle --clients`); CI requires it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use xtask::oracle::ollama::Ollama;

use crate::pack::{Files, pack};
use crate::support::{run, sha256};

/// A tiny model is loaded in a second; a busy machine may take many times that.
const DEADLINE: Duration = Duration::from_secs(180);
/// A line of the log may come this long after the answer that it is about.
const LOG_DEADLINE: Duration = Duration::from_secs(20);
/// After this prompt the tiny e2b never has two tokens so near each other that another rounding would change the text.
const PROMPT: &str = "In 1912 the";
/// An image of 78 soft tokens.
const IMAGE: &str = "golden/multimodal/wide.llama.png";

/// A server on this machine with a store of its own. It ends with this.
pub(crate) struct Server<'a> {
    ollama: &'a Ollama,
    child: Child,
    address: String,
    folder: PathBuf,
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server<'_> {
    pub(crate) fn start<'a>(ollama: &'a Ollama, folder: &Path) -> Server<'a> {
        // free a moment ago; another process may take it, which the server then says
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, folder) = (format!("127.0.0.1:{port}"), folder.to_owned());
        let log = File::create(folder.join("log")).unwrap();
        let mut command = ollama.command(&folder, &folder.join("store"), &address);
        command.arg("serve").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = Server { ollama, child: command.spawn().unwrap(), address, folder };
        let begin = Instant::now();
        while server.ask("GET /api/version", "").is_none_or(|(status, _)| status != 200) {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < DEADLINE, "{ended:?}: {}", server.said());
            sleep(Duration::from_millis(50));
        }
        server
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap()).into_owned()
    }

    /// Status and body of an answer; `None` if nobody listens.
    fn ask(&self, what: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!(
            "{what} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
    }

    #[track_caller]
    fn json(&self, what: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(what, &body.to_string()).unwrap();
        assert_eq!(status, 200, "{what} {answer}\n{}", self.said());
        serde_json::from_str(&answer).unwrap()
    }

    /// The greedy continuation of [`PROMPT`].
    fn generate(&self, model: &str, tokens: usize) -> Value {
        let options = json!({ "temperature": 0, "num_predict": tokens });
        let body =
            json!({ "model": model, "prompt": PROMPT, "raw": true, "stream": false, "options": options });
        self.json("POST /api/generate", &body)
    }

    /// A turn of a conversation, with more fields.
    fn chat(&self, model: &str, message: Value, more: Value) -> Value {
        let mut body = json!({ "model": model, "messages": [message], "stream": false,
            "options": { "temperature": 0, "num_predict": 8 } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.json("POST /api/chat", &body)
    }

    /// Runs the program as a client of this server.
    #[track_caller]
    pub(crate) fn client(&self, args: &[&str]) {
        let mut command = self.ollama.command(&self.folder, &self.folder.join("store"), &self.address);
        let output = command.args(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?} {output:?}\n{}", self.said());
    }

    pub(crate) fn manifest(&self, model: &str) -> PathBuf {
        self.folder.join("store/manifests/registry.ollama.ai/library").join(model.replace(':', "/"))
    }
}

/// Tokens of the draft that were accepted and all of them, by the first line of the log with
/// `draft acceptance = 0.70833 (   17 accepted /    24 generated)`.
fn drafted(log: &str) -> Option<[u64; 2]> {
    let counts = log.lines().find_map(|line| line.split_once("draft acceptance = ")?.1.split_once('('))?.1;
    let numbers: Vec<_> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some(numbers.try_into().unwrap_or_else(|_| panic!("{counts}")))
}

#[test]
fn a_running_server_runs_what_is_packed() {
    let Some(ollama) = Ollama::for_tests() else { return };
    let files = Files::new();
    let server = Server::start(&ollama, files.home());
    let sums: Vec<_> = files.all().iter().map(|file| sha256(file)).collect();
    pack(&[&files.text(), &files.projector()], "tiny:q4_0", &files.store(), &[]).good();
    let packed =
        pack(&[&files.text(), &files.draft()], "tiny:draft", &files.store(), &["--json"]).good().json();

    let tags = server.json("GET /api/tags", &json!({}));
    let mut names: Vec<_> =
        tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["tiny:draft", "tiny:q4_0"]);
    let of_draft = tags["models"].as_array().unwrap().iter().find(|model| model["name"] == "tiny:draft");
    assert_eq!(of_draft.unwrap()["digest"], packed["store"]["id"]);
    for name in names {
        let shown = server.json("POST /api/show", &json!({ "model": name }));
        let details = &shown["details"];
        assert_eq!((&details["family"], &details["quantization_level"]), (&json!("gemma4"), &json!("Q4_0")));
        assert_eq!(details["parameter_size"], packed["config"]["model_type"]);
        let abilities = match name {
            "tiny:q4_0" => json!(["completion", "vision", "audio", "tools", "thinking"]),
            _ => packed["capabilities"].clone(),
        };
        let sorted = |list: &Value| {
            let mut list: Vec<_> = list.as_array().unwrap().iter().map(Value::to_string).collect();
            list.sort();
            list
        };
        assert_eq!(sorted(&shown["capabilities"]), sorted(&abilities), "{name}");
    }

    // with as many guesses at once as Ollama asks for
    let (text, draft) = (files.text(), files.draft());
    let generate = ["generate", text.to_str().unwrap(), "-p", PROMPT, "-n", "24", "--json", "-q"];
    let draft = ["--draft", draft.to_str().unwrap(), "--draft-tokens", "4"];
    let ours = run([&generate[..], &draft].concat()).good().json();
    for name in ["tiny:q4_0", "tiny:draft"] {
        let theirs = server.generate(name, 24);
        assert_eq!(theirs["response"], ours["text"], "{name}");
        assert_eq!(theirs["eval_count"], 24, "{name}");
    }
    // the server writes its log after the answer
    let begin = Instant::now();
    while drafted(&server.said()).is_none() && begin.elapsed() < LOG_DEADLINE {
        sleep(Duration::from_millis(50));
    }
    let said = server.said();
    assert!(said.contains("speculative implementation 'draft-mtp'"), "the draft is not loaded: {said}");
    let theirs = drafted(&said).unwrap_or_else(|| panic!("no figures of the draft: {said}"));
    assert!(theirs[0] > 0, "no drafted token was accepted: {said}");
    // but for the last burst
    for (key, theirs) in ["accepted", "drafted"].into_iter().zip(theirs) {
        let ours = ours["draft"][key].as_u64().unwrap();
        assert!(ours.abs_diff(theirs) <= 4, "{key} {ours}, of Ollama {theirs}");
    }

    let question = json!({ "role": "user", "content": "What is it?" });
    // a model that can think does so unless it is told not to
    let plain = server.chat("tiny:q4_0", question.clone(), json!({ "think": false }));
    let mut seen = question.clone();
    seen["images"] = json!([BASE64_STANDARD.encode(testkit::read(IMAGE))]);
    let seen = server.chat("tiny:q4_0", seen, json!({}));
    let tokens = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    assert!(tokens(&seen) >= tokens(&plain) + 78, "{plain} {seen}");
    let tool = json!({ "type": "function", "function": { "name": "weather", "description": "The weather",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } } });
    for more in [json!({ "think": true }), json!({ "think": false, "tools": [tool] })] {
        let answer = server.chat("tiny:q4_0", question.clone(), more.clone());
        assert!(tokens(&answer) > tokens(&plain), "{more}: {answer}");
    }

    server.client(&["rm", "tiny:q4_0"]);
    assert_eq!(server.generate("tiny:draft", 4)["eval_count"], 4);
    server.client(&["rm", "tiny:draft"]);
    assert_eq!(crate::support::names(&files.store().join("blobs")), [""; 0]);
    assert_eq!(files.all().iter().map(|file| sha256(file)).collect::<Vec<_>>(), sums);
}

/// What `ollama create` makes of our Modelfile is what `pack` writes, byte for byte.
#[test]
fn a_modelfile_makes_the_same_model() {
    let Some(ollama) = Ollama::for_tests() else { return };
    let files = Files::new();
    let server = Server::start(&ollama, files.home());
    let modelfile = files.home().join("Modelfile");
    let license = testkit::root().join("LICENSE");
    let license = ["--license", license.to_str().unwrap()];
    let all = files.all();
    let mut args = vec!["pack", "ollama", "--modelfile", modelfile.to_str().unwrap()];
    args.extend(license);
    args.extend(all.iter().map(|file| file.to_str().unwrap()));
    run(args).good();
    server.client(&["create", "made:1", "-f", modelfile.to_str().unwrap()]);
    let all: Vec<&Path> = all.iter().map(PathBuf::as_path).collect();
    pack(&all, "packed:1", &files.store(), &license).good();
    let [made, packed] =
        ["made:1", "packed:1"].map(|name| fs::read_to_string(server.manifest(name)).unwrap());
    assert_eq!(packed, made);
}
