//! Settings of the hub client. The environment is read here and nowhere else.
//!
//! Source of the names: "Environment variables" of huggingface_hub's documentation.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Error, Result, read_bounded};
use ureq::Proxy;

/// The public hub.
pub const ENDPOINT: &str = "https://huggingface.co";
const MOST_TOKEN: u64 = 4096;
/// The variable with the home folder, as Python's `expanduser` has it.
const HOME: &str = if cfg!(windows) { "USERPROFILE" } else { "HOME" };

/// Where and how the hub is reached, and the folder of the cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URL of the hub, without a slash at the end.
    pub endpoint: String,
    /// The access token.
    pub token: Option<HubToken>,
    /// Folder of the cache: the one that contains `models--owner--name`.
    pub cache: PathBuf,
    /// True to use the cache alone.
    pub offline: bool,
    /// Limit for a connection.
    pub connect_timeout: Duration,
    /// Limit for the first byte of an answer.
    pub answer_timeout: Duration,
    /// Limit for each read of a body.
    pub read_timeout: Duration,
    /// False if the user asked for no progress bars.
    pub progress_bars: bool,
    /// PEM file with the certificates to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
    /// True for the proxy that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of this process name.
    pub proxy_of_environment: bool,
}

/// An access token, and its source for messages.
#[derive(Clone)]
pub struct HubToken {
    secret: String,
    source: String,
}

impl HubToken {
    /// A token; `source` names in messages where it came from. White space around it is dropped.
    ///
    /// # Errors
    /// `Recipe` for text that cannot be a token.
    pub fn new(secret: &str, source: impl Into<String>) -> Result<HubToken> {
        let (secret, source) = (secret.trim().to_owned(), source.into());
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::recipe(source, "not an access token")
                .help("A token of the Hugging Face hub begins with hf_ and has no spaces."));
        }
        Ok(HubToken { secret, source })
    }

    /// The place where the token was found.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubToken(from {})", self.source)
    }
}

impl Settings {
    /// Settings without an environment: no token, no proxy, default limits.
    pub fn new(endpoint: &str, cache: &Path) -> Settings {
        Settings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: None,
            cache: cache.to_owned(),
            offline: false,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            progress_bars: true,
            certificates: None,
            proxy_of_environment: false,
        }
    }

    /// Settings from the environment of this process, with the proxy that it names.
    ///
    /// # Errors
    /// As [`from_variables`](Self::from_variables).
    pub fn from_env() -> Result<Settings> {
        let settings = Settings::from_variables(|name| std::env::var_os(name))?;
        Ok(Settings { proxy_of_environment: true, ..settings })
    }

    /// Settings from variables: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_ETAG_TIMEOUT`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, `HF_HUB_DISABLE_PROGRESS_BARS`, `SSL_CERT_FILE`, the old names
    /// `HUGGING_FACE_HUB_TOKEN` and `HUGGINGFACE_HUB_CACHE`, and `XDG_CACHE_HOME` and `HOME`
    /// (`USERPROFILE` on Windows).
    ///
    /// # Errors
    /// `Recipe` for a value that is invalid, or if no variable tells the folder of the cache.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        let variables = Variables(get);
        let home = variables.home()?;
        let cache = variables.path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let endpoint = variables.text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        if !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(Error::recipe("HF_ENDPOINT", "not a URL").expected("https://…", endpoint));
        }
        let defaults = Settings::new(&endpoint, &cache.unwrap_or_else(|| home.join("hub")));
        Ok(Settings {
            token: variables.token(&home)?,
            offline: variables.is_on("HF_HUB_OFFLINE") || variables.is_on("TRANSFORMERS_OFFLINE"),
            answer_timeout: variables.seconds("HF_HUB_ETAG_TIMEOUT")?.unwrap_or(defaults.answer_timeout),
            read_timeout: variables.seconds("HF_HUB_DOWNLOAD_TIMEOUT")?.unwrap_or(defaults.read_timeout),
            progress_bars: !variables.is_on("HF_HUB_DISABLE_PROGRESS_BARS"),
            certificates: variables.path(&["SSL_CERT_FILE"]),
            ..defaults
        })
    }

    pub(crate) fn proxy(&self) -> Option<Proxy> {
        // ureq has no other way to read these variables
        self.proxy_of_environment.then(Proxy::try_from_env).flatten()
    }
}

struct Variables<G>(G);

impl<G: Fn(&str) -> Option<OsString>> Variables<G> {
    /// The value of a variable that is set and not empty.
    fn value(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let value = self.value(name).map(OsString::into_string).transpose();
        value.map_err(|_| Error::recipe(name, "not UTF-8"))
    }

