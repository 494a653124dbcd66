"""Checkpoints in one form that no layout has shaped, and from and to those of any layout."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from generality.errors import UserError
from generality.models.atomic_folder import atomic_folder
from generality.weights.dcp_checkpoint import DcpCheckpoint
from generality.weights.parallel_layout import (
    Layout,
    LayoutSpec,
    ParamRule,
    Rank,
    State,
    shard,
    unshard,
)

MANIFEST, LAYOUT = "universal.json", "layout.json"
_FORMAT = 1


@dataclass
class TrainingState:
    """What a training is made of, apart from how processes shared it.

    Attributes:
        parameters: name → "weight" and each state of the optimizer.
        extra: everything else under a dotted name: tensors (random generators' states) and plain
            values (the optimizer's settings, the step, the place in the data).
        layout: how it was cut up where it was read from, if it was.
    """

    parameters: State
    extra: dict[str, Any] = field(default_factory=dict)
    layout: Layout | None = None


class _Lazy(Mapping[str, "dict[str, Tensor]"]):
    """Parameters that are read when asked for, so that one at a time is in memory."""

    def __init__(self, readers: dict[str, Callable[[], dict[str, Tensor]]]) -> None:
        self.readers = readers

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **extra: Any
) -> TrainingState:
    """The whole state of a live model: plain, or of DDP or FSDP.

    Every process of DDP and FSDP must call this; the first gets the state, the others an empty
    one. Tensors on the CPU are the live ones: write them before training goes on.

    Args:
        model: its parameters and buffers are taken to the CPU.
        optimizer: every state it keeps for a parameter.
        extra: further tensors and plain values, such as `rng=torch.get_rng_state()`, step=100.

    >>> model = nn.Linear(2, 1)
    >>> sorted(training_state(model, step=1).parameters)
    ['bias', 'weight']
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: tuple[Any, Any] = get_state_dict(model, optimizer or [], options=options)
    weights, moments = found
    parameters = {name: {"weight": tensor} for name, tensor in weights.items()}
    for name, kept in moments.get("state", {}).items():
        parameters[name] |= {key: torch.as_tensor(value) for key, value in kept.items()}
    if optimizer is not None:
        extra["optimizer.param_groups"] = moments.get("param_groups", [])
    return TrainingState(parameters, extra)


def load_training_state(
    state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Put a whole state into a live model and its optimizer, whatever shards them; gives `extra`.

    Raises:
        ValueError: parameters that the model has not, or lacks; no optimizer's state for one.

    >>> old, new = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> load_training_state(training_state(old, step=7), new)
    {'step': 7}
    >>> torch.equal(old.weight, new.weight)
    True
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    weights: dict[str, Any] = {name: kept["weight"] for name, kept in state.parameters.items()}
    have = {name for name, _ in model.state_dict().items()}
    differing = sorted(have.symmetric_difference(weights))
    if differing:
        side = "the checkpoint" if differing[0] in have else "the model"
        raise ValueError(f"{side} lacks {differing[0]!r} ({len(differing)} names differ)")
    moments: dict[str, Any] = {}
    if optimizer is not None:
        if "optimizer.param_groups" not in state.extra:
            raise ValueError("the checkpoint has no state of an optimizer")
        moments["param_groups"] = state.extra["optimizer.param_groups"]
        moments["state"] = {
            name: rest for name, kept in state.parameters.items()
            if (rest := {key: value.clone() for key, value in kept.items() if key != "weight"})
        }  # fmt: skip
    set_state_dict(
        model, optimizer or [], model_state_dict=weights, optim_state_dict=moments,
        options=StateDictOptions(full_state_dict=True),
    )  # fmt: skip
    return {key: value for key, value in state.extra.items() if not key.startswith("optimizer.")}


def open_training_state(path: str | Path) -> TrainingState:
    """A checkpoint of any kind: distributed (PyTorch's), universal, ranks of a layout, or a file.

    Nothing is unpickled but by restricted readers. Parameters are read when asked for.

    Raises:
        UserError: it is none of these; a shard is missing or of the wrong size (named).
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no checkpoint at {path}.")
    if path.is_file():
        return _from_file(path)
    if (path / MANIFEST).exists():
        return _from_universal(path)
    if (path / LAYOUT).exists():
        return _from_ranks(path)
    if (path / ".metadata").exists():
        return _from_dcp(DcpCheckpoint(path))
    if any(path.glob("*.safetensors")):
        raise UserError(f"{path} holds a model, not a checkpoint: name a .safetensors file in it.")
    raise UserError(
        f"{path} is no checkpoint: none of {MANIFEST}, {LAYOUT} and .metadata is in it. A "
        "distributed checkpoint lacks .metadata when its saving did not end."
    )


def save_training_state(
    state: TrainingState,
    out: str | Path,
    *,
    to: str | LayoutSpec = "universal",
    rules: tuple[ParamRule, ...] = (),
) -> dict[str, int]:
    """Write a state in another form; it appears whole or not at all.

    Args:
        state: what to write; one parameter at a time is in memory, except for "dcp" (all) and
            ranks (what one of them holds).
        out: folder, which must not exist.
        to: "universal" (a safetensors file for each parameter, readable without this package),
            "dcp" (a distributed checkpoint, which PyTorch's FSDP and DTensor programs load in any
            layout), "weights" (model.safetensors alone, all of it in memory), or the layout of
            ranks.
        rules: for a layout: what tensor parallelism does to which parameter. By default those
            that the state was read with.

    Returns:
        Numbers of "parameters" and "bytes".

    Raises:
        UserError: `out` is there; too little disk; a number that is not finite (named); a
            parameter that no rule or more than one matches, or that cannot be cut so; rules that
            cut nothing for tensor parallelism; a pipeline stage that would hold nothing.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already; name another folder.")
    if isinstance(to, str) and to not in ("universal", "dcp", "weights"):
        raise ValueError(f"to is 'universal', 'dcp', 'weights' or a LayoutSpec, not {to!r}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}): name another place.") from error
    total = sum(_nbytes(state.parameters[name]) for name in state.parameters)
    needed = total * (to.dp if isinstance(to, LayoutSpec) and to.zero == 0 else 1)
    if (free := shutil.disk_usage(out.parent).free) < needed:
        raise UserError(
            f"The checkpoint needs {needed / 2**30:.2f} GiB and {out.parent} has "
            f"{free / 2**30:.2f} GiB free. Free space or name another disk."
        )
    with atomic_folder(out) as fresh:
        if to == "dcp":
            _to_dcp(state, fresh)
        elif isinstance(to, LayoutSpec):
            _to_ranks(state, fresh, to, rules)
        elif to == "weights":
            weights = {name: state.parameters[name]["weight"] for name in state.parameters}
            for name, tensor in weights.items():
                _finite({"weight": tensor}, name)
            save_file(
                {name: tensor.clone().contiguous() for name, tensor in weights.items()},
                fresh / "model.safetensors", metadata={"format": "pt"},
            )  # fmt: skip
        else:
            _to_universal(state, fresh)
    return {"parameters": len(state.parameters), "bytes": total}


def save_rank(folder: str | Path, rank: Rank, tensors: Mapping[str, Tensor]) -> None:
    """What a training process writes: its own part, named as by `shard`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(kept, Path(folder, f"{rank}.safetensors"))


def save_layout(folder: str | Path, layout: Layout, extra: Mapping[str, Any] | None = None) -> None:
    """What one of the processes writes beside the parts: how they were cut, and the extra state."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    plain = _write_extra(extra or {}, Path(folder))
    told = {"format": _FORMAT, **layout.to_json(), "extra": plain}
    Path(folder, LAYOUT).write_text(json.dumps(told, indent=1))


def load_rank(folder: str | Path, rank: Rank) -> dict[str, Tensor]:
    """The part of one process."""
    return dict(_RankFile(Path(folder, f"{rank}.safetensors")))


def _from_universal(folder: Path) -> TrainingState:
    told = _read_json(folder / MANIFEST)

    def reader(name: str, about: dict[str, Any]) -> Callable[[], dict[str, Tensor]]:
        def read() -> dict[str, Tensor]:
            file = folder / about["file"]
            if not file.is_file():
                raise UserError(f"{folder} lacks {about['file']}, which holds '{name}'.")
            found = dict(_RankFile(file))
            shapes = {key: list(tensor.shape) for key, tensor in found.items()}
            if shapes != about["states"]:
                raise UserError(f"{file} does not hold what {MANIFEST} says of '{name}'.")
            return found

        return read

    try:
        readers = {name: reader(name, about) for name, about in told["parameters"].items()}
        return TrainingState(_Lazy(readers), _read_extra(told["extra"], folder))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST} is not as it was written: {error!r}.") from error


def _to_universal(state: TrainingState, folder: Path) -> None:
    parameters = {}
    (folder / "parameters").mkdir()
    for place, name in enumerate(state.parameters):
        kept = {key: tensor.contiguous() for key, tensor in state.parameters[name].items()}
        _finite(kept, name)
        file = f"parameters/{place:06d}.safetensors"
        save_file(kept, folder / file, metadata={"name": name})
        shapes = {key: list(tensor.shape) for key, tensor in sorted(kept.items())}
        parameters[name] = {"file": file, "states": shapes}
    told = {"format": _FORMAT, "parameters": parameters, "extra": _write_extra(state.extra, folder)}
    (folder / MANIFEST).write_text(json.dumps(told, indent=1))


def _from_ranks(folder: Path) -> TrainingState:
    told = _read_json(folder / LAYOUT)
    try:
        layout = Layout.from_json(told)
        extra = _read_extra(told.get("extra", {}), folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{folder / LAYOUT} is not as it was written: {error}.") from error
    shards = {}
    for rank in layout.spec.ranks():
        file = folder / f"{rank}.safetensors"
        if not file.is_file():
            raise UserError(
                f"{folder} lacks {file.name}: copy the parts of every process to one folder."
            )
        shards[rank] = _RankFile(file)
    try:
        return TrainingState(unshard(shards, layout), extra, layout)
    except ValueError as error:
        raise UserError(f"{folder}: {error}.") from error


def _to_ranks(
    state: TrainingState, folder: Path, spec: LayoutSpec, rules: tuple[ParamRule, ...]
) -> None:
    rules = rules or (state.layout.rules if state.layout else ())
    try:
        layout = Layout.of(state.parameters, spec, rules)
        _not_idle(layout)
        for name in state.parameters:
            _finite(state.parameters[name], name)
        for rank in spec.ranks():
            save_rank(folder, rank, shard(state.parameters, layout, rank))
    except ValueError as error:
        raise UserError(f"The checkpoint cannot be cut into {spec}: {error}.") from error
    save_layout(folder, layout, state.extra)


def _not_idle(layout: Layout) -> None:
    """Raises `ValueError` where tensor-parallel ranks would be copies, or a stage without any."""
    spec = layout.spec
    if spec.tp > 1 and all(layout.rule(name).cut is None for name in layout.shapes):
        raise ValueError(
            f"its rules cut no parameter, so each of {spec.tp} tensor-parallel ranks would hold "
            "all; name other rules, or leave tp out"
        )
    used = {stage for name in layout.shapes for stage in layout.stages(name)}
    if idle := set(range(spec.pp)) - used:
        raise ValueError(
            f"pipeline stage {min(idle)} of {spec.pp} would hold no parameter; ask for fewer"
        )


def _from_dcp(checkpoint: DcpCheckpoint) -> TrainingState:
    """Parameters are the tensors beside those for which an optimizer keeps "state"."""
    moments: dict[str, dict[str, str]] = {}
    groups: dict[int, dict[str, Any]] = {}
    rest: dict[str, tuple[str | int, ...]] = {}
    for key, path in checkpoint.paths.items():
        if path[-1] == "param_groups":
            groups = dict(enumerate(checkpoint.read(key)))
        elif len(path) >= 4 and path[-3] == "param_groups":
            value = checkpoint.read(key)
            plain = value.tolist() if torch.is_tensor(value) else value
            groups.setdefault(int(path[-2]), {})[str(path[-1])] = plain
        elif len(path) >= 4 and path[-3] == "state":
            moments.setdefault(str(path[-2]), {})[str(path[-1])] = key
        else:
            rest[key] = path
    tensors = {key: path for key, path in rest.items() if checkpoint.is_tensor(key)}
    prefixes = [path[:-1] for path in tensors.values()]
    known = [path[:-1] for path in tensors.values() if str(path[-1]) in moments]
    home = max(known or prefixes, key=(known or prefixes).count, default=())
    weights = {str(path[-1]): key for key, path in tensors.items() if path[:-1] == home}
    taken = set(weights.values())
    extra = {
        ".".join(map(str, path)): checkpoint.read(key)
        for key, path in rest.items() if key not in taken
    }  # fmt: skip
    if groups:
        extra["optimizer.param_groups"] = [groups[place] for place in sorted(groups)]
    orphans = sorted(set(moments) - set(weights))
    if orphans:
        raise UserError(
            f"{checkpoint.folder}: an optimizer keeps state for '{orphans[0]}', which is no "
            "parameter of the model in it."
        )

    def reader(name: str) -> Callable[[], dict[str, Tensor]]:
        entries = {"weight": weights[name], **moments.get(name, {})}
        return lambda: {
            key: torch.as_tensor(checkpoint.read(entry)) for key, entry in entries.items()
        }

    return TrainingState(_Lazy({name: reader(name) for name in weights}), extra)


def _to_dcp(state: TrainingState, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model, moments = {}, {}
    for name in state.parameters:
        kept = dict(state.parameters[name])
        _finite(kept, name)
        model[name] = kept.pop("weight")
        if kept:
            moments[name] = kept
    groups = state.extra.get("optimizer.param_groups")
    whole: dict[str, Any] = {"model": model}
    if moments or groups:
        whole["optimizer"] = {"state": moments, "param_groups": groups or []}
    whole |= {k: value for k, value in state.extra.items() if not k.startswith("optimizer.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a single process
        dcp.save(whole, checkpoint_id=folder, no_dist=True)


def _from_file(file: Path) -> TrainingState:
    if file.suffix == ".safetensors":
        found: Any = dict(_RankFile(file))
    else:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise UserError(
                f"{file} cannot be read as tensors and plain values "
                f"({str(error).splitlines()[0]}); nothing else is unpickled."
            ) from error
    weights = found.get("model", found) if isinstance(found, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in weights.items()
    ):  # fmt: skip
        raise UserError(f"{file}: no tensors by name, neither in it nor under 'model'.")
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    parameters = {name: {"weight": tensor} for name, tensor in weights.items()}
    rest = {} if found.get("model") is None else {k: v for k, v in found.items() if k != "model"}
    optimizer = rest.pop("optimizer", None)
    if isinstance(optimizer, Mapping):
        if not {"state", "param_groups"} <= optimizer.keys():
            raise UserError(f"{file}: 'optimizer' in it is no state of an optimizer of PyTorch.")
        groups = [dict(group) for group in optimizer["param_groups"]]
        named = [name for group in groups for name in group["params"]]
        for key, kept in optimizer["state"].items():
            if key not in parameters:
                raise UserError(
                    f"{file}: the optimizer numbers its parameters ({key!r} of {len(named)}) and "
                    "does not name them. Save torch.distributed.checkpoint.state_dict."
                    "get_optimizer_state_dict(model, optimizer) instead."
                )
            parameters[key] |= {state: torch.as_tensor(value) for state, value in kept.items()}
        rest["optimizer.param_groups"] = groups
    return TrainingState(parameters, rest)


class _RankFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, read when asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.opened = safe_open(file, "pt")
        except FileNotFoundError as error:
            raise UserError(f"There is no {file}.") from error
        except Exception as error:
            raise UserError(f"{file} is damaged ({error}); copy or write it again.") from error
        self.names = list(self.opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        tensor: Tensor = self.opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise UserError(f"{file} is not of format {_FORMAT}, which this version reads.")
    return told


def _write_extra(extra: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Tensors go to a file beside, if there are any; plain values are returned."""
    tensors = {key: value.contiguous() for key, value in extra.items() if torch.is_tensor(value)}
    if tensors:
        save_file(tensors, folder / "extra.safetensors")
    plain = {key: value for key, value in extra.items() if key not in tensors}
    try:
        json.dumps(plain)
    except TypeError as error:
        raise UserError(
            f"The checkpoint holds what is neither tensor nor plain value: {error}."
        ) from error
    return plain


def _read_extra(plain: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / "extra.safetensors"
    return {**plain, **(_RankFile(file) if file.exists() else {})}


def _finite(kept: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in kept.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{key} of '{name}' has a number that is not finite: this training had diverged. "
                "Take an earlier checkpoint."
            )


def _nbytes(kept: Mapping[str, Tensor]) -> int:
    return sum(math.prod(tensor.shape) * tensor.itemsize for tensor in kept.values())
