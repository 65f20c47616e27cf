//! `cargo xtask oracle`: makes sure the real llama.cpp is there and says where.

use std::path::Path;

use xtask::oracle::{Oracle, Scope, clients, ollama, wllama};

/// Find the real llama.cpp (LLAMA_BIN, LLAMA_SRC, LLAMA_PY), or build it once in the cache folder.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print shell assignments: eval "$(cargo xtask oracle --env)"
    #[arg(long)]
    env: bool,
    /// Leave out torch and transformers: the tools alone, without convert_hf_to_gguf.py
    #[arg(long)]
    no_torch: bool,
    /// Also fetch wllama, llama.cpp in WebAssembly, which is tested in a browser (needs npm)
    #[arg(long)]
    browser: bool,
    /// Also install programs of others that read our files: the hub's parser, auditors, node-llama-cpp, mlx-lm, mistral.rs, LiteRT-LM,
    /// Ollama (800 MB; needs npm and Go)
    #[arg(long)]
    clients: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let oracle = Oracle::find_or_build(if self.no_torch { Scope::Tools } else { Scope::Converter })?;
        let places = [("LLAMA_BIN", &oracle.bin), ("LLAMA_SRC", &oracle.src), ("LLAMA_PY", &oracle.python)];
        for (var, path) in places {
            if self.env {
                println!("export {var}={}", shell_quoted(path));
            } else {
                println!("{var:9}  {}", path.display());
            }
        }
        if self.browser {
            let folder = wllama::find_or_fetch()?;
            if !self.env {
                println!("{:9}  {}", "wllama", folder.display());
            }
        }
        if self.clients {
            for client in clients::ALL {
                client.install()?;
                if !self.env {
                    println!("{:9}  {}", "client", client.name());
                }
            }
            let ollama = ollama::Ollama::find_or_build(&oracle)?;
            if !self.env {
                println!("{:9}  {}", "ollama", ollama.program().display());
            }
        }
        Ok(())
    }
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_survive_the_shell() {
        assert_eq!(shell_quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
