"""Checkpoints read and written tensor by tensor, in memory of a few tensors whatever their size."""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from filelock import FileLock, Timeout

from generality.errors import UserError
from generality.weights.stored_numbers import (
    DTYPES,
    as_tensor,
    dtype_name,
    is_floating,
    narrow,
    numpy_dtype,
    stored,
    wide_dtype,
    widen,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SHARD_BYTES = 5_000_000_000
WINDOW = 1 << 20  # elements of a tensor that are mapped at a time where it is read in pieces
READ = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)  # all pages at once, where there is that
INDEX = "model.safetensors.index.json"
HEADS = ("lm_head.weight", "output_projection.weight")
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its content.

    Attributes:
        dtype: safetensors' name of it, "F32" or "BF16" for instance; torch's is taken too.
        shape: of the tensor.

    Raises:
        ValueError: safetensors stores no such type.

    >>> TensorSpec("bfloat16", (2, 3)).dtype, TensorSpec("F32", (2, 3)).bytes
    ('BF16', 24)
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype))

    @property
    def floating(self) -> bool:
        """Whether its elements are real floating-point numbers."""
        return is_floating(self.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.size * self.itemsize


class Checkpoint(Mapping[str, "Tensor"]):
    """The tensors of a model's safetensors, one file or many; each is mapped when asked for.

    A tensor takes no memory of its own: its pages are the file's, and go when it is let go.
    Writing into one changes nothing on disk. Where the configuration ties the output head to the
    embeddings, a head that was stored all the same is left out, as transformers does.

    Args:
        folder: with `model.safetensors`, or shards and their index.
        name: how messages call it; by default the folder.
        file: the one file to read, where it is not the model's.

    Attributes:
        specs: dtype and shape of every tensor, in the files' order.
        config: of the model, from `config.json`; empty without one.

    Raises:
        UserError: there are no safetensors; a shard is missing or cut off; the index does not say
            what the shards hold.

    >>> import torch
    >>> from tempfile import mkdtemp
    >>> from safetensors.torch import save_file
    >>> folder = Path(mkdtemp())
    >>> save_file({"w": torch.arange(3.0)}, folder / "model.safetensors")
    >>> Checkpoint(folder)["w"]
    tensor([0., 1., 2.])
    """

    def __init__(self, folder: Path, name: str = "", *, file: str | None = None) -> None:
        self.folder = Path(folder)
        self.name = name or str(folder)
        self.config = _config(self.folder, self.name)
        self.specs: dict[str, TensorSpec] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._window: tuple[Any, NDArray[Any]] = (None, np.empty(0))
        files: Mapping[Path, set[str] | None] = (
            {self.folder / file: None} if file else _files(self.folder, self.name)
        )
        for path, wanted in files.items():
            header, begin = _header(path, self.name)
            if wanted is not None and wanted != header.keys():
                odd = sorted(wanted ^ header.keys())[0]
                how = "lacks it" if odd in wanted else "holds it without being named for it"
                raise UserError(
                    f"The index of '{self.name}' is wrong about '{odd}': {path.name} {how}. "
                    "Fetch or save the model again."
                )
            for tensor, entry in header.items():
                if entry["dtype"] not in DTYPES:
                    raise UserError(
                        f"'{tensor}' of '{self.name}' has the type {entry['dtype']}, which is not "
                        f"read here; save it as one of {', '.join(DTYPES)}."
                    )
                self.specs[tensor] = TensorSpec(entry["dtype"], tuple(entry["shape"]))
                self._places[tensor] = (path, begin + entry["data_offsets"][0])
        if self.config.get("tie_word_embeddings") and any(map(EMBEDDINGS.search, self.specs)):
            for head in HEADS:
                self.specs.pop(head, None)

    def __getitem__(self, name: str) -> Tensor:
        spec, (file, begin) = self.specs[name], self._places[name]
        return _mapped(file, begin, spec)

    def numbers(
        self, name: str, begin: int = 0, end: int | None = None
    ) -> tuple[NDArray[Any], str]:
        """Elements begin to end of a tensor, flat, and safetensors' name of what they are.

        They lie on the file's pages, of which a window of this tensor is mapped at a time, and are
        not to be written into. bfloat16 comes as the unsigned integers of its bits.
        """
        spec, (file, at) = self.specs[name], self._places[name]
        end = spec.size if end is None else min(end, spec.size)
        first = begin - begin % WINDOW
        last = min(spec.size, max(first + WINDOW, end))
        if self._window[0] != (name, first, last):
            seen = TensorSpec(spec.dtype, (last - first,))
            pages = _pages(file, at + first * spec.itemsize, seen, flags=READ, prot=mmap.PROT_READ)
            self._window = ((name, first, last), pages)
        return self._window[1][begin - first : end - first], spec.dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def bytes(self) -> int:
        """Of all tensors together."""
        return sum(spec.bytes for spec in self.specs.values())

    @cached_property
    def identity(self) -> str:
        """Changes when a file does: names, sizes and times of change of all that is read."""
        files = sorted({file for file, _ in self._places.values()})
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return xxhash.xxh3_128(json.dumps([str(self.folder.resolve()), stats]).encode()).hexdigest()


class AdaptedCheckpoint(Checkpoint):
    """A base model with a LoRA adapter of peft added to it, tensor by tensor.

    Tensors that the adapter changes are computed when asked for, in float32 at least (their spec
    keeps the base's dtype); the others are the base's. Ranks and alphas by module, rank-stabilised
    scaling, convolutions, transposed layers, embeddings and fully trained modules are known; DoRA
    is not.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        base: the model it was trained on.
        name: how messages call it.

    Raises:
        UserError: the adapter is of another kind, or does not fit the base.
    """

    def __init__(self, folder: Path, base: Checkpoint, name: str = "") -> None:
        self.folder, self.base, self.name = Path(folder), base, name or str(folder)
        self.config, self.specs = base.config, dict(base.specs)
        self.adapter = _read_json(self.folder / "adapter_config.json", self.name)
        if self.adapter.get("peft_type") != "LORA" or self.adapter.get("use_dora"):
            kind = "DoRA" if self.adapter.get("use_dora") else self.adapter.get("peft_type")
            raise UserError(
                f"The adapter '{self.name}' is of the kind {kind}; only LoRA is added here. Merge "
                "it into its base with peft's merge_and_unload, save that, and name the result."
            )
        if not (self.folder / "adapter_model.safetensors").is_file():
            raise UserError(
                f"The adapter '{self.name}' has no adapter_model.safetensors; save it again."
            )
        self._weights = Checkpoint(self.folder, self.name, file="adapter_model.safetensors")
        self.factors = self._find_factors()
        self._last: tuple[str, NDArray[Any], str] | None = None

    def _find_factors(self) -> dict[str, tuple[str, ...]]:
        """Tensor of the base → the names of its two factors, or of what replaces it."""
        found: dict[str, tuple[str, ...]] = {}
        for key in self._weights:
            plain = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
            module, _, factor = plain.rpartition(".lora_")
            if module:
                factor = factor.split(".")[0]
                if factor in ("A", "embedding_A"):
                    other = key.replace(f"lora_{factor}", f"lora_{factor[:-1]}B")
                    found[f"{module}.weight"] = (key, other)
            else:
                found.setdefault(plain, (key,))  # peft stores embeddings beside their LoRA
        for tensor, keys in found.items():
            lost = next((key for key in keys if key not in self._weights), None)
            if lost:
                raise UserError(f"The adapter '{self.name}' lacks '{lost}'; save it again.")
            if tensor not in self.specs:
                raise UserError(
                    f"The adapter '{self.name}' changes '{tensor}', which its base "
                    f"'{self.base.name}' does not have: name the base it was trained on."
                )
            spec = self.specs[tensor]
            if len(keys) == 1:
                shape = self._weights.specs[keys[0]].shape
            else:
                a, b = (self._weights.specs[key].shape for key in keys)
                shape = (b[0], *a[1:])  # of a convolution: out, in, kernel
                if "lora_embedding_A" in keys[0] or self.adapter.get("fan_in_fan_out"):
                    shape = shape[::-1]
            if shape != spec.shape:
                raise UserError(
                    f"The adapter '{self.name}' has {_times(shape)} numbers for '{tensor}', which "
                    f"has {_times(spec.shape)} in '{self.base.name}': name its own base."
                )
        return found

    def factor(self, tensor: str) -> tuple[Tensor, Tensor, float]:
        """A (rank, in), B (out, rank) and the scale of B @ A for a tensor with a LoRA.

        Of a convolution A is (rank, in, kernel) and B (out, rank, 1).
        """
        import torch

        a, b, scale = self._factor(tensor)
        return torch.from_numpy(a), torch.from_numpy(b), scale

    def _factor(self, tensor: str) -> tuple[NDArray[Any], NDArray[Any], float]:
        a, b = (_wide(self._weights, key, np.dtype(np.float32)) for key in self.factors[tensor])
        module, rank = tensor.removesuffix(".weight"), a.shape[0]
        alpha = self.adapter.get("lora_alpha") or rank
        for pattern, value in (self.adapter.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = value
        return a, b, alpha / (math.sqrt(rank) if self.adapter.get("use_rslora") else rank)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.factors:
            return self.base[name]
        return as_tensor(*self.numbers(name), self.specs[name].shape).clone()

    def numbers(
        self, name: str, begin: int = 0, end: int | None = None
    ) -> tuple[NDArray[Any], str]:
        """As of `Checkpoint`; those that the adapter changes are computed."""
        keys = self.factors.get(name)
        if keys is None:
            return self.base.numbers(name, begin, end)
        if self._last is None or self._last[0] != name:  # it is asked for piece by piece
            if len(keys) == 1:
                held, dtype = self._weights.numbers(keys[0])
                self._last = (name, held.copy(), dtype)
            else:
                a, b, scale = self._factor(name)
                delta = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
                delta = delta.reshape(len(b), *a.shape[1:])
                if delta.shape != self.specs[name].shape or self.adapter.get("fan_in_fan_out"):
                    delta = delta.T
                made = _wide(self.base, name, wide_dtype(self.specs[name].dtype))
                made += delta * scale
                self._last = (name, made.reshape(-1), dtype_name(made.dtype))
        return self._last[1][begin:end], self._last[2]

    @cached_property
    def identity(self) -> str:
        """As of `Checkpoint`: the adapter's and its base's."""
        return f"{self._weights.identity}+{self.base.identity}"


def open_checkpoint(model: str | Path, *, base: str | None = None) -> Checkpoint:
    """A model's tensors, or a LoRA adapter's on its base, ready to be read one by one.

    Args:
        model: a pinned name, `hf:org/name`, or a folder, of a model or an adapter.
        base: what adapters are added to; by default the base that they name.

    Raises:
        UserError: there is no such model, or its files are not whole.
    """
    name = str(model)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from generality.models import fetch_model

        folder = fetch_model(name, adapters=True)
    if not (folder / "adapter_config.json").is_file():
        return Checkpoint(folder, name)
    named = base or _read_json(folder / "adapter_config.json", name).get("base_model_name_or_path")
    if not named:
        raise UserError(f"The adapter '{name}' does not name its base; name it with --base.")
    from generality.models.artifacts import ARTIFACTS

    if not Path(named).expanduser().is_dir() and named not in ARTIFACTS:
        if Path(named).is_absolute() or str(named).startswith("."):
            raise UserError(
                f"The base of the adapter '{name}', '{named}', is not here: name it with --base."
            )
        named = f"hf:{str(named).removeprefix('hf:')}"
    return AdaptedCheckpoint(folder, open_checkpoint(named), name)


# Writing ------------------------------------------------------------------------------------------


@dataclass
class CheckpointWriter:
    """Writes a checkpoint of known tensors in any order; the folder appears whole or not at all.

    Until `finish`, everything lies in a hidden folder beside it, where no file has the name of a
    model's. A writer with the same recipe goes on there after a kill: tensors whose content is
    what was noted of it are `done`. Another recipe begins anew.

    Args:
        folder: to appear; it must not be there yet (an empty one may).
        specs: dtype and shape of every tensor.
        recipe: all that decides the content, as JSON.
        shard_bytes: a file holds at most as much, or one tensor.
        metadata: of every file.

    Raises:
        UserError: the folder is there already, another process writes it, or the disk is too small
            for what is still to be written.

    >>> import torch
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp(), "model")
    >>> with CheckpointWriter(folder, {"w": TensorSpec("F32", (3,))}) as writer:
    ...     writer.write("w", [torch.zeros(2), torch.ones(1)])
    ...     writer.finish({"config.json": "{}"})
    >>> Checkpoint(folder)["w"]
    tensor([0., 0., 1.])
    """

    folder: Path
    specs: Mapping[str, TensorSpec]
    recipe: Any = None
    shard_bytes: int = SHARD_BYTES
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        refuse_existing(self.folder)
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self._shards = self._plan()
        self._places: dict[str, tuple[str, int]] = {}
        for file, (_, offsets) in self._shards.items():
            self._places |= {name: (file, begin) for name, begin in offsets.items()}
        self.done: set[str] = set()
        self._files: dict[str, int] = {}
        self._flusher: _Flusher | None = None

    def __enter__(self) -> CheckpointWriter:
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"'{self.folder}' cannot be made ({error.strerror}): name another place."
            ) from error
        self._lock = FileLock(self.partial / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another process is writing '{self.folder}': wait for it, or name another folder."
            ) from error
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        if self._flusher:
            self._flusher.stop()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}
        with contextlib.suppress(OSError):
            self._journal.close()
        self._lock.release()

    def write(
        self, name: str, content: Tensor | NDArray[Any] | Iterable[Tensor | NDArray[Any]]
    ) -> None:
        """One tensor, whole or as its pieces in order; it is cast to its spec's dtype.

        Raises:
            ValueError: the pieces have more or fewer numbers than the spec says.
        """
        spec, (file, at) = self.specs[name], self._places[name]
        digest, end, descriptor = xxhash.xxh3_128(), at + spec.bytes, self._files[file]
        for piece in [content] if hasattr(content, "dtype") else content:
            raw = _raw(piece, spec.dtype)
            if at + len(raw) > end:
                raise ValueError(f"'{name}' got more than its {spec.size} numbers")
            digest.update(raw)
            while len(raw):
                wrote = os.pwrite(descriptor, raw, at)
                raw, at = raw[wrote:], at + wrote
        if at != end:
            raise ValueError(f"'{name}' got fewer than its {spec.size} numbers")
        self._journal.write(json.dumps([name, digest.hexdigest()]) + "\n")
        self._journal.flush()
        self.done.add(name)

    def finish(self, files: Mapping[str, str | bytes | Path]) -> None:
        """Put the other files beside the tensors (text, bytes, or a file to copy), and show all.

        Raises:
            ValueError: some tensors were not written.
        """
        if missing := self.specs.keys() - self.done:
            raise ValueError(f"not written yet: {sorted(missing)[:3]}")
        if self._flusher:
            self._flusher.stop()
        for file, descriptor in self._files.items():
            os.fsync(descriptor)
            os.replace(self.partial / f"{file}.unfinished", self.partial / file)
        if len(self._shards) > 1:
            index = {
                "metadata": {"total_size": sum(spec.bytes for spec in self.specs.values())},
                "weight_map": {name: self._places[name][0] for name in self.specs},
            }
            files = {**files, INDEX: json.dumps(index, indent=2) + "\n"}
        for name, content in files.items():
            target = self.partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content.encode() if isinstance(content, str) else content)
        self._journal.close()
        for name in ("recipe.json", "journal.jsonl", "lock"):
            (self.partial / name).unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()
        os.replace(self.partial, self.folder)

    def _plan(self) -> dict[str, tuple[bytes, dict[str, int]]]:
        """Every file's header, and where in it each tensor's content begins."""
        groups: list[list[str]] = [[]]
        room = self.shard_bytes
        for name, spec in self.specs.items():
            if groups[-1] and spec.bytes > room:
                groups.append([])
                room = self.shard_bytes
            groups[-1].append(name)
            room -= spec.bytes
        planned = {}
        for number, names in enumerate(groups, 1):
            # wide types first, so that every tensor begins at a multiple of its element's size
            names = sorted(names, key=lambda name: -self.specs[name].itemsize)
            header: dict[str, Any] = {"__metadata__": dict(self.metadata)}
            at, offsets = 0, {}
            for name in names:
                spec = self.specs[name]
                header[name] = {
                    "dtype": spec.dtype, "shape": list(spec.shape),
                    "data_offsets": [at, at + spec.bytes],
                }  # fmt: skip
                offsets[name], at = at, at + spec.bytes
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            raw = len(text).to_bytes(8, "little") + text
            of = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
            placed = {name: len(raw) + begin for name, begin in offsets.items()}
            planned[f"model{of}.safetensors"] = (raw, placed)
        return planned

    def _begin(self) -> None:
        """Go on with what is there of the same recipe, or start anew; say if the disk is full."""
        wanted = json.dumps([self.recipe, [raw.hex() for raw, _ in self._shards.values()]])
        wanted = xxhash.xxh3_128(wanted.encode()).hexdigest()
        recipe, journal = self.partial / "recipe.json", self.partial / "journal.jsonl"
        if not recipe.is_file() or recipe.read_text() != wanted:
            for path in self.partial.iterdir():
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._check_disk()
        for file, (raw, places) in self._shards.items():
            path = self.partial / f"{file}.unfinished"
            if (self.partial / file).exists():  # killed while it was finishing
                os.replace(self.partial / file, path)
            length = max(
                [len(raw), *(begin + self.specs[name].bytes for name, begin in places.items())]
            )
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self._files[file] = descriptor
            os.ftruncate(descriptor, length)
            os.pwrite(descriptor, raw, 0)
        if journal.is_file():
            self.done = {
                name for name, digest in _whole_lines(journal) if self._content(name) == digest
            }
        recipe.write_text(wanted)
        self._journal = journal.open("a")
        self._flusher = _Flusher(list(self._files.values()))

    def _content(self, name: str) -> str | None:
        """The digest of a tensor as it lies on the disk."""
        if name not in self._places:
            return None
        (file, begin), digest = self._places[name], xxhash.xxh3_128()
        for at in range(begin, end := begin + self.specs[name].bytes, 1 << 22):
            digest.update(os.pread(self._files[file], min(1 << 22, end - at), at))
        return digest.hexdigest()

    def _check_disk(self) -> None:
        there = sum(path.stat().st_blocks * 512 for path in self.partial.glob("*.*"))
        needed = sum(spec.bytes for spec in self.specs.values()) + 16_000_000 - there
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise UserError(
                f"The result needs {needed / 1e9:.2f} GB and the disk of '{self.folder}' has "
                f"{free / 1e9:.2f} GB free: free some, or name a folder on another disk."
            )


