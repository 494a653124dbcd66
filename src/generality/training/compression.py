"""A causal language model made smaller for a domain, and what that cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from generality.errors import UserError
from generality.lab.train import TrainConfig, train
from generality.models import fetch_model, load_model, load_tokenizer
from generality.models.atomic_folder import atomic_folder
from generality.models.packed_linear import PackedLinear
from generality.models.quiet import quiet
from generality.modules.l4q_linear import (
    apply_l4q,
    dequantized_model,
    hold_scales,
    quantized_model,
)
from generality.training.domain_pruning import DomainPruning
from generality.training.token_batches import mean_loss, text_loss, token_batches
from generality.weights.channel_groups import (
    ChannelGroup,
    channel_groups,
    channel_norms,
    remove_channels,
)
from generality.weights.checkpoint_stream import refuse_existing
from generality.weights.dhspg import DHSPG

Method = Literal["magnitude", "wanda", "sparsegpt", "d-pruner", "otov2", "l4q"]
METHODS: tuple[Method, ...] = get_args(Method)
Progress = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class Compression:
    """How to make a model smaller.

    Args:
        method: `magnitude`, `wanda`, `sparsegpt` and `d-pruner` set single weights of the blocks to
            zero, and `sparsegpt` adjusts those that stay; `otov2` trains and removes channels of
            the feed-forward layers; `l4q` tunes and rounds to a few bits.
        sparsity: share of weights (or of feed-forward channels) to remove, in [0, 1).
        bits: of `l4q`.
        group: inputs that share a step of `l4q`.
        rank: of the LoRA pair of `l4q`.
        steps: of tuning on the domain, for `d-pruner`, `otov2` and `l4q`; 0 leaves it out, which
            `otov2` cannot.
        learning_rate: of that tuning; None: 1e-4, and 1e-5 for d-pruner, whose weights go back.
        batch_size: texts a step.
        strength: of d-pruner's anchor to what matters in general.
        seed: of the order of texts and LoRA's first weights.
        heads: share of key-value heads, each with its heads of queries, that `otov2` removes from
            every layer's attention, in [0, 1).
    """

    method: Method
    sparsity: float = 0.5
    bits: int = 4
    group: int = 128
    rank: int = 4
    steps: int = 100
    learning_rate: float | None = None
    batch_size: int = 8
    strength: float = 0.1
    seed: int = 0
    heads: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, not '{self.method}'")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"the sparsity is a share in [0, 1), not {self.sparsity}")
        if not 0 < self.rate < math.inf:
            raise ValueError(f"the learning rate is above 0, not {self.rate}")
        if not 0 <= self.heads < 1:
            raise ValueError(f"the share of heads is in [0, 1), not {self.heads}")
        if self.method == "otov2" and self.steps < 20:
            raise ValueError("otov2 empties channels while it trains: give it at least 20 steps")

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        usual = 1e-5 if self.method == "d-pruner" else 1e-4
        return usual if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Size:
    """What a model weighs and how it fares.

    Attributes:
        parameters: numbers it holds; packed weights count one each.
        nonzero: those that are not zero.
        bytes: of its safetensors files.
        tokens_per_second: read in one forward pass of a batch, best of three.
        domain_loss: mean −log p of a token of held-out domain text, nats.
        general_loss: the same on held-out general text; None without any.
    """

    parameters: int
    nonzero: int
    bytes: int
    tokens_per_second: float
    domain_loss: float
    general_loss: float | None


def compress_checkpoint(
    name: str,
    out: Path,
    how: Compression,
    domain: Sequence[str],
    general: Sequence[str],
    *,
    plain: bool = False,
    max_tokens: int = 256,
    device: str = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Size]:
    """Reads a model, makes it smaller, writes it whole or not at all, and reads it again.

    Every tenth text of each kind is held out for the losses.

    Args:
        name: as `load_model` takes it.
        out: a folder that is not there yet.
        plain: for `l4q`, ordinary layers holding rounded weights instead of packed ones.
        command: told in the model card.

    Returns:
        Sizes "before" and "after", the latter of the model as `load_model` reads it from `out`.

    Raises:
        UserError: `out` is there, the model is no causal language model or has no such layers, its
            tokenizer is another's, texts are too short, or tuning diverged.
    """
    refuse_existing(out)
    model, tokenizer = load_model(name, device=device), load_tokenizer(name)
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise UserError(f"'{name}' is no causal language model: it predicts no next token.")
    if any(isinstance(layer, PackedLinear) for layer in model.modules()):
        raise UserError(f"'{name}' is packed already: take the model that it was made of.")
    limit = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
    texts = [_encoded(tokenizer, kind, limit) for kind in (domain, general)]
    for kind, given, found in zip(("domain's", "general"), (domain, general), texts, strict=True):
        if len(found) < 2 and (given or kind == "domain's"):
            raise UserError(
                f"The {kind} texts are shorter than two tokens, all but {len(found)}: give longer "
                "ones, some to work on and some to hold out."
            )
    _check_tokens(model, texts, name)
    seen, wide = ([text for i, text in enumerate(kind) if i % 10] for kind in texts)
    held = [kind[::10] for kind in texts]
    before = measured(model, fetch_model(name), *held, batch_size=how.batch_size)
    try:
        small = compress(model, seen, wide, how, progress=progress)
    except ValueError as error:
        raise UserError(f"'{name}' cannot be made smaller by {how.method}: {error}") from error
    if not all(weight.isfinite().all() for weight in small.parameters()):
        raise UserError(
            f"Tuning for {how.method} ended in numbers that are not finite: take a lower "
            f"--learning-rate than {how.rate:g}."
        )
    with quiet(), atomic_folder(out) as folder:
        _write(dequantized_model(small) if plain else small, folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_card(name, how, command), encoding="utf-8")
    again = load_model(str(out), device=device)
    return {"before": before, "after": measured(again, out, *held, batch_size=how.batch_size)}


def compress(
    model: nn.Module,
    domain: Sequence[Sequence[int]],
    general: Sequence[Sequence[int]],
    how: Compression,
    *,
    progress: Progress | None = None,
) -> nn.Module:
    """A smaller model; `model` itself may be changed and is not to be used again.

    `d-pruner` is D-Pruner with two departures, because its released regulariser is inert: the
    anchor acts (`EWCAnchor`) and the two importances are joined by rank. Weights go where they
    matter least both to general text (Hessian score) and to the domain (Taylor score of the tuned
    weights); the weights that stay are the original ones. `otov2` here removes the same number of
    channels from every feed-forward layer, because a configuration states one width for all, and
    its λ is chosen so that the longest channel can reach zero within half of the steps. The same
    holds for heads of attention where they are asked for; the configuration keeps `head_dim`.
    `l4q` holds steps and offsets for the first twentieth of its updates, ten at most as in L4Q.

    Args:
        model: a causal language model of transformers with Llama-like layer names.
        domain: tokens of texts of the domain.
        general: tokens of general texts; may be empty, then the domain stands in.
        how: the method and its settings.

    Raises:
        ValueError: no domain texts, or a model without such layers.
    """
    if not domain:
        raise ValueError("give at least one text of the domain")
    if how.method == "otov2":
        return _narrower(model, domain, how, progress)
    if how.method == "l4q":
        torch.manual_seed(how.seed)
        apply_l4q(model, bits=how.bits, group=how.group, rank=how.rank)
        config = _tuning(domain, how)
        if config is not None:
            examples = [{"input_ids": [*text], "labels": [*text]} for text in domain]
            place = str(next(model.parameters()).device.type)
            count = hold_scales(model, min(how.steps // 20, 10))

            def told(step: int, total: int, about: dict[str, Any]) -> None:
                count(step)
                if progress is not None:
                    progress(step, total, about)

            train(model, examples, None, config, seed=how.seed, device=place, progress=told)
        return quantized_model(model)
    task = DomainPruning(
        model, general or domain, domain, _tuning(domain, how), strength=how.strength,
        batch_size=how.batch_size, seed=how.seed, progress=progress,
    )  # fmt: skip
    if how.method == "sparsegpt":
        weights = task.sparsegpt(how.sparsity, "both")
    elif how.method == "d-pruner":
        weights = task.pruned(task.dual_scores(), how.sparsity)
    else:
        scores = task.magnitude() if how.method == "magnitude" else task.wanda("both")
        weights = task.pruned(scores, how.sparsity)
    model.load_state_dict(weights)
    return model


def measured(
    model: nn.Module,
    folder: Path,
    domain: Sequence[Sequence[int]],
    general: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
) -> Size:
    """Size, speed and loss of a model as it lies in `folder`."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    plain = [t for t in tensors if t.dtype != torch.uint8]
    packed = sum(m.shape[0] * m.shape[1] for m in model.modules() if isinstance(m, PackedLinear))
    batches = token_batches(domain, batch_size)
    return Size(
        parameters=sum(t.numel() for t in plain) + packed,
        nonzero=sum(int(t.count_nonzero()) for t in plain) + packed,
        bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        tokens_per_second=_speed(model, batches[0]),
        domain_loss=text_loss(model, batches),
        general_loss=text_loss(model, token_batches(general, batch_size)) if general else None,
    )


