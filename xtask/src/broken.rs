//! Files that llama.cpp loads without a word (but for one) and that are wrong: one mistake each, made in a good file of a tiny
//! checkpoint. What `verify` must say of them is in `tests/broken.rs`.
//!
//! Files are whole in memory here; they have a few megabytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use checkpoint::Checkpoint;
use gguf::{FromValue, GgufSet, Layout, Metadata, Value};
use tensor::{DType, TensorDesc, TensorSource};

/// A mistake.
pub struct Mistake {
    /// What it is called, in file names too.
    pub name: &'static str,
    /// The checkpoint whose files it is made in: `e2b`, `26b-a4b` or `31b`.
    pub checkpoint: &'static str,
    /// How it comes about.
    pub about: &'static str,
    /// This version of llama.cpp loads it without a word.
    pub silent: bool,
    make: fn(&mut Model) -> Result<()>,
}

const fn mistake(
    name: &'static str,
    checkpoint: &'static str,
    about: &'static str,
    make: fn(&mut Model) -> Result<()>,
) -> Mistake {
    Mistake { name, checkpoint, about, silent: true, make }
}

impl Mistake {
    const fn refused(self) -> Mistake {
        Mistake { silent: false, ..self }
    }
}

/// All mistakes.
#[rustfmt::skip]
pub const MISTAKES: &[Mistake] = &[
    mistake("q-and-k-exchanged", "31b", "the tensors of a layer under each other's names, where shapes allow", |m| {
        m.exchange_rows("blk.1.attn_q.weight", "blk.1.attn_k.weight")
    }),
    mistake("norm-plus-one", "31b", "the convention of Gemma 1 to 3", |m| {
        m.tensor("blk.2.attn_norm.weight")?.map_f32(|w| w + 1.0)
    }),
    mistake("rope-bases-exchanged", "e2b", "that of full layers for sliding ones", |m| {
        m.exchange_keys::<f32>("gemma4.rope.freq_base", "gemma4.rope.freq_base_swa")
    }),
    mistake("rope-freqs-missing", "e2b", "a converter that does not know proportional rotation", |m| {
        m.tensors.retain(|t| t.desc.name != "rope_freqs.weight");
        Ok(())
    })
    .refused(),
    mistake("rope-freqs-ones", "e2b", "rotation of every dimension", |m| {
        m.tensor("rope_freqs.weight")?.map_f32(|_| 1.0)
    }),
    mistake("experts-exchanged", "26b-a4b", "one expert's down projection in another's place", |m| {
        m.tensor("blk.1.ffn_down_exps.weight")?.exchange_slices(2, 5);
        Ok(())
    }),
    mistake("gate-up-exchanged", "26b-a4b", "up before gate in each expert", |m| {
        let tensor = m.tensor("blk.3.ffn_gate_up_exps.weight")?;
        let half = tensor.slice_bytes() / 2;
        tensor.bytes.chunks_exact_mut(2 * half).for_each(|expert| expert.rotate_left(half));
        Ok(())
    }),
    mistake("layer-scalar-one", "26b-a4b", "a converter that does not know the scalar", |m| {
        m.tensor("blk.2.layer_output_scale.weight")?.map_f32(|_| 1.0)
    }),
    mistake("per-layer-table-shifted", "e2b", "a table that begins one token late", |m| {
        m.tensor("per_layer_token_embd.weight")?.shift_rows();
        Ok(())
    }),
    mistake("embedding-shifted", "31b", "the same with the embedding", |m| {
        m.tensor("token_embd.weight")?.shift_rows();
        Ok(())
    }),
    mistake("merges-exchanged", "31b", "two merges in the wrong order", |m| {
        m.edit("tokenizer.ggml.merges", |merges: &mut Vec<String>| merges.swap(100, 200))
    }),
    mistake("merges-truncated", "31b", "a list that was cut", |m| {
        m.edit("tokenizer.ggml.merges", |merges: &mut Vec<String>| merges.truncate(merges.len() / 2))
    }),
    mistake("template-of-another", "e2b", "ChatML, the usual guess", |m| m.set("tokenizer.chat_template", CHATML)),
    mistake("softcap", "31b", "Gemma 2's cap of attention for the cap of logits", |m| {
        m.set("gemma4.final_logit_softcapping", 50f32)
    }),
    mistake("window", "e2b", "half of it", |m| m.set("gemma4.attention.sliding_window", 32u32)),
    mistake("norm-eps", "26b-a4b", "Llama's", |m| m.set("gemma4.attention.layer_norm_rms_epsilon", 1e-5f32)),
    mistake("experts-used", "26b-a4b", "one expert instead of two", |m| m.set("gemma4.expert_used_count", 1u32)),
    mistake("bos-and-eos-exchanged", "31b", "1 and 2", |m| {
        m.exchange_keys::<u32>("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
    }),
    mistake("token-types", "e2b", "control tokens as ordinary ones", |m| {
        let ordinary = |types: &mut Vec<i32>| types.iter_mut().filter(|t| **t == CONTROL).for_each(|t| *t = NORMAL);
        m.edit("tokenizer.ggml.token_type", ordinary)
    }),
    mistake("scores", "31b", "those of a SentencePiece model", |m| {
        let ranks = |scores: &mut Vec<f32>| (0..).zip(scores).for_each(|(i, score)| *score = -(i as f32));
        m.edit("tokenizer.ggml.scores", ranks)
    }),
    mistake("nan", "e2b", "a damaged scale in a row that is rarely read", |m| {
        // a BF16 value, or the f16 scale at the end of a Q6_K block
        let bytes = &mut m.tensor("per_layer_token_embd.weight")?.bytes;
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&0x7fffu16.to_le_bytes());
        Ok(())
    }),
    mistake("another-layer", "e2b", "a tensor of the next layer", |m| {
        m.copy("blk.2.ffn_up.weight", "blk.1.ffn_up.weight")
    }),
    mistake("heads-interleaved", "31b", "rows as llama.cpp's converter permutes those of Llama", |m| {
        m.tensor("blk.0.attn_q.weight")?.interleave_rows(64);
        Ok(())
    }),
    mistake("rows-exchanged", "26b-a4b", "two rows of a matrix", |m| {
        m.tensor("blk.0.ffn_up.weight")?.exchange_slices(3, 9);
        Ok(())
    }),
];

