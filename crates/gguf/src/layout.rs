//! Positions of all contents of a file, computed before anything is written.

use std::collections::HashSet;
use std::io::{self, Write};

use gguf_rs_lib::format::GGUFHeader;
use tensor::{Error, Result, TensorDesc};

use crate::dtype::type_id;
use crate::metadata::Metadata;
use crate::value::{Item, Value, put_str};

/// Maximum bytes of a tensor name: ggml has 64, one of them for the terminating zero.
pub(crate) const MAX_NAME: usize = 63;
/// Maximum bytes of a key, from the format's description.
pub(crate) const MAX_KEY: usize = 65_535;
/// Maximum number of dimensions of a tensor in ggml.
pub(crate) const MAX_DIMS: usize = 4;

const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of tensor offsets in bytes, unless the key `general.alignment` overrides it.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Name, type and shape.
    pub desc: TensorDesc,
    /// Byte offset in the file.
    pub offset: u64,
}

/// Positions of all contents of a file. Bytes outside of the header and the tensors are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// All bytes before the first tensor byte, with padding.
    pub header: Vec<u8>,
    /// The tensors, in the given order.
    pub tensors: Vec<Placed>,
    /// Size of the file in bytes; the last tensor is padded like the others.
    pub len: u64,
}

impl Layout {
    /// Lays out a file as gguf-py does: shapes unchanged (see [`ggml_shape`]), a scalar as one element.
    ///
    /// # Errors
    /// `Unsupported` for a type that GGUF lacks; `Limit` for names, keys and shapes that ggml cannot hold; `Malformed`
    /// for an empty or duplicate name or one with a NUL, an impossible shape or a bad `general.alignment`.
    pub fn new(metadata: &Metadata, tensors: Vec<TensorDesc>) -> Result<Layout> {
        let alignment = alignment(metadata)?;
        let mut header = Vec::new();
        GGUFHeader::new(tensors.len() as u64, metadata.len() as u64)
            .write_to(&mut header)
            .map_err(|e| Error::malformed("header", e))?;
        for (key, value) in metadata.iter() {
            write_pair(key, value, &mut header)?;
        }

        let mut names = HashSet::new();
        let mut placed = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for desc in tensors {
            // Constructed again, because its fields are public and the sums below rely on its checks.
            let desc = TensorDesc::new(desc.name, desc.dtype, desc.shape)?;
            if !names.insert(desc.name.clone()) {
                return Err(Error::malformed(
                    format!("tensor {}", desc.name),
                    "there are two tensors of this name",
                ));
            }
            write_record(&desc, end, &mut header)?;
            let offset = end;
            end = padded_end(&desc, offset, alignment)?;
            placed.push(Placed { desc, offset });
        }

        let start = (header.len() as u64).next_multiple_of(alignment);
        header.resize(start as usize, 0);
        for tensor in &mut placed {
            tensor.offset += start;
        }
        Ok(Layout { header, tensors: placed, len: start + end })
    }

    /// Writes a whole file: the header and the bytes of the tensors, in their order, with padding.
    ///
    /// # Errors
    /// Errors of `out`; `InvalidInput` for data whose size differs from the tensor's.
    pub fn write<T: AsRef<[u8]>>(
        &self,
        out: &mut impl Write,
        tensors: impl IntoIterator<Item = T>,
    ) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut tensors = tensors.into_iter();
        let ends = self.tensors.iter().skip(1).map(|next| next.offset).chain([self.len]);
        for (placed, end) in self.tensors.iter().zip(ends) {
            let bytes = tensors.next();
            let bytes = bytes.as_ref().map_or(&[][..], AsRef::as_ref);
            if bytes.len() as u64 != placed.desc.byte_len() {
                let problem = format!("{} bytes for tensor {}", bytes.len(), placed.desc.name);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
            out.write_all(bytes)?;
            out.write_all(&vec![0; (end - placed.offset) as usize - bytes.len()])?;
        }
        Ok(())
    }
}

/// The padded end of a tensor that begins at `offset`. Below 2^63, so that a header can be added.
pub(crate) fn padded_end(desc: &TensorDesc, offset: u64, alignment: u64) -> Result<u64> {
    offset
        .checked_add(desc.byte_len())
        .and_then(|end| end.checked_next_multiple_of(alignment))
        .filter(|&end| end <= i64::MAX as u64)
        .ok_or_else(|| Error::limit(format!("tensor {}", desc.name), "the file would be too large"))
}

/// The alignment in the metadata of a file, in bytes.
pub(crate) fn alignment(metadata: &Metadata) -> Result<u64> {
    match metadata.typed::<u32>(ALIGNMENT_KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(n) if n.is_power_of_two() => Ok(n.into()),
        Some(n) => Err(Error::malformed(format!("key {ALIGNMENT_KEY}"), "not an alignment")
            .expected("a power of two", n)),
    }
}

