//! llama-server with a target, with a draft beside it as docs/drafts.md has it, and with a split set.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::oracle::Oracle;

use super::PROMPTS;
use crate::support::{convert, fixture, run};

/// A tiny model is loaded in a second; a busy machine may take many times that.
const DEADLINE: Duration = Duration::from_secs(120);

/// A server on this machine. It ends with this.
pub(crate) struct Server {
    child: Child,
    port: u16,
    log: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    pub(super) fn start(oracle: &Oracle, model: &Path, more: &[&str], log: &Path) -> Server {
        let args = [&["-m", model.to_str().unwrap()], more].concat();
        Server::start_with(oracle, &args, &[], log)
    }

    /// Starts with these arguments, which name a model, and these variables of the environment.
    pub(crate) fn start_with(
        oracle: &Oracle,
        args: &[&str],
        environment: &[(&str, String)],
        log: &Path,
    ) -> Server {
        // free a moment ago; another process may take it, which the server then says
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut tool = oracle.runner("llama-server");
        tool.args(args).args(["-c", "512", "-t", "1", "-np", "1", "--host", "127.0.0.1"]);
        tool.args(["--port", &port.to_string()]).envs(environment.iter().map(|(name, value)| (name, value)));
        let out = File::create(log).unwrap();
        tool.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut server = Server { child: tool.spawn().unwrap(), port, log: log.to_owned() };
        let begin = Instant::now();
        while server.ask("GET /health", "").is_none_or(|(status, _)| status != 200) {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < DEADLINE, "{ended:?}: {}", server.said());
            sleep(Duration::from_millis(100));
        }
        server
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Status and body of an answer; `None` if nobody listens.
    fn ask(&self, what: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
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

    pub(crate) fn complete(&self, prompt: &str, tokens: usize) -> Value {
        let body = json!({ "prompt": prompt, "n_predict": tokens, "temperature": 0, "return_tokens": true });
        self.post("/completion", &body)
    }

    /// The answer to a request that must succeed.
    pub(super) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.ask(&format!("POST {path}"), &body.to_string()).unwrap();
        assert_eq!(status, 200, "{body}{}", self.said());
        serde_json::from_str(&body).unwrap()
    }
}

/// The text is ours for every way to load the model, and a draft's guesses are looked at.
#[test]
fn llama_server_says_what_we_say() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, file) = (fixture("e2b"), |name: &str| home.path().join(name));
    convert(&checkpoint, home.path(), &["--type", "q4_0", "--recipe", "q4_0-offload"]).good();
    convert(&checkpoint, &file("split"), &["--recipe", "browser", "--split-max-size", "1MB"]).good();
    let draft = |args: &[&str]| {
        let more = ["--type", "q8_0", "-o", home.path().to_str().unwrap()];
        run([&["draft"], args, &more].concat()).good();
    };
    let [assistant, target] = ["e2b-assistant", "e2b"].map(|name| fixture(name).to_str().unwrap().to_owned());
    draft(&["convert", &assistant, "--target", &target]);
    std::fs::rename(file("draft-q8_0.gguf"), file("assistant.gguf")).unwrap();
    draft(&["extract", &target, "--layers", "0,3"]);

    let [assistant, extract] =
        ["assistant.gguf", "draft-q8_0.gguf"].map(|name| file(name).to_str().unwrap().to_owned());
    let parts = crate::support::names(&file("split"));
    let first = parts.iter().find(|name| name.contains("-00001-of-")).unwrap();
    let whole = file("model-q4_0.gguf");
    let cases: [(&Path, &[&str], bool); 5] = [
        (&whole, &[], false),
        (&file("model-offload-q4_0-00001-of-00002.gguf"), &[], false),
        (&file("split").join(first), &[], false),
        (&whole, &["-md", &assistant, "--spec-type", "draft-mtp"], true),
        (&whole, &["-md", &extract, "--spec-type", "draft-simple"], true),
    ];
    for (model, more, drafted) in cases {
        let server = Server::start(&oracle, model, more, &file("log"));
        for prompt in PROMPTS {
            let (ours, theirs) = (super::ours(model, prompt, 32), server.complete(prompt, 32));
            assert_eq!(theirs["tokens"], ours["tokens"], "{model:?} {more:?}: {theirs:#}");
            assert_eq!(theirs["content"], ours["text"], "{model:?} {more:?}");
            let guesses = theirs["timings"]["draft_n"].as_u64().unwrap_or_default();
            assert_eq!(guesses > 0, drafted, "{model:?} {more:?}: {theirs:#}");
        }
    }
}
