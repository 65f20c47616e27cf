//! Weights that are quantised already. Those of the kinds in `formats/checkpoint.toml` are presented as the values they
//! encode, in the type and with the bits that their own library decodes to; others are refused. Names and types of the
//! tensors decide, not `config.json`, whose entry is often left over from training; it only has settings.
//!
//! A file a format in `quantised/` checks the parts of a weight and describes them as [`Packed`], which decodes rows.

mod bitsandbytes;
mod codes;
mod compressed;
mod gemma;
mod gptq;
mod grid;
mod mlx;
mod packed;
mod parts;
mod scaled;
mod torchao;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use tensor::{DType, Error, Result, TensorDesc};

use crate::Checkpoint;
use crate::float8::is_fp8;
use crate::pieces::{Decoder, Entry, PackedRows};
use crate::table::{PackedRow, table};
use parts::Parts;

pub(crate) use packed::Packed;

/// Config fields that describe quantisation. `quantization` is MLX's.
const FIELDS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];

/// A way to decode weights.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Codec {
    Compressed,
    GptqAwq,
    #[serde(rename = "bitsandbytes-4bit")]
    Bitsandbytes4,
    BitsandbytesInt8,
    Mlx,
    Gemma,
    Modelopt,
    Scaled,
    Torchao,
}

/// What `config.json` says about quantisation.
pub(crate) struct Said {
    field: &'static str,
    value: Value,
}

impl Said {
    /// The entry in the config, else in its `text_config`.
    pub(crate) fn of(config: &Value) -> Option<Said> {
        let of = |config: &Value, field: &str| config.get(field).filter(|value| !value.is_null()).cloned();
        let value = |field| of(config, field).or_else(|| of(config.get("text_config")?, field));
        FIELDS.iter().find_map(|field| Some(Said { field, value: value(field)? }))
    }

    fn method(&self) -> Option<&str> {
        let named = self.value.get("quant_method").and_then(Value::as_str);
        named.or_else(|| (self.field == "quantization").then_some("mlx"))
    }
}

/// Whether [`Checkpoint::open`] needs the values of a tensor, by its name: they decide types and shapes. Of all others it reads
/// the description in the header.
pub fn is_read_on_open(name: &str) -> bool {
    table().read_on_open.iter().any(|suffix| name.ends_with(suffix.as_str()))
}

/// Refuses quantised weights that are not decoded, by the names of their tensors.
///
/// # Errors
/// `Unsupported`, naming the quantisation and a tensor. `file_of` names the file of an entry.
pub(crate) fn refuse(
    entries: &[Entry],
    said: Option<&Said>,
    file_of: &dyn Fn(&Entry) -> String,
) -> Result<()> {
    let method = said.and_then(Said::method);
    let ending = |entry: &&Entry, suffixes: &[String]| {
        suffixes.iter().any(|suffix| entry.desc.name.ends_with(suffix.as_str()))
    };
    let rows = table().refused.iter();
    let rows = rows.filter(|row| {
        row.methods.is_empty() || method.is_some_and(|method| row.methods.iter().any(|own| own == method))
    });
    let found = |row: &crate::table::Refused| entries.iter().find(|entry| ending(entry, &row.suffixes));
    match rows.filter_map(|row| Some((row, found(row)?))).next() {
        Some((row, entry)) => Err(refused(&row.name, entry, file_of)),
        None => Ok(()),
    }
}

/// Replaces the tensors of packed weights by decoded ones. Returns the weights, and notes about them. `fp8`: 8-bit floats
/// with scales of rows are presented by `float8.rs`.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit, `Unsupported` for variants that are not decoded.
pub(crate) fn unpack(
    checkpoint: &Checkpoint,
    entries: &mut Vec<Entry>,
    said: Option<&Said>,
    fp8: bool,
) -> Result<(Vec<Packed>, Vec<String>)> {
    let numbers: HashMap<String, usize> =
        entries.iter().enumerate().map(|(number, entry)| (entry.desc.name.clone(), number)).collect();
    let method = said.and_then(Said::method);
    let config = said.map_or(&Value::Null, |said| &said.value);
    let (mut weights, mut taken, mut decoded) = (Vec::new(), HashSet::new(), HashMap::new());
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..entries.len() {
        let Some(row) = row_of(&entries[number], &numbers, method).filter(|row| {
            !(fp8 && row.codec == Codec::Scaled && entries[number].desc.dtype == DType::F8_E4M3)
        }) else {
            continue;
        };
        let parts = Parts { checkpoint, entries, numbers: &numbers, row, number, config };
        let file = checkpoint.shards()[entries[number].shard()].path.display();
        let packed = build(&parts).map_err(|e| e.within(&file))?;
        if packed.name != entries[number].desc.name && numbers.contains_key(&packed.name) {
            return Err(Error::malformed(
                format!("{file}: tensor {}", packed.name),
                format!("it and {} are the same weight", entries[number].desc.name),
            )
            .expected("a weight once", "a quantised and another one"));
        }
        taken.extend(parts.numbers());
        *kinds.entry(packed.kind.clone()).or_default() += 1;
        decoded.insert(number, entry(&entries[number], &packed, weights.len())?);
        weights.push(packed);
    }
    let mut activations = 0;
    let old = std::mem::take(entries);
    for (number, entry) in old.into_iter().enumerate() {
        let is_activation = (fp8 || !weights.is_empty())
            && table().activations.suffixes.iter().any(|suffix| entry.desc.name.ends_with(suffix.as_str()));
        activations += usize::from(is_activation);
        match decoded.remove(&number) {
            Some(decoded) => entries.push(decoded),
            None if taken.contains(&number) || is_activation => {}
            None => entries.push(entry),
        }
    }
    let mut notes = Vec::new();
    if !weights.is_empty() {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} ({count} tensors)")).collect();
        notes.push(format!(
            "the weights are quantised already: {}. They are decoded as they are read; quantising them again adds errors",
            kinds.join("; ")
        ));
    }
    if activations > 0 {
        notes.push(format!(
            "{activations} scales of quantised activations are left out: activations are computed without rounding"
        ));
    }
    Ok((weights, notes))
}

