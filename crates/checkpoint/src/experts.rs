//! Joins experts that are stored separately, or with separate gate and up projections, into the tensors of
//! transformers: one with all gate and up projections of a layer, one with all down projections. No data is copied: the
//! tensor has many pieces.

use std::collections::{BTreeMap, HashMap};

use tensor::{Error, Result, TensorDesc};

use crate::pieces::{Entry, Piece};
use crate::table::table;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Gate,
    Up,
    GateUp,
    Down,
}

/// An expert tensor's name, parsed.
#[derive(Debug, PartialEq)]
struct Apart {
    /// `model.language_model.layers.3`
    layer: String,
    part: Part,
    /// Number of the expert; `None` for a tensor of all experts.
    expert: Option<u64>,
}

fn parse(name: &str) -> Option<Apart> {
    let table = &table().experts;
    let segments: Vec<&str> = name.split('.').collect();
    let is_number = |segment: &&str| segment.bytes().all(|b| b.is_ascii_digit()) && !segment.is_empty();
    let layer = segments.windows(2).position(|pair| pair[0] == "layers" && is_number(&pair[1]))? + 2;
    let (layer, mut rest) = segments.split_at(layer);
    let inside = |names: &[String], segment: &str| names.iter().any(|name| name == segment);
    if rest.first().is_some_and(|block| inside(&table.blocks, block)) {
        rest = &rest[1..];
    }
    let (&"experts", rest) = rest.split_first()? else { return None };
    let (mut part, mut expert) = (None, None);
    for segment in rest {
        let named = [
            (Part::Gate, &table.gate),
            (Part::Up, &table.up),
            (Part::GateUp, &table.gate_up),
            (Part::Down, &table.down),
        ];
        let named = named.into_iter().find(|(_, names)| inside(names, segment)).map(|(part, _)| part);
        match named {
            Some(named) if part.is_none() => part = Some(named),
            None if is_number(segment) && expert.is_none() => expert = Some(segment.parse().ok()?),
            None if inside(&table.silent, segment) => {}
            _ => return None,
        }
    }
    Some(Apart { layer: layer.join("."), part: part?, expert })
}

/// The name of a joined tensor in transformers.
fn joined_name(layer: &str, part: Part) -> String {
    let name = if part == Part::Down { "down_proj" } else { "gate_up_proj" };
    format!("{layer}.experts.{name}")
}

/// Joins the expert tensors that are stored separately. Returns a note about them, if there are any.
///
/// # Errors
/// `Malformed` for a missing expert or projection, or one whose shape or type differs from the others.
pub(crate) fn join(entries: &mut Vec<Entry>) -> Result<Option<String>> {
    let mut layers: BTreeMap<String, BTreeMap<(Part, Option<u64>), usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some(apart) = parse(&entry.desc.name) else { continue };
        if apart.expert.is_none() && entry.desc.name == joined_name(&apart.layer, apart.part) {
            continue; // the layout of transformers
        }
        if let Some(other) = layers.entry(apart.layer).or_default().insert((apart.part, apart.expert), index)
        {
            return Err(both(&entries[other], entry));
        }
    }
    if layers.is_empty() {
        return Ok(None);
    }
    let names: HashMap<&str, usize> =
        entries.iter().enumerate().map(|(index, entry)| (entry.desc.name.as_str(), index)).collect();
    let mut joined = Vec::new();
    let mut taken = vec![false; entries.len()];
    for (layer, parts) in &layers {
        let layer = Layer { entries, layer, parts };
        let wanted: [&[Part]; 3] = [&[Part::GateUp], &[Part::Gate, Part::Up], &[Part::Down]];
        for wanted in wanted.into_iter().filter(|wanted| wanted.iter().any(|part| layer.has(*part))) {
            let entry = layer.joined(wanted)?;
            // the tensor has been joined, so it has a first part
            let first = layer.of(wanted[0]).next().map_or(0, |(_, &first)| first);
            if let Some(&other) = names.get(entry.desc.name.as_str()) {
                return Err(both(&entries[first], &entries[other]));
            }
            if let Some(other) = joined.iter().find(|other: &&Entry| other.desc.name == entry.desc.name) {
                return Err(both(&entries[first], other));
            }
            joined.push(entry);
        }
        parts.values().for_each(|&index| taken[index] = true);
    }
    let count = taken.iter().filter(|taken| **taken).count();
    let note = format!(
        "{count} expert tensors are stored separately: they are read as the {} tensors of transformers",
        joined.len()
    );
    let mut index = 0;
    entries.retain(|_| {
        index += 1;
        !taken[index - 1]
    });
    entries.extend(joined);
    Ok(Some(note))
}

