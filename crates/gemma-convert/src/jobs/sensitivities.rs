//! Mixed-precision bit allocation: the sensitivity of each tensor, from a file or measured on a text, and the requests
//! with the allocated types.

use std::path::Path;

use base::Progress;
use checkpoint::Checkpoint;
use plan::{Plan, Request, Shards, allocate, check_budget};
use runtime::Compute;
use tensor::{Error, Result};

use super::sensitivity_measurement::{CONTEXT, Measure, read};
use crate::options::{BudgetOptions, TextOptions};

/// The source of sensitivities, for requests with a budget.
pub(crate) enum Costs<'a> {
    /// No source.
    Unknown,
    /// A file.
    File(&'a Path),
    /// Measurement on a text; the result is stored in a folder.
    Text { text: &'a TextOptions, folder: &'a Path, force: bool, compute: Compute },
}

impl<'a> Costs<'a> {
    /// The file that the options name, or a measurement on the text, if there is one.
    pub(crate) fn of(
        budget: &'a BudgetOptions,
        text: &'a TextOptions,
        folder: &'a Path,
        force: bool,
        compute: Compute,
    ) -> Costs<'a> {
        match &budget.sensitivity {
            Some(file) => Costs::File(file),
            None if text.files.is_empty() => Costs::Unknown,
            None => Costs::Text { text, folder, force, compute },
        }
    }

    /// Allocates the types of the requests with a budget. Before long work, `check` gets a plan with the same files.
    ///
    /// # Errors
    /// `Recipe` for sensitivities that no request needs; the errors of `check`, measurement and allocation.
    pub(crate) fn choose(
        &self,
        requests: &mut [Request],
        (checkpoint, model, shards): (&Checkpoint, &gemma::ModelSpec, &Shards<'_>),
        check: impl FnOnce(&Plan) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let within = |request: &Request, e: Error| e.within(format!("recipe {}", request.name));
        let Some(first) = requests.iter().find(|request| request.recipe.budget.is_some()) else {
            return match self {
                Costs::File(_) => Err(Error::recipe("‹sensitivity›", "has no effect: no recipe has a budget")
                    .help("`auto` has one, and every recipe for GGUF with ‹target_size›, ‹target_bpw› or ‹target_kld›.")),
                _ => Ok(()),
            };
        };
        for request in requests.iter() {
            check_budget(model, shards, request).map_err(|e| within(request, e))?;
        }
        let costs = match self {
            Costs::Unknown => return Ok(()), // planning reports the missing sensitivities
            Costs::File(path) => read(path)?,
            &Costs::Text { text, folder, force, compute } => {
                let mut plain = requests.to_vec();
                plain.iter_mut().for_each(|request| request.recipe.budget = None);
                check(&plan::plan(model, shards, &plain)?)?;
                let context = first.recipe.calibration.as_ref().map_or(CONTEXT, |c| c.context);
                let out = folder.join(format!("{}.sensitivity.json", first.stem));
                Measure { checkpoint, model, text, context, out: &out, force, compute }.run(progress)?
            }
        };
        for request in requests {
            *request = allocate(model, shards, request, &costs).map_err(|e| within(request, e))?;
        }
        Ok(())
    }
}
