//! What differing blocks mean. Of a file that this tool wrote, every one is a fault. Other files were perhaps made by
//! another program, by importance that is not at hand or with error feedback, which shows in most blocks of a tensor; a
//! fault shows in a few blocks among many that are right, or in one tensor among many that are.

use crate::errors::Pair;
use crate::reencode::{Bytes, Reencode, Trust};
use crate::{Compared, Finding, Severity, Step};

/// Fewer tensors than this say nothing about the others.
const ENOUGH: usize = 4;
/// Tensors that are told one by one.
const TOLD: usize = 24;

/// What the bytes of a tensor say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All blocks are those that the checkpoint gives.
    Exact,
    /// Some are not.
    Fault,
    /// It was rounded in another way: the limits tell whether it is right.
    Otherwise,
}

impl Verdict {
    /// As the report has it.
    pub(crate) fn compared(self) -> Compared {
        match self {
            Verdict::Exact | Verdict::Fault => Compared::Bytes,
            Verdict::Otherwise => Compared::Limits,
        }
    }
}

/// The verdict of each tensor. With `lenient`, a block as near to its original as the right one is as good.
pub(crate) fn verdicts(
    pairs: &[Pair<'_>],
    reencode: &[Option<Reencode<'_>>],
    bytes: &[Bytes],
    lenient: bool,
) -> Vec<Verdict> {
    // the quantised tensors that could be compared
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
    // sums in another order, as with fused multiply-add, show everywhere
    let arithmetic = all >= ENOUGH && 4 * near >= all;
    let all_but_this = all >= ENOUGH && 4 * exact >= 3 * all;
    let one = |((pair, reencode), bytes): ((&Pair<'_>, &Option<Reencode<'_>>), &Bytes)| {
        let Some(reencode) = reencode else { return Verdict::Otherwise };
        let few = |share: u64| bytes.differing * share <= bytes.blocks;
        // the rule of a scale holds whatever the codes are
        if reencode.other_scale(bytes.largest).is_some() {
            return Verdict::Fault;
        }
        if bytes.differing == 0 {
            return Verdict::Exact;
        }
        let fault = match reencode.trust {
            Trust::Known => true,
            // with entries of other tensors only, it is rounded without
            Trust::Importance => few(10),
            Trust::Feedback => false,
            Trust::Said if bytes.farther == 0 && (lenient || arithmetic) => false,
            Trust::Said => few(2) || pair.dtype().is_quantized() && all_but_this,
        };
        if fault { Verdict::Fault } else { Verdict::Otherwise }
    };
    pairs.iter().zip(reencode).zip(bytes).map(one).collect()
}

/// What there is to say; nothing of the tensors that have been `told` to be wrong.
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
            "were rounded by importance that is not at hand and are held against limits, not compared byte for byte",
            "; ‹importance› names the file",
        ),
        (
            Trust::Feedback,
            "were rounded for a text and are held against limits, not compared byte for byte",
            "",
        ),
        (
            Trust::Said,
            "are rounded otherwise than llama.cpp rounds and are held against limits, not compared byte for byte",
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