/// The shape as ggml's own writers (`llama-quantize`, `llama-gguf-split`) store it: without leading dimensions of 1,
/// where gguf-py keeps all dimensions of the checkpoint. `[1, 1, 5]` becomes `[5]`, `[1]` stays.
pub fn ggml_shape(shape: &[u64]) -> &[u64] {
    let ones = shape.iter().take(shape.len().saturating_sub(1)).take_while(|&&d| d == 1).count();
    &shape[ones..]
}

/// The reason why a key or a tensor name is invalid, apart from its length: ggml's tools end names at the first NUL.
pub(crate) fn unusable(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("an empty name"),
        _ if name.contains('\0') => Some("a name with a NUL in it"),
        _ => None,
    }
}

fn check_name(place: &str, name: &str, max: usize) -> Result<()> {
    if let Some(problem) = unusable(name) {
        return Err(Error::malformed(place, problem));
    }
    if name.len() > max {
        return Err(
            Error::limit(place, "the name is too long").expected(format!("at most {max} bytes"), name.len())
        );
    }
    Ok(())
}

fn write_pair(key: &str, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    check_name(&format!("key {key}"), key, MAX_KEY)?;
    put_str(key, out);
    value.write(out);
    Ok(())
}

fn write_record(desc: &TensorDesc, offset: u64, out: &mut Vec<u8>) -> Result<()> {
    let place = format!("tensor {}", desc.name);
    check_name(&place, &desc.name, MAX_NAME)?;
    let scalar: &[u64] = &[1];
    let shape = if desc.shape.is_empty() { scalar } else { &desc.shape };
    if shape.len() > MAX_DIMS {
        return Err(Error::limit(place, "more dimensions than ggml has").expected(MAX_DIMS, shape.len()));
    }
    let type_id = type_id(desc.dtype).map_err(|e| e.within(&place))?;
    put_str(&desc.name, out);
    (shape.len() as u32).put(out);
    shape.iter().rev().for_each(|d| d.put(out));
    type_id.put(out);
    offset.put(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{DType, Fault};

    fn desc(name: &str, shape: &[u64]) -> TensorDesc {
        TensorDesc::new(name, DType::I8, shape).unwrap()
    }

    fn refused(tensors: Vec<TensorDesc>) -> Fault {
        Layout::new(&Metadata::new(), tensors).unwrap_err().fault()
    }

    #[test]
    fn every_tensor_is_padded_the_last_too() {
        let layout =
            Layout::new(&Metadata::new(), vec![desc("a", &[33]), desc("b", &[]), desc("c", &[0])]).unwrap();
        let start = layout.header.len() as u64;
        assert_eq!(start % 32, 0);
        let offsets: Vec<_> = layout.tensors.iter().map(|t| t.offset - start).collect();
        assert_eq!((offsets, layout.len - start), (vec![0, 64, 96], 96));
    }

    #[test]
    fn what_ggml_cannot_hold_is_refused() {
        assert!(Layout::new(&Metadata::new(), vec![desc(&"n".repeat(63), &[1, 1, 1, 1])]).is_ok());
        assert_eq!(refused(vec![desc(&"n".repeat(64), &[1])]), Fault::Limit);
        assert_eq!(refused(vec![desc("", &[1])]), Fault::Malformed);
        assert_eq!(refused(vec![desc("a\0b", &[1])]), Fault::Malformed);
        assert_eq!(refused(vec![desc("x", &[1, 1, 1, 1, 1])]), Fault::Limit);
        assert_eq!(refused(vec![desc("x", &[1]), desc("x", &[2])]), Fault::Malformed);
        assert_eq!(refused(vec![desc("x", &[i64::MAX as u64])]), Fault::Limit);
        assert_eq!(refused(vec![TensorDesc::new("x", DType::U8, [1]).unwrap()]), Fault::Unsupported);
        let unchecked = TensorDesc { name: "x".into(), dtype: DType::I8, shape: vec![u64::MAX, u64::MAX] };
        assert_eq!(refused(vec![unchecked]), Fault::Malformed);
        let mut metadata = Metadata::new();
        metadata.insert("", 1u8);
        assert_eq!(Layout::new(&metadata, vec![]).unwrap_err().fault(), Fault::Malformed);
    }

    #[test]
    fn the_alignment_key_is_obeyed() {
        let mut metadata = Metadata::new();
        metadata.insert(ALIGNMENT_KEY, 128u32);
        let layout = Layout::new(&metadata, vec![desc("a", &[1])]).unwrap();
        assert_eq!((layout.header.len(), layout.len), (128, 256));
        metadata.insert(ALIGNMENT_KEY, 48u32);
        assert_eq!(Layout::new(&metadata, vec![]).unwrap_err().fault(), Fault::Malformed);
    }

    #[test]
    fn shapes_of_ggml() {
        assert_eq!(ggml_shape(&[1, 1, 5]), [5]);
        assert_eq!(ggml_shape(&[5, 1]), [5, 1]);
        assert_eq!(ggml_shape(&[1, 1]), [1]);
        assert_eq!(ggml_shape(&[]), [0u64; 0]);
    }
}
