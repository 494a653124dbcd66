"""A causal language model made smaller for a domain, and what that cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from generality.errors import UserError
from generality.estimators.domain_pruning import DomainPruning
from generality.estimators.token_batches import mean_loss, text_loss, token_batches
from generality.lab.train import TrainConfig, train
from generality.models import fetch_model, load_model, load_tokenizer
from generality.models.atomic_folder import atomic_folder
from generality.models.packed_linear import PackedLinear
from generality.models.quiet import quiet
from generality.modules.l4q_linear import apply_l4q, dequantized_model, quantized_model
from generality.weights.channel_groups import channel_groups, channel_norms, remove_channels
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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, not '{self.method}'")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"the sparsity is a share in [0, 1), not {self.sparsity}")
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
        UserError: `out` is there, the model is no causal language model, or has no such layers.
    """
    refuse_existing(out)
    model, tokenizer = load_model(name, device=device), load_tokenizer(name)
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise UserError(f"'{name}' is no causal language model: it predicts no next token.")
    texts = [_encoded(tokenizer, kind, max_tokens) for kind in (domain, general)]
    if not texts[0]:
        raise UserError("the domain's texts are all shorter than two tokens")
    seen, wide = ([text for i, text in enumerate(kind) if i % 10] or kind for kind in texts)
    held = [kind[::10] for kind in texts]
    before = measured(model, fetch_model(name), *held, batch_size=how.batch_size)
    try:
        small = compress(model, seen, wide, how, progress=progress)
    except ValueError as error:
        raise UserError(f"'{name}' cannot be made smaller by {how.method}: {error}") from error
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
    its λ is chosen so that the longest channel can reach zero within half of the steps.

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
            train(model, examples, None, config, seed=how.seed, device=place, progress=progress)
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
    """OTOv2 on the feed-forward layers, with their width in the configuration."""
    batches = token_batches(texts, how.batch_size)
    short = batches[0]["input_ids"][:1, :4]
    groups = channel_groups(model, (), {"input_ids": short, "use_cache": False})
    groups = [group for group in groups if ".mlp." in group.name]
    if not groups or len({group.channels for group in groups}) != 1:
        raise ValueError("the model has no feed-forward layers of one width that can be cut")
    named = dict(model.named_parameters())
    norm = max(float(channel_norms(group, named).max()) for group in groups)
    optimizer = DHSPG(
        named.items(), groups, lr=how.rate, base="adamw", even=True, coefficient=10,
        target_group_sparsity=how.sparsity, start_step=how.steps // 5,
        lam=max(1e-2, norm / (how.rate * how.steps / 2)),  # empty well before the last step
    )  # fmt: skip
    order = torch.Generator().manual_seed(how.seed)
    model.train()
    for step in range(how.steps):
        batch = batches[int(torch.randint(len(batches), (), generator=order))]
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, how.steps, {"loss": loss.item()})
    model.eval()
    empty = optimizer.zero_channels()
    fewest = min(int(zero.sum()) for zero in empty)
    masks = [zero & (zero.cumsum(0) <= fewest) for zero in empty]
    small = remove_channels(model, groups, masks)
    configuration: Any = small.config
    configuration.intermediate_size = groups[0].channels - fewest
    return small


def _write(model: Any, folder: Path) -> None:
    if any(isinstance(layer, PackedLinear) for layer in model.modules()):
        from generality.models.packed_checkpoint import save_packed

        save_packed(model, folder)
    else:
        model.save_pretrained(folder, safe_serialization=True)


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
