"""Turns two exports of one model, of different widths, into a skeleton: how to build the models at any width.

    record.py SMALL LARGE FULL CONFIG OUT

SMALL and LARGE are folders that `export.py` wrote, with widths of 1 and 2 units; the widths of CONFIG have FULL units. Every number of
the graph is a line through both. `crates/litert/src/skeleton/format.rs` has the format.

The flatbuffers builder of Python, which writes every table, vector and string in an order of its own, is replaced by one that writes
down what it is asked for. So the result has the bytes of the exporter, and neither this file nor the reader knows the schema.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import struct
import zlib

import numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.utils import litertlm_utils
from litert_lm_builder.runtime.proto import llm_metadata_pb2

PREFIX = "model.language_model."
# Matrices of a layer whose rows an export may have in one constant (`fuse_qkv`, `fuse_gate_up`).
FUSED = [[f"{part}_proj.weight" for part in parts] for parts in (
    ("self_attn.q", "self_attn.k", "self_attn.v"),
    ("self_attn.q", "self_attn.k"),
    ("mlp.gate", "mlp.up"),
)]
INTEGERS = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}
METADATA, EXECUTOR, MODEL = 5, 9, 3
FLEXBUFFER_MAP = 9


class Weighted(int):
    """The type of a tensor whose weights are in the buffer of this number."""


@dataclasses.dataclass
class Placeholder:
    """Takes the place of an object of the schema."""

    operation: tuple

    def Pack(self, builder) -> int:
        return builder.add(*self.operation)


class Recorder:
    """A flatbuffers builder. Offsets are numbers of operations, from 1 on."""

    def __init__(self):
        self.operations = []
        self.fields = self.vector = None

    def add(self, *operation) -> int:
        self.operations.append(operation)
        return len(self.operations)

    def StartObject(self, _):
        self.fields = []

    def EndObject(self) -> int:
        return self.add("table", tuple(self.fields))

    def slot(self, slot: int, kind, value: int, default: int) -> None:
        if value != default:
            self.fields.append((slot, kind, value))

    def PrependUOffsetTRelativeSlot(self, slot, value, default):
        self.slot(slot, "reference", value, default)

    def StartVector(self, size, _, alignment):
        self.vector = ["vector", size, alignment, []]

    def PrependUOffsetTRelative(self, value):
        self.vector[0] = "references"
        self.vector[3].insert(0, value)

    def EndVector(self) -> int:
        kind, size, alignment, values = self.vector
        return self.add("references", tuple(values)) if kind == "references" else self.numbers(size, alignment, values)

    def CreateNumpyVector(self, values) -> int:
        if values.dtype.kind == "f":
            values = values.view(f"<i{values.itemsize}")
        return self.numbers(values.itemsize, values.itemsize, values.ravel().tolist())

    def numbers(self, size, alignment, values) -> int:
        return self.add("vector", size, alignment, tuple(values))

    def CreateString(self, text) -> int:
        return self.add("string", text if isinstance(text, bytes) else text.encode())

    def __getattr__(self, name):
        kinds = {"Bool": "B", "Byte": "B", "Uint8": "B", "Int8": "b", "Int16": "h", "Uint16": "H", "Int32": "i", "Uint32": "I"}
        kinds |= {"Int64": "q", "Uint64": "Q", "Float32": "f"}
        kind = kinds[name.removeprefix("Prepend").removesuffix("Slot")]
        size = struct.calcsize(kind)

        def number(value) -> int:
            return int.from_bytes(struct.pack("<" + kind, value), "little", signed=kind in "bhiq")

        def slot(slot, value, default):
            if isinstance(value, Weighted):
                self.slot(slot, "type", int(value), 0)
            else:
                self.slot(slot, size, number(value), number(default))

        return slot if name.endswith("Slot") else lambda value: self.vector[3].insert(0, number(value))


def tensors(file: bytes):
    """Names without prefix and values of the tensors of a text model, which are BF16."""
    start = 8 + int.from_bytes(file[:8], "little")
    for name, entry in json.loads(file[8:start]).items():
        if name.startswith(PREFIX):
            assert entry["dtype"] == "BF16"
            begin, end = entry["data_offsets"]
            bits = numpy.frombuffer(file[start + begin : start + end], "<u2").astype("<u4") << 16
            yield name.removeprefix(PREFIX), bits.view("<f4").reshape(entry["shape"])


def derived(tensors: dict, config: dict):
    """Tensors that a graph may have in another form, by names as `crates/litert/src/graph_tensors.rs` reads them."""
    for layer in range(config["num_hidden_layers"]):
        for parts in FUSED:
            names = [f"layers.{layer}.{part}" for part in parts]
            if all(name in tensors for name in names):
                yield "+".join(names), numpy.concatenate([tensors[name] for name in names])
    if cap := config.get("final_logit_softcapping"):
        yield f"embed_tokens.weight/{cap:g}", tensors["embed_tokens.weight"] * (1 / numpy.float32(cap))


def encodings(values: numpy.ndarray):
    """The tensor as f32, and if it is a matrix in integers a row, by the rule of ai-edge-quantizer."""
    yield 32, values.tobytes()
    if values.ndim != 2:
        return
    bound = numpy.maximum(numpy.abs(values).max(axis=1, keepdims=True), numpy.float32(1e-9))
    for bits, most, least in ((8, 127, -127), (4, 7, -8), (2, 1, -2)):
        scale = (bound / numpy.float32(most)).astype(numpy.float32)
        codes = numpy.clip(numpy.rint(values / scale), least, most).astype(numpy.int8).view(numpy.uint8)
        lanes = codes.reshape(-1, 8 // bits) & ((1 << bits) - 1)
        packed = sum(lanes[:, lane].astype(numpy.uint32) << (bits * lane) for lane in range(8 // bits))
        yield bits, packed.astype(numpy.uint8).tobytes()


class Graph:
    """The operations that build a model, and the bytes of its buffers."""

    def __init__(self, data: bytes, payloads: dict):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        self.buffers = []
        for buffer in model.buffers:
            if buffer.offset > 1:
                self.buffers.append(data[buffer.offset : buffer.offset + buffer.size])
            else:
                self.buffers.append(None if buffer.data is None else bytes(bytearray(buffer.data)))
        self.weights = {n: payloads[b] for n, b in enumerate(self.buffers) if b in payloads}
        model.buffers = [Placeholder(("buffer", n)) for n in range(len(self.buffers))]
        self.types = {}
        for subgraph in model.subgraphs:
            for tensor in subgraph.tensors:
                self.types[tensor.buffer] = tensor.type
                if tensor.type in INTEGERS and tensor.buffer in self.weights:
                    assert self.weights[tensor.buffer][1] == INTEGERS[tensor.type]
                    assert not numpy.any(tensor.quantization.zeroPoint)
                    tensor.quantization.scale = numpy.zeros_like(tensor.quantization.scale)
                    tensor.type = Weighted(tensor.buffer)
        builder = Recorder()
        model.Pack(builder)
        self.operations = builder.operations


class Export:
    """What `export.py` wrote."""

    def __init__(self, folder: pathlib.Path):
        path = folder / "model.litertlm"
        file = litertlm_utils.LiteRTLMFile(path)
        data = path.read_bytes()
        self.header = data[: int.from_bytes(data[24:32], "little")]
        self.text = json.loads((folder / "checkpoint/config.json").read_text())["text_config"]
        payloads = {}
        known = dict(tensors((folder / "checkpoint/model.safetensors").read_bytes()))
        for name, values in (*known.items(), *derived(known, self.text)):
            for bits, payload in encodings(values):
                payloads[payload] = (name, bits)
        self.graphs = {}
        for number, section in enumerate(file.sections):
            content = data[section.beginOffset : section.endOffset]
            if section.dataType == METADATA:
                self.cache_length = llm_metadata_pb2.LlmMetadata.FromString(content).max_num_tokens
            elif section.dataType == EXECUTOR:
                self.executor = content
            elif section.dataType == MODEL:
                self.graphs[file.get_model_type(number)] = Graph(content, payloads)


def line(small: int, large: int) -> tuple[int, int]:
    """What a number is at 0 units, and what a unit adds."""
    return (2 * small - large, large - small)


class Writer:
    """Numbers in streams by their purpose, which compress well."""

    def __init__(self):
        self.streams = {}
        self.strings, self.vectors, self.layouts = {}, {}, {}
        self.last = {}

    def unsigned(self, stream: str, value: int) -> None:
        out = self.streams.setdefault(stream, bytearray())
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)

    def signed(self, stream: str, value: int) -> None:
        self.unsigned(stream, 2 * value if value >= 0 else -2 * value - 1)

    def line(self, stream: str, small: int, large: int) -> None:
        for part in line(small, large):
            self.signed(stream, part)

    def known(self, known: dict, key, stream: str) -> None:
        self.unsigned(stream, known.setdefault(key, len(known)))

    def step(self, known: dict, key, stream: str) -> None:
        """As `known`, written as the step from the last one."""
        index = known.setdefault(key, len(known))
        self.signed(stream, index - self.last.get(stream, 0))
        self.last[stream] = index

    def text(self, text: bytes, last: bytes) -> None:
        """What it has in common with the last one, at its start and at its end, and the rest."""
        start = len(os.path.commonprefix([text, last]))
        end = len(os.path.commonprefix([text[start:][::-1], last[start:][::-1]]))
        self.unsigned("texts", start)
        self.unsigned("texts", end)
        self.blob("texts", text[start : len(text) - end])

    def blob(self, stream: str, data: bytes) -> None:
        self.unsigned(stream, len(data))
        self.streams[stream].extend(data)

    def operation(self, number: int, small: tuple, large: tuple) -> None:
        assert small[0] == large[0], (number, small, large)
        kinds = ("table", "vector", "references", "string", "buffer")
        self.unsigned("kinds", kinds.index(small[0]))
        match small[0]:
            case "table":
                layout = tuple(field[:2] for field in small[1])
                assert small == large, (number, small, large)
                self.known(self.layouts, layout, "layouts")
                for _, kind, value in small[1]:
                    if kind == "reference":
                        self.unsigned("references", number - value)
                    else:
                        self.signed("fields", value)
            case "references":
                assert small == large
                self.unsigned("references", len(small[1]))
                last = None
                for value in small[1]:
                    self.unsigned("references", number - value if last is None else value - last)
                    last = value
            case "vector":
                assert small[1:3] == large[1:3]
                self.step(self.vectors, (*small[1:], large[3]), "vectors")
            case "string":
                assert small == large
                self.step(self.strings, small[1], "strings")
            case "buffer":
                assert small == large

    def dictionaries(self) -> None:
        last = b""
        for text in self.strings:
            self.text(text, last)
            last = text
        for size, alignment, small, large in self.vectors:
            self.unsigned("numbers", size)
            self.unsigned("numbers", alignment)
            zeros = not any(small) and not any(large)
            assert zeros or len(small) == len(large), (small[:9], large[:9])
            words = size == 1 and small != large and not zeros
            self.unsigned("numbers", 1 if zeros else 2 if words else 0)
            self.line("numbers", len(small), len(large))
            if words:
                self.words(bytes(small), bytes(large))
            else:
                for pair in () if zeros else zip(small, large):
                    self.line("numbers", *pair)
        kinds = {1: 0, 2: 1, 4: 2, 8: 3, "reference": 4, "type": 5}
        for layout in self.layouts:
            self.unsigned("tables", len(layout))
            for slot, kind in layout:
                self.unsigned("tables", slot)
                self.unsigned("tables", kinds[kind])

    def words(self, small: bytes, large: bytes) -> None:
        """Attributes of an operator: a flexbuffer with a map, all of whose numbers have the same size."""
        assert small[-3:] == large[-3:] and small[-2] >> 2 == FLEXBUFFER_MAP, (small, large)
        size = 1 << (small[-2] & 3)
        differing = sorted({at - at % size for at, pair in enumerate(zip(small, large)) if pair[0] != pair[1]})
        self.blob("numbers", small)
        self.unsigned("numbers", len(differing))
        for at in differing:
            self.unsigned("numbers", at)
            self.unsigned("numbers", size)
            self.line("numbers", *(int.from_bytes(x[at : at + size], "little") for x in (small, large)))

    def buffer(self, small: "Graph", large: "Graph", number: int, widths: list, tables: list) -> None:
        a, b = small.buffers[number], large.buffers[number]
        assert (a is None) == (b is None)
        assert small.types.get(number) == large.types.get(number)
        if a is None:
            self.unsigned("buffers", 0)
        elif number in small.weights:
            name, bits = small.weights[number]
            assert large.weights[number] == (name, bits), name
            self.unsigned("buffers", 1)
            self.unsigned("buffers", bits)
            self.known(self.strings, name.encode(), "buffers")
        elif a == b:
            self.unsigned("buffers", 2)
            self.blob("buffers", a)
        elif small.types[number] == schema.TensorType.INT32:
            a, b = (numpy.frombuffer(x, "<i4").tolist() for x in (a, b))
            assert len(a) == len(b)
            self.unsigned("buffers", 3)
            self.unsigned("buffers", len(a))
            for pair in zip(a, b):
                self.line("buffers", *pair)
        else:
            assert small.types[number] == schema.TensorType.FLOAT32, (number, small.types[number])
            self.floats(*(numpy.frombuffer(x, "<f4") for x in (a, b)), widths, tables)

    def floats(self, a: numpy.ndarray, b: numpy.ndarray, widths: list, tables: list) -> None:
        if len(a) == len(b) == 1:
            for sign in (1, -1):
                for width in widths:
                    if [x.item() for x in (a, b)] == [numpy.float32(x ** (sign / 2)).item() for x in (width, 2 * width)]:
                        for value in (4, width, sign < 0):
                            self.unsigned("buffers", value)
                        return
            raise AssertionError(f"a scalar: {a} {b}")
        if (a == a[0]).all() and (b == a[0]).all():
            self.unsigned("buffers", 5)
            self.unsigned("buffers", int(a[:1].view("<u4")[0]))
            self.line("buffers", len(a), len(b))
            return
        for number, table in enumerate(tables):
            every = [len(table) // len(x) for x in (a, b)]
            if all(numpy.array_equal(table[::n], x) for n, x in zip(every, (a, b))):
                self.unsigned("buffers", 6)
                self.unsigned("buffers", number)
                self.line("buffers", len(a), len(b))
                return
        raise AssertionError(f"values: {a} {b}")


def frequencies(config: dict) -> list[numpy.ndarray]:
    """The tables of RoPE at full width, of which smaller widths have every n-th value: those of transformers, and those of the operators
    for GPUs, which rotate a part of the values and have frequencies of all."""
    import torch
    import transformers
    from transformers.models.gemma4 import modeling_gemma4

    text = transformers.AutoConfig.for_model(**config["text_config"])
    with torch.device("cpu"):
        rope = modeling_gemma4.Gemma4TextRotaryEmbedding(text)
    kinds = ("sliding_attention", "full_attention")
    tables = [getattr(rope, f"{kind}_inv_freq").numpy() for kind in kinds]
    for kind, table in zip(kinds, tables[:]):
        width = 2 * len(table)
        base = text.rope_parameters[kind]["rope_theta"]
        tables.append((1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)).numpy())
    return tables


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("small", "large"):
        arguments.add_argument(name, type=pathlib.Path)
    arguments.add_argument("full", type=int)
    for name in ("config", "out"):
        arguments.add_argument(name, type=pathlib.Path)
    given = arguments.parse_args()

    small, large = Export(given.small), Export(given.large)
    config = json.loads(given.config.read_text())
    widths = [small.text[name] for name in ("hidden_size", "hidden_size_per_layer_input")]
    tables = frequencies(config)
    writer = Writer()
    assert small.executor == large.executor
    for model, graph in small.graphs.items():
        other = large.graphs[model]
        assert len(graph.buffers) == len(other.buffers) and len(graph.operations) == len(other.operations), model
        found = [name for name, _ in graph.weights.values()]
        assert len(set(found)) == len(found), "a tensor has two constants"
        writer.known(writer.strings, model.encode(), "models")
        writer.unsigned("models", len(graph.buffers))
        writer.unsigned("models", len(graph.operations))
        for number in range(len(graph.buffers)):
            writer.buffer(graph, other, number, widths, tables)
        for number, pair in enumerate(zip(graph.operations, other.operations), 1):
            writer.operation(number, *pair)
        print(f"{model}: {len(found)} weights, {len(graph.buffers)} buffers, {len(graph.operations)} operations")
    writer.dictionaries()
    for table in tables:
        writer.blob("frequencies", table.astype("<f4").tobytes())
    names = "models buffers kinds layouts references fields vectors strings texts numbers tables frequencies".split()
    counts = (given.full, len(small.graphs), len(writer.strings), len(writer.vectors), len(writer.layouts), len(tables))
    for count in counts:
        writer.unsigned("head", count)
    writer.blob("head", json.dumps({"cache_length": small.cache_length, "config": config}).encode())
    writer.blob("head", small.header)
    writer.blob("head", small.executor)
    for name in ("head", *names):
        print(f"{name}: {len(writer.streams[name])} bytes, {len(zlib.compress(writer.streams[name], 9))} compressed")
    streams = b"".join(struct.pack("<I", len(writer.streams[name])) + writer.streams[name] for name in ("head", *names))
    given.out.write_bytes(b"GCSKEL02" + struct.pack("<I", len(streams)) + zlib.compress(streams, 9))
    print(f"{given.out}: {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
