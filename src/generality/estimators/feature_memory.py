"""A bounded memory of labelled features that classifies by its nearest entries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from generality.errors import import_extra
from generality.estimators.test_time import checked_batch
from generality.objectives.knn_nll import neighbour_vote

_BLOCKS = 32  # equal parts of the memory that `top_columns` compares elementwise
_INDEX_FROM = 10_000  # entries below which an exact search is faster than an index
_CALIBRATION = 256  # stored entries on which an index's recall is measured


class FeatureMemory:
    """Normalised features with class labels, never more than `capacity` of them.

    What is stored before `protect` stays; later entries fill the room that is left and then
    replace the oldest of their kind. A query's score for a class is the share of its `k` most
    similar entries (cosine) with that label, weighted by softmax(similarity / temperature).

    Source: Zhang et al. 2023 (AdaNPC, arXiv 2304.12566), whose memory has no bound.

    Args:
        dim: width of the features.
        classes: labels are 0 … classes−1.
        k: neighbours that vote, at most as many as are stored. Many more than the rarest class has
            entries favour the other classes.
        temperature: of the softmax over similarities, above 0.
        capacity: most entries ever stored; `dim` · 4 + 8 bytes each, the index (if any) as much
            again.
        index: "exact" (one matrix product and a top-k) or "approximate" (an inverted file of
            faiss, the extra "index", once 10,000 entries are stored; exact below that).
        recall: share of the true neighbours that the approximate search must find, measured on
            stored entries whenever the index is built, in (0, 1).
        radius: a query that has entries at least this similar is classified by all of them
            instead of its top k, as the paper's ε-ball mode (there only if every query of a batch
            has one). None: never. Exact search only.
        device: where the entries are kept.

    >>> memory = FeatureMemory(dim=2, classes=2, k=3)
    >>> memory.add([[2.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], [0, 0, 1, 1])
    >>> memory.scores([[0.6, 0.8]])
    tensor([[0.8358, 0.1642]])
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        k: int = 100,
        temperature: float = 0.1,
        capacity: int = 100_000,
        index: Literal["exact", "approximate"] = "exact",
        recall: float = 0.96,
        radius: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if min(dim, classes, k, capacity) < 1 or temperature <= 0:
            raise ValueError("dim, classes, k and capacity are at least 1, temperature above 0")
        if index not in ("exact", "approximate") or not 0 < recall < 1:
            raise ValueError("index is 'exact' or 'approximate', recall in (0, 1)")
        if index == "approximate":
            import_extra("faiss", "index")
            if radius is not None:
                raise ValueError("a radius needs the exact search")
        self.dim, self.classes, self.k, self.temperature = dim, classes, k, temperature
        self.capacity, self.index, self.recall, self.radius = capacity, index, recall, radius
        self.device = torch.device(device)
        self._features = torch.empty(0, dim, device=self.device)
        self._labels = torch.empty(0, dtype=torch.long, device=self.device)
        self._size = self._protected = self._cursor = 0
        self._inverted: InvertedFile | None = None
        self._products: Tensor | None = None  # reused: a fresh one costs page faults

    def __len__(self) -> int:
        return self._size

    @property
    def features(self) -> Float[Tensor, "stored dim"]:
        """The stored features, of length 1."""
        return self._features[: self._size]

    @property
    def labels(self) -> Int[Tensor, " stored"]:
        """Their labels."""
        return self._labels[: self._size]

    def add(self, features: Float[Any, "n dim"], labels: Int[Any, " n"]) -> None:
        """Store features with their labels, replacing the oldest unprotected ones when full.

        Raises:
            UnusableFeatures: for NaN or infinite features or a wrong width; nothing is stored.
            ValueError: for labels that do not fit, or when all of the capacity is protected.
        """
        rows = normalize(checked_batch(features, dim=self.dim, device=self.device), dim=-1)
        known = torch.as_tensor(labels, dtype=torch.long, device=self.device)
        if known.shape != (len(rows),):
            raise ValueError(f"{len(rows)} features need as many labels, not {tuple(known.shape)}")
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < self.classes:
            raise ValueError(f"labels are 0 … {self.classes - 1}")
        room = self.capacity - self._protected
        if room == 0 and len(rows):
            raise ValueError(
                f"all {self.capacity} entries are protected: give the memory a larger capacity"
            )
        rows, known = rows[-room:], known[-room:]
        offsets = (self._cursor + torch.arange(len(rows), device=self.device)) % max(room, 1)
        slots = self._protected + offsets
        size = min(self.capacity, max(self._size, self._protected + self._cursor + len(rows)))
        self._reserve(size)
        self._features[slots], self._labels[slots] = rows, known
        self._size, self._cursor = size, (self._cursor + len(rows)) % max(room, 1)
        if self._inverted is not None:
            self._inverted.put(slots.cpu().numpy(), rows.cpu().numpy())

    def protect(self) -> None:
        """Keep all that is stored now: never replaced, and what `reset` goes back to."""
        self._protected, self._cursor = self._size, 0

    def reset(self) -> None:
        """Forget all that was added since `protect`."""
        self._size, self._cursor, self._inverted = self._protected, 0, None

    def nearest(
        self, queries: Float[Any, "batch dim"], k: int | None = None
    ) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        """Cosine similarity and position of each query's most similar entries, in no order.

        An approximate search that finds too few fills up with similarity −inf and position −1.
        """
        return self._search(self._queries(queries), k or self.k)

    def scores(self, queries: Float[Any, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Each query's class distribution; differentiable in queries that require a gradient.

        Raises:
            UnusableFeatures: for NaN or infinite features or a wrong width.
            ValueError: when nothing is stored.
        """
        unit = self._queries(queries)
        similar, slots = self._search(unit.detach(), self.k)
        if unit.requires_grad:
            found = torch.einsum("bd,bkd->bk", unit, self._features[slots.clamp(min=0)])
            similar = torch.where(slots < 0, similar, found)
        votes = neighbour_vote(similar, self._labels[slots], self.classes, self.temperature)
        return votes if self.radius is None else self._ball(unit, votes)

    def state_dict(self) -> dict[str, Tensor]:
        """What is stored, as plain tensors."""
        return {
            "features": self.features.clone(),
            "labels": self.labels.clone(),
            "counts": torch.tensor([self._protected, self._cursor]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what another memory of the same width and no smaller capacity had stored."""
        features, labels = state["features"], state["labels"]
        if features.shape[1:] != (self.dim,) or len(features) > self.capacity:
            raise ValueError(
                f"a state of {len(features)} features of width {features.shape[-1]} does not fit "
                f"a memory of {self.capacity} of width {self.dim}"
            )
        self._features = features.to(self.device, torch.float32).clone()
        self._labels = labels.to(self.device).clone()
        self._size, self._inverted = len(features), None
        self._protected, self._cursor = (int(n) for n in state["counts"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inverted": None, "_products": None}

    def _queries(self, queries: Any) -> Float[Tensor, "batch dim"]:
        if self._size == 0:
            raise ValueError("the memory is empty: add labelled features first")
        checked = checked_batch(queries, dim=self.dim, device=self.device)
        differentiable = isinstance(queries, Tensor) and queries.requires_grad
        return normalize(queries if differentiable else checked, dim=-1)

    def _search(self, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
        k = min(k, self._size)
        if self.index == "approximate" and self._size >= _INDEX_FROM:
            if self._inverted is None or self._inverted.outdated:
                self._inverted = None  # first: two indices at once would exceed what was stated
                self._inverted = InvertedFile(self.features.cpu().numpy(), k, self.recall)
            similar, slots = self._inverted.search(unit.cpu().numpy(), k)
            return torch.from_numpy(similar).to(self.device), torch.from_numpy(slots).to(
                self.device
            )
        with torch.no_grad():
            return top_columns(self._product(unit), k)

    def _product(self, unit: Tensor) -> Float[Tensor, "batch stored"]:
        numbers = len(unit) * self._size
        if self._products is None or self._products.numel() < numbers:
            self._products = torch.empty(numbers, device=self.device)
        return torch.mm(unit, self.features.T, out=self._products[:numbers].view(len(unit), -1))

    def _ball(self, unit: Tensor, votes: Tensor) -> Tensor:
        assert self.radius is not None
        similar = unit @ self.features.T
        inside = similar >= self.radius
        some = inside.any(1)
        weights = (similar / self.temperature).masked_fill(~inside, -torch.inf)[some].softmax(-1)
        one_hot = torch.nn.functional.one_hot(self.labels, self.classes).to(weights)
        result = votes.clone()
        result[some] = weights @ one_hot
        return result

    def _reserve(self, size: int) -> None:
        have = len(self._features)
        if size > have:
            more = min(self.capacity, max(size, 2 * have)) - have
            self._features = torch.cat([self._features, self._features.new_empty(more, self.dim)])
            self._labels = torch.cat([self._labels, self._labels.new_zeros(more)])


def top_columns(
    values: Float[Tensor, "rows n"], k: int
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """The k largest values of each row and their columns, in no order; equal to `torch.topk`.

    On a CPU, a top-k over a wide row costs as much as the matrix product that made it. The k
    largest lie in the k groups of columns with the largest maxima, so one elementwise maximum
    leaves a top-k over few groups and one over the members of k of them.

    >>> top_columns(torch.tensor([[0.1, 0.9, 0.4]]), 1)
    (tensor([[0.9000]]), tensor([[1]]))
    """
    n = values.shape[1]
    groups = n // _BLOCKS
    if groups < 4 * k or values.device.type != "cpu":
        largest = values.topk(k, dim=1, sorted=False)
        return largest.values, largest.indices
    whole = groups * _BLOCKS
    maxima = values[:, :whole].unflatten(1, (_BLOCKS, groups)).amax(1)
    best = maxima.topk(k, dim=1, sorted=False).indices  # group g: columns g, g + groups, …
    columns = (best[:, :, None] + groups * torch.arange(_BLOCKS)).flatten(1)
    if whole < n:
        rest = torch.arange(whole, n).expand(len(values), -1)
        columns = torch.cat([columns, rest], 1)
    candidates = values.gather(1, columns)
    largest = candidates.topk(k, dim=1, sorted=False)
    return largest.values, columns.gather(1, largest.indices)


class InvertedFile:
    """faiss's inverted file over unit vectors in numbered slots, probing as many lists as needed.

    The number of lists probed is the smallest that finds `recall` of the k true neighbours of a
    sample of the stored vectors; queries unlike anything stored may find fewer.
    """

    def __init__(self, vectors: Float[NDArray[np.float32], "n dim"], k: int, recall: float) -> None:
        faiss = import_extra("faiss", "index")
        self._faiss, self._built, self._changed = faiss, len(vectors), 0
        n, dim = vectors.shape
        lists = 2 ** round(math.log2(4 * math.sqrt(n)))
        self._quantizer = faiss.IndexFlatIP(dim)
        self.index = faiss.IndexIVFFlat(self._quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        self.index.cp.niter, self.index.cp.max_points_per_centroid = 5, 32
        self.index.cp.min_points_per_centroid = 1
        self.index.train(vectors)
        self.index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self.index.add_with_ids(vectors, np.arange(n))
        self._calibrate(vectors, k, recall)

    @property
    def outdated(self) -> bool:
        """As much was put in since it was built as it was built from."""
        return self._changed >= self._built

    def put(self, slots: Int[NDArray[np.int64], " n"], vectors: NDArray[np.float32]) -> None:
        """Store vectors in these slots, in place of what was there."""
        self.index.remove_ids(self._faiss.IDSelectorArray(slots))
        self.index.add_with_ids(vectors, slots)
        self._changed += len(slots)

    def search(
        self, queries: Float[NDArray[np.float32], "batch dim"], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarity and slot of (nearly) the k most similar vectors of each query."""
        similar, slots = self.index.search(np.ascontiguousarray(queries), k)
        similar[slots < 0] = -np.inf
        return similar, slots

    def _calibrate(self, vectors: NDArray[np.float32], k: int, recall: float) -> None:
        chosen = np.random.default_rng(0).integers(len(vectors), size=_CALIBRATION)
        queries = np.ascontiguousarray(vectors[chosen])
        products = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
        least = top_columns(products, k)[0].amin(1).numpy()[:, None] - 1e-6
        low, high = 0, self.index.nlist  # lists probed: too few, enough
        while high - low > 1:
            self.index.nprobe = min((low + high) // 2, max(1, 2 * low))
            found = (self.search(queries, k)[0] >= least).mean()
            low, high = (low, self.index.nprobe) if found >= recall else (self.index.nprobe, high)
        self.index.nprobe = high