    /// The first of these variables that is set, with `~/` as the home folder.
    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let path = PathBuf::from(names.iter().find_map(|name| self.value(name))?);
        match (path.strip_prefix("~"), self.value(HOME)) {
            (Ok(rest), Some(home)) => Some(Path::new(&home).join(rest)),
            _ => Some(path),
        }
    }

    /// `$HF_HOME`, else its default.
    fn home(&self) -> Result<PathBuf> {
        let cache = || {
            let home = || self.path(&[HOME]).map(|home| home.join(".cache"));
            self.path(&["XDG_CACHE_HOME"]).or_else(home).map(|cache| cache.join("huggingface"))
        };
        self.path(&["HF_HOME"]).or_else(cache).ok_or_else(|| {
            Error::recipe(
                "HF_HOME",
                format!("no folder for the cache of the hub: HF_HOME and {HOME} are not set"),
            )
            .help("Set HF_HOME to a folder.")
        })
    }

    fn token(&self, home: &Path) -> Result<Option<HubToken>> {
        if self.is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(secret) = self.text(name)?.filter(|secret| !secret.trim().is_empty()) {
                return HubToken::new(&secret, format!("the variable {name}")).map(Some);
            }
        }
        let path = self.path(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
        if !path.is_file() {
            return Ok(None);
        }
        let source = format!("the file {}", path.display());
        let text = String::from_utf8(read_bounded(&path, MOST_TOKEN)?);
        let text = text.map_err(|_| Error::recipe(&source, "not UTF-8"))?;
        if text.trim().is_empty() { Ok(None) } else { HubToken::new(&text, source).map(Some) }
    }

    fn is_on(&self, name: &str) -> bool {
        let value = self.value(name).unwrap_or_default().to_string_lossy().to_lowercase();
        ["1", "on", "yes", "true"].contains(&value.as_str())
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds > 0);
        let found = || Error::recipe(name, "not a time").expected("a number of seconds", &text);
        Ok(Some(Duration::from_secs(seconds.ok_or_else(found)?.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn folders_have_the_documented_order() {
        let mut variables = vec![(HOME, "/h")];
        for (variable, cache) in [
            (("XDG_CACHE_HOME", "/x"), "/x/huggingface/hub"),
            (("HF_HOME", "~/hf"), "/h/hf/hub"),
            (("HUGGINGFACE_HUB_CACHE", "/old"), "/old"),
            (("HF_HUB_CACHE", "/new"), "/new"),
        ] {
            variables.push(variable);
            assert_eq!(settings(&variables).unwrap().cache, Path::new(cache));
        }
        assert_eq!(settings(&[(HOME, "/h")]).unwrap().cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(settings(&[]).unwrap_err().place(), "HF_HOME");
    }

    #[test]
    fn tokens_have_the_documented_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |more: &[(&str, &str)]| {
            let variables = [&[("HF_HOME", home)], more].concat();
            settings(&variables).unwrap().token.map(|token| (token.secret.clone(), token.source))
        };
        assert_eq!(token(&[]), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = format!("{home}/other");
        assert_eq!(token(&[]).unwrap().0, "hf_file");
        assert_eq!(
            token(&[("HF_TOKEN_PATH", &other)]).unwrap(),
            ("hf_other".into(), format!("the file {other}"))
        );
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]).unwrap().0, "hf_old");
        let both = [("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", " hf_new\n")];
        assert_eq!(token(&both).unwrap(), ("hf_new".into(), "the variable HF_TOKEN".into()));
        assert_eq!(token(&[("HF_TOKEN", "hf"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn switches_and_limits() {
        let given = settings(&[
            (HOME, "/h"),
            ("HF_ENDPOINT", "http://hub.example/"),
            ("TRANSFORMERS_OFFLINE", "Yes"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "3"),
            ("HF_HUB_DISABLE_PROGRESS_BARS", "true"),
        ])
        .unwrap();
        assert_eq!(given.endpoint, "http://hub.example");
        assert!(given.offline && !given.progress_bars);
        assert_eq!((given.read_timeout.as_secs(), given.answer_timeout.as_secs()), (3, 30));
        for wrong in [("HF_ENDPOINT", "hub.example"), ("HF_HUB_ETAG_TIMEOUT", "0"), ("HF_TOKEN", "a b")] {
            let error = settings(&[(HOME, "/h"), wrong]).unwrap_err();
            assert_eq!(error.fault(), base::Fault::Recipe, "{wrong:?}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = HubToken::new("hf_secret", "a test").unwrap();
        assert!(!format!("{token:?}").contains("secret"));
    }
}
