//! The arguments of a conversion into a bundle of LiteRT-LM.

use std::path::PathBuf;

use clap::ValueEnum;
use gemma_convert::{BundleBackend, BundleGraph, BundleTypes, ConvertBundle, Error, Result};

use super::{Budget, What};

/// Conversion into a bundle of LiteRT-LM.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct IntoBundle {
    /// For LiteRT-LM on phones: put the weights into this .litertlm file, whose graph, tokenizer and other models stay. -o names the
    /// new file
    #[arg(
        long,
        value_name = "FILE",
        group = "outputs",
        requires = "bundle_base",
        conflicts_with_all = ["types", "mmproj", "part", "skip_existing"]
    )]
    pub(crate) bundle: Option<PathBuf>,
    /// The checkpoint from which the bundle was made: folder, or the id of a model on the hub
    #[arg(long, value_name = "BASE", requires = "bundle")]
    pub(crate) bundle_base: Option<PathBuf>,
    /// For LiteRT-LM without a bundle: the backend for which the graph is
    #[arg(long, value_name = "BACKEND", requires = "recipes", conflicts_with_all = ["bundle", "skeleton"])]
    pub(crate) bundle_backend: Option<Backend>,
    /// For LiteRT-LM without a bundle, where the graph is not that of E2B, E4B or 12B: take it from this skeleton, which `cargo xtask skeleton` makes for
    /// an architecture. --recipe gives the types, -o names the new file
    #[arg(
        long,
        value_name = "FILE",
        requires = "recipes",
        conflicts_with_all = ["bundle", "types", "mmproj", "skip_existing"]
    )]
    pub(crate) skeleton: Option<PathBuf>,
    /// The fewest bits of a weight: constants of the bundle that have fewer get another type. By default int4; --recipe gives the
    /// type of each matrix instead
    #[arg(long, value_name = "TYPE", requires = "bundle", conflicts_with = "recipes")]
    pub(crate) bundle_types: Option<Fewest>,
}

/// A backend of LiteRT-LM.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Backend {
    /// Processors
    #[default]
    Cpu,
    /// Graphics processors. The graph has fused operators, and ring buffers as caches of sliding windows
    Gpu,
}

/// The fewest bits of a weight in a bundle.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Fewest {
    /// The types of the bundle. Int2 is for checkpoints that were trained for it
    Keep,
    /// At least four bits
    #[default]
    Int4,
    /// At least eight bits
    Int8,
}

impl super::Convert {
    /// Whether the output is a bundle.
    fn is_new_bundle(&self) -> bool {
        self.out.extension().is_some_and(|extension| extension == "litertlm") && !self.out.is_dir()
    }

    /// Refuses the weights in parts or as a stream: places in a bundle are found by all of them.
    fn check_whole(&self) -> Result<()> {
        #[cfg(feature = "hub")]
        if self.stream {
            let problem = "a bundle is made of weights on the disk";
            return Err(Error::recipe("‹stream›", problem).help("Download the model: leave ‹stream› out."));
        }
        match self.part.part()? {
            Some(part) => Err(Error::recipe(format!("‹part› {part}"), "a bundle is made by one process")),
            None => Ok(()),
        }
    }

    /// Refuses options that only other outputs have.
    fn check_bundle_options(&self) -> Result<()> {
        let What {
            recipes: _,
            types,
            mmproj,
            tensor_types,
            token_embd_type,
            per_layer_token_embd_type,
            split_max_size,
            max_shard_size,
            text_only,
            importance: _,
            budget: Budget { target_size, target_bpw, target_kld, sensitivity },
            settings,
        } = &self.what;
        let given = [
            (!types.is_empty(), "‹type›"),
            (!mmproj.is_empty(), "‹mmproj›"),
            (!tensor_types.is_empty(), "‹tensor_type›"),
            (token_embd_type.is_some(), "‹token_embd_type›"),
            (per_layer_token_embd_type.is_some(), "‹per_layer_token_embd_type›"),
            (split_max_size.is_some(), "‹split_max_size›"),
            (max_shard_size.is_some(), "‹max_shard_size›"),
            (*text_only, "‹text_only›"),
            (target_size.is_some(), "‹target_size›"),
            (target_bpw.is_some(), "‹target_bpw›"),
            (target_kld.is_some(), "‹target_kld›"),
            (sensitivity.is_some(), "‹sensitivity›"),
            (!settings.is_empty(), "‹set›"),
            (!self.text.text.is_empty(), "‹text›"),
            (self.skip_existing, "‹skip_existing›"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(Error::recipe(option, "has no effect on a bundle")
                .help("A recipe gives the type of each matrix: recipes/README.md has its keys.")),
            None => Ok(()),
        }
    }

    /// The conversion into a bundle, if that is what the arguments say.
    pub(crate) fn bundle_job(&self) -> Result<Option<ConvertBundle>> {
        let graph = match (&self.bundle.bundle, &self.bundle.bundle_base) {
            (Some(bundle), Some(base)) => {
                let types = match self.bundle.bundle_types.unwrap_or_default() {
                    Fewest::Keep => BundleTypes::Keep,
                    Fewest::Int4 => BundleTypes::AtLeast(gemma_convert::IntegerBits::Four),
                    Fewest::Int8 => BundleTypes::AtLeast(gemma_convert::IntegerBits::Eight),
                };
                BundleGraph::File { bundle: bundle.clone(), base: base.clone(), types }
            }
            _ => match &self.bundle.skeleton {
                Some(skeleton) => BundleGraph::Skeleton(skeleton.clone()),
                None if self.is_new_bundle() => {
                    BundleGraph::Embedded(match self.bundle.bundle_backend.unwrap_or_default() {
                        Backend::Cpu => BundleBackend::Cpu,
                        Backend::Gpu => BundleBackend::Gpu,
                    })
                }
                None if self.bundle.bundle_backend.is_some() => {
                    return Err(Error::recipe("‹bundle_backend›", "has no effect on this output")
                        .expected("a file name that ends in .litertlm", self.out.display()));
                }
                None => return Ok(None),
            },
        };
        self.check_whole()?;
        self.check_bundle_options()?;
        let recipe = match self.what.recipes.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => {
                return Err(Error::recipe("‹recipe›", "a bundle has one recipe").expected(1, several.len()));
            }
        };
        Ok(Some(ConvertBundle {
            model: self.model.clone(),
            source: self.source.clone(),
            adapters: self.lora.adapters(),
            graph,
            out: self.out.clone(),
            recipe,
            importance: self.what.importance.clone(),
            force: self.force,
        }))
    }
}
