//! A model as a Modelfile, the input of `ollama create`.
//!
//! Source: ollama/ollama `parser/parser.go`.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use tensor::{Error, Result};

use super::files::OllamaRole;
use super::model::OllamaModel;

impl OllamaModel {
    /// The text of a Modelfile in `folder`: files in this folder or below by relative paths, others by absolute ones.
    ///
    /// # Errors
    /// `Recipe` for a path or a license that a Modelfile cannot express; `Io`.
    pub fn modelfile(&self, folder: &Path) -> Result<String> {
        let mut text = String::new();
        for file in self.files() {
            let instruction = if file.role == OllamaRole::Draft { "DRAFT" } else { "FROM" };
            let _ = writeln!(text, "{instruction} {}", named(file.path(), folder)?);
        }
        let _ = writeln!(text, "RENDERER {}\nPARSER {}", self.renderer(), self.config().parser);
        for (name, value) in self.params.iter() {
            let _ = writeln!(text, "PARAMETER {name} {value}");
        }
        let _ = writeln!(text, "REQUIRES {}", self.requires());
        if let Some(license) = &self.license {
            if license.contains("\"\"\"") {
                return Err(Error::recipe("license", "a Modelfile cannot express it")
                    .expected("a text without \"\"\"", "\"\"\""));
            }
            let _ = writeln!(text, "LICENSE \"\"\"{license}\"\"\"");
        }
        Ok(text)
    }
}

/// The path of a file as an argument in a Modelfile.
fn named(file: &Path, folder: &Path) -> Result<String> {
    let real = |path: &Path| std::path::absolute(path).map_err(|e| Error::io(path.display(), &e));
    let (file, folder) = (real(file)?, real(folder)?);
    let path = match file.strip_prefix(&folder) {
        Ok(inside) => Path::new(&Component::CurDir).join(inside),
        Err(_) => file.clone(),
    };
    plain(&path).map(str::to_owned).ok_or_else(|| {
        Error::recipe(PathBuf::from(&path).display(), "a Modelfile cannot express this path")
            .expected("UTF-8 without quotes, control characters and spaces at its ends", format!("{path:?}"))
            .help("Rename the file, or write into the store with ‹name› instead.")
    })
}

fn plain(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    (text.trim() == text && !text.contains(|c: char| c.is_control() || c == '"')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_where_they_can_be() {
        for (file, folder, expected) in [
            ("/a/b/model.gguf", "/a/b", "./model.gguf"),
            ("/a/b/c d/model.gguf", "/a/b/", "./c d/model.gguf"),
            ("/a/b/model.gguf", "/a/c", "/a/b/model.gguf"),
        ] {
            assert_eq!(named(Path::new(file), Path::new(folder)).unwrap(), expected);
        }
        for file in ["/a/mo\ndel.gguf", "/a/\"model.gguf", "/a/model.gguf "] {
            named(Path::new(file), Path::new("/a")).unwrap_err();
        }
    }
}
