"""Exports a text model with random weights, all widths of its config times a factor, with the public exporter.

    export.py CONFIG TOKENIZER FACTOR OUT [--prefill N] [--cache N] [--recipe NAME] [--gpu]

CONFIG is a config.json, TOKENIZER a folder with the files of a tokenizer. OUT gets `checkpoint/` and `model.litertlm`, quantized by
the recipe, or in f32 by the recipe `none`. `cargo xtask skeleton` has the versions of the packages. With `--gpu` operators are fused for
graphics processors, and the caches of sliding windows are ring buffers.
"""

import argparse
import json
import multiprocessing
import pathlib
import shutil
import sys
import types

WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "global_head_dim",
    "hidden_size_per_layer_input",
    "vocab_size",
    "vocab_size_per_layer_input",
)


def scaled(config: dict, factor: float) -> dict:
    """The config of the text model alone, with other widths."""
    text = dict(config["text_config"])
    overrides = text.get("per_layer_config") or {}
    for fields in (text, *overrides.values()):
        for name in WIDTHS:
            if fields.get(name):
                width = fields[name] * factor
                assert width == int(width), f"{name}: {width}"
                fields[name] = int(width)
    return {**config, "text_config": text, "vision_config": None, "audio_config": None}


def write_checkpoint(config: dict, tokenizer: pathlib.Path, out: pathlib.Path) -> None:
    """No two constants of the graph may be equal, and no scalar may be 1: the converter shares and folds them."""
    import safetensors.torch
    import torch
    import transformers

    out.mkdir(parents=True)
    for file in tokenizer.iterdir():
        if file.name.startswith("tokenizer") or file.name == "chat_template.jinja":
            shutil.copy(file, out)
    (out / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoConfig.from_pretrained(out)
    with torch.device("meta"):
        model = transformers.Gemma4ForConditionalGeneration(loaded)
    generator = torch.Generator().manual_seed(18)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        if name.endswith("layer_scalar"):
            layer = int(name.split(".layers.")[1].split(".")[0])
            values = torch.full(tensor.shape, 0.5 + (layer + 1) / 256)
        elif values.dim() == 1:
            values = 1 + values / 8
        else:
            values /= values.shape[-1] ** 0.5
        tensors[name] = values.to(torch.bfloat16)
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("config", type=pathlib.Path)
    arguments.add_argument("tokenizer", type=pathlib.Path)
    arguments.add_argument("factor", type=float)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--prefill", type=int, nargs="+", default=[128])
    arguments.add_argument("--cache", type=int, default=4096)
    arguments.add_argument("--recipe", default="gemma4_mixed48")
    arguments.add_argument("--gpu", action="store_true")
    given = arguments.parse_args()

    checkpoint = given.out / "checkpoint"
    if not checkpoint.exists():
        config = scaled(json.loads(given.config.read_text()), given.factor)
        # in a process of its own: the exporter replaces classes of transformers, which must not have been used before
        writer = multiprocessing.get_context("spawn").Process(target=write_checkpoint, args=(config, given.tokenizer, checkpoint))
        writer.start()
        writer.join()
        assert writer.exitcode == 0

    # both look for TensorFlow, and find what follows
    import torch._dynamo
    import transformers
    from ai_edge_litert import schema_py_generated

    # litert-torch 0.10.0 imports this module of TensorFlow, on which it does not depend

    for name in ("tensorflow", "tensorflow.lite", "tensorflow.lite.python"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["tensorflow.lite.python.schema_py_generated"] = schema_py_generated
    sys.modules["tensorflow.lite.python"].schema_py_generated = schema_py_generated

    from ai_edge_quantizer import aeq
    from litert_torch.generative.export_hf import export

    window = json.loads((checkpoint / "config.json").read_text())["text_config"]["sliding_window"]
    gpu = {"apply_gpu_composites": True, "sliding_window_ring_buffer_size": window} if given.gpu else {}
    export.export(
        str(checkpoint),
        str(given.out),
        prefill_lengths=given.prefill,
        cache_length=given.cache,
        externalize_embedder=True,
        quantization_recipe="none",
        **gpu,
    )
    if given.recipe == "none":
        return
    failed = aeq.quantize_litertlm(str(given.out / "model.litertlm"), given.recipe, str(given.out))
    assert not failed
    (given.out / f"model_{given.recipe}.litertlm").rename(given.out / "model.litertlm")


if __name__ == "__main__":
    main()
