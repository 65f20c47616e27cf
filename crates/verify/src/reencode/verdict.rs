//! Interpretation of differing blocks. In a file that this tool wrote, each one is a fault. Other files may have been
//! made by another program, with an imatrix that was not found, or with error feedback, which shows in most blocks of a
//! tensor. A fault shows in a few blocks among many correct ones, or in one tensor among many correct ones.

use crate::errors::Pair;
use crate::reencode::{Bytes, Reencode, Trust};
use crate::{Compared, Finding, Severity, Step};

/// The fewest tensors for a statistic.
const ENOUGH: usize = 4;
/// The most tensors that are reported one by one.
const TOLD: usize = 24;

/// The verdict from the bytes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All blocks are those of the checkpoint.
    Exact,
    /// Some blocks are wrong.
    Fault,
    /// The tensor was quantized in another way: the limits decide.
    Otherwise,
}

impl Verdict {
    /// The entry in the report.
    pub(crate) fn compared(self) -> Compared {
        match self {
            Verdict::Exact | Verdict::Fault => Compared::Bytes,
            Verdict::Otherwise => Compared::Limits,
        }
    }
}

/// The verdict of each tensor. With `lenient`, blocks with as small an error as the expected ones are accepted.
pub(crate) fn verdicts(
    pairs: &[Pair<'_>],
    reencode: &[Option<Reencode<'_>>],
    bytes: &[Bytes],
    lenient: bool,
) -> Vec<Verdict> {
    // quantized tensors whose bytes were compared
    let quantised = || {
        let all = pairs.iter().zip(reencode).zip(bytes);
        all.filter_map(|((pair, reencode), bytes)| {
            let said = reencode.as_ref().is_some_and(|reencode| reencode.trust == Trust::Said);
            (said && pair.dtype().is_quantized()).then_some(bytes)
        })
    };
    let all = quantised().count();
    let exact = quantised().filter(|bytes| bytes.differing == 0).count();
    let near = |bytes: &&Bytes| bytes.differing > 0 && bytes.farther == 0;
    let near = quantised().filter(near).count();
    // sums in another order, as with fused multiply-add, change blocks of all tensors
    let arithmetic = all >= ENOUGH && 4 * near >= all;
    let all_but_this = all >= ENOUGH && 4 * exact >= 3 * all;
    let one = |((pair, reencode), bytes): ((&Pair<'_>, &Option<Reencode<'_>>), &Bytes)| {
        let Some(reencode) = reencode else { return Verdict::Otherwise };
        let few = |share: u64| bytes.differing * share <= bytes.blocks;
        // the scale follows from the largest weight, whatever the codes are
        if reencode.other_scale(bytes.largest).is_some() {
            return Verdict::Fault;
        }
        if bytes.differing == 0 {
            return Verdict::Exact;
        }
        let fault = match reencode.trust {
            Trust::Known => true,
            // a tensor without an entry in the imatrix is quantized without importance
            Trust::Importance => few(10),
            Trust::Feedback => false,
            Trust::Said if bytes.farther == 0 && (lenient || arithmetic) => false,
            Trust::Said => few(2) || pair.dtype().is_quantized() && all_but_this,
        };
        if fault { Verdict::Fault } else { Verdict::Otherwise }
    };
    pairs.iter().zip(reencode).zip(bytes).map(one).collect()
}

/// The findings, except about tensors that are already reported as wrong (`told`).
pub(crate) fn findings(
    pairs: &[Pair<'_>],
    reencode: &[Option<Reencode<'_>>],
    bytes: &[Bytes],
    verdicts: &[Verdict],
    told: impl Fn(usize) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut faults = 0;
    for (number, verdict) in verdicts.iter().enumerate() {
        if *verdict == Verdict::Fault && !told(number) {
            let (pair, reencode, bytes) = (&pairs[number], &reencode[number], &bytes[number]);
            faults += 1;
            if let (Some(reencode), true) = (reencode, faults <= TOLD) {
                findings.push(fault(pair, reencode, bytes));
            }
        }
    }
    if faults > TOLD {
        let problem = format!("{} more hold blocks that the checkpoint does not give", faults - TOLD);
        findings.push(Finding::new(Severity::Failure, Step::Tensors, "tensors", problem));
    }
    for (trust, problem, help) in [
        (
            Trust::Importance,
            "were quantized with an imatrix that was not found: compared with limits, not byte for byte",
            "; ‹importance› names the file",
        ),
        (Trust::Feedback, "were quantized with error feedback: compared with limits, not byte for byte", ""),
        (
            Trust::Said,
            "were quantized in another way than by llama.cpp: compared with limits, not byte for byte",
            "",
        ),
    ] {
        let of = |reencode: &&Option<Reencode<'_>>| {
            reencode.as_ref().is_some_and(|reencode| reencode.trust == trust)
        };
        let count = reencode
            .iter()
            .zip(verdicts)
            .filter(|(reencode, verdict)| of(reencode) && **verdict == Verdict::Otherwise);
        let count = count.count();
        if count > 0 {
            let problem = format!("{count} of {} {problem}{help}", pairs.len());
            findings.push(Finding::new(Severity::Note, Step::Tensors, "tensors", problem));
        }
    }
    findings
}

fn fault(pair: &Pair<'_>, reencode: &Reencode<'_>, bytes: &Bytes) -> Finding {
    let severity = if pair.tensor.unused { Severity::Warning } else { Severity::Failure };
    let place = format!("tensor {}", pair.name());
    let finding = |problem: String| Finding::new(severity, Step::Tensors, &place, problem);
    if let Some((should, is)) = reencode.other_scale(bytes.largest) {
        return finding("its scale is not that of its largest weight".to_owned()).expected(should, is);
    }
    let Some(first) = bytes.first else {
        return finding("its bytes are not those that the checkpoint gives".to_owned());
    };
    let number =
        |count: u64, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let mut problem = format!(
        "{} of {} in {} are not what the checkpoint gives, the first in row {}, block {}",
        bytes.differing,
        number(bytes.blocks, "block"),
        number(bytes.rows, "row"),
        first.row,
        first.block
    );
    if let Some(factor) = bytes.factor() {
        problem += &format!("; they are the right ones times {factor:.4}");
    }
    if first.scale {
        problem += "; the scale of the row differs";
    }
    let at = format!("{} in row {}, column {}", first.expected, first.row, first.column);
    if first.expected.to_bits() == first.found.to_bits() {
        return finding(problem).expected(at, format!("{}, stored in other bytes", first.found));
    }
    finding(problem).expected(at, first.found)
}
