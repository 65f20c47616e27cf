//! Maps tensor names saved by other programs to those of transformers, by the table `formats/checkpoint.toml`.

use std::collections::HashMap;

use tensor::{Error, Result};

use crate::pieces::Entry;
use crate::table::table;

/// Maximum number of renaming steps. Nested wrappers take a few.
const STEPS: usize = 16;

/// Name segments of unmerged adapters, which change the effective weights. Source: huggingface/peft `tuners`.
const ADAPTERS: [&str; 8] = [
    ".lora_A.",
    ".lora_B.",
    ".lora_embedding_A",
    ".lora_embedding_B",
    ".lora_magnitude_vector",
    ".ia3_l",
    ".hada_w1",
    ".lokr_w1",
];

/// The name in transformers of the tensor called `name`.
pub(crate) fn canonical(name: &str) -> String {
    let table = table();
    let mut name = name.to_owned();
    for _ in 0..STEPS {
        let wrapped = table.wrapper_prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str()));
        let stripped = wrapped.unwrap_or(&name);
        let segments =
            stripped.split('.').filter(|segment| table.wrapper_segments.iter().all(|w| w != segment));
        let bare = segments.collect::<Vec<_>>().join(".");
        let renamed = table.rename.iter().find_map(|row| Some((row, bare.strip_prefix(row.from.as_str())?)));
        let next = match renamed {
            Some((row, rest)) => format!("{}{rest}", row.to),
            None => bare,
        };
        if next == name {
            break;
        }
        name = next;
    }
    name
}

/// Renames all tensors to the names of transformers. Returns a note if any name changed.
///
/// # Errors
/// `Malformed` if two tensors get the same name, `Unsupported` for an unmerged adapter. `file_of` names the file of an
/// entry.
pub(crate) fn unwrap(entries: &mut [Entry], file_of: &dyn Fn(&Entry) -> String) -> Result<Option<String>> {
    if let Some(entry) = entries.iter().find(|e| ADAPTERS.iter().any(|part| e.desc.name.contains(part))) {
        return Err(Error::unsupported(
            format!("{}: tensor {}", file_of(entry), entry.desc.name),
            "an adapter (LoRA or the like) that is not merged into the model",
        )
        .expected("weights of a model", "weights of an adapter beside them")
        .help("Merge it first: load the model with peft, call merge_and_unload() and save_pretrained()."));
    }
    let names: Vec<_> = entries.iter().map(|entry| canonical(&entry.desc.name)).collect();
    let mut owners: HashMap<&str, usize> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = owners.insert(name, index) {
            let [first, second] = [&entries[first], &entries[index]];
            return Err(Error::malformed(
                format!("{}: tensor {}", file_of(second), second.desc.name),
                format!("it and {} are both {name}, without the prefixes of wrappers", first.desc.name),
            )
            .expected("each tensor once", "two")
            .help("It is unclear which of the two is valid: save the model again without its wrapper."));
        }
    }
    let changed = entries.iter().zip(&names).filter(|(entry, name)| entry.desc.name != **name);
    let (mut count, mut first) = (0, None);
    for (entry, name) in changed {
        count += 1;
        first.get_or_insert_with(|| (entry.desc.name.clone(), name.clone()));
    }
    let all = entries.len();
    for (entry, name) in entries.iter_mut().zip(names) {
        entry.desc.name = name;
    }
    Ok(first.map(|(from, to)| {
        format!(
            "{count} of {all} tensors have names as a wrapper or another program saves them ({from}): they are read under \
             the names that transformers gives them ({to})"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_off_in_any_combination() {
        const NAME: &str = "model.language_model.layers.3.self_attn.q_proj.weight";
        for wrapped in [
            "model.language_model.layers.3.self_attn.q_proj.weight",
            "base_model.model.model.language_model.layers.3.self_attn.q_proj.weight",
            "module.model.language_model.layers.3.self_attn.q_proj.weight",
            "_orig_mod.model.language_model.layers.3.self_attn.q_proj.weight",
            "_orig_mod.module.base_model.model._orig_mod.model.language_model.layers.3.self_attn.q_proj.weight",
            "model.language_model._fsdp_wrapped_module.layers.3._checkpoint_wrapped_module.self_attn.q_proj.weight",
            "model.model.language_model.layers.3.self_attn.q_proj.weight",
            "model.module.model.language_model.layers.3.self_attn.q_proj.weight",
            "language_model.model.layers.3.self_attn.q_proj.weight",
            "model.language_model.model.layers.3.self_attn.q_proj.weight",
            "language_model.layers.3.self_attn.q_proj.weight",
            "pretrained_model.model.language_model.layers.3.self_attn.q_proj.weight",
        ] {
            assert_eq!(canonical(wrapped), NAME, "{wrapped}");
        }
        for (from, to) in [
            ("model.model.layers.0.layer_scalar", "model.layers.0.layer_scalar"),
            ("layers.0.layer_scalar", "model.layers.0.layer_scalar"),
            ("base_model.model.lm_head.weight", "lm_head.weight"),
            ("model.lm_head.weight", "lm_head.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("vision_tower.a.weight", "model.vision_tower.a.weight"),
            ("pre_projection.weight", "pre_projection.weight"),
        ] {
            assert_eq!(canonical(from), to);
        }
    }

    #[test]
    fn renaming_comes_to_an_end() {
        for row in &table().rename {
            let name = canonical(&format!("{}x", row.from));
            assert_eq!(canonical(&name), name);
        }
    }
}
