//! `--part`: one part of a job, by its number or by the variables of a scheduler.

use gemma_convert::{Error, Part, Result};

/// A part of a job.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PartArgs {
    /// Do one part of the job: I/N, such as 3/8; auto in a Slurm array, auto/N in a Kubernetes indexed job. `join` (`verify
    /// --join`) makes the outputs from all parts
    #[arg(long, value_name = "I/N|auto|auto/N")]
    part: Option<String>,
}

impl PartArgs {
    pub(crate) fn part(&self) -> Result<Option<Part>> {
        self.part.as_deref().map(|text| part(text, |name| std::env::var(name).ok())).transpose()
    }
}

/// The part that `text` names. `variable` reads a variable of the environment.
fn part(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Part> {
    let given = match text.strip_prefix("auto") {
        None => return text.parse(),
        Some("") => None,
        Some(count) => match count.strip_prefix('/').and_then(|count| count.parse().ok()) {
            Some(count) => Some(count),
            None => return text.parse(),
        },
    };
    let number = |name: &str| -> Result<Option<u32>> {
        let parse = |value: String| {
            value
                .parse()
                .map_err(|_| Error::recipe(name, "not a number").expected("a number", format!("{value:?}")))
        };
        variable(name).map(parse).transpose()
    };
    let slurm = number("SLURM_ARRAY_TASK_ID")?;
    let kubernetes = number("JOB_COMPLETION_INDEX")?;
    match (slurm, kubernetes) {
        (Some(_), Some(_)) => Err(Error::recipe("‹part› auto", "two schedulers name a part")
            .expected("SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX", "both")
            .help("Give the part itself: I/N.")),
        (None, None) => Err(Error::recipe("‹part› auto", "no scheduler names the part")
            .expected("SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX in the environment", "neither")
            .help("Give the part itself: I/N.")),
        (None, Some(index)) => match given {
            Some(count) => Part::new(index.saturating_add(1), count),
            None => Err(Error::recipe("‹part› auto", "Kubernetes does not say how many parts there are")
                .help("Give the number of completions: auto/N.")),
        },
        (Some(id), None) => {
            let of_array = |name: &str| number(&format!("SLURM_ARRAY_TASK_{name}"));
            of_slurm(id, [of_array("MIN")?, of_array("MAX")?, of_array("COUNT")?], given)
        }
    }
}

/// The part of a task of a Slurm array, which must be numbered 0 to N-1 or 1 to N.
fn of_slurm(id: u32, [least, most, tasks]: [Option<u32>; 3], given: Option<u32>) -> Result<Part> {
    let array =
        format!("task {id} of an array from {} to {} with {} tasks", shown(least), shown(most), shown(tasks));
    let ambiguous = |expected: &str| {
        Error::recipe("‹part› auto", "the array does not say which part this is")
            .expected(expected, array.as_str())
            .help("Give the part itself: I/N.")
    };
    let (Some(least), Some(most), Some(tasks)) = (least, most, tasks) else {
        return Err(ambiguous("SLURM_ARRAY_TASK_MIN, _MAX and _COUNT"));
    };
    let is_whole = least <= 1 && most >= least && most - least == tasks.saturating_sub(1);
    if !is_whole || given.is_some_and(|given| given != tasks) {
        return Err(ambiguous("an array from 0 to N-1 or from 1 to N, all of it"));
    }
    Part::new((id + 1).saturating_sub(least), tasks)
}

fn shown(number: Option<u32>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str, variables: &[(&str, &str)]) -> Result<String> {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        part(text, value).map(|part| part.to_string())
    }

    fn slurm(
        id: &'static str,
        min: &'static str,
        max: &'static str,
        count: &'static str,
    ) -> Vec<(&'static str, &'static str)> {
        vec![
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ]
    }

    #[test]
    fn schedulers_name_the_part() {
        assert_eq!(named("3/8", &[]).unwrap(), "3/8");
        assert_eq!(named("auto", &slurm("0", "0", "7", "8")).unwrap(), "1/8");
        assert_eq!(named("auto", &slurm("8", "1", "8", "8")).unwrap(), "8/8");
        assert_eq!(named("auto/8", &slurm("8", "1", "8", "8")).unwrap(), "8/8");
        assert_eq!(named("auto/4", &[("JOB_COMPLETION_INDEX", "0")]).unwrap(), "1/4");
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        // an array that begins elsewhere, has steps, or is a part that is run again
        for variables in [slurm("3", "3", "10", "8"), slurm("4", "0", "14", "8"), slurm("3", "3", "3", "1")] {
            assert!(named("auto", &variables).unwrap_err().to_string().contains("array"), "{variables:?}");
        }
        let slurm = slurm("0", "0", "7", "8");
        assert!(named("auto/4", &slurm).is_err());
        assert!(named("auto", &slurm[..1]).is_err());
        assert!(named("auto", &[]).is_err());
        assert!(named("auto", &[("JOB_COMPLETION_INDEX", "0")]).is_err());
        assert!(named("auto/4", &[("JOB_COMPLETION_INDEX", "4")]).is_err());
        assert!(named("auto/4", &[("JOB_COMPLETION_INDEX", "x")]).is_err());
        let both = [slurm, vec![("JOB_COMPLETION_INDEX", "0")]].concat();
        assert!(named("auto/8", &both).is_err());
        assert!(named("auto/x", &[]).is_err());
        assert!(named("automatic", &[]).is_err());
    }
}
