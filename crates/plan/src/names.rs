//! Names of files.
//!
//! The Hugging Face hub derives the label of a GGUF from its name, and llama.cpp's and Ollama's `repo:Q4_0` select by
//! it: the last word of the name that is a quantization counts (`parseGGUFQuantLabel` of `@huggingface/gguf`,
//! case-insensitive). So the preset, which `general.file_type` names too, comes last.

use crate::recipe::Recipe;

/// The name of a GGUF without `.gguf`: the kind (`model`, `draft`, `mmproj`), the recipe, and its preset at the end.
///
/// ```
/// # let recipe = plan::Recipe::from_toml("types.preset = 'q4_0'", "test").unwrap();
/// assert_eq!(plan::stem("model", "q4_0", &recipe), "model-q4_0");
/// assert_eq!(plan::stem("model", "browser", &recipe), "model-browser-q4_0");
/// assert_eq!(plan::stem("model", "q4_0-offload", &recipe), "model-offload-q4_0");
/// assert_eq!(plan::stem("mmproj", "mmproj-q4_0", &recipe), "mmproj-q4_0");
/// ```
#[must_use]
pub fn stem(kind: &str, name: &str, recipe: &Recipe) -> String {
    let preset = recipe.types.preset.to_lowercase();
    // a folder of safetensors has no preset
    if preset.is_empty() {
        return format!("{kind}-{name}");
    }
    let name = name.strip_prefix(&format!("{kind}-")).unwrap_or(name);
    let words = name.split('-').filter(|word| !word.eq_ignore_ascii_case(&preset));
    let mut words: Vec<_> = std::iter::once(kind).chain(words.filter(|word| !word.is_empty())).collect();
    words.push(&preset);
    words.join("-")
}
