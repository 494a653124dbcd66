"""What turns examples into features: one small interface over every kind of backbone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.errors import UserError
from generality.lab.fingerprint import fingerprint
from generality.models import (
    BagOfWords,
    HiddenStatePooler,
    hidden_state,
    load_model,
    load_tokenizer,
    resolve_device,
)
from generality.models.identity import model_identity


class Encoder(Protocol):
    """Prepared examples in, one feature vector each out."""

    fingerprint: str
    """Names the weights and every setting that changes the features."""

    def prepare(self, examples: Sequence[Any]) -> list[Any]:
        """Cheap work on many examples at once (tokenising)."""

    def size(self, prepared: Any) -> int:
        """The length of a prepared example; batches are made of similar ones."""

    def encode(self, prepared: list[Any]) -> Float[np.ndarray, "batch dim"]:
        """Features of one batch, float32."""


class TextEncoder:
    """A transformers backbone's hidden states, pooled over the tokens of a text.

    Args:
        model: the backbone; with `tokenizer`, anything `AutoModel` loads. A causal language
            model's head is not run.
        layer: which hidden state, counted as transformers does: 0 the embeddings, -1 the last.
            Blocks beyond it are not computed.
        pooling: "mean", "last" or "cls".
        max_length: texts are cut to this many tokens, or to what the backbone can read.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        layer: int = -1,
        pooling: str = "mean",
        max_length: int = 256,
        identity: str | None = None,
    ) -> None:
        self.body = getattr(model, "base_model", model).eval()
        reach = getattr(self.body.config, "max_position_embeddings", None) or max_length
        max_length = min(max_length, reach, tokenizer.model_max_length)
        self.tokenizer, self.layer, self.max_length = tokenizer, layer, max_length
        self.pooler = HiddenStatePooler(pooling)
        identity = identity or fingerprint(self.body, tokenizer)
        self.fingerprint = fingerprint(identity, layer, pooling, max_length)

    def prepare(self, examples: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        encoded = self.tokenizer(list(examples), truncation=True, max_length=self.max_length)
        empty = [self.tokenizer.eos_token_id or 0]  # a text of no tokens still has a feature
        return [ids or empty for ids in encoded["input_ids"]]

    def size(self, prepared: list[int]) -> int:
        """Tokens."""
        return len(prepared)

    @torch.inference_mode()
    def encode(self, prepared: list[list[int]]) -> Float[np.ndarray, "batch dim"]:
        """Pooled hidden states of texts of similar length."""
        device = next(self.body.parameters()).device
        longest = max(map(len, prepared))
        ids = torch.zeros(len(prepared), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prepared):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        ids, mask = ids.to(device), mask.to(device)
        hidden = hidden_state(self.body, self.layer, input_ids=ids, attention_mask=mask)
        return self.pooler(hidden, mask).float().cpu().numpy()


class ModuleEncoder:
    """Any torch module's output, or the output of one of its submodules, as features.

    Args:
        module: the backbone.
        collate: from a list of examples to the tensor the module takes.
        layer: name of a submodule ("blocks.3"); None takes the module's own output. Spatial
            outputs (batch, channels, …) are averaged over their positions.
    """

    def __init__(
        self,
        module: nn.Module,
        collate: Callable[[list[Any]], Tensor],
        *,
        layer: str | None = None,
        identity: str | None = None,
    ) -> None:
        self.module, self.collate, self.layer = module.eval(), collate, layer
        weights = identity or fingerprint(module)
        self.fingerprint = fingerprint(weights, type(module), collate, layer)

    def prepare(self, examples: Sequence[Any]) -> list[Any]:
        """The examples as they are."""
        return list(examples)

    def size(self, prepared: Any) -> int:
        """All alike."""
        return 1

    @torch.inference_mode()
    def encode(self, prepared: list[Any]) -> Float[np.ndarray, "batch dim"]:
        """Features of a batch."""
        caught: list[Tensor] = []
        handle = None
        if self.layer is not None:
            target = self.module.get_submodule(self.layer)
            handle = target.register_forward_hook(lambda _m, _i, output: caught.append(output))
        try:
            parameter = next(self.module.parameters(), None)
            inputs = self.collate(prepared)
            inputs = inputs.to(parameter.device) if parameter is not None else inputs
            output = self.module(inputs)
        finally:
            if handle is not None:
                handle.remove()
        features = caught[-1] if caught else output
        return features.flatten(2).mean(-1).float().cpu().numpy() if features.ndim > 2 else (
            features.float().cpu().numpy()
        )  # fmt: skip


class BagEncoder:
    """Hashed word counts: no weights, no fitting."""

    def __init__(self, bag: BagOfWords) -> None:
        self.bag = bag
        self.fingerprint = fingerprint(type(bag), repr(bag))

    def prepare(self, examples: Sequence[str]) -> list[str]:
        """The texts as they are."""
        return list(examples)

    def size(self, prepared: str) -> int:
        """All alike."""
        return 1

    def encode(self, prepared: list[str]) -> Float[np.ndarray, "batch dim"]:
        """Hashed counts, unit length."""
        return self.bag.encode(prepared)


class NamedEncoder:
    """The encoder of a model by name, loaded when there is something to encode.

    Features that are kept already are found by its fingerprint alone; loading takes seconds.
    """

    def __init__(
        self,
        model: str,
        *,
        layer: int | str | None,
        pooling: str | None,
        max_length: int,
        device: str,
    ) -> None:
        code = (TextEncoder, ModuleEncoder, BagEncoder)
        self.fingerprint = fingerprint(code, model_identity(model), layer, pooling, max_length)
        self._load = functools.partial(
            make_encoder, model, layer=layer, pooling=pooling, max_length=max_length, device=device
        )

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return self._load()

    def prepare(self, examples: Sequence[Any]) -> list[Any]:
        """As the encoder does."""
        return self._encoder.prepare(examples)

    def size(self, prepared: Any) -> int:
        """As the encoder does."""
        return self._encoder.size(prepared)

    def encode(self, prepared: list[Any]) -> Float[np.ndarray, "batch dim"]:
        """As the encoder does."""
        return self._encoder.encode(prepared)


def make_encoder(
    model: str | Path,
    *,
    layer: int | str | None = None,
    pooling: str | None = None,
    max_length: int = 256,
    device: str = "auto",
    collate: Callable[[list[Any]], Tensor] | None = None,
) -> Encoder:
    """The encoder for a model named as anywhere in generality (`minilm-l6`, `hf:org/name`, a path).

    Text backbones pool by the mean unless told otherwise; `layer` defaults to the last.
    """
    if str(model) == "bag-of-words":
        return BagEncoder(BagOfWords())
    identity = model_identity(str(model))
    module = load_model(str(model), device=str(resolve_device(device)))
    if collate is not None or not hasattr(module, "config"):
        if collate is None:
            raise ValueError(f"{model} is no text model: give `collate`, from examples to a tensor")
        name = None if layer is None else str(layer)
        return ModuleEncoder(module, collate, layer=name, identity=identity)
    depth = getattr(module.config, "num_hidden_layers", None)
    if layer is not None and depth is not None and not -depth - 1 <= int(layer) <= depth:
        raise UserError(f"'{model}' has hidden states 0 to {depth} (the last, -1), not {layer}.")
    return TextEncoder(
        module,
        load_tokenizer(str(model)),
        layer=-1 if layer is None else int(layer),
        pooling=pooling or "mean",
        max_length=max_length,
        identity=identity,
    )
