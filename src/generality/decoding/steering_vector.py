"""Directions in a model's activations, found by weighting examples, with their controls."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.errors import UserError

Center = Literal["group", "global", "none"]


@dataclass(frozen=True)
class SteeringVector:
    """A direction and where it acts.

    Attributes:
        vector: (dim,), as long as the data made it.
        layer: its activations are the output of this block, counted from 1 (0: the embeddings).
        norm: mean length of the activations it was made of, to compare strengths by; 0 if unknown.
    """

    vector: Float[Tensor, " dim"]
    layer: int
    norm: float = 0.0

    def save(self, path: str | Path) -> None:
        """As safetensors, whole or not at all."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        about = {"layer": str(self.layer), "norm": repr(self.norm)}
        save_file({"vector": self.vector.detach().contiguous()}, fresh, metadata=about)
        os.replace(fresh, path)

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """From the file that `save` wrote.

        Raises:
            UserError: there is no such file, or no steering vector in it.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                return cls(
                    file.get_tensor("vector"), int(about["layer"]), float(about.get("norm", 0))
                )
        except Exception as error:
            raise UserError(f"{path} holds no steering vector ({error}).") from error


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformer in their order: its longest list of modules of one class.

    Lists inside of such lists, as experts are inside of layers, do not count.

    Raises:
        ValueError: the model has no such list.

    >>> [type(block).__name__ for block in blocks_of(nn.ModuleList([nn.ReLU(), nn.ReLU()]))]
    ['ReLU', 'ReLU']
    """
    lists = {
        name: list(module) for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(each) for each in module}) == 1
    }  # fmt: skip

    def inside(name: str) -> bool:
        others = (f"{other}." if other else "" for other in lists if other != name)
        return name.startswith(tuple(others))

    outer = [blocks for name, blocks in lists.items() if not inside(name)]
    if not outer:
        raise ValueError("the model has no list of blocks of one class to hook")
    return max(outer, key=len)


def check_layer(blocks: Sequence[nn.Module], layer: int) -> None:
    """Raises `ValueError` for a layer that is not there."""
    if not 0 <= layer <= len(blocks):
        raise ValueError(f"layer is 0 (embeddings) to {len(blocks)}, not {layer}")


@contextmanager
def on_output(blocks: Sequence[nn.Module], layer: int, change: Any) -> Iterator[None]:
    """Replace the hidden states that come out of a layer by `change(states)`, where not None."""

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if (new := change(states)) is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        if (new := change(states)) is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    check_layer(blocks, layer)
    if layer:
        handle = blocks[layer - 1].register_forward_hook(after)
    else:
        handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def collect_activations(
    model: nn.Module,
    tokens: Sequence[Sequence[int]] | Int[Tensor, "batch n"],
    layers: Sequence[int],
    *,
    batch_size: int = 16,
    pad: int = 0,
) -> Float[Tensor, "layers prompts dim"]:
    """The residual stream at the last token of each prompt, in float32 on the CPU.

    Args:
        model: a causal language model of transformers, or one called alike, in eval mode.
        tokens: of each prompt, of any lengths.
        layers: 0 the embeddings, l the output of block l (before any final normalisation).
        batch_size: prompts of similar length that run together, padded on the right.
        pad: token that fills; the mask hides it.

    Raises:
        ValueError: an empty prompt, a layer that is not there.

    >>> from generality.models import tiny_decoder
    >>> model = tiny_decoder("0.05M", vocabulary=20).eval()
    >>> collect_activations(model, [[1, 5, 6], [1, 7]], [1, 2]).shape
    torch.Size([2, 2, 48])
    """
    rows = [torch.as_tensor(row).tolist() for row in tokens]
    if not all(rows):
        raise ValueError(f"prompt {[bool(row) for row in rows].index(False)} has no token")
    blocks, place = blocks_of(model), next(model.parameters()).device
    found: list[dict[int, Tensor]] = [{} for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(rows[i]) for i in chosen)
        ids = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in chosen])
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in chosen])
        states: dict[int, Tensor] = {}

        def keep(layer: int, into: dict[int, Tensor] = states) -> Any:
            return lambda seen: into.__setitem__(layer, seen)

        with _all(on_output(blocks, layer, keep(layer)) for layer in layers):
            model(input_ids=ids.to(place), attention_mask=mask.to(place), use_cache=False)
        for row, i in enumerate(chosen):
            for layer in layers:
                found[i][layer] = states[layer][row, len(rows[i]) - 1].float().cpu()
    return torch.stack([torch.stack([each[layer] for each in found]) for layer in layers])