/// The first row of the table that describes a tensor as the codes of a weight.
fn row_of(
    entry: &Entry,
    numbers: &HashMap<String, usize>,
    method: Option<&str>,
) -> Option<&'static PackedRow> {
    table().packed.iter().find(|row| {
        let Some(stem) = entry.desc.name.strip_suffix(row.codes.as_str()) else { return false };
        let by_method = method.is_some_and(|method| row.methods.iter().any(|own| own == method));
        if row.only && !by_method {
            return false;
        }
        let marks = if row.marks.is_empty() { &row.parts } else { &row.marks };
        marks.iter().any(|mark| numbers.contains_key(&format!("{stem}{mark}")))
            || by_method && row.dtypes.iter().any(|dtype| dtype == entry.desc.dtype.name())
    })
}

fn build(parts: &Parts<'_>) -> Result<Packed> {
    parts.codes().filled()?;
    match parts.row.codec {
        Codec::Compressed => compressed::packed(parts),
        Codec::GptqAwq => gptq::gptq_awq(parts),
        Codec::Bitsandbytes4 => bitsandbytes::four_bits(parts),
        Codec::BitsandbytesInt8 => bitsandbytes::int8(parts),
        Codec::Mlx => mlx::mlx(parts),
        Codec::Gemma => gemma::gemma(parts),
        Codec::Modelopt => compressed::modelopt(parts),
        Codec::Scaled => scaled::scaled(parts),
        Codec::Torchao => torchao::torchao(parts),
    }
}

/// The entry of a decoded weight in the place of its codes.
fn entry(codes: &Entry, packed: &Packed, weight: usize) -> Result<Entry> {
    let desc = TensorDesc::new(&packed.name, packed.dtype, packed.shape.clone())?;
    let mut entry = Entry::stored(desc, codes.pieces[0].location);
    entry.code = Some(codes.desc.dtype);
    let rows = PackedRows { by: Decoder::Packed(weight), first: 0, bytes: codes.desc.byte_len() };
    entry.pieces.iter_mut().for_each(|piece| piece.packed = Some(rows));
    Ok(entry)
}

/// Refuses weights that are still codes. If the config describes quantisation but no weight was or is quantised, the
/// fields are removed from the config and a note is returned; they are removed as well if all weights are decoded. `sfp8`:
/// the metadata of some shard declares SFP8.
///
/// # Errors
/// `Unsupported`, naming the quantisation and a tensor. `file_of` names the file of an entry.
pub(crate) fn check(
    entries: &[Entry],
    config: &mut Value,
    said: Option<&Said>,
    sfp8: bool,
    file_of: &dyn Fn(&Entry) -> String,
) -> Result<Option<String>> {
    let Some(Said { field, value }) = said else { return Ok(None) };
    let method = value.get("quant_method").and_then(Value::as_str);
    let fp8 = is_fp8(&serde_json::json!({ "quantization_config": value })).unwrap_or(false);
    let coded = |entry: &&Entry| match entry.desc.dtype {
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 | DType::I64 | DType::BOOL => false,
        DType::U8 => !sfp8,
        DType::F8_E4M3 => !fp8,
        _ => true,
    };
    if let Some(entry) = entries.iter().find(coded) {
        let known = method.and_then(|method| table().methods.get(method));
        let name = match (known, method) {
            (None, None) if value["format"] == "sfp8" => {
                "SFP8 by its config.json, but its __metadata__ format is not sfp8"
            }
            (Some(name), _) => name.as_str(),
            (None, Some(method)) => method,
            (None, None) if *field == "quantization" => "MLX",
            (None, None) => "in a way that config.json does not name",
        };
        return Err(refused(name, entry, file_of));
    }
    let real = |entry: &Entry| match entry.desc.dtype {
        DType::U8 => sfp8,
        DType::F8_E4M3 => fp8,
        _ => false,
    };
    if entries.iter().any(real) {
        return Ok(None);
    }
    let fields = [config.as_object_mut()];
    fields.into_iter().flatten().for_each(|fields| FIELDS.iter().for_each(|f| drop(fields.shift_remove(*f))));
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        FIELDS.iter().for_each(|field| drop(text.shift_remove(*field)));
    }
    if entries.iter().any(Entry::is_packed) {
        return Ok(None);
    }
    let name = method.map_or_else(String::new, |method| format!(" ({method})"));
    Ok(Some(format!(
        "config.json has a {field}{name}, but no weight is quantised: it is left over, and ignored"
    )))
}

fn refused(name: &str, entry: &Entry, file_of: &dyn Fn(&Entry) -> String) -> Error {
    Error::unsupported(
        format!("{}: tensor {}", file_of(entry), entry.desc.name),
        format!("this checkpoint is already quantised: {name}"),
    )
    .expected(
        "weights in bf16, f16 or f32, or quantised in a way that docs/quantised-inputs.md lists",
        format!("{} {:?}", entry.desc.dtype, entry.desc.shape),
    )
    .help("Give the BF16 checkpoint that it was made from: quantising twice adds up the errors.")
}
