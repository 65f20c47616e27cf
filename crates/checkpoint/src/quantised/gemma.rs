//! Google's checkpoints of quantization-aware training for phones (`quant_method` = `gemma`): codes of 2, 4 or 8 bits with
//! F32 scales. Source: transformers `integrations/gemma_quant.py`. Values are those of a model that is loaded in float32.
//! Scales of activations are not used.

use regex::Regex;
use tensor::{DType, Error, Result};

use super::codes::{Codes, Layout, offset_binary, twos_complement};
use super::grid::Grid;
use super::packed::{Groups, Packed, Rule};
use super::parts::{Parts, group_size};

/// A linear or an embedding.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit; `Unsupported` for a pattern of modules that cannot be read.
pub(super) fn gemma(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::U8, DType::I8])?;
    let [rows, bytes] = codes.desc.shape[..] else { return Err(codes.wrong("wrong shape", "[rows, bytes]")) };
    let bits = bits(parts)?;
    if (codes.desc.dtype == DType::I8) != (bits == 8) {
        return Err(codes.wrong("not the type for its bits", format!("codes of {bits} bits")));
    }
    let cols = bytes * u64::from(8 / bits);
    let scales = parts.need(&parts.row.parts[0])?.typed(&[DType::F32])?;
    let groups = scales.desc.cols();
    let scales = scales.shaped(&[rows, groups])?;
    let size = group_size(&scales, groups, cols)?;
    let values = if bits == 8 { twos_complement(8) } else { offset_binary(bits) };
    Ok(Packed {
        name: parts.name(),
        dtype: DType::F32,
        shape: vec![rows, cols],
        kind: format!("Gemma's integers for phones, {bits} bits, groups of {size}"),
        codes: Codes { part: codes, layout: Layout::Rows { bits: bytes * 8 }, bits, cols, values },
        scales: Grid::rows(scales, groups),
        offsets: None,
        groups: Groups::Even(size),
        rule: Rule::ZeroPoint,
    })
}

/// Bits of the codes: of the first pattern in `module_quant_configs` that matches the module, else of all.
fn bits(parts: &Parts<'_>) -> Result<u32> {
    let name = parts.name();
    let module = name.strip_suffix(".weight").unwrap_or(&name);
    let mut said = &parts.config["num_bits"];
    for (pattern, own) in parts.config["module_quant_configs"].as_object().into_iter().flatten() {
        if matches(pattern, module)? {
            said = own.get("num_bits").unwrap_or(said);
            break;
        }
    }
    match said.as_u64() {
        Some(bits @ (2 | 4 | 8)) => Ok(bits as u32),
        _ => Err(Error::malformed(
            format!("config.json: quantization_config: bits of {module}"),
            "not a width of codes",
        )
        .expected("num_bits 2, 4 or 8", said)),
    }
}

/// Whether a pattern of Python matches within `module`. One negative look-ahead at its end is known.
fn matches(pattern: &str, module: &str) -> Result<bool> {
    let compile = |pattern: &str| {
        Regex::new(pattern).map_err(|e| {
            Error::unsupported(
                "config.json: module_quant_configs",
                "a pattern of modules that cannot be read",
            )
            .expected("a regular expression without look-around, or with one at its end", pattern)
            .with_source(e)
        })
    };
    let Some((before, ahead)) = pattern.strip_suffix(')').and_then(|pattern| pattern.split_once("(?!"))
    else {
        return Ok(compile(pattern)?.is_match(module));
    };
    let (before, ahead) = (compile(before)?, compile(&format!("^(?:{ahead})"))?);
    Ok(before.find_iter(module).any(|found| !ahead.is_match(&module[found.end()..])))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn patterns_of_the_published_config() {
        let config: Value = testkit::json("configs/gemma-4-E2B-it-qat-mobile.quantization_config.json");
        let bits = |module: &str| {
            let patterns = config["module_quant_configs"].as_object().unwrap();
            let found = patterns.iter().find(|(pattern, _)| matches(pattern, module).unwrap());
            found.map_or(&config["num_bits"], |(_, own)| &own["num_bits"]).as_u64().unwrap()
        };
        // of Python's re, over the same names
        for (module, expected) in [
            ("lm_head", 2),
            ("model.language_model.embed_tokens", 2),
            ("model.language_model.embed_tokens_per_layer", 4),
            ("model.language_model.layers.14.mlp.up_proj", 4),
            ("model.language_model.layers.15.mlp.up_proj", 2),
            ("model.language_model.layers.3.per_layer_input_gate", 8),
            ("model.language_model.layers.20.self_attn.q_proj", 4),
            ("model.vision_tower.encoder.layers.0.mlp.up_proj", 8),
            ("model.audio_tower.layers.0.feed_forward1.ffw_layer_1", 2),
            ("model.audio_tower.layers.0.lconv1d.linear_start.linear", 4),
        ] {
            assert_eq!(bits(module), expected, "{module}");
        }
    }
}
