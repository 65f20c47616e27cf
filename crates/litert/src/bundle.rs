//! The container: a header of at most 16 MiB, then sections that begin at multiples of 16 KiB.
//!
//! | offset | content |
//! |---|---|
//! | 0 | `LITERTLM` |
//! | 8 | version: u32 major, minor, patch |
//! | 20 | zero |
//! | 24 | u64: end of the header |
//! | 32 | flatbuffer `LiteRTLMMetaData` |
//!
//! Source: `schema/core/litertlm_header_schema.fbs` of google-ai-edge/LiteRT-LM, and litert-lm-builder 0.18.1, whose
//! files have section types that the schema lacks.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use tensor::{Error, Result};

use crate::flatbuffer::{Flatbuffer, Table};
use crate::source::{self, Source, SourceRange};

/// The unit of positions of sections.
pub const ALIGNMENT: u64 = 16 << 10;
/// Position of the flatbuffer of the header.
const METADATA: u64 = 32;
const MAGIC: &[u8; 8] = b"LITERTLM";
const MAJOR: u32 = 1;
const MAX_HEADER: u64 = 16 << 20;
const MAX_SECTIONS: usize = 1 << 10;

/// The type of a section's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionType(pub u8);

impl SectionType {
    /// A TFLite model.
    pub const MODEL: SectionType = SectionType(3);
    /// An LlmMetadata protobuf.
    pub const METADATA: SectionType = SectionType(5);
    /// A `tokenizer.json`, compressed.
    pub const TOKENIZER: SectionType = SectionType(6);

    /// The name in the schema of LiteRT-LM, where there is one.
    pub const fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 12] = [
            "NONE",
            "GenericBinaryData",
            "Deprecated",
            "TFLiteModel",
            "SP_Tokenizer",
            "LlmMetadataProto",
            "HF_Tokenizer_Zlib",
            "TFLiteWeights",
            "EmbeddingMetadataProto",
            "ExecutorMetadataProto",
            "TtsMetadataProto",
            "AsrMetadataProto",
        ];
        if (self.0 as usize) < NAMES.len() { Some(NAMES[self.0 as usize]) } else { None }
    }
}

impl fmt::Display for SectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemValue {
    /// An integer of any width.
    Integer(i128),
    /// A float of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
}

impl fmt::Display for ItemValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ItemValue::Integer(value) => value.fmt(f),
            ItemValue::Float(value) => value.fmt(f),
            ItemValue::Bool(value) => value.fmt(f),
            ItemValue::Text(value) => value.fmt(f),
        }
    }
}

/// Keys and values, in file order.
pub type Items = Vec<(String, ItemValue)>;

/// A section.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Type of the content.
    pub content: SectionType,
    /// Bytes of the file.
    pub range: Range<u64>,
    /// Keys and values, such as `model_type`.
    pub items: Items,
    /// Positions in the file of the u64 that hold begin and end.
    places: [u64; 2],
}

impl Section {
    /// The key `model_type` of a model, such as `tf_lite_prefill_decode`.
    pub fn model_type(&self) -> Option<&str> {
        self.items.iter().find_map(|(key, value)| match value {
            ItemValue::Text(text) if key == "model_type" => Some(text.as_str()),
            _ => None,
        })
    }

    /// A name for messages: the type, and the model's type.
    pub fn title(&self) -> String {
        self.model_type()
            .map_or_else(|| self.content.to_string(), |model| format!("{} {model}", self.content))
    }
}

/// The header of a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// Major, minor and patch version of the container.
    pub version: [u32; 3],
    /// Keys and values of the whole file.
    pub items: Items,
    /// The sections, in file order. They do not overlap.
    pub sections: Vec<Section>,
    /// The bytes before the first section, without padding.
    header: Vec<u8>,
    file_len: u64,
}

