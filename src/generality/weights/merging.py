"""Several models of one architecture made one: averages, task vectors, TIES, DARE, slerp, Fisher.

Everything is a function of named tensors and goes tensor by tensor, a few megabytes at a time, so
that open checkpoints (`generality.weights.open_checkpoint`) merge in little memory.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.nn.functional import hardshrink

from generality.errors import UserError, unknown
from generality.weights.checkpoint_stream import TensorSpec

METHODS = (
    "average", "task-arithmetic", "ties", "dare", "dare-ties", "slerp", "layerwise", "fisher",
)  # fmt: skip
VARIANTS = ("paper", "mergekit", "peft")
FROM_BASE = ("task-arithmetic", "ties", "dare", "dare-ties", "layerwise")
"""Methods that add to a base what the experts learned."""

PIECE = 1 << 18  # elements: a megabyte of float32, which stays in a core's cache
WHOLE = 1 << 20
SMALL = 1 << 21  # elements that are sorted as they are; of more, a narrow band is
SAMPLE = 61  # one of so many elements says where the band is
TINY = torch.finfo(torch.float32).tiny
DRAWS = 1 << 16  # DARE's density is a multiple of 1 / DRAWS
BLOCKS = {
    "attention": re.compile(r"attn|attention|[qkvo]_proj"),
    "mlp": re.compile(r"mlp|feed_forward|ffn|fc[12]|dense|experts"),
}
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")

Pieces = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Recipe:
    """How models are merged.

    Attributes:
        method: one of `METHODS`.
        weights: one for each model; None: equal ones, 1/n for averages and 1 for task vectors.
            Averages, slerp and Fisher divide by their sum.
        density: share of a task vector's numbers that is kept, in (0, 1]; None: 0.2 for TIES, 0.1
            for DARE, as in their papers; DARE's is rounded to a multiple of 1/65536.
        lam: scale of the merged task vector; None: 0.4 for task arithmetic and DARE in the variant
            "paper" (what their authors take without data to choose by), else 1.
        seed: of DARE's draws.
        variant: whose reading of TIES and DARE:
            "paper": numbers are trimmed over the whole model, kept ones are divided by the density,
            and where signs cancel exactly the model's more frequent sign wins;
            "mergekit": trimmed tensor by tensor, rescaled to the tensor's old sum of magnitudes,
            cancelled signs are +, DARE-TIES is not divided by how many agree;
            "peft": trimmed tensor by tensor, divided by the density, cancelled signs are +, signs
            are elected before weighting, and the sum is divided by the count that agrees.
        inner: of "layerwise": the method it applies group by group.
        groups: of "layerwise": group (see `group_of`) → weights; others have the equal ones.
        granularity: of "layerwise": "block", "layer" or "tensor".

    Raises:
        UserError: an unknown method or variant, or a setting out of its range.
    """

    method: str = "average"
    weights: tuple[float, ...] | None = None
    density: float | None = None
    lam: float | None = None
    seed: int = 0
    variant: str = "paper"
    inner: str = "task-arithmetic"
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)
    granularity: str = "block"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("way to merge", self.method, METHODS)
        if self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        if self.inner not in ("task-arithmetic", "ties", "dare", "dare-ties"):
            raise unknown("way to merge groups", self.inner, FROM_BASE[:-1])
        if self.density is not None and not 0 < self.density <= 1:
            raise UserError(f"The density is above 0 and at most 1, not {self.density}.")

    @property
    def kept(self) -> float:
        """The density that applies."""
        return self.density or (0.2 if self.rule == "ties" else 0.1)

    @property
    def scale(self) -> float:
        """The lambda that applies."""
        if self.lam is not None:
            return self.lam
        untuned = self.variant == "paper" and self.method in ("task-arithmetic", "dare")
        return 0.4 if untuned else 1.0

    @property
    def rule(self) -> str:
        """The method, or what "layerwise" applies."""
        return self.inner if self.method == "layerwise" else self.method


def merge(
    experts: Sequence[Mapping[str, Tensor]],
    method: str = "average",
    *,
    base: Mapping[str, Tensor] | None = None,
    fisher: Sequence[Mapping[str, Tensor]] | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """One model's tensors out of several's of the same architecture.

    | method | what comes out |
    |---|---|
    | average | Σ w θ / Σ w |
    | task-arithmetic | base + λ Σ w (θ − base) |
    | ties | base + λ · mean of the numbers that survive trimming and have the elected sign |
    | dare | base + λ Σ w · task vectors of which a random share is kept, rescaled |
    | dare-ties | the same, then the elected signs and the mean of TIES |
    | slerp | the point between two models at constant angular speed, tensor by tensor |
    | layerwise | one of those with weights of its own for each group of tensors |
    | fisher | Σ w F θ / Σ w F, number by number |

    Sums are made in float32 at least and each tensor keeps the dtype it has in the base (the first
    expert without one). Integers are not averaged and must be the same in all. Deterministic: draws
    depend on the seed, the expert's place and the tensor's name only.

    Source: Wortsman et al. 2022 (arXiv 2203.05482), Ilharco et al. 2023 (2212.04089), Yadav et al.
    2023 (TIES, 2306.01708), Yu et al. 2024 (DARE, 2311.03099), Matena and Raffel 2022 (Fisher,
    2111.09832).

    Args:
        experts: state dicts, or open checkpoints.
        method: one of `METHODS`.
        base: what they were tuned from; needed for task vectors.
        fisher: of "fisher": the diagonal Fisher information of each expert, by the same names.
        settings: of `Recipe`: weights, density, lam, seed, variant, inner, groups, granularity.

    Raises:
        ValueError: names or shapes differ, or the method lacks its base, Fisher or two models.
        UserError: as `Recipe`; a number that is not finite.

    >>> base = {"w": torch.zeros(4)}
    >>> experts = [{"w": torch.tensor([1.0, -4.0, 0, 2])}, {"w": torch.tensor([3.0, 2.0, 0, 0])}]
    >>> merge(experts)["w"]
    tensor([ 2., -1.,  0.,  1.])
    >>> merge(experts, "ties", base=base, density=0.5)["w"]
    tensor([ 3., -4.,  0.,  2.])
    """
    merger = Merger(experts, Recipe(method, **settings), base=base, fisher=fisher)
    return {name: merger.tensor(name) for name in merger.specs}


def task_vectors(
    experts: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """What each expert learned: expert − base, of every tensor of floating-point numbers.

    Source: Ilharco et al. 2023 (arXiv 2212.04089), section 2.

    Raises:
        ValueError: names or shapes differ.

    >>> task_vectors([{"w": torch.ones(2)}], {"w": torch.tensor([0.0, 3.0])})
    [{'w': tensor([ 1., -2.])}]
    """
    for expert in experts:
        compare_specs(base, expert)
    return [
        {name: expert[name] - base[name] for name in base if base[name].is_floating_point()}
        for expert in experts
    ]


class Merger:
    """Merges tensor by tensor, in pieces; see `merge` for the arguments.

    Args:
        names: how messages call the experts.

    Attributes:
        specs: dtype and shape of every merged tensor.
    """

    def __init__(
        self,
        experts: Sequence[Mapping[str, Tensor]],
        recipe: Recipe,
        *,
        base: Mapping[str, Tensor] | None = None,
        fisher: Sequence[Mapping[str, Tensor]] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.experts, self.recipe, self.base, self.fisher = list(experts), recipe, base, fisher
        self.names = list(names) or [f"model {i + 1}" for i in range(len(experts))]
        if not experts:
            raise ValueError("there is nothing to merge")
        if recipe.method in FROM_BASE and base is None:
            raise ValueError(f"{recipe.method} needs the base that the experts were tuned from")
        if recipe.method == "slerp" and len(experts) != 2:
            raise ValueError(f"slerp is between two models, not {len(experts)}")
        if recipe.method == "fisher" and len(fisher or ()) != len(experts):
            raise ValueError("fisher needs the Fisher information of each expert")
        first = base if base is not None else experts[0]
        self.specs = specs_of(first)
        for expert in experts:
            compare_specs(first, expert)
        for weights in (recipe.weights, *recipe.groups.values()):
            if weights is not None and len(weights) != len(experts):
                raise ValueError(f"{len(weights)} weights for {len(experts)} models")
        if recipe.rule in ("average", "slerp", "fisher") and sum(self._weights("")) == 0:
            raise ValueError("the weights of an average must not add up to 0")

    def tensor(self, name: str) -> Tensor:
        """One merged tensor."""
        spec = self.specs[name]
        made = torch.empty(spec.size, dtype=spec.dtype)
        at = 0
        for piece in self.pieces(name):
            made[at : at + piece.numel()] = piece
            at += piece.numel()
        return made.view(spec.shape)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """One merged tensor, flat, as pieces in order.

        Raises:
            UserError: a number that is not finite, or integers that differ.
        """
        spec = self.specs[name]
        if not spec.dtype.is_floating_point:
            yield self._integers(name)
            return
        if not spec.size:
            return
        weights = self._weights(name)
        made = {
            "average": self._average, "slerp": self._slerp, "fisher": self._fisher,
            "task-arithmetic": self._sum, "dare": self._sum,
            "ties": self._consensus, "dare-ties": self._consensus,
        }[self.recipe.rule](name, weights)  # fmt: skip
        for piece in made:
            yield piece.to(spec.dtype)

    # the rules --------------------------------------------------------------------------------

    def _average(self, name: str, weights: list[float]) -> Iterator[Tensor]:
        shares = [weight / sum(weights) for weight in weights]
        for parts in zip(*(self._read(i, name) for i in range(len(self.experts))), strict=True):
            total = parts[0] * shares[0]
            for part, share in zip(parts[1:], shares[1:], strict=True):
                total.add_(part, alpha=share)
            yield self._finite(total, name)

    def _sum(self, name: str, weights: list[float]) -> Iterator[Tensor]:
        scales = [weight * self.recipe.scale for weight in weights]
        for base, parts in self._with_base(name):
            total = torch.add(base, parts[0], alpha=scales[0])
            for part, scale in zip(parts[1:], scales[1:], strict=True):
                total.add_(part, alpha=scale)
            yield self._finite(total, name)

    def _consensus(self, name: str, weights: list[float]) -> Iterator[Tensor]:
        """Signs are elected by the sum, and the numbers that have them are averaged."""
        peft, kit = (self.recipe.variant == variant for variant in ("peft", "mergekit"))
        divided = not (kit and self.recipe.rule == "dare-ties")
        for base, parts in self._with_base(name):
            if not peft:
                parts = [
                    part if weight == 1 else part.mul_(weight)
                    for part, weight in zip(parts, weights, strict=True)
                ]
            total = parts[0] + 0.0  # −0.0 + 0.0 is 0.0
            for part in parts[1:]:
                total += part
            sign = torch.copysign(torch.ones(()), total)
            mixed, count = self._agreeing(parts, sign, weights, peft, divided)
            if self.recipe.variant == "paper":
                cancelled = (total == 0) & (mixed != 0)
                if cancelled.any() and self._majority < 0:
                    sign[cancelled] = -1
                    mixed, count = self._agreeing(parts, sign, weights, peft, divided)
            if divided:
                some = min(weights) > 0  # then nothing cancels, and 0 is divided by what is not 0
                mixed.div_(count.clamp_min_(TINY) if some else count.masked_fill_(count == 0, 1))
            yield self._finite(torch.addcmul(base, mixed, sign, value=self.recipe.scale), name)

    @staticmethod
    def _agreeing(
        parts: list[Tensor], sign: Tensor, weights: list[float], peft: bool, counted: bool
    ) -> tuple[Tensor, Tensor]:
        """Sum of what has the sign, times the sign; the sum of weights in it, if it is counted."""
        mixed, count = torch.zeros_like(sign), torch.zeros_like(sign)
        for part, weight in zip(parts, weights, strict=True):
            agree = (part * sign).relu_()
            mixed.add_(agree, alpha=weight if peft else 1)
            if counted:
                count.add_(agree.sign_(), alpha=1 if peft else weight)
        return mixed, count

    def _slerp(self, name: str, weights: list[float]) -> Iterator[Tensor]:
        t = weights[1] / sum(weights)
        norms, dot = [0.0, 0.0], 0.0
        for first, second in zip(self._read(0, name), self._read(1, name), strict=True):
            a, b = first.double(), second.double()
            norms = [norms[0] + float(a @ a), norms[1] + float(b @ b)]
            dot += float(a @ b)
        cosine = dot / math.sqrt(norms[0] * norms[1]) if min(norms) > 0 else 1.0
        shares = (1 - t, t)
        if abs(cosine) <= 0.9995:  # nearly parallel ones are interpolated
            angle = math.acos(cosine)
            shares = (
                math.sin((1 - t) * angle) / math.sin(angle),
                math.sin(t * angle) / math.sin(angle),
            )
        for first, second in zip(self._read(0, name), self._read(1, name), strict=True):
            yield self._finite((first * shares[0]).add_(second, alpha=shares[1]), name)

    def _fisher(self, name: str, weights: list[float]) -> Iterator[Tensor]:
        assert self.fisher is not None
        for number, known in enumerate(self.fisher):
            if name not in known or tuple(known[name].shape) != self.specs[name].shape:
                raise UserError(
                    f"The Fisher information of {self.names[number]} has no '{name}' of the shape "
                    f"{self.specs[name].shape}: compute it on that model."
                )
        everyone = range(len(self.experts))
        parts = zip(*(self._read(i, name) for i in everyone), strict=True)
        informations = zip(*(flat_pieces(each[name]) for each in self.fisher), strict=True)
        for thetas, fishers in zip(parts, informations, strict=True):
            total, divisor = torch.zeros_like(thetas[0]), torch.zeros_like(thetas[0])
            plain = torch.zeros_like(total)
            for theta, information, weight in zip(thetas, fishers, weights, strict=True):
                total.addcmul_(theta, information.to(theta.dtype), value=weight)
                divisor.add_(information, alpha=weight)
                plain.add_(theta, alpha=weight / sum(weights))
            seen = divisor > 0
            mean = total / divisor.masked_fill(~seen, 1)
            yield self._finite(torch.where(seen, mean, plain), name)

    # task vectors -----------------------------------------------------------------------------

    def _with_base(self, name: str) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Pieces of the base (not to be written into) and of what is left of each task vector."""
        everyone = range(len(self.experts))
        thinned = [self._thinning(i, name) for i in everyone]
        pieces = zip(*(self._read(i, name) for i in (None, *everyone)), strict=True)
        for place, (base, *experts) in enumerate(pieces):
            yield (
                base,
                [thin(place, expert - base) for thin, expert in zip(thinned, experts, strict=True)],
            )

    def _deltas(self, number: int, name: str) -> Iterator[Tensor]:
        for base, expert in zip(self._read(None, name), self._read(number, name), strict=True):
            yield expert - base

    def _thinning(self, number: int, name: str) -> Callable[[int, Tensor], Tensor]:
        """From the pieces of a task vector, in order, to what is left of them; written into."""
        rule, density = self.recipe.rule, self.recipe.kept
        if rule == "task-arithmetic" or density >= 1:
            return lambda place, delta: delta
        if rule == "ties":
            return _trimming(*self._threshold(number, name))
        drop = functools.partial(self._dropped, number, name)
        if self.recipe.variant != "mergekit":
            return lambda place, delta: drop(place, delta).mul_(DRAWS / self._bound)
        if self.specs[name].size <= self._piece(name):
            return lambda place, delta: _rescaled(delta, drop(place, delta.clone()))
        factor = self._l1_factor(number, name)
        return lambda place, delta: drop(place, delta).mul_(factor)

    @property
    def _bound(self) -> int:
        """Draws below it keep a number."""
        return max(1, round(self.recipe.kept * DRAWS))

    def _dropped(self, number: int, name: str, place: int, piece: Tensor) -> Tensor:
        """A piece with numbers set to 0 at random, the same ones whenever asked; written into."""
        key = (self.recipe.seed, number, xxhash.xxh3_64_intdigest(name.encode()), place)
        raw = np.random.SFC64(key).random_raw(-(-piece.numel() // 4)).astype("<u8", copy=False)
        kept = raw.view("<u2")[: piece.numel()] < self._bound
        flat = piece.numpy()
        np.multiply(flat, kept, out=flat)
        return piece

    def _l1_factor(self, number: int, name: str) -> float:
        before = after = 0.0
        for place, delta in enumerate(self._deltas(number, name)):
            size = delta.abs_()
            before += float(size.sum())
            after += float(self._dropped(number, name, place, size).sum())
        return _ratio(before, after)

    def _threshold(self, number: int, name: str) -> tuple[float, int | None]:
        """The smallest magnitude kept, and how many of those tied at it (None: all of them)."""
        if self.recipe.variant == "paper":
            return self._thresholds[number], None
        size = self.specs[name].size
        k = int(self.recipe.kept * size)
        if k == 0:
            if self.recipe.variant == "peft":
                return math.inf, None
            k = 1
        return kth_largest(lambda: self._deltas(number, name), size, k)

    @functools.cached_property
    def _thresholds(self) -> list[float]:
        """Over the whole model, for each expert."""
        floating = [name for name, spec in self.specs.items() if spec.dtype.is_floating_point]
        size = sum(self.specs[name].size for name in floating)
        k = max(1, int(self.recipe.kept * size))

        def whole(number: int) -> Pieces:
            return lambda: (piece for name in floating for piece in self._deltas(number, name))

        return [kth_largest(whole(i), size, k)[0] for i in range(len(self.experts))]

    @functools.cached_property
    def _majority(self) -> float:
        """Sign of the sum of all elected signs of the model."""
        total = 0.0
        for name, spec in self.specs.items():
            if spec.dtype.is_floating_point:
                weights = self._weights(name)
                for _, parts in self._with_base(name):
                    summed = sum(p * w for p, w in zip(parts, weights, strict=True))
                    total += float(torch.as_tensor(summed).sign().sum())
        return math.copysign(1, total)

    # reading ----------------------------------------------------------------------------------

    def _weights(self, name: str) -> list[float]:
        count = len(self.experts)
        if self.recipe.method == "layerwise":
            group = group_of(name, self.recipe.granularity)
            if group in self.recipe.groups:
                return [float(weight) for weight in self.recipe.groups[group]]
        if self.recipe.weights is not None:
            return list(self.recipe.weights)
        adds_up = self.recipe.method == "layerwise" and self.recipe.rule in (
            "task-arithmetic", "dare",
        )  # fmt: skip
        return [1 / count if adds_up else 1.0] * count

    def _read(self, number: int | None, name: str) -> Iterator[Tensor]:
        source = self.base if number is None else self.experts[number]
        assert source is not None
        return flat_pieces(source, name, self._piece(name))

    def _piece(self, name: str) -> int:
        """Elements at a time: all of a tensor that is not much larger, where sums of it matter."""
        summed = self.recipe.variant == "mergekit" and "dare" in self.recipe.rule
        return WHOLE if summed and self.specs[name].size <= WHOLE else PIECE

    def _integers(self, name: str) -> Tensor:
        sources = ([] if self.base is None else [self.base]) + self.experts
        for source in sources[1:]:
            if not torch.equal(source[name], sources[0][name]):
                raise UserError(
                    f"'{name}' holds integers that differ between the models: they cannot be "
                    "merged. Quantised models must be saved in floating-point numbers first."
                )
        return sources[0][name].reshape(-1)

    def _finite(self, made: Tensor, name: str) -> Tensor:
        """The same, if all is finite; else an error that names whose number is not."""
        if math.isfinite(float(made.sum())) or bool(made.isfinite().all()):
            return made
        named = [("the base", self.base), *zip(self.names, self.experts, strict=True)]
        for who, source in named:
            if source is not None and not source[name].isfinite().all():
                raise UserError(
                    f"'{name}' of {who} has numbers that are not finite (NaN or infinite): that "
                    "model is broken; take an earlier checkpoint of it."
                )
        raise UserError(f"'{name}' comes out with numbers that are not finite: lower the weights.")


def _rescaled(before: Tensor, after: Tensor) -> Tensor:
    """What is left of a tensor, with the sum of magnitudes that all of it had; written into."""
    return after.mul_(_ratio(float(before.abs_().sum()), float(after.abs().sum())))


def _ratio(before: float, after: float) -> float:
    return before / after if min(before, after) >= 1e-7 else 1.0


def _trimming(threshold: float, room: int | None) -> Callable[[int, Tensor], Tensor]:
    """Sets what is below the threshold to 0; of what is tied at it, the first `room` stay."""
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    left = room

    def trim(place: int, delta: Tensor) -> Tensor:
        nonlocal left
        trimmed = hardshrink(delta, below)  # 0 up to `below`
        if left is None:
            return trimmed
        tied = (delta.abs() == threshold).nonzero()[:, 0]
        trimmed.index_fill_(0, tied[left:], 0)
        left = max(0, left - len(tied))
        return trimmed

    return trim


def kth_largest(pieces: Pieces, size: int, k: int) -> tuple[float, int | None]:
    """The k-th largest magnitude among pieces read twice, and how many of those tied at it count.

    That number is None where all that are tied belong to the k. Of many numbers, a sample says in
    which narrow band the answer lies, and only what is in the band is sorted.

    >>> kth_largest(lambda: iter([torch.tensor([1.0, -4.0]), torch.tensor([3.0, 3.0])]), 4, 2)
    (3.0, 1)
    """
    low, high = 0.0, math.inf
    if size > SMALL:
        sample = np.concatenate([piece[::SAMPLE].abs().numpy() for piece in pieces()])
        share, spread = k / size, 6 * math.sqrt(0.25 / len(sample))
        ends = [1 - share - spread, 1 - share + spread]
        bounds = np.quantile(sample, np.clip(ends, 0, 1))
        low = float(bounds[0]) if ends[0] > 0 else 0.0
        high = float(bounds[1]) if ends[1] < 1 else math.inf
    while True:
        above, inside = 0, []
        for piece in pieces():
            magnitude = np.abs(piece.numpy())
            over = magnitude >= low
            more = magnitude > high
            above += int(np.count_nonzero(more))
            inside.append(magnitude[over ^ more])
        band = np.concatenate(inside)
        if above < k <= above + len(band):
            break
        if (low, high) == (0.0, math.inf):
            return 0.0, None  # numbers that are none: whoever reads them next says so
        low, high = 0.0, math.inf  # the sample misled: sort all
    place = len(band) - (k - above)
    threshold = float(np.partition(band, place)[place])
    wanted = k - above - int(np.count_nonzero(band > threshold))
    return threshold, None if wanted == int(np.count_nonzero(band == threshold)) else wanted


def flat_pieces(source: Any, name: str | None = None, size: int = PIECE) -> Iterator[Tensor]:
    """A tensor's numbers in order, in float32 at least, `size` at a time.

    Given a mapping and a name, the tensor is asked for anew for each piece: of an open checkpoint,
    no more than a piece is then in memory.
    """
    at = 0
    while True:
        tensor = source if name is None else source[name]
        flat = tensor.reshape(-1)[at : at + size]
        wide = torch.promote_types(flat.dtype, torch.float32) if flat.dtype.itemsize > 1 else None
        yield flat.to(wide or torch.float32)
        at += size
        if at >= tensor.numel():
            return


def group_of(name: str, granularity: str = "block") -> str:
    """The group of tensors that has weights of its own in a layer-wise merge.

    "block": attention, mlp and the rest of each layer apart; "layer": each layer; "tensor": each
    tensor. What is in no layer is "other".

    >>> group_of("model.layers.3.self_attn.q_proj.weight"), group_of("model.norm.weight")
    ('3.attention', 'other')
    """
    if granularity == "tensor":
        return name
    layer = LAYER.search(name)
    if layer is None:
        return "other"
    if granularity == "layer":
        return layer[1]
    inside = name[layer.end() :]
    if re.search(r"norm|(^|\.)ln", inside):
        return f"{layer[1]}.rest"
    kind = next((kind for kind, form in BLOCKS.items() if form.search(inside)), "rest")
    return f"{layer[1]}.{kind}"


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Dtype and shape by name, of a state dict or an open checkpoint."""
    known = getattr(tensors, "specs", None)
    if known is not None:
        return dict(known)
    return {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


def compare_specs(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raises a `ValueError` that names the first difference of names or shapes."""
    mine, theirs = specs_of(first), specs_of(second)
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            raise ValueError(f"'{name}' is in one of the models only")
        if mine[name].shape != theirs[name].shape:
            raise ValueError(
                f"'{name}' has the shape {mine[name].shape} in one model and "
                f"{theirs[name].shape} in another"
            )
        if mine[name].dtype.is_floating_point != theirs[name].dtype.is_floating_point:
            raise ValueError(f"'{name}' holds integers in one model and not in another")