def weighted_steering_vector(
    activations: Float[Tensor, "prompts dim"],
    weights: Float[Any, " prompts"],
    groups: Sequence[Hashable],
    *,
    center: Center = "group",
    normalize: bool = False,
) -> Float[Tensor, " dim"]:
    """u = Σ wᵢ (zᵢ − mean of z over i's group) / Σ |wᵢ|.

    With entropies of actions as weights and runs as groups this is EAST's vector. Weights of ±1
    give a contrast of two sets. Any number that a prompt has (a reward, a toxicity) can be the
    weight. Centring within runs is essential there: without it the vector says how long the
    history is, and can point the other way.

    Args:
        activations: of the last token of each prompt, at one layer.
        weights: of each prompt, not all 0.
        groups: which run each prompt is of.
        center: subtract the mean of the group, of all, or nothing.
        normalize: make it of length 1.

    Raises:
        ValueError: unequal numbers; one that is not finite, such as the entropy of an agent that
            gave no valid answer; weights that are all 0, such as the entropies of an agent that
            never doubts; nothing to normalize; an unknown center.

    Source: Rahn et al. 2024 (arXiv 2406.00244), section 4.

    >>> z = torch.tensor([[1.0, 0], [2, 1], [3, 5], [0, 1], [0, 3], [6, 2]])
    >>> h = [0.6, 0.3, 0, 0.69, 0.1, 0]
    >>> [round(x, 5) for x in weighted_steering_vector(z, h, [1, 1, 1, 2, 2, 2]).tolist()]
    [-1.28994, -1.23669]
    """
    if center not in ("group", "global", "none"):
        raise ValueError(f"center is 'group', 'global' or 'none', not '{center}'")
    known = weights.detach().cpu() if isinstance(weights, Tensor) else np.asarray(weights)
    w = torch.as_tensor(known, dtype=torch.float64)
    z = activations.detach().cpu().double()
    if not len(z) == len(w) == len(groups):
        raise ValueError(f"{len(z)} activations, {len(w)} weights and {len(groups)} groups")
    for what, numbers in (("weights", w), ("activations", z)):
        if not bool(numbers.isfinite().all()):
            raise ValueError(f"the {what} are not all finite: leave such prompts out")
    if (total := w.abs().sum()) == 0:
        raise ValueError("all weights are 0: no prompt says where the direction is")
    if center == "group":
        names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        member = torch.nn.functional.one_hot(torch.tensor([names[group] for group in groups]))
        member = member.double()
        z = z - member @ ((member.T @ z) / member.sum(0)[:, None])
    elif center == "global":
        z = z - z.mean(0)
    u = (w[:, None] * z).sum(0) / total
    if normalize and u.norm() == 0:
        raise ValueError("the vector is 0 and has no direction: weights or activations are alike")
    return (u / u.norm() if normalize else u).float()


def shuffled_control(vector: Float[Tensor, " dim"], *, seed: int = 0) -> Float[Tensor, " dim"]:
    """The same numbers in another order: as long, as sparse, another direction.

    >>> sorted(shuffled_control(torch.tensor([1.0, 2.0, 3.0])).tolist())
    [1.0, 2.0, 3.0]
    """
    return vector[torch.randperm(len(vector), generator=torch.Generator().manual_seed(seed))]


def random_control(vector: Float[Tensor, " dim"], *, seed: int = 0) -> Float[Tensor, " dim"]:
    """A random direction of the same length.

    >>> round(random_control(torch.tensor([3.0, 4.0])).norm().item(), 5)
    5.0
    """
    drawn = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed))
    return (drawn / drawn.norm() * vector.norm().cpu()).to(vector)


@contextmanager
def _all(contexts: Any) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