fn both(first: &Entry, second: &Entry) -> Error {
    Error::malformed(
        format!("tensor {}", second.desc.name),
        format!("it and {} hold the same experts", first.desc.name),
    )
    .expected("each expert once", "two tensors of it")
}

/// The tensors of one layer's experts.
struct Layer<'a> {
    entries: &'a [Entry],
    layer: &'a str,
    parts: &'a BTreeMap<(Part, Option<u64>), usize>,
}

impl Layer<'_> {
    fn has(&self, part: Part) -> bool {
        self.of(part).next().is_some()
    }

    fn of(&self, part: Part) -> impl Iterator<Item = (Option<u64>, &usize)> {
        self.parts.range((part, None)..=(part, Some(u64::MAX))).map(|((_, expert), index)| (*expert, index))
    }

    /// One tensor of all experts, each with its `parts` concatenated.
    fn joined(&self, parts: &[Part]) -> Result<Entry> {
        let mut columns = Vec::with_capacity(parts.len());
        for &part in parts {
            columns.push(self.experts(part, parts)?);
        }
        let first = &columns[0];
        for other in &columns[1..] {
            if other.len() != first.len() {
                let count = first.len().max(other.len()) as u64;
                let short = if first.len() < other.len() { parts[0] } else { parts[1] };
                return Err(self.missing(short, Some(first.len().min(other.len()) as u64), count));
            }
        }
        let model = first[0].entry;
        let matrix = |expert: &Expert<'_>| [expert.rows, expert.entry.desc.cols()];
        let mut pieces = Vec::new();
        for number in 0..first.len() {
            for column in &columns {
                let expert = &column[number];
                let same = matrix(expert) == matrix(&column[0])
                    && expert.entry.desc.cols() == model.desc.cols()
                    && (expert.entry.desc.dtype, expert.entry.code) == (model.desc.dtype, model.code);
                if !same {
                    let words = |e: &Expert<'_>| format!("{:?} {}", matrix(e), e.entry.desc.dtype);
                    return Err(Error::malformed(
                        format!("tensor {}", expert.entry.desc.name),
                        "an expert of another shape or type than the others of its layer",
                    )
                    .expected(words(&column[0]), words(expert)));
                }
                pieces.extend_from_slice(&expert.pieces);
            }
        }
        let rows = columns.iter().map(|column| column[0].rows).sum();
        let shape = [first.len() as u64, rows, model.desc.cols()];
        let desc = TensorDesc::new(joined_name(self.layer, parts[0]), model.desc.dtype, shape)?;
        Ok(Entry { desc, code: model.code, pieces, changes: Vec::new() })
    }

    /// The experts of one part, by number.
    fn experts(&self, part: Part, parts: &[Part]) -> Result<Vec<Expert<'_>>> {
        let found: Vec<_> = self.of(part).collect();
        if let [(None, index)] = found[..] {
            let entry = &self.entries[*index];
            let [count, rows, _] = entry.desc.shape[..] else {
                return Err(Error::malformed(
                    format!("tensor {}", entry.desc.name),
                    "wrong shape for experts",
                )
                .expected("[experts, rows, columns]", format!("{:?}", entry.desc.shape)));
            };
            // at most as many as the file has bytes; an empty tensor has no experts, whatever its shape
            let count = if entry.desc.elements() == 0 { 0 } else { count };
            let expert = |number| Expert { entry, rows, pieces: entry.rows(number * rows, rows) };
            let all: Vec<_> = (0..count).map(expert).collect();
            return if all.is_empty() { Err(self.missing(part, None, 0)) } else { Ok(all) };
        }
        if let Some((None, index)) = found.first() {
            let (_, other) = found[1];
            return Err(both(&self.entries[*other], &self.entries[**index]));
        }
        let count = parts.iter().map(|part| self.of(*part).count()).max().unwrap_or(0) as u64;
        let mut all = Vec::with_capacity(found.len());
        for (number, (expert, index)) in found.iter().enumerate() {
            if *expert != Some(number as u64) {
                return Err(self.missing(part, Some(number as u64), count));
            }
            let entry = &self.entries[**index];
            let [rows, _] = entry.desc.shape[..] else {
                return Err(Error::malformed(
                    format!("tensor {}", entry.desc.name),
                    "wrong shape for an expert",
                )
                .expected("[rows, columns]", format!("{:?}", entry.desc.shape)));
            };
            all.push(Expert { entry, rows, pieces: entry.pieces.clone() });
        }
        if all.is_empty() { Err(self.missing(part, Some(0), count)) } else { Ok(all) }
    }

    /// The error for a missing tensor, named in the style of the tensors that exist.
    fn missing(&self, part: Part, expert: Option<u64>, count: u64) -> Error {
        let table = &table().experts;
        let spelled = |part| match part {
            Part::Gate => &table.gate,
            Part::Up => &table.up,
            Part::GateUp => &table.gate_up,
            Part::Down => &table.down,
        };
        let ((known, number), &index) = match self.parts.iter().next() {
            Some(first) => first,
            None => return Error::malformed(format!("tensor {}", self.layer), "no experts"),
        };
        let there = &self.entries[index].desc.name;
        let spelling = |segment: &str| {
            let at = spelled(*known).iter().position(|name| name == segment)?;
            spelled(part).get(at).cloned()
        };
        let rest = there.get(self.layer.len()..).unwrap_or_default();
        let renamed = rest.split('.').map(|segment| match (spelling(segment), number, expert) {
            (Some(name), ..) => name,
            (None, Some(number), Some(expert)) if segment == number.to_string() => expert.to_string(),
            _ => segment.to_owned(),
        });
        let name = format!("{}{}", self.layer, renamed.collect::<Vec<_>>().join("."));
        Error::malformed(format!("tensor {name}"), "missing: the experts of this layer are stored separately")
            .expected(
                format!("{count} experts with gate_proj, up_proj and down_proj"),
                format!("no {name}, but {there}"),
            )
            .help("Is every shard there?")
    }
}