def _tuning(texts: Sequence[Sequence[int]], how: Compression) -> TrainConfig | None:
    if not how.steps:
        return None
    per_epoch = -(-len(texts) // how.batch_size)
    return TrainConfig(
        epochs=how.steps / per_epoch, batch_size=how.batch_size, learning_rate=how.rate,
        optimizer="adamw", max_grad_norm=1.0, warmup=0.1, schedule="linear",
    )  # fmt: skip


def _narrower(
    model: nn.Module, texts: Sequence[Sequence[int]], how: Compression, progress: Progress | None
) -> nn.Module:
    """OTOv2 on feed-forward layers and heads, with their numbers in the configuration."""
    batches = token_batches(texts, how.batch_size)
    short = batches[0]["input_ids"][:1, :4].to(next(model.parameters()).device)
    found = channel_groups(
        model, (), {"input_ids": short, "use_cache": False}, heads=how.heads > 0
    )  # fmt: skip
    layers = [group for group in found if ".mlp." in group.name]
    if not layers or len({group.channels for group in layers}) != 1:
        raise ValueError("the model has no feed-forward layers of one width that can be cut")
    heads = [group for group in found if ".self_attn." in group.name]
    few = _heads_to_remove(model.config, heads, how.heads) if how.heads else 0
    groups = [*layers, *heads]
    shares = [how.sparsity] * len(layers) + [few / group.channels for group in heads]
    named = dict(model.named_parameters())
    longest = [
        max(float(channel_norms(group, named).max()) for group in kind) if kind else 0.0
        for kind in (layers, heads)
    ]
    lams = [max(1e-2, norm / (how.rate * how.steps / 2)) for norm in longest]
    optimizer = DHSPG(
        named.items(), groups, lr=how.rate, base="adamw", even=True, coefficient=10,
        target_group_sparsity=shares, start_step=how.steps // 5,
        lam=[lams[0]] * len(layers) + [lams[1]] * len(heads),  # empty well before the last step
    )  # fmt: skip
    order = torch.Generator().manual_seed(how.seed)
    model.train()
    for step in range(how.steps):
        batch = batches[int(torch.randint(len(batches), (), generator=order))]
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        if not loss.isfinite():
            raise ValueError(
                f"the loss became {loss.item()} at step {step + 1}; take a lower learning rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, how.steps, {"loss": loss.item()})
    model.eval()
    empty = optimizer.zero_channels()
    narrow = min(int(zero.sum()) for zero in empty[: len(layers)])
    few = min([few, *(int(zero.sum()) for zero in empty[len(layers) :])])
    while few and not _loads(model.config, heads[0].channels - few):
        few -= 1
    counts = [narrow] * len(layers) + [few] * len(heads)
    masks = [z & (z.cumsum(0) <= count) for z, count in zip(empty, counts, strict=True)]
    small: Any = remove_channels(model, groups, masks)
    small.config.intermediate_size = layers[0].channels - narrow
    if few:
        for name, number in _heads(small.config, heads[0].channels - few).items():
            setattr(small.config, name, number)
    return small


def _heads_to_remove(config: Any, heads: Sequence[ChannelGroup], share: float) -> int:
    """How many key-value heads, so that the number left is one that transformers loads."""
    number: int = getattr(config, "num_key_value_heads", 0)
    if not heads or {group.channels for group in heads} != {number}:
        raise ValueError("it has no heads of attention that can be cut: leave out --heads")
    few = round(share * number)
    fine = [removed for removed in range(1, number) if _loads(config, number - removed)]
    if few not in fine:
        shares = " or ".join(f"{removed / number:.2f}" for removed in fine)
        raise ValueError(
            f"--heads {share:g} of its {number} key-value heads a layer comes to {few}; "
            + (f"it may be {shares}" if fine else "transformers loads no smaller number of them")
        )
    return few


def _heads(config: Any, number: int) -> dict[str, int]:
    """What a configuration with this number of key-value heads states."""
    each = config.num_attention_heads // config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "num_key_value_heads": number,
        "num_attention_heads": number * each,
        "head_dim": size,
    }


def _loads(config: Any, number: int) -> bool:
    """Whether transformers takes this number of key-value heads: Llama's must divide the width."""
    return bool(config.hidden_size % _heads(config, number)["num_attention_heads"] == 0)


def _write(model: Any, folder: Path) -> None:
    if any(isinstance(layer, PackedLinear) for layer in model.modules()):
        from generality.models.packed_checkpoint import save_packed

        save_packed(model, folder)
    else:
        model.save_pretrained(folder, safe_serialization=True)


def _check_tokens(model: Any, texts: Sequence[Sequence[Sequence[int]]], name: str) -> None:
    """Refuse a tokenizer that writes numbers the model has no embedding of."""
    known = model.get_input_embeddings().weight.shape[0]
    most = max(max(tokens) for kind in texts for tokens in kind)
    if most >= known:
        raise UserError(
            f"The tokenizer of '{name}' writes token {most}, and its model knows {known} tokens: "
            "save the tokenizer it was trained with beside it."
        )


def _encoded(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    found = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    return [tokens for tokens in found if len(tokens) > 1]


def _card(name: str, how: Compression, command: str) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in asdict(how).items())
    made = f"\nMade by\n\n```sh\n{command}\n```\n" if command else ""
    return f"""---
library_name: transformers
tags: [{how.method}, generality]
base_model: {json.dumps(name.removeprefix("hf:"))}
---
# {Path(name).name}, smaller

`{name}` made smaller by **{how.method}**: {settings}.
{made}"""


@torch.inference_mode()
def _speed(model: nn.Module, batch: Mapping[str, Tensor]) -> float:
    here = {name: column.to(next(model.parameters()).device) for name, column in batch.items()}
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        model(**here).logits[0, 0, 0].item()
        seconds.append(time.perf_counter() - started)
    return batch["input_ids"].numel() / min(seconds)
