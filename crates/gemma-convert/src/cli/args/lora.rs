//! The arguments of adapters.

use std::path::PathBuf;

use gemma_convert::Adapter;

/// Adapters that are merged into the checkpoint.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Lora {
    /// Adapter (LoRA) to merge into the checkpoint: its folder or hub id, and a number that multiplies its scale. May be given
    /// several times: adapters are merged in order
    #[arg(long, alias = "lora-scaled", value_name = "DIR[:SCALE]", value_parser = adapter)]
    pub(crate) lora: Vec<Adapter>,
    /// An embedding that an adapter of --lora replaces becomes the head too, as for trainers that tie both. PEFT keeps the old
    /// embedding as the head
    #[arg(long, requires = "lora")]
    pub(crate) tie: bool,
}

impl Lora {
    /// The adapters, in order.
    pub(crate) fn adapters(&self) -> Vec<Adapter> {
        self.lora.iter().map(|adapter| Adapter { tie: self.tie, ..adapter.clone() }).collect()
    }
}

/// A folder, with a scale after the last colon.
fn adapter(text: &str) -> Result<Adapter, String> {
    let scaled = text.rsplit_once(':').and_then(|(folder, scale)| Some((folder, scale.parse::<f64>().ok()?)));
    let (folder, scale) = scaled.unwrap_or((text, 1.0));
    if folder.is_empty() || !scale.is_finite() {
        return Err("not a folder, or a folder and a finite number after a colon".to_owned());
    }
    Ok(Adapter { folder: PathBuf::from(folder), scale, tie: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_after_the_last_colon_is_a_scale() {
        for (text, folder, scale) in [
            ("dir", "dir", 1.0),
            ("dir:0.5", "dir", 0.5),
            ("a:b:-2", "a:b", -2.0),
            ("hf://owner/name", "hf://owner/name", 1.0),
            ("hf://owner/name:1e-1", "hf://owner/name", 0.1),
            ("dir:x", "dir:x", 1.0),
        ] {
            assert_eq!(adapter(text), Ok(Adapter { folder: folder.into(), scale, tie: false }), "{text}");
        }
        assert!(adapter(":1").is_err() && adapter("dir:inf").is_err() && adapter("dir:nan").is_err());
    }
}
