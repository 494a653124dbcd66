"""Reading PyTorch's distributed checkpoints without unpickling what they say, one tensor at a time.

A distributed checkpoint keeps its table of contents in a pickle, `.metadata`. Here it goes through
an unpickler that knows the classes of such a table and refuses everything else; tensors and other
entries are read by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from generality.errors import UserError

if TYPE_CHECKING:  # importing it takes a second
    from torch.distributed.checkpoint.metadata import Metadata

_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath"},
}  # fmt: skip


class DcpCheckpoint:
    """A folder that `torch.distributed.checkpoint.save` wrote, from any number of processes.

    Args:
        folder: with `.metadata` and `*.distcp` files.

    Raises:
        UserError: no such checkpoint; a table of contents with anything that does not belong
            there; a file that is missing or too short (named).

    >>> import tempfile
    >>> import torch.distributed.checkpoint as dcp
    >>> folder = tempfile.mkdtemp()
    >>> _ = dcp.save({"model": {"w": torch.ones(2)}, "step": 3}, checkpoint_id=folder, no_dist=True)
    >>> checkpoint = DcpCheckpoint(folder)
    >>> {".".join(map(str, path)): checkpoint.read(key) for key, path in checkpoint.paths.items()}
    {'model.w': tensor([1., 1.]), 'step': 3}
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.metadata = self._contents()
        mappings = self.metadata.planner_data or {}
        self.paths: dict[str, tuple[str | int, ...]] = {
            key: tuple(mappings.get(key, (key,))) for key in self.metadata.state_dict_metadata
        }
        for info in self.metadata.storage_data.values():
            self._check(info)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def is_tensor(self, key: str) -> bool:
        """Whether this entry is a tensor rather than a number, a text, a list."""
        return hasattr(self.metadata.state_dict_metadata[key], "chunks")

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        every: list[Any] = list(self.metadata.state_dict_metadata.values())
        tensors = [each for each in every if hasattr(each, "chunks")]
        return sum(each.size.numel() * each.properties.dtype.itemsize for each in tensors)

    def read(self, key: str) -> Any:
        """One entry; a tensor is put together from the pieces that processes wrote.

        Raises:
            UserError: a piece is missing, or overlaps another so that numbers are left out.
        """
        from torch.distributed.checkpoint.metadata import MetadataIndex

        about: Any = self.metadata.state_dict_metadata[key]
        if not self.is_tensor(key):
            return self._load(MetadataIndex(key), key)
        whole = torch.empty(about.size, dtype=about.properties.dtype)
        covered = 0
        for chunk in about.chunks:
            piece: Tensor = self._load(MetadataIndex(key, chunk.offsets), key)
            if piece.shape != torch.Size(chunk.sizes):
                raise UserError(
                    f"{self.folder}: a piece of '{key}' has the shape {list(piece.shape)}, its "
                    f"table of contents says {list(chunk.sizes)}. The checkpoint is damaged."
                )
            place = whole
            for dim, (start, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                place = place.narrow(dim, start, size)
            place.copy_(piece)
            covered += piece.numel()
        if covered != whole.numel():
            raise UserError(
                f"{self.folder}: the pieces of '{key}' hold {covered} of {whole.numel()} numbers. "
                "The checkpoint is incomplete; save it again."
            )
        return whole

    def _contents(self) -> Metadata:
        from torch.distributed.checkpoint.metadata import Metadata

        file = self.folder / ".metadata"
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder} has no .metadata file, so it is no distributed checkpoint of "
                "PyTorch, or one whose saving did not end."
            ) from error
        try:
            found = _Restricted(io.BytesIO(data)).load()
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        except Exception as error:
            raise UserError(
                f"{file} cannot be read ({error}). Copy the checkpoint anew."
            ) from error
        if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
            raise UserError(f"{file} holds no table of contents of a distributed checkpoint.")
        return found

    def _check(self, info: Any) -> None:
        file = self.folder / info.relative_path
        if not file.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.folder} names a file outside of itself: {info.relative_path}.")
        if not file.is_file():
            raise UserError(
                f"{self.folder} lacks the file {info.relative_path}, which a process wrote: copy "
                "the files of every node."
            )
        if file.stat().st_size < info.offset + info.length:
            raise UserError(f"{file} is too short: it was not copied or written whole.")

    def _load(self, index: Any, key: str) -> Any:
        info = self.metadata.storage_data.get(index)
        if info is None:
            raise UserError(f"{self.folder}: a piece of '{key}' is in none of its files.")
        if getattr(info, "transform_descriptors", None):
            raise UserError(f"{self.folder}: '{key}' is compressed, which is not supported.")
        with (self.folder / info.relative_path).open("rb") as file:
            file.seek(info.offset)
            data = file.read(info.length)
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{self.folder}: '{key}' holds more than tensors, numbers, texts, lists and "
                f"dictionaries, and nothing else is unpickled ({str(error).splitlines()[0]})."
            ) from error


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The classes of a table of contents, and data types; nothing else."""
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and (
            name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return getattr(torch, name)
        raise UserError(f"it asks for {module}.{name}, which no table of contents needs; refused")