/// llama.cpp's types of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}\n\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n";

/// Makes the mistake called `name` in the file `good`.
///
/// # Errors
/// For an unknown name, or a file that has no place for the mistake.
pub fn write(name: &str, good: &Path, out: &Path) -> Result<()> {
    let mistake = MISTAKES.iter().find(|m| m.name == name).with_context(|| format!("no mistake {name:?}"))?;
    let mut model = Model::read(good)?;
    (mistake.make)(&mut model).with_context(|| format!("{name}: {}", good.display()))?;
    model.write(out)
}

/// Copies a checkpoint and gives its layers scalars that are not 1, as the tiny checkpoints' are.
///
/// # Errors
/// For a folder that is no checkpoint, or one without such scalars in BF16.
pub fn checkpoint(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let opened = Checkpoint::open(to).map_err(told)?;
    let scalars: Vec<usize> =
        (0..opened.tensors().len()).filter(|&i| opened.tensors()[i].name.ends_with("layer_scalar")).collect();
    ensure!(!scalars.is_empty(), "{} has no layer scalars", to.display());
    for (number, index) in scalars.into_iter().enumerate() {
        let location = opened.location(index).context("a tensor without a place")?;
        ensure!(opened.tensors()[index].byte_len() == 2, "a layer scalar that is not one BF16 value");
        let path = &opened.shards()[location.shard].path;
        let mut bytes = fs::read(path)?;
        // 0.5, 0.5625, …
        let value = (0.5 + number as f32 / 16.0).to_bits() >> 16;
        bytes[location.offset as usize..][..2].copy_from_slice(&(value as u16).to_le_bytes());
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// A whole file.
struct Model {
    metadata: Metadata,
    tensors: Vec<Tensor>,
}

struct Tensor {
    desc: TensorDesc,
    bytes: Vec<u8>,
}

fn told(error: tensor::Error) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

impl Model {
    fn read(path: &Path) -> Result<Model> {
        let set = GgufSet::open(path).map_err(told)?;
        let read = |(index, desc): (usize, &TensorDesc)| {
            let mut bytes = vec![0; desc.byte_len() as usize];
            set.read_rows(index, 0, &mut bytes).map_err(told)?;
            Ok(Tensor { desc: desc.clone(), bytes })
        };
        let tensors = set.tensors().iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Model { metadata: set.metadata().clone(), tensors })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let descs = self.tensors.iter().map(|tensor| tensor.desc.clone()).collect();
        let layout = Layout::new(&self.metadata, descs).map_err(told)?;
        let mut file = layout.header;
        for (placed, tensor) in layout.tensors.iter().zip(&self.tensors) {
            file.resize(placed.offset as usize, 0);
            file.extend(&tensor.bytes);
        }
        file.resize(layout.len as usize, 0);
        fs::write(path, file).with_context(|| path.display().to_string())
    }

    fn tensor(&mut self, name: &str) -> Result<&mut Tensor> {
        let found = self.tensors.iter_mut().find(|tensor| tensor.desc.name == name);
        found.with_context(|| format!("there is no tensor {name}"))
    }

    /// Gives `to` the bytes of `from`.
    fn copy(&mut self, from: &str, to: &str) -> Result<()> {
        let bytes = self.tensor(from)?.bytes.clone();
        let to = self.tensor(to)?;
        ensure!(to.bytes.len() == bytes.len(), "{from} and {} differ in size", to.desc.name);
        to.bytes = bytes;
        Ok(())
    }

    /// Exchanges as many rows as both have.
    fn exchange_rows(&mut self, a: &str, b: &str) -> Result<()> {
        let of_a = self.tensor(a)?.bytes.clone();
        let b = self.tensor(b)?;
        let (desc, shared) = (b.desc.clone(), of_a.len().min(b.bytes.len()));
        let of_b = b.bytes[..shared].to_vec();
        b.bytes[..shared].copy_from_slice(&of_a[..shared]);
        let a = self.tensor(a)?;
        ensure!(a.desc.dtype == desc.dtype && a.desc.cols() == desc.cols(), "rows of different types");
        a.bytes[..shared].copy_from_slice(&of_b);
        Ok(())
    }

    /// Changes the items of an array.
    fn edit<T: Clone>(&mut self, key: &str, change: impl FnOnce(&mut Vec<T>)) -> Result<()>
    where
        for<'a> &'a [T]: FromValue<'a>,
        Vec<T>: Into<Value>,
    {
        let mut items = self.metadata.required::<&[T]>(key).map_err(told)?.to_vec();
        change(&mut items);
        self.set(key, items)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        self.metadata.insert(key, value).map(drop).with_context(|| format!("there was no key {key}"))
    }

    fn exchange_keys<T: for<'a> FromValue<'a> + Into<Value>>(&mut self, a: &str, b: &str) -> Result<()> {
        let (of_a, of_b): (T, T) =
            (self.metadata.required(a).map_err(told)?, self.metadata.required(b).map_err(told)?);
        self.set(a, of_b)?;
        self.set(b, of_a)
    }
}

impl Tensor {
    /// Changes each value of a tensor of single precision.
    fn map_f32(&mut self, change: impl Fn(f32) -> f32) -> Result<()> {
        ensure!(self.desc.dtype == DType::F32, "{} is {}", self.desc.name, self.desc.dtype);
        for bytes in self.bytes.as_chunks_mut::<4>().0 {
            *bytes = change(f32::from_le_bytes(*bytes)).to_le_bytes();
        }
        Ok(())
    }

    /// Bytes along the first dimension.
    fn slice_bytes(&self) -> usize {
        self.bytes.len() / self.desc.shape[0] as usize
    }

    fn exchange_slices(&mut self, a: usize, b: usize) {
        let len = self.slice_bytes();
        let (left, right) = self.bytes.split_at_mut(b * len);
        left[a * len..][..len].swap_with_slice(&mut right[..len]);
    }

    /// Every row gets the next one's values, the last those of the first.
    fn shift_rows(&mut self) {
        self.bytes.rotate_left(self.desc.row_bytes() as usize);
    }

    /// The rows of each head of `head` rows: from two halves to pairs.
    fn interleave_rows(&mut self, head: usize) {
        let row = self.desc.row_bytes() as usize;
        for rows in self.bytes.chunks_exact_mut(head * row) {
            let halves = rows.to_vec();
            for (i, to) in rows.chunks_exact_mut(row).enumerate() {
                to.copy_from_slice(&halves[(i / 2 + i % 2 * (head / 2)) * row..][..row]);
            }
        }
    }
}