def refuse_existing(folder: Path) -> None:
    """Raises a `UserError` where there is something already."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"'{folder}' is there already: remove it, or name another folder.")


class _Flusher:
    """Has the system bring to the disk what was written, while more is computed."""

    def __init__(self, descriptors: list[int]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(descriptors,), daemon=True)
        self._thread.start()

    def _run(self, descriptors: list[int]) -> None:
        while not self._ended.wait(0.2):
            for descriptor in descriptors:
                with contextlib.suppress(OSError):  # the last one, in `finish`, is not excused
                    os.fdatasync(descriptor)

    def stop(self) -> None:
        """Wait for it to end."""
        self._ended.set()
        self._thread.join()


# Files --------------------------------------------------------------------------------------------


def _files(folder: Path, name: str) -> dict[Path, set[str] | None]:
    """The files with a model's tensors, and the names that an index says are in each."""
    if (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX, name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"The index of '{name}' has no weight_map; fetch or save it again.")
        files: dict[Path, set[str] | None] = {}
        for tensor, file in weight_map.items():
            if not (folder / file).is_file():
                raise UserError(
                    f"The shard {file} of '{name}' is missing ('{tensor}' is in it). Fetch the "
                    "model again, or copy that file to its folder."
                )
            files.setdefault(folder / file, set()).add(tensor)  # type: ignore[union-attr]
        return files
    if (folder / "model.safetensors").is_file():
        return {folder / "model.safetensors": None}
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1 and "-of-" not in found[0].name:
        return {found[0]: None}
    if found:
        raise UserError(
            f"'{name}' has shards ({found[0].name}, …) without their index {INDEX}: fetch the "
            "model again, or copy that file to its folder."
        )
    pickles = any(folder.glob("*.bin"))
    raise UserError(
        f"The model '{name}' has no safetensors weights"
        + (", and pickled ones are not read, because a pickle can run any code" if pickles else "")
        + ". Convert it to safetensors first (save_pretrained does)."
    )