/// One projection of one expert.
struct Expert<'a> {
    entry: &'a Entry,
    rows: u64,
    pieces: Vec<Piece>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_experts() {
        let parsed = |name: &str| parse(name).map(|apart| (apart.part, apart.expert));
        for (name, expected) in [
            ("experts.5.gate_proj.weight", Some((Part::Gate, Some(5)))),
            ("experts.5.up_proj", Some((Part::Up, Some(5)))),
            ("mlp.experts.12.down_proj.weight", Some((Part::Down, Some(12)))),
            ("moe.experts.gate_up_proj.3", Some((Part::GateUp, Some(3)))),
            ("block_sparse_moe.experts.0.w2.weight", Some((Part::Down, Some(0)))),
            ("experts.switch_glu.gate_proj.weight", Some((Part::Gate, None))),
            ("experts.gate_up_proj", Some((Part::GateUp, None))),
            ("mlp.gate_proj.weight", None),
            ("router.proj.weight", None),
            ("experts.5.gate_proj.weight_scale", None),
            ("experts.5.6.gate_proj.weight", None),
        ] {
            assert_eq!(parsed(&format!("model.language_model.layers.7.{name}")), expected, "{name}");
        }
        assert_eq!(parse("model.layers.7.experts.0.w1").unwrap().layer, "model.layers.7");
        assert_eq!(parse("experts.0.w1"), None);
    }
}
