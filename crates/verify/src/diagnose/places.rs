//! Hypotheses about positions: values from another tensor, row, expert or column.

use rayon::prelude::*;
use tensor::Result;

use super::Case;
use crate::errors::Pair;

/// The largest row shift that is tried.
const SLIP: i64 = 8;
/// Approximate number of rows that are searched for in the whole tensor.
const SOUGHT: usize = 4;
/// The most weights that are read in one search.
const SEARCHED: u64 = 1 << 29;
/// The most moves that a message lists.
const TOLD: usize = 4;

/// The tensor holds the values of another tensor; candidates of the same layer and role come first.
pub(super) fn another_tensor(case: &Case<'_>) -> Result<Option<String>> {
    let pair = case.pair;
    if pair.cols() == 1 {
        return Ok(None);
    }
    let related = |other: &&Pair<'_>| {
        let (a, b) = (&other.tensor, &pair.tensor);
        (a.layer != b.layer, a.role != b.role)
    };
    let mut others: Vec<&Pair<'_>> =
        case.pairs.iter().filter(|o| o.index != pair.index && o.cols() == pair.cols()).collect();
    others.sort_by_key(related);
    for other in others {
        if case.rows.iter().any(|&row| row >= other.rows()) || !holds(case, &case.y, &case.rows, other)? {
            continue;
        }
        let name = other.name();
        // does the other tensor hold the values of this one?
        let theirs = case.rows.iter().map(|&row| row_of(other, row)).collect::<Result<Vec<_>>>()?;
        let back = holds(case, &theirs, &case.rows, pair)?;
        let shared = pair.rows().min(other.rows());
        return Ok(Some(match (case.about(shared), back) {
            (true, true) if other.rows() == pair.rows() => format!("it is exchanged with {name}"),
            (true, true) if shared == pair.rows() => format!("it is exchanged with the first rows of {name}"),
            (true, true) => format!("its first {shared} rows are exchanged with those of {name}"),
            (true, false) if shared == pair.rows() => format!("it holds the values of {name}"),
            (true, false) => format!("its first {shared} rows are those of {name}"),
            (false, _) => {
                format!("{} rows, from row {} on, are those of {name}", case.errors.bad_rows, case.rows[0])
            }
        }));
    }
    Ok(None)
}

