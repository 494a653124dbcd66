"""Weights as others ship them, turned once into safetensors."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from generality.models.quiet import quiet


def gguf_to_safetensors(gguf_file: Path, folder: Path, *, single_digits: bool = False) -> None:
    """A causal language model in a GGUF file, as float32 safetensors with its fast tokenizer.

    Afterwards neither `gguf` nor `sentencepiece` is needed to load it. Weights that were quantised
    stay as coarse as they were: each is the float32 value that its code stands for.

    Args:
        gguf_file: the model; its architecture must be one that `transformers` reads from GGUF.
        folder: where config, weights, tokenizer and chat template go.
        single_digits: the tokenizer takes every digit by itself (`tokenizer.ggml.pre` is "smollm",
            which `transformers` does not read).
    """
    import gguf
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

    # transformers parses the file three times and rebuilds the table of names for every module
    # of the model: remembering both halves the time
    once: dict[str, Any] = {
        "GGUFReader": functools.cache(gguf.GGUFReader),
        "get_tensor_name_map": functools.cache(gguf.get_tensor_name_map),
    }
    bar = patch.object(modeling_gguf_pytorch_utils, "tqdm", lambda items, **_: items, create=True)
    with quiet(), bar, patch.multiple(gguf, **once):
        source: dict[str, Any] = {"gguf_file": gguf_file.name}
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, dtype=torch.float32, **source
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **source)
        # save_pretrained refuses what says that it is quantised; these weights no longer are
        for owner, name in (
            (model.config, "quantization_config"),
            (model, "hf_quantizer"),
            (model, "quantization_method"),
            (model, "is_quantized"),
        ):
            if name in vars(owner):
                delattr(owner, name)
        model.config.architectures = [type(model).__name__]
        model.save_pretrained(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    if single_digits:
        steps: list[PreTokenizer] = [Digits(individual_digits=True), ByteLevel(False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)
    tokenizer.save_pretrained(folder)


def pickled_to_safetensors(checkpoint: Path, folder: Path, config: dict[str, Any]) -> None:
    """A checkpoint of tensors only, as `model.safetensors` beside a `config.json`.

    This is the only place where a pickle is read, after its sha256 was checked, and torch's
    `weights_only` reader makes nothing but tensors of it.
    """
    import torch
    from safetensors.torch import save_file

    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
