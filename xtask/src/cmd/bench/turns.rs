//! Several tools in turns, so that a busy moment of the machine meets all of them.

use std::process::Command;

use anyhow::Result;

use super::measure::{self, Cost};

/// The runs of a tool.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) costs: Vec<Cost>,
}

/// Runs each tool once, and again, and again. `before` is called before every run.
pub(super) fn in_turns(
    mut tools: Vec<(String, Command)>,
    runs: u32,
    mut before: impl FnMut() -> Result<()>,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> =
        tools.iter().map(|(what, _)| Row { what: what.clone(), costs: Vec::new() }).collect();
    for number in 1..=runs {
        for ((what, command), row) in tools.iter_mut().zip(&mut rows) {
            before()?;
            let cost = measure::run(command)?;
            eprintln!("{what}, run {number}: {:.1} s", cost.wall.as_secs_f64());
            row.costs.push(cost);
        }
    }
    Ok(rows)
}

impl Row {
    /// Wall seconds: the least, the median, the most.
    pub(super) fn walls(&self) -> [f64; 3] {
        spread(self.costs.iter().map(|cost| cost.wall.as_secs_f64()))
    }

    /// The largest peak of resident bytes.
    pub(super) fn peak(&self) -> u64 {
        self.costs.iter().map(|cost| cost.peak).max().unwrap_or(0)
    }
}

/// The least, the median and the most of at least one value.
pub(super) fn spread(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[(values.len() - 1) / 2], values[values.len() - 1]]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tools_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let tool = |name: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo $0 >> $1", name]).arg(&log);
            (name.to_owned(), command)
        };
        let mut count = 0;
        let before = || {
            count += 1;
            Ok(())
        };
        let rows = in_turns(vec![tool("a"), tool("b")], 2, before).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "a\nb\na\nb\n");
        assert!(rows.iter().all(|row| row.costs.len() == 2));
        assert_eq!(count, 4);
    }

    #[test]
    fn the_median_of_two_is_the_smaller() {
        assert_eq!(spread([3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread([3.0, 1.0]), [1.0, 1.0, 3.0]);
    }
}
