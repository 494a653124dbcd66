"""Several models of one architecture made one: averages, task vectors, TIES, DARE, slerp, Fisher.

Everything is a function of named tensors and goes tensor by tensor, a few megabytes at a time, so
that open checkpoints (`generality.weights.open_checkpoint`) merge in little memory. The sums are
NumPy's, piece by piece in rows that stay in a core's cache; torch is not loaded for checkpoints.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from generality.errors import UserError
from generality.weights.merge_recipe import FROM_BASE, Recipe, group_of
from generality.weights.row_sums import Pieces, Rows, bits_of, kth_largest, row_dot, row_sum
from generality.weights.stored_numbers import as_tensor, narrow, numpy_dtype, wide_dtype, widen
from generality.weights.tensor_pieces import (
    PIECE,
    compare_specs,
    flat_pieces,
    held_numbers,
    spec_of,
    specs_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BLOCK = 1 << 18  # elements whose draws have a key of their own
WHOLE = 1 << 20  # up to here a tensor is one block where sums over it matter, and is kept
TINY = float(np.finfo(np.float32).tiny)
DRAWS = 1 << 16  # DARE's density is a multiple of 1 / DRAWS


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

    >>> import torch
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

    >>> import torch
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
        self._rows = Rows()
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
        made = np.empty(spec.size, numpy_dtype(spec.dtype))
        at = 0
        for piece in self.pieces(name):
            made[at : at + len(piece)] = narrow(piece, spec.dtype) if spec.floating else piece
            at += len(piece)
        return as_tensor(made, spec.dtype, spec.shape)

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """One merged tensor, flat, as pieces in order; each is overwritten by the next.

        Floating-point numbers come as the sums are made: in float32, of float64 in float64.

        Raises:
            UserError: a number that is not finite, or integers that differ.
        """
        spec = self.specs[name]
        if not spec.floating:
            yield self._integers(name)
            return
        if not spec.size:
            return
        made = {
            "average": self._average, "slerp": self._slerp, "fisher": self._fisher,
            "task-arithmetic": self._sum, "dare": self._sum,
            "ties": self._consensus, "dare-ties": self._consensus,
        }[self.recipe.rule](name, self._weights(name))  # fmt: skip
        while True:
            with np.errstate(all="ignore"):  # `_finite` looks at the sums
                piece = next(made, None)
            if piece is None:
                return
            yield piece

    # the rules --------------------------------------------------------------------------------

    def _average(self, name: str, weights: list[float]) -> Iterator[NDArray[Any]]:
        shares = [weight / sum(weights) for weight in weights]
        for parts in self._together(name, self.experts):
            yield self._finite(self._summed(parts, shares), name)

    def _sum(self, name: str, weights: list[float]) -> Iterator[NDArray[Any]]:
        for base, parts in self._with_base(name):
            total = base
            for part, weight in zip(parts, weights, strict=True):
                if weight * self.recipe.scale != 1:
                    part *= weight * self.recipe.scale
                total = np.add(total, part, out=self._row("total", base))
            yield self._finite(total, name)

    def _consensus(self, name: str, weights: list[float]) -> Iterator[NDArray[Any]]:
        """Signs are elected by the sum, and the numbers that have them are averaged."""
        peft, kit = (self.recipe.variant == variant for variant in ("peft", "mergekit"))
        divided = not (kit and self.recipe.rule == "dare-ties")
        for base, parts in self._with_base(name):
            if not peft:
                for part, weight in zip(parts, weights, strict=True):
                    if weight != 1:
                        part *= weight
            total = np.add(parts[0], 0.0, out=self._row("total", base))  # −0.0 + 0.0 is 0.0
            for part in parts[1:]:
                total += part
            sign = bits_of(self._row("sign", base))
            minus = np.iinfo(sign.dtype).min  # the bit of the sign alone
            np.bitwise_and(bits_of(total), minus, out=sign)
            if divided:
                mixed, count = self._agreeing(parts, sign, weights, peft)
                if self.recipe.variant == "paper":
                    cancelled = (total == 0) & (mixed != 0)
                    if cancelled.any() and self._majority < 0:
                        sign[cancelled] = minus
                        mixed, count = self._agreeing(parts, sign, weights, peft)
                if min(weights) > 0:  # then nothing cancels, and 0 is divided by what is not 0
                    np.maximum(count, TINY, out=count)
                else:
                    count[count == 0] = 1
                mixed /= count
            else:  # half of |Σ p| + Σ |p| is what agrees: the rest cancels
                mixed = np.abs(total, out=total)
                for part in parts:
                    mixed += np.abs(part, out=part)
                mixed *= 0.5
            if self.recipe.scale != 1:
                mixed *= self.recipe.scale
            np.bitwise_xor(bits_of(mixed), sign, out=bits_of(mixed))
            yield self._finite(np.add(base, mixed, out=mixed), name)

    def _agreeing(
        self,
        parts: list[NDArray[Any]],
        sign: NDArray[Any],
        weights: list[float],
        peft: bool,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sum of what has the sign, times the sign; and the sum of the weights in it."""
        mixed, count, agree, zeros, some = (
            self._row(use, parts[0]) for use in ("mixed", "count", "agree", "zeros", "some")
        )
        for row in (mixed, count, zeros):
            row.fill(0)
        for part, weight in zip(parts, weights, strict=True):
            np.bitwise_xor(bits_of(part), sign, out=bits_of(agree))
            np.maximum(agree, zeros, out=agree)
            np.greater(agree, zeros, out=some)
            count += some if peft or weight == 1 else np.multiply(some, weight, out=some)
            mixed += np.multiply(agree, weight, out=agree) if peft and weight != 1 else agree
        return mixed, count

    def _slerp(self, name: str, weights: list[float]) -> Iterator[NDArray[Any]]:
        t = weights[1] / sum(weights)
        norms, dot = [0.0, 0.0], 0.0
        for first, second in self._together(name, self.experts):
            a, b = first.astype(np.float64), second.astype(np.float64)
            norms = [norms[0] + float(a @ a), norms[1] + float(b @ b)]
            dot += float(a @ b)
        cosine = dot / math.sqrt(norms[0] * norms[1]) if min(norms) > 0 else 1.0
        shares = [1 - t, t]
        if abs(cosine) <= 0.9995:  # nearly parallel ones are interpolated
            angle = math.acos(cosine)
            shares = [math.sin(share * angle) / math.sin(angle) for share in shares]
        for parts in self._together(name, self.experts):
            yield self._finite(self._summed(parts, shares), name)

    def _fisher(self, name: str, weights: list[float]) -> Iterator[NDArray[Any]]:
        assert self.fisher is not None
        for number, known in enumerate(self.fisher):
            if name not in known or spec_of(known, name).shape != self.specs[name].shape:
                raise UserError(
                    f"The Fisher information of {self.names[number]} has no '{name}' of the shape "
                    f"{self.specs[name].shape}: compute it on that model."
                )
        shares = [weight / sum(weights) for weight in weights]
        for pieces in self._together(name, [*self.experts, *self.fisher]):
            thetas, fishers = pieces[: len(weights)], pieces[len(weights) :]
            made = self._summed(thetas, shares)
            total, divisor = np.zeros_like(made), np.zeros_like(made)
            for theta, information, weight in zip(thetas, fishers, weights, strict=True):
                total += theta * weight * information
                divisor += information * weight
            np.divide(total, divisor, out=made, where=divisor > 0)
            yield self._finite(made, name)

    def _summed(self, parts: list[NDArray[Any]], shares: list[float]) -> NDArray[Any]:
        """Σ share · part."""
        total, term = self._row("total", parts[0]), self._row("term", parts[0])
        np.multiply(parts[0], shares[0], out=total)
        for part, share in zip(parts[1:], shares[1:], strict=True):
            total += np.multiply(part, share, out=term)
        return total

    # task vectors -----------------------------------------------------------------------------

    def _with_base(self, name: str) -> Iterator[tuple[NDArray[Any], list[NDArray[Any]]]]:
        """Pieces of the base (not to be written into) and of what is left of each task vector."""
        rule = self.recipe.rule
        if rule == "task-arithmetic" or self.recipe.kept >= 1:
            yield from self._deltas(name)
        elif rule == "ties":
            everyone = range(len(self.experts))
            thresholds = [self._threshold(number, name) for number in everyone]
            trims = [self._trimming(*threshold) for threshold in thresholds]
            for base, deltas in self._deltas(name):
                for trim, delta in zip(trims, deltas, strict=True):
                    trim(delta)
                yield base, deltas
        elif self.recipe.variant == "mergekit":
            yield from self._rescaled(name)
        else:
            draws = self._draws(name)
            for base, deltas in self._deltas(name):
                for draw, delta in zip(draws, deltas, strict=True):
                    delta *= draw(delta)
                    delta *= DRAWS / self._bound
                yield base, deltas

    def _rescaled(self, name: str) -> Iterator[tuple[NDArray[Any], list[NDArray[Any]]]]:
        """As mergekit: what is left has the sum of magnitudes that the whole tensor had.

        Of a tensor that is not large the pieces are kept meanwhile; others are read and drawn anew.
        """
        kept = self.specs[name].size <= WHOLE
        draws, pieces = self._draws(name), []
        before, after = ([0.0] * len(draws) for _ in range(2))
        for base, deltas in self._deltas(name, kept):
            for number, (draw, delta) in enumerate(zip(draws, deltas, strict=True)):
                sizes, stays = np.abs(delta, out=self._row("term", delta)), draw(delta)
                before[number] += row_sum(sizes)
                after[number] += row_dot(sizes, stays)
                if kept:
                    delta *= stays
            if kept:
                pieces.append((base, deltas))
        factors = [_ratio(*sums) for sums in zip(before, after, strict=True)]
        draws = self._draws(name)
        for base, deltas in pieces or self._deltas(name):
            for draw, delta, factor in zip(draws, deltas, factors, strict=True):
                if not kept:
                    delta *= draw(delta)
                delta *= factor
            yield base, deltas

    def _deltas(
        self, name: str, kept: bool = False, only: int | None = None
    ) -> Iterator[tuple[NDArray[Any], list[NDArray[Any]]]]:
        """Pieces of the base, and of each task vector (or of one), which may be written into."""
        experts = self.experts if only is None else [self.experts[only]]
        at = 0
        for base, *parts in self._together(name, [self.base, *experts], kept):
            rows = [self._row((number, at), base) for number in range(1, len(parts) + 1)]
            yield base, [np.subtract(p, base, out=row) for p, row in zip(parts, rows, strict=True)]
            at += len(base) if kept else 0

    def _draws(self, name: str) -> list[Callable[[NDArray[Any]], NDArray[Any]]]:
        """For each expert what says of its pieces in order which numbers stay: 1, the others 0.

        The same ones whenever it is asked for anew, in pieces of any size.
        """
        size = self.specs[name].size
        summed = self.recipe.variant == "mergekit" and size <= WHOLE
        block, named = WHOLE if summed else BLOCK, xxhash.xxh3_64_intdigest(name.encode())

        def drawing(number: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
            at, block_stays = 0, np.empty(0, bool)

            def draw(delta: NDArray[Any]) -> NDArray[Any]:
                nonlocal at, block_stays
                if at % block == 0:
                    room = self._rows(("drawn", number), min(block, size - at), np.dtype(bool))
                    seed = (self.recipe.seed, number, named, at // block)
                    block_stays = _drawn(np.random.SFC64(seed), self._bound, room)
                stays = self._row("stays", delta)
                np.copyto(stays, block_stays[at % block :][: len(delta)])
                at += len(delta)
                return stays

            return draw

        return [drawing(number) for number in range(len(self.experts))]

    @property
    def _bound(self) -> int:
        """Draws below it keep a number."""
        return max(1, round(self.recipe.kept * DRAWS))

    def _trimming(self, threshold: float, room: int | None) -> Callable[[NDArray[Any]], None]:
        """Sets what is below the threshold to 0; of what is tied at it, the first `room` stay."""
        left = room

        def trim(delta: NDArray[Any]) -> None:
            nonlocal left
            sizes = np.abs(delta, out=self._row("term", delta))
            mask = bits_of(self._row("mask", delta))
            np.subtract((sizes < threshold).view(np.int8), 1, out=mask)  # all bits, or none
            np.bitwise_and(bits_of(delta), mask, out=bits_of(delta))
            if left is not None:
                tied = np.flatnonzero(sizes == threshold)
                delta[tied[left:]] = 0
                left = max(0, left - len(tied))

        return trim

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
        return kth_largest(lambda: self._delta(number, name), size, k)

    def _delta(self, number: int, name: str) -> Iterator[NDArray[Any]]:
        for _, (delta,) in self._deltas(name, only=number):
            yield delta

    @functools.cached_property
    def _thresholds(self) -> list[float]:
        """Over the whole model, for each expert."""
        floating = [name for name, spec in self.specs.items() if spec.floating]
        size = sum(self.specs[name].size for name in floating)
        k = max(1, int(self.recipe.kept * size))

        def whole(number: int) -> Pieces:
            return lambda: (piece for name in floating for piece in self._delta(number, name))

        return [kth_largest(whole(i), size, k)[0] for i in range(len(self.experts))]

    @functools.cached_property
    def _majority(self) -> float:
        """Sign of the sum of all elected signs of the model."""
        total, apart = 0.0, copy.copy(self)
        apart._rows = Rows()  # a piece is being merged in those of `self`
        for name, spec in self.specs.items():
            if spec.floating:
                weights = self._weights(name)
                for _, parts in apart._with_base(name):
                    summed = apart._summed(parts, weights)
                    total += float(np.count_nonzero(summed > 0) - np.count_nonzero(summed < 0))
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

    def _together(
        self, name: str, sources: Sequence[Any], kept: bool = False
    ) -> Iterator[list[NDArray[Any]]]:
        """Pieces of several models' tensor, in the type that its sums are made in.

        They are overwritten by the next ones, if they are not to be `kept`.
        """
        wide = np.result_type(*(wide_dtype(spec_of(source, name).dtype) for source in sources))
        size = self.specs[name].size
        for at in range(0, size, PIECE):
            count = min(PIECE, size - at)
            parts = []
            for number, source in enumerate(sources):
                row = self._rows((number, at if kept else 0), count, wide)
                parts.append(widen(*held_numbers(source, name, at, at + count), row))
            yield parts

    def _row(self, use: Hashable, like: NDArray[Any]) -> NDArray[Any]:
        """Room for as many numbers of the same type."""
        return self._rows(use, len(like), like.dtype)

    def _integers(self, name: str) -> NDArray[Any]:
        sources = ([] if self.base is None else [self.base]) + self.experts
        first, *others = (held_numbers(source, name)[0] for source in sources)
        if not all(np.array_equal(first, other) for other in others):
            raise UserError(
                f"'{name}' holds integers that differ between the models: they cannot be "
                "merged. Quantised models must be saved in floating-point numbers first."
            )
        return first

    def _finite(self, made: NDArray[Any], name: str) -> NDArray[Any]:
        """The same, if all is finite; else an error that names whose number is not."""
        if math.isfinite(row_sum(made)) or bool(np.isfinite(made).all()):
            return made
        named = [("the base", self.base), *zip(self.names, self.experts, strict=True)]
        for who, source in named:
            if source is not None and not all(
                np.isfinite(piece).all() for piece in flat_pieces(source, name)
            ):
                raise UserError(
                    f"'{name}' of {who} has numbers that are not finite (NaN or infinite): that "
                    "model is broken; take an earlier checkpoint of it."
                )
        raise UserError(f"'{name}' comes out with numbers that are not finite: lower the weights.")


def _drawn(chance: np.random.SFC64, bound: int, out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which numbers stay: each with the probability bound / DRAWS.

    One byte of chance decides, and a second one where the first is the bound's own.
    """

    def drawn(count: int) -> NDArray[np.uint8]:
        raw = chance.random_raw(-(-count // 8)).astype("<u8", copy=False)  # alike on all machines
        return raw.view(np.uint8)[:count]

    high, low = divmod(bound, 256)
    first = drawn(len(out))
    tied = np.flatnonzero(first == high)
    np.less(first, high, out=out)
    out[tied] = drawn(len(tied)) < low
    return out


def _ratio(before: float, after: float) -> float:
    return before / after if min(before, after) >= 1e-7 else 1.0