impl Bundle {
    /// True for a file that begins as a bundle does.
    pub fn is_one(path: &Path) -> bool {
        base::begins_with(path, MAGIC).unwrap_or(false)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Malformed` for a file of another kind, and for positions of sections that are impossible; `Unsupported` for
    /// another major version; `Limit`.
    pub fn read(from: &dyn Source) -> Result<Bundle> {
        let start = source::read(from, 0, METADATA.min(from.len()))?;
        if !start.starts_with(MAGIC) {
            let found = if start.starts_with(b"PK") { "a zip archive".into() } else { escape(&start) };
            return Err(Error::malformed("header", "not a .litertlm file")
                .expected("LITERTLM", found)
                .help("A .task file and the files of the web runtime have formats of their own."));
        }
        if (start.len() as u64) < METADATA {
            return Err(cut_short(METADATA, from.len()));
        }
        let u32_at = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        let version = [u32_at(8), u32_at(12), u32_at(16)];
        if version[0] != MAJOR {
            return Err(Error::unsupported("header", "a version that this tool does not read")
                .expected(MAJOR, version[0]));
        }
        let end = u64::from(u32_at(24)) | u64::from(u32_at(28)) << 32;
        if end > MAX_HEADER {
            return Err(Error::limit("header", "implausibly large")
                .expected(format!("at most {MAX_HEADER} bytes"), end));
        }
        if end <= METADATA || end > from.len() {
            return Err(cut_short(end.max(METADATA + 1), from.len()));
        }
        let header = source::read(from, 0, end)?;
        let (items, sections) = read_metadata(from, end).map_err(|e| e.within("header"))?;
        check(&sections, end, from.len())?;
        Ok(Bundle { version, items, sections, header, file_len: from.len() })
    }

    /// The bundle of a header alone, whose file ends with padding.
    pub(crate) fn of_header(header: &[u8]) -> Result<Bundle> {
        let header = header.to_vec();
        let (items, sections) = read_metadata(&header, header.len() as u64)?;
        let end = sections.last().map_or(0, |section| section.range.end);
        Ok(Bundle {
            version: [MAJOR, 0, 0],
            items,
            sections,
            header,
            file_len: (end + 1).next_multiple_of(ALIGNMENT),
        })
    }

    /// Size of the file.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The bytes of a section.
    ///
    /// # Errors
    /// `Malformed` if `from` is not the file that was read.
    pub fn part<'a>(&self, from: &'a dyn Source, section: &Section) -> Result<SourceRange<'a>> {
        SourceRange::new(from, section.range.clone())
    }

    /// The layout of the same sections with other lengths: the header, with the positions changed and nothing else, and
    /// the range of each section. The end of the file is padded if it was.
    ///
    /// # Panics
    /// If there is not one length a section.
    pub fn with_lengths(&self, lengths: &[u64]) -> BundleLayout {
        assert_eq!(lengths.len(), self.sections.len(), "one length a section");
        let unchanged = self.sections.iter().zip(lengths).all(|(s, len)| s.range.end - s.range.start == *len);
        if unchanged {
            let ranges = self.sections.iter().map(|section| section.range.clone()).collect();
            return BundleLayout { header: self.header.clone(), ranges, file_len: self.file_len };
        }
        let mut header = self.header.clone();
        let mut end = header.len() as u64;
        let mut ranges = Vec::new();
        for (section, len) in self.sections.iter().zip(lengths) {
            let begin = end.next_multiple_of(ALIGNMENT);
            end = begin + len;
            for (place, value) in section.places.into_iter().zip([begin, end]) {
                header[place as usize..][..8].copy_from_slice(&value.to_le_bytes());
            }
            ranges.push(begin..end);
        }
        let old_end = self.sections.last().map_or(0, |section| section.range.end);
        let padded = self.file_len > old_end;
        BundleLayout { header, ranges, file_len: if padded { end.next_multiple_of(ALIGNMENT) } else { end } }
    }
}

/// The positions of everything in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleLayout {
    /// The first bytes.
    pub header: Vec<u8>,
    /// The range of each section; zeros between them.
    pub ranges: Vec<Range<u64>>,
    /// Size of the file.
    pub file_len: u64,
}

fn escape(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAGIC.len())].escape_ascii().to_string()
}

fn cut_short(expected: u64, found: u64) -> Error {
    Error::malformed("header", "the file ends before its header does")
        .expected(format!("{expected} bytes"), found)
}

fn read_metadata(from: &dyn Source, end: u64) -> Result<(Items, Vec<Section>)> {
    let part = SourceRange::new(from, METADATA..end)?;
    let flatbuffer = Flatbuffer::new(&part);
    let root = flatbuffer.root()?;
    let system = root.table(0)?;
    let items = system.map_or(Ok(Vec::new()), |table| read_items(&table, 0))?;
    let Some(list) = root.table(1)? else { return Err(Error::missing("section_metadata")) };
    let objects = list.tables(0)?;
    if objects.len() > MAX_SECTIONS {
        return Err(Error::limit("section_metadata", "implausibly many sections")
            .expected(format!("at most {MAX_SECTIONS}"), objects.len()));
    }
    let section = |(number, (_, object)): (usize, &(u64, Table<'_>))| {
        let place = |slot| {
            let place = object.place(slot, 8)?;
            place.map(|at| at + METADATA).ok_or_else(|| Error::missing("position"))
        };
        let read = || {
            Ok(Section {
                content: SectionType(object.u8(3)?),
                range: object.u64(1)?..object.u64(2)?,
                items: read_items(object, 0)?,
                places: [place(1)?, place(2)?],
            })
        };
        read().map_err(|e: Error| e.within(format!("section {number}")))
    };
    Ok((items, objects.iter().enumerate().map(section).collect::<Result<_>>()?))
}

/// The vector of KeyValuePair in a slot. The numbers of the union's types are in the schema.
fn read_items(table: &Table<'_>, slot: u64) -> Result<Items> {
    let mut items = Items::new();
    for (_, pair) in table.tables(slot)? {
        let key = pair.string(0)?.ok_or_else(|| Error::missing("a key"))?;
        let wrong = |what| Error::malformed(format!("key {key}"), what);
        let value = pair.table(2)?.ok_or_else(|| wrong("it has no value"))?;
        let value = match pair.u8(1)? {
            1 => ItemValue::Integer(value.u8(0)?.into()),
            2 => ItemValue::Integer(value.u8(0)?.cast_signed().into()),
            3 => ItemValue::Integer(value.u16(0)?.into()),
            4 => ItemValue::Integer(value.u16(0)?.cast_signed().into()),
            5 => ItemValue::Integer(value.u32(0)?.into()),
            6 => ItemValue::Integer(value.i32(0)?.into()),
            7 => ItemValue::Float(f32::from_bits(value.u32(0)?).into()),
            8 => ItemValue::Bool(value.u8(0)? != 0),
            9 => ItemValue::Text(value.string(0)?.ok_or_else(|| wrong("it has no value"))?),
            10 => ItemValue::Integer(value.u64(0)?.into()),
            11 => ItemValue::Integer(value.u64(0)?.cast_signed().into()),
            12 => ItemValue::Float(f64::from_bits(value.u64(0)?)),
            _ => return Err(wrong("its value has an unknown type")),
        };
        items.push((key, value));
    }
    Ok(items)
}

/// Sections follow each other in the file, each within it and aligned.
fn check(sections: &[Section], header_end: u64, file_len: u64) -> Result<()> {
    let mut end = header_end;
    for (number, section) in sections.iter().enumerate() {
        let wrong = |problem: &str, expected: String, found: u64| {
            let place = format!("section {number} ({})", section.title());
            Err(Error::malformed(place, problem).expected(expected, found))
        };
        let Range { start, end: stop } = section.range;
        if !start.is_multiple_of(ALIGNMENT) {
            return wrong("its begin is not aligned", format!("a multiple of {ALIGNMENT}"), start);
        }
        if start < end {
            return wrong("it overlaps what is before it", format!("at least {end}"), start);
        }
        if stop < start {
            return wrong("it ends before it begins", format!("at least {start}"), stop);
        }
        if stop > file_len {
            let problem = "the file ends before the section does: it is cut short or not fully downloaded";
            return wrong(problem, format!("at least {stop} bytes"), file_len);
        }
        end = stop;
    }
    Ok(())
}