def _header(file: Path, name: str) -> tuple[dict[str, Any], int]:
    """Names, types, shapes and places in a safetensors file, and where the content begins."""
    size = file.stat().st_size
    broken = UserError(f"{file.name} of '{name}' is not a whole safetensors file: fetch it again.")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise broken
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            sizes = [
                (
                    math.prod(entry["shape"]) * numpy_dtype(entry["dtype"]).itemsize,
                    entry["data_offsets"],
                )
                for entry in header.values()
                if entry["dtype"] in DTYPES
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise broken from error
    if any(end - begin != bytes_ or begin < 0 for bytes_, (begin, end) in sizes):
        raise broken
    whole = 8 + length + max(ends, default=0)
    if whole > size:
        raise UserError(
            f"{file.name} of '{name}' is cut off: it has {size:,} of its {whole:,} bytes. Fetch "
            "or copy it again."
        )
    return header, 8 + length


def _mapped(file: Path, begin: int, spec: TensorSpec) -> Tensor:
    """A tensor on the pages of a file."""
    flat = _pages(file, begin, spec, access=mmap.ACCESS_COPY)
    return as_tensor(flat, spec.dtype, spec.shape)


def _pages(file: Path, begin: int, spec: TensorSpec, **how: int) -> NDArray[Any]:
    """The pages of a file as numbers."""
    held = numpy_dtype(spec.dtype)
    if not spec.size:
        return np.empty(0, held)
    start = begin - begin % mmap.ALLOCATIONGRANULARITY
    with file.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), begin - start + spec.bytes, offset=start, **how)
    return np.frombuffer(pages, held, count=spec.size, offset=begin - start)


def _wide(checkpoint: Checkpoint, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A whole tensor in memory of its own."""
    spec = checkpoint.specs[name]
    room = np.empty(spec.size, dtype)
    np.copyto(room, widen(*checkpoint.numbers(name), room))
    return room.reshape(spec.shape)


def _raw(content: Any, dtype: str) -> memoryview:
    """The bytes of a tensor, or an array, cast to a type."""
    held, own = stored(content)
    if own != dtype and is_floating(own):
        room = np.empty(len(held), wide_dtype(own))
        held = widen(held, own, room)
    if own != dtype:
        held = narrow(held, dtype)
    return held.view(np.uint8).data


def _whole_lines(journal: Path) -> Iterator[tuple[str, str]]:
    for line in journal.read_text().splitlines():
        with contextlib.suppress(ValueError):  # torn by a kill
            name, digest = json.loads(line)
            yield name, digest


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    return _read_json(path, name) if path.is_file() else {}


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"The {path.name} of '{name}' cannot be read: fetch it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"The {path.name} of '{name}' is not an object: fetch it again.")
    return found


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single one of"
