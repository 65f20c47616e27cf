//! The files of a release: their names, before anything is made.

use pack::hub_files::{HubRole, NamedFile};
use plan::{Format, GridPolicy, ReleaseRecipe, Request, release_stem};
use tensor::{Error, Result};

/// A file of a release, or a split.
#[derive(Clone, Debug)]
pub(super) struct ReleaseFile {
    /// The name without `.gguf` and without the number of a part.
    pub(super) stem: String,
    pub(super) role: HubRole,
    /// The type in upper case.
    pub(super) label: String,
    /// The name of the recipe, if it is more than a type.
    pub(super) recipe: Option<String>,
    /// Estimates of llama.cpp's memory: tokens of context, bytes.
    pub(super) memory: Vec<(u64, u64)>,
}

impl ReleaseFile {
    /// The importance matrix.
    pub(super) fn importance(recipe: &ReleaseRecipe, name: &str) -> ReleaseFile {
        ReleaseFile {
            stem: release_stem(&recipe.names.importance, name, None),
            role: HubRole::Importance,
            label: String::new(),
            recipe: None,
            memory: Vec::new(),
        }
    }

    /// The file that a request makes.
    ///
    /// # Errors
    /// `Recipe` for a recipe of safetensors.
    pub(super) fn of(request: &Request, role: HubRole, template: &str, name: &str) -> Result<ReleaseFile> {
        if request.recipe.output.format == Format::Safetensors {
            return Err(Error::recipe(format!("recipe {}", request.name), "a release has GGUF files only")
                .help("Make the folder of safetensors with `convert`."));
        }
        if request.recipe.draft.is_some() {
            return Err(Error::recipe(
                format!("recipe {}", request.name),
                "the draft model of a release is that of the release recipe",
            )
            .help("Leave [draft] out of the recipe, and name types and assistant in [draft] of the release recipe."));
        }
        let preset = &request.recipe.types.preset;
        let is_plain = preset.eq_ignore_ascii_case(&request.name) || request.name.starts_with("mmproj-");
        Ok(ReleaseFile {
            stem: release_stem(template, name, Some((&request.name, preset))),
            role,
            label: preset.to_uppercase(),
            recipe: (!is_plain).then(|| request.name.clone()),
            memory: Vec::new(),
        })
    }

    /// Whether this file has a name: the file itself, or a part of it.
    pub(super) fn has(&self, name: &str) -> bool {
        let part = gguf::part_of(name).map(|(prefix, _)| prefix);
        part.or(name.strip_suffix(".gguf")) == Some(&*self.stem)
    }

    fn named(&self) -> NamedFile {
        NamedFile { path: format!("{}.gguf", self.stem), role: self.role, tag: self.label.clone() }
    }
}

/// Checks that llama.cpp finds each file by its name.
///
/// # Errors
/// `Recipe`, see [`pack::hub_files::check_names`].
pub(super) fn check(files: &[ReleaseFile]) -> Result<()> {
    pack::hub_files::check_names(&files.iter().map(ReleaseFile::named).collect::<Vec<_>>())
}

/// Weights on a 4-bit quantization grid (QAT) stay on it in files of this type, without being asked for.
pub(super) fn keep_grid(request: &mut Request) {
    let types = &mut request.recipe.types;
    if types.preset.eq_ignore_ascii_case("q4_0") && types.lattice == GridPolicy::Off {
        types.lattice = GridPolicy::Auto;
    }
}