/// Whether `values` are the given rows of the base of `other`.
fn holds(case: &Case<'_>, values: &[Vec<f32>], rows: &[u64], other: &Pair<'_>) -> Result<bool> {
    let mut x = vec![0.0; other.cols()];
    let mut bytes = Vec::new();
    for (&row, y) in rows.iter().zip(values) {
        other.read_base(row, &mut bytes, &mut x)?;
        if !case.same(&x, y) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn row_of(pair: &Pair<'_>, row: u64) -> Result<Vec<f32>> {
    let mut values = vec![0.0; pair.cols()];
    pair.read(row, &mut Vec::new(), &mut values)?;
    Ok(values)
}

/// All rows are shifted by a few rows.
pub(super) fn shifted(case: &Case<'_>) -> Result<Option<String>> {
    // two wrong rows may be exchanged, and one may be moved
    if case.errors.bad_rows < 3 {
        return Ok(None);
    }
    let rows = case.pair.rows();
    'slips: for slip in (1..=SLIP).flat_map(|n| [n, -n]) {
        let mut seen = 0;
        for (&row, y) in case.rows.iter().zip(&case.y) {
            let Some(from) = row.checked_add_signed(slip).filter(|&from| from < rows) else { continue };
            if !case.same(&case.base_row(from)?, y) {
                continue 'slips;
            }
            seen += 1;
        }
        if seen > 1 {
            let first = case.rows[0];
            // rows that resemble their neighbours do not look wrong
            let throughout = 10 * first <= rows && 10 * (rows - case.errors.last_bad) <= rows;
            let from = if throughout { String::new() } else { format!("from row {first} on ") };
            let by = if slip.abs() == 1 { "one".to_owned() } else { slip.abs().to_string() };
            return Ok(Some(format!(
                "{from}its rows are shifted by {by}: row {first} holds row {} of the base",
                first.saturating_add_signed(slip)
            )));
        }
    }
    Ok(None)
}

/// The two halves of each slice are exchanged, such as gate and up of an expert.
pub(super) fn halves_exchanged(case: &Case<'_>) -> Result<Option<String>> {
    let slice = case.pair.slice_rows();
    if slice < 2 || !slice.is_multiple_of(2) || case.errors.bad_rows < 3 {
        return Ok(None);
    }
    for (&row, y) in case.rows.iter().zip(&case.y) {
        let within = row % slice;
        let from = row - within + (within + slice / 2) % slice;
        if !case.same(&case.base_row(from)?, y) {
            return Ok(None);
        }
    }
    Ok(Some(match case.pair.tensor.role {
        "ffn_gate_up_exps" => "the halves of its experts are exchanged: up comes before gate".to_owned(),
        _ => "its upper and lower half are exchanged".to_owned(),
    }))
}

/// Experts are in another order.
pub(super) fn slices_permuted(case: &Case<'_>) -> Result<Option<String>> {
    let slice = case.pair.slice_rows();
    let slices = case.pair.rows() / slice;
    if slices < 2 || slice < 2 {
        return Ok(None);
    }
    let mut moves: Vec<(u64, u64)> = Vec::new();
    for (&row, y) in case.rows.iter().zip(&case.y) {
        let (to, within) = (row / slice, row % slice);
        let known = moves.iter().find(|(t, _)| *t == to).map(|&(_, from)| from);
        let mut found = None;
        for from in known.map_or(0..slices, |from| from..from + 1) {
            if case.same(&case.base_row(from * slice + within)?, y) {
                found = Some(from);
                break;
            }
        }
        match found {
            None => return Ok(None),
            // rows moved within the expert
            Some(from) if from == to => return Ok(None),
            Some(from) if known.is_none() => moves.push((to, from)),
            Some(_) => {}
        }
    }
    Ok(Some(told("expert", "experts", &moves, case.about(2 * slice))))
}

/// Describes the moves `(to, from)`: exchanged, if there are only two, or a list.
fn told(one: &str, many: &str, moves: &[(u64, u64)], only_two: bool) -> String {
    if let (Some(&(a, b)), true) = (moves.first(), only_two)
        && moves.iter().all(|&m| m == (a, b) || m == (b, a))
    {
        return format!("{many} {a} and {b} are exchanged");
    }
    let list: Vec<_> =
        moves.iter().take(TOLD).map(|(to, from)| format!("{one} {to} holds {one} {from}")).collect();
    let more = if moves.len() > TOLD { ", …" } else { "" };
    match list.len() {
        1 => format!("{} of the base", list[0]),
        _ => format!("its {many} are permuted: {}{more}", list.join(", ")),
    }
}

/// Rows of each head are in the order of interleaved RoPE, as in GGUFs of Llama, or in the inverse order.
pub(super) fn heads_permuted(case: &Case<'_>) -> Result<Option<String>> {
    let (Some(head), "attn_q" | "attn_k") =
        (case.expected.head_dim_of(case.pair.tensor.layer), case.pair.tensor.role)
    else {
        return Ok(None);
    };
    for order in [interleaved, split_halves] {
        let mut same = true;
        for (&row, y) in case.rows.iter().zip(&case.y) {
            let from = row - row % head + order(row % head, head);
            same = same && case.same(&case.base_row(from)?, y);
        }
        if same {
            return Ok(Some(
                "the rows of each head are permuted for interleaved RoPE as in GGUFs of Llama; those of Gemma are not"
                    .to_owned(),
            ));
        }
    }
    Ok(None)
}

/// The source of position `i` of `n` when the halves are interleaved: 0, n/2, 1, n/2 + 1, …
fn interleaved(i: u64, n: u64) -> u64 {
    i / 2 + i % 2 * (n / 2)
}

/// The inverse of [`interleaved`]: 0, 2, 4, …, 1, 3, 5, …
fn split_halves(i: u64, n: u64) -> u64 {
    if i < n / 2 { 2 * i } else { 2 * (i - n / 2) + 1 }
}

/// A permutation of columns within blocks of `block` columns, with its description.
struct Order {
    block: fn(&Case<'_>) -> u64,
    from: fn(u64, u64) -> u64,
    text: &'static str,
}

fn head_of(case: &Case<'_>) -> u64 {
    let of_head = matches!(case.pair.tensor.role, "attn_output" | "attn_q_norm" | "attn_k_norm");
    case.expected.head_dim_of(case.pair.tensor.layer.filter(|_| of_head)).unwrap_or(0)
}

fn cols_of(case: &Case<'_>) -> u64 {
    case.pair.cols() as u64
}

const HEADS: &str = "the columns of each head are permuted for interleaved RoPE, as in GGUFs of Llama";
const NIBBLES: &str = "the values of each block of 32 are in the order of another packing of its bytes";

const ORDERS: &[Order] = &[
    Order { block: head_of, from: interleaved, text: HEADS },
    Order { block: head_of, from: split_halves, text: HEADS },
    Order { block: |_| 32, from: interleaved, text: NIBBLES },
    Order { block: |_| 32, from: split_halves, text: NIBBLES },
    Order {
        block: |_| 32,
        from: |i, n| (i + n / 2) % n,
        text: "the halves of each block of 32 are exchanged",
    },
    Order { block: cols_of, from: |i, n| (i + n / 2) % n, text: "the halves of each row are exchanged" },
    Order { block: cols_of, from: |i, n| n - 1 - i, text: "the columns are in reverse order" },
    Order { block: cols_of, from: |i, n| (i + 1) % n, text: "the columns are shifted by one to the left" },
    Order {
        block: cols_of,
        from: |i, n| (i + n - 1) % n,
        text: "the columns are shifted by one to the right",
    },
];

/// The columns of every row are in another order.
pub(super) fn columns_permuted(case: &Case<'_>) -> Result<Option<String>> {
    let cols = case.pair.cols() as u64;
    let holds = |order: &&Order| {
        let block = (order.block)(case);
        block > 1
            && cols.is_multiple_of(block)
            && case.explained(|x, out| {
                out.extend((0..cols).map(|c| x[(c - c % block + (order.from)(c % block, block)) as usize]));
            })
    };
    Ok(ORDERS.iter().find(holds).map(|order| order.text.to_owned()))
}

/// A square matrix is transposed.
pub(super) fn transposed(case: &Case<'_>) -> Result<Option<String>> {
    let (rows, cols) = (case.pair.rows(), case.pair.cols());
    if rows != cols as u64 || !(2..=1 << 14).contains(&rows) {
        return Ok(None);
    }
    // the columns of the artifact at the sampled rows
    let mut columns = vec![Vec::with_capacity(cols); case.rows.len()];
    let (mut bytes, mut y) = (Vec::new(), vec![0.0; cols]);
    for row in 0..rows {
        case.pair.read(row, &mut bytes, &mut y)?;
        for (column, &at) in columns.iter_mut().zip(&case.rows) {
            column.push(y[at as usize]);
        }
    }
    let holds = case.x.iter().zip(&columns).all(|(x, column)| case.same(x, column));
    Ok(holds.then(|| "it is transposed".to_owned()))
}

/// The rows are at other places in the base.
pub(super) fn rows_permuted(case: &Case<'_>) -> Result<Option<String>> {
    let (rows, cols) = (case.pair.rows(), case.pair.cols());
    if rows < 2 || cols == 1 {
        return Ok(None);
    }
    let searched = rows.min(SEARCHED / cols as u64) as usize;
    let step = case.rows.len().div_ceil(SOUGHT);
    let mut moves = Vec::new();
    for at in (0..case.rows.len()).step_by(step) {
        let y = &case.y[at];
        let found = (0..searched).into_par_iter().with_min_len(64).map_init(
            || (Vec::new(), vec![0.0; cols]),
            |(bytes, x), row| {
                case.pair.read_base(row as u64, bytes, x)?;
                Ok(case.same(x, y).then_some(row as u64))
            },
        );
        let found = found.find_map_first(Result::transpose).transpose()?;
        match found {
            Some(from) => moves.push((case.rows[at], from)),
            None => return Ok(None),
        }
    }
    Ok(Some(told("row", "rows", &moves, case.errors.bad_rows == 2)))
}
