"""How one training state is cut up for tensor, pipeline and data parallelism, and put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

State = Mapping[str, Mapping[str, Tensor]]
"""Parameter → what is kept of it: "weight", and the optimizer's "exp_avg", "step", ….

Any mapping will do, one that reads from disk included: it is asked for one parameter at a time."""

Kind = Literal["replicated", "average", "column", "row", "subparams", "vocab"]
_DIM = {"column": 0, "row": 1, "subparams": 0, "vocab": 0}


@dataclass(frozen=True)
class ParamRule:
    """What tensor parallelism does to the parameters of which the whole name matches `pattern`.

    Attributes:
        pattern: a regular expression.
        kind: "replicated" (every rank has it, all alike), "average" (every rank has it, kept alike
            only approximately: putting together takes the mean), "column" (cut along dimension 0),
            "row" (along 1), "subparams" (several projections in one, each cut by itself), "vocab"
            (as column, with rows of zeros added until it can be cut).
        dim: where it is cut, if not as said; GPT-2's weights are transposed.
        sizes: of "subparams", in any unit: (4, 2, 2) for four query and two key and value heads.
        tied: used by the first and the last pipeline stage, as tied embeddings are.
    """

    pattern: str
    kind: Kind
    dim: int | None = None
    sizes: tuple[int, ...] = ()
    tied: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (*_DIM, "replicated", "average"):
            raise ValueError(f"there is no rule of kind {self.kind!r}")
        if (self.kind == "subparams") != bool(self.sizes):
            raise ValueError("sizes belong to a rule of kind 'subparams', which needs them")

    @property
    def cut(self) -> int | None:
        """The dimension along which it is cut; None if it is not."""
        return _DIM.get(self.kind) if self.dim is None else self.dim


class Rank(NamedTuple):
    """Place of a process: pipeline stage, tensor-parallel and data-parallel rank."""

    pp: int
    tp: int
    dp: int

    def __str__(self) -> str:
        return f"pp{self.pp:03d}-tp{self.tp:03d}-dp{self.dp:03d}"


@dataclass(frozen=True)
class LayoutSpec:
    """Processes of each kind of parallelism, and what data-parallel ones share out.

    Attributes:
        tp, pp, dp: tensor-parallel ranks, pipeline stages, data-parallel ranks.
        zero: 0: every data-parallel rank has everything (DDP). 1 or 2: all of a rank's parameters
            in one flat buffer that is cut in `dp` (ZeRO 1 and 2). 3: each parameter by itself
            flattened and cut in `dp` (ZeRO 3, FSDP). Both pad with zeros.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    zero: Literal[0, 1, 2, 3] = 0

    def __post_init__(self) -> None:
        if min(self.tp, self.pp, self.dp) < 1 or self.zero not in (0, 1, 2, 3):
            raise ValueError(f"tp, pp and dp are at least 1 and zero is 0 to 3, not {self}")

    @classmethod
    def parse(cls, text: str) -> LayoutSpec:
        """From "tp=2,pp=2,dp=4,zero=1"; what is not named is 1 (zero: 0).

        >>> LayoutSpec.parse("tp=2, dp=4, zero=3")
        LayoutSpec(tp=2, pp=1, dp=4, zero=3)
        """
        pairs = re.findall(r"(tp|pp|dp|zero)\s*=\s*(\d+)", text)
        found, left = dict(pairs), re.sub(r"(tp|pp|dp|zero)\s*=\s*\d+|[\s,]", "", text)
        if left or not found or len(found) < len(pairs):
            raise ValueError(f"a layout looks like tp=2,pp=1,dp=4,zero=1, not {text!r}")
        return cls(**{name: int(value) for name, value in found.items()})  # type: ignore[arg-type]

    def ranks(self) -> Iterator[Rank]:
        """Every process."""
        return (
            Rank(pp, tp, dp)
            for pp in range(self.pp) for tp in range(self.tp) for dp in range(self.dp)
        )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A spec with all that is needed to cut a certain model up and to put it together.

    Attributes:
        spec: how many processes of which kind.
        rules: exactly one matches each parameter, in any order.
        shapes: of every parameter, as a whole and without padding, in the model's order.
        states: of every parameter, the names of what is kept of it.
    """

    spec: LayoutSpec
    rules: tuple[ParamRule, ...]
    shapes: dict[str, tuple[int, ...]]
    states: dict[str, tuple[str, ...]]
    _rules: dict[str, ParamRule] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _stages: dict[str, tuple[int, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for name in self.shapes:
            found = [rule for rule in self.rules if re.fullmatch(rule.pattern, name)]
            if len(found) != 1:
                patterns = ", ".join(repr(rule.pattern) for rule in found) or "none"
                raise ValueError(
                    f"each parameter needs exactly one rule; {name!r} is matched by {patterns}"
                )
            self._rules[name] = found[0]
        self._stages.update(self._assigned())

    @classmethod
    def of(cls, state: State, spec: LayoutSpec, rules: Iterable[ParamRule]) -> Layout:
        """The layout of this state."""
        shapes, states = {}, {}
        for name, kept in state.items():
            shapes[name], states[name] = tuple(kept["weight"].shape), tuple(kept)
        return cls(spec, tuple(rules), shapes, states)

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain types."""
        rules = [asdict(rule) for rule in self.rules]
        parameters = {
            name: {"shape": list(shape), "states": list(self.states[name])}
            for name, shape in self.shapes.items()
        }
        return {"spec": asdict(self.spec), "rules": rules, "parameters": parameters}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Layout:
        """What `to_json` made."""
        rules = tuple(
            ParamRule(**{**rule, "sizes": tuple(rule.get("sizes", ()))}) for rule in told["rules"]
        )
        parameters = told["parameters"]
        shapes = {name: tuple(each["shape"]) for name, each in parameters.items()}
        states = {name: tuple(each["states"]) for name, each in parameters.items()}
        return cls(LayoutSpec(**told["spec"]), rules, shapes, states)

    def rule(self, name: str) -> ParamRule:
        """The rule of this parameter."""
        return self._rules[name]

    def stages(self, name: str) -> tuple[int, ...]:
        """Pipeline stages that have this parameter, the one that owns it first.

        Layers are shared out evenly in their order; what comes before the first layer belongs to
        the first stage and what comes after to the last.
        """
        return self._stages[name]

    def _assigned(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        last = self.spec.pp - 1
        layers = [number for name in self.shapes if (number := _layer(name)) is not None]
        begun = False
        for name in self.shapes:
            mine = _layer(name)
            begun |= mine is not None
            if self.rule(name).tied:
                yield name, (0, last) if last else (0,)
            elif mine is not None:
                yield name, (mine * self.spec.pp // (max(layers) + 1),)
            else:
                yield name, (last if begun else 0,)

    def local(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor-parallel rank's part, padding of a vocabulary included."""
        rule, shape = self.rule(name), list(self.shapes[name])
        if (dim := rule.cut) is not None:
            rows = shape[dim] + (-shape[dim] % self.spec.tp if rule.kind == "vocab" else 0)
            shape[dim] = rows // self.spec.tp
        return tuple(shape)

    def held(self, rank: Rank) -> list[str]:
        """Names of the parameters of a rank, in the model's order."""
        return [name for name in self.shapes if rank.pp in self.stages(name)]


def cut(whole: Tensor, rule: ParamRule, parts: int) -> list[Tensor]:
    """A parameter (or an optimizer's tensor of its shape) as each tensor-parallel rank has it.

    Raises:
        ValueError: it cannot be cut in so many.

    Source: Lian et al. 2024 (arXiv 2406.18820) and DeepSpeed's `universal_checkpoint.py`.

    >>> fused = torch.arange(8)[:, None]
    >>> rule = ParamRule("qkv", "subparams", sizes=(4, 2, 2))
    >>> [part.flatten().tolist() for part in cut(fused, rule, 2)]
    [[0, 1, 4, 6], [2, 3, 5, 7]]
    """
    dim = rule.cut
    if dim is None or whole.dim() == 0:
        return [whole] * parts
    if rule.kind == "vocab":
        missing = -whole.shape[dim] % parts
        padding = [0, 0] * (whole.dim() - dim - 1) + [0, missing]
        return list(torch.nn.functional.pad(whole, padding).chunk(parts, dim))
    blocks = [_evenly(block, parts, dim, rule) for block in _blocks(whole, rule, dim)]
    return [torch.cat(block, dim) for block in zip(*blocks, strict=True)]


def join(parts: list[Tensor], rule: ParamRule, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `cut`, of a parameter of this shape.

    Raises:
        ValueError: replicated parts that differ.
    """
    dim = rule.cut
    if rule.kind == "average" and parts[0].dim():
        return torch.stack([part.double() for part in parts]).mean(0).to(parts[0])
    if dim is None or parts[0].dim() == 0:
        if any(not torch.equal(part, parts[0]) for part in parts):
            raise ValueError("copies that should be the same differ between tensor-parallel ranks")
        return parts[0]
    blocks = zip(*(_blocks(part, rule, dim) for part in parts), strict=True)
    whole = torch.cat([torch.cat(block, dim) for block in blocks], dim)
    return whole.narrow(dim, 0, shape[dim])


def shard(state: State, layout: Layout, rank: Rank) -> dict[str, Tensor]:
    """What one process keeps, as "STATE/PARAMETER" or, of ZeRO 1 and 2, as one flat "STATE".

    >>> state = {"w": {"weight": torch.arange(6.0).reshape(3, 2)}}
    >>> layout = Layout.of(state, LayoutSpec(dp=4, zero=3), [ParamRule("w", "replicated")])
    >>> shard(state, layout, Rank(0, 0, 2))["weight/w"].tolist()
    [4.0, 5.0]
    """
    spec, found = layout.spec, {}
    flat: dict[str, list[Tensor]] = {}
    for name in layout.held(rank):
        for key, whole in state[name].items():
            part = cut(whole, layout.rule(name), spec.tp)[rank.tp]
            if spec.zero == 0 or part.dim() == 0:
                found[f"{key}/{name}"] = part.clone()
            elif spec.zero == 3:
                found[f"{key}/{name}"] = _share(part.flatten(), spec.dp, rank.dp)
            else:
                flat.setdefault(key, []).append(part.flatten())
    for key, pieces in flat.items():
        found[key] = _share(torch.cat(pieces), spec.dp, rank.dp)
    return found


def unshard(shards: Mapping[Rank, Mapping[str, Tensor]], layout: Layout) -> Unsharded:
    """The state of which every process has a part; parameters are put together when asked for.

    Args:
        shards: of every rank, as `shard` makes them; each may read from disk.
        layout: by which they were cut.

    Raises:
        ValueError: a rank or a tensor is missing or of the wrong size (named); when a parameter is
            asked for, copies of it that differ.

    >>> state = {"w": {"weight": torch.arange(6.0).reshape(3, 2)}}
    >>> layout = Layout.of(state, LayoutSpec(tp=3, dp=2, zero=1), [ParamRule("w", "column")])
    >>> shards = {rank: shard(state, layout, rank) for rank in layout.spec.ranks()}
    >>> unshard(shards, layout)["w"]["weight"].tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    return Unsharded(shards, layout)


class Unsharded(Mapping[str, "dict[str, Tensor]"]):
    """Parameter → its states, from the parts of every rank."""

    def __init__(self, shards: Mapping[Rank, Mapping[str, Tensor]], layout: Layout) -> None:
        self.shards, self.layout = shards, layout
        self._starts: dict[tuple[int, str], dict[str, int]] = {}
        lacking = [str(rank) for rank in layout.spec.ranks() if rank not in shards]
        if lacking:
            raise ValueError(f"the part of rank {lacking[0]} is missing ({len(lacking)} in all)")
        for rank in layout.spec.ranks():
            self._check(rank)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.shapes)

    def __len__(self) -> int:
        return len(self.layout.shapes)

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        rule, shape = self.layout.rule(name), self.layout.shapes[name]
        owner, *others = self.layout.stages(name)
        found = {}
        for key in self.layout.states[name]:
            try:
                found[key] = join(self._parts(owner, key, name), rule, shape)
                for stage in others:
                    if not torch.equal(
                        join(self._parts(stage, key, name), rule, shape), found[key]
                    ):
                        raise ValueError("its copies on the first and the last stage differ")
            except ValueError as error:
                raise ValueError(f"{key} of {name!r}: {error}") from error
        return found

    def _parts(self, stage: int, key: str, name: str) -> list[Tensor]:
        return [self._local(stage, tp, key, name) for tp in range(self.layout.spec.tp)]

    def _local(self, stage: int, tp: int, key: str, name: str) -> Tensor:
        """A tensor-parallel rank's part of one tensor, from its data-parallel ranks."""
        spec, shape = self.layout.spec, self.layout.local(name)
        copies = [self.shards[Rank(stage, tp, dp)] for dp in range(spec.dp)]
        if spec.zero in (1, 2) and f"{key}/{name}" not in copies[0]:
            start, share = self._start(stage, key, name), len(copies[0][key])
            first, last = start // share, (start + _size(shape) - 1) // share
            flat = torch.cat([copies[dp][key] for dp in range(first, last + 1)])
            return flat[start - first * share :][: _size(shape)].reshape(shape)
        pieces = [copy[f"{key}/{name}"] for copy in copies]
        if spec.zero == 3 and pieces[0].dim():
            return torch.cat(pieces)[: _size(shape)].reshape(shape)
        if any(not torch.equal(piece, pieces[0]) for piece in pieces):
            raise ValueError("copies that should be the same differ between data-parallel ranks")
        return pieces[0]

    def _start(self, stage: int, key: str, name: str) -> int:
        """Where a parameter begins in the flat buffer of its stage."""
        starts = self._starts.setdefault((stage, key), {})
        if not starts:
            place = 0
            for other in self.layout.held(Rank(stage, 0, 0)):
                if key in self.layout.states[other]:
                    starts[other] = place
                    place += _size(self.layout.local(other))
        return starts[name]

    def _check(self, rank: Rank) -> None:
        """Every tensor is there and as large as it must be."""
        spec, shards, flat = self.layout.spec, self.shards[rank], dict[str, int]()
        for name in self.layout.held(rank):
            size = _size(self.layout.local(name))
            for key in self.layout.states[name]:
                there = shards.get(f"{key}/{name}")
                if there is None and spec.zero in (1, 2) and key in shards:
                    flat[key] = flat.get(key, 0) + size
                elif there is None:
                    raise ValueError(f"rank {rank} lacks {key} of {name!r}")
                elif there.dim():
                    wanted = -(-size // spec.dp) if spec.zero == 3 else size
                    _same_size(there, wanted, f"{key} of {name!r}", rank)
        for key, size in flat.items():
            _same_size(shards[key], -(-size // spec.dp), f"flat {key}", rank)


def reshard(
    shards: Mapping[Rank, Mapping[str, Tensor]], source: Layout, target: LayoutSpec
) -> dict[Rank, dict[str, Tensor]]:
    """From the parts of one layout to those of another, by the same rules."""
    state = unshard(shards, source)
    layout = Layout(target, source.rules, source.shapes, source.states)
    return {rank: shard(state, layout, rank) for rank in target.ranks()}


def _layer(name: str) -> int | None:
    found = re.search(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.", name)
    return int(found[1]) if found else None


def _evenly(block: Tensor, parts: int, dim: int, rule: ParamRule) -> list[Tensor]:
    if block.shape[dim] % parts:
        raise ValueError(
            f"a dimension of {block.shape[dim]} cannot be cut in {parts} ({rule.pattern!r})"
        )
    return list(block.chunk(parts, dim))


def _blocks(whole: Tensor, rule: ParamRule, dim: int) -> list[Tensor]:
    """The projections of which a parameter is made."""
    sizes, rows = rule.sizes or (1,), whole.shape[dim]
    if any(rows * size % sum(sizes) for size in sizes):
        raise ValueError(f"a dimension of {rows} is not in the proportions {sizes}")
    return list(whole.split([rows * size // sum(sizes) for size in sizes], dim))


def _share(flat: Tensor, parts: int, index: int) -> Tensor:
    """One of `parts` equal shares of a flat tensor, which zeros fill up."""
    size = -(-len(flat) // parts)
    padded = torch.nn.functional.pad(flat, (0, size * parts - len(flat)))
    return padded[size * index : size * (index + 1)].clone()


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _same_size(found: Tensor, wanted: int, what: str, rank: Rank) -> None:
    if found.numel() != wanted:
        raise ValueError(f"rank {rank} has {found.numel()} numbers of {what}, not {wanted}")
