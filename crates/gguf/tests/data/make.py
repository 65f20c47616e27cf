#!/usr/bin/env python3
"""Makes the files of this folder: make.py LLAMA_GGUF_SPLIT (the program's path); needs gguf-py and numpy."""
import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from gguf import GGUFReader, GGUFWriter

here = Path(__file__).parent


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types():
    """Every value type, every array type, and tensors of several types and shapes."""
    w = GGUFWriter(here / "types.gguf", "gemma4-assistant")
    scalars = {
        V.UINT8: 200, V.INT8: -100, V.UINT16: 60000, V.INT16: -30000, V.UINT32: 4000000000, V.INT32: -2000000000,
        V.UINT64: 2**64 - 1, V.INT64: -(2**63), V.FLOAT32: 0.1, V.FLOAT64: 0.1, V.BOOL: True,
        V.STRING: "größe \U0001f600",
    }
    for kind, value in scalars.items():
        w.add_key_value(f"gemma4-assistant.{kind.name.lower()}", value, kind)
    for kind, value in scalars.items():
        other = "" if kind is V.STRING else type(value)(0)
        w.add_key_value(f"array.{kind.name.lower()}", [value, other, value], V.ARRAY, sub_type=kind)
    w.add_uint32("general.file_type", 0)
    w.add_bool("tokenizer.ggml.add_bos_token", False)
    w.add_uint32("general.file_type", 1)  # overwritten in place

    bits = np.arange(1024, dtype=np.uint8)
    w.add_tensor("rope_freqs.weight", np.linspace(-1, 1, 7, dtype=np.float32))
    w.add_tensor("f16", np.arange(6, dtype=np.float16).reshape(3, 2))
    w.add_tensor("bf16", bits[:24].reshape(2, 3, 4), raw_dtype=T.BF16)
    w.add_tensor("q4_0", bits[: 3 * 36].reshape(3, 36), raw_dtype=T.Q4_0)
    w.add_tensor("q8_0", bits[:34].reshape(1, 34), raw_dtype=T.Q8_0)
    w.add_tensor("q6_k", bits[:210].reshape(1, 210), raw_dtype=T.Q6_K)
    w.add_tensor("mxfp4", bits[:17].reshape(1, 17), raw_dtype=T.MXFP4)
    w.add_tensor("four.dims", np.arange(24, dtype=np.int8).reshape(1, 2, 3, 4))
    w.add_tensor("i64", np.arange(-2, 3, dtype=np.int64))
    w.add_tensor("n" * 63, np.array([0.5], dtype=np.float32))
    finish(w)


def parts(split):
    """A model and its parts, by number of tensors; shapes with leading ones, which ggml drops."""
    w = GGUFWriter(here / "whole.gguf", "gemma4")
    w.add_string("general.name", "Tiny")
    w.add_array("tokenizer.ggml.tokens", ["<pad>", "<eos>", "é"])
    w.add_array("tokenizer.ggml.scores", [-1000.0, -1000.0, -0.0])
    w.add_array("gemma4.attention.sliding_window_pattern", [True, False])
    for i, shape in enumerate([(5,), (1, 33), (3, 2), (1, 1, 4), (7, 1)]):
        w.add_tensor(f"blk.{i}.x", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    finish(w)
    subprocess.run([split, "--split-max-tensors", "2", here / "whole.gguf", here / "part"], check=True)


def heads(split):
    """Parts by size, whose smallest limit is 1 MB: only what precedes the tensor data is kept."""
    w = GGUFWriter(here / "size.gguf", "gemma4")
    for i, kb in enumerate([4, 600, 300, 80, 1200, 500, 499, 1]):
        w.add_tensor(f"blk.{i}.x", np.zeros(kb * 1000 + i, dtype=np.int8))
    finish(w)
    subprocess.run([split, "--split-max-size", "1M", here / "size.gguf", here / "size"], check=True)
    for path in sorted(here.glob("size*.gguf")):
        data = path.read_bytes()
        path.with_suffix(".head").write_bytes(data[: GGUFReader(path).data_offset])
        print(path.name, len(data), "bytes")
        path.unlink()


types()
parts(sys.argv[1])
heads(sys.argv[1])
