//! A page in headless Chromium, served on localhost by a server that knows only what a page asks: GET, HEAD, and one
//! POST to `/result`, which ends the visit.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use testkit::Need;

/// WebAssembly is compiled and a model read in seconds; a busy machine may take many times that.
const DEADLINE: Duration = Duration::from_secs(240);

/// What is served: the beginning of an address, and the folder or the file behind it.
pub(crate) type Routes<'a> = &'a [(&'static str, &'a Path)];

/// The browser's program. `None`, with a note on stderr, means skip.
///
/// # Panics
/// When none is installed and `GEMMA_CONVERT_BROWSER=require` is set, as `.ci/run` does.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    Need::Browser.found(found.find(|path| path.is_file()), "no Chromium is installed")
}

/// The browser without a window, to be told what to open. What it keeps goes into a folder in `dir`.
pub(crate) fn command(browser: &Path, dir: &Path) -> Command {
    let mut command = Command::new(browser);
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()));
    command
}

/// Opens an address of the server (`/page.html?…`) and waits for what the page posts.
///
/// # Panics
/// When nothing is posted within the deadline.
pub(crate) fn visit(browser: &Path, routes: Routes<'_>, address: &str) -> Value {
    let routes: Vec<_> = routes.iter().map(|&(prefix, path)| (prefix, path.to_owned())).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (results, posted) = mpsc::channel();
    // These threads end with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (routes, results) = (routes.clone(), results.clone());
            thread::spawn(move || answer(&stream, &routes, &results));
        }
    });

    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let child = command(browser, dir.path())
        .arg(format!("http://localhost:{port}{address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let running = Running(child);
    let result = posted.recv_timeout(DEADLINE);
    drop(running);
    let result = result.unwrap_or_else(|_| {
        panic!("the page posted nothing:\n{}", String::from_utf8_lossy(&fs::read(&log).unwrap()))
    });
    serde_json::from_slice(&result).unwrap()
}

/// A browser that ends with the test, also when that panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request a connection.
fn answer(mut stream: &TcpStream, routes: &[(&str, PathBuf)], results: &Sender<Vec<u8>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let mut words = head.first().map_or("", String::as_str).split(' ');
    let (method, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = address.split('?').next().unwrap_or_default();

    let (status, body) = if (method, path) == ("POST", "/result") {
        let length = head.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let mut result = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut result)?;
        // The test may have given up.
        let _ = results.send(result);
        ("204 No Content", Vec::new())
    } else {
        match file(routes, path).map(fs::read) {
            Some(Ok(bytes)) => ("200 OK", bytes),
            _ => ("404 Not Found", Vec::new()),
        }
    };
    let mime = match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    };
    // The two policies make memory that threads share available to the page.
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {mime}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Embedder-Policy: require-corp\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// The file of an address.
fn file(routes: &[(&str, PathBuf)], path: &str) -> Option<PathBuf> {
    let (prefix, place) = routes.iter().find(|(prefix, _)| path.starts_with(prefix))?;
    let rest = &path[prefix.len()..];
    if rest.is_empty() {
        return Some(place.clone());
    }
    (!rest.contains("..")).then(|| place.join(rest))
}
