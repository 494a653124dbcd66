"""G-Vendi: how many directions a data set's gradients take in a proxy model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.projected_gradients import ProjectedGradients
from generality.measures.vendi import StreamingVendi
from generality.models.prompt_response import IGNORED, encode_response, response_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Records = Iterable[Mapping[str, Any]]
_WINDOW = 256  # examples that are sorted by length together


class GVendi:
    """The effective number of gradient directions among examples, before any training on them.

    An example's direction is the gradient of −log P(response | prompt) under a fixed proxy, at its
    linear layers, projected to `dim` numbers and made a unit vector; the score is the Vendi score
    of these vectors, between 1 and min(examples, dim). Compare sets of equal size. It does not see
    whether a response is right: check that first, since junk is far from everything.

    Examples are read in order and in windows of 256, so that an iterable which does not fit into
    memory will do; `score` holds one window and a (dim, dim) matrix.

    Args:
        proxy: a causal language model of transformers; it is put in eval mode. It need not be the
            model that will be trained. An instruction-tuned one is better than a base model.
        tokenizer: the proxy's.
        dim: numbers of a projection.
        seed: of the projection: the same for all sets that are compared.
        side: see `ProjectedGradients`.
        layers: a regular expression that layers' names must contain, such as r"layers\\.2[0-9]";
            "" all linear layers.
        columns: names of the prompt and the response in a record.
        max_length: tokens; longer examples are cut at their end and counted. None: what the
            proxy's configuration allows.
        batch_tokens: padded tokens of a forward pass, at most (a longer example is one alone).

    Attributes:
        cut: how many examples were cut so far.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 3. There all parameters' gradients are
    projected densely, and normalised before it; a scale before a linear projection goes away when
    the projection itself is normalised, so that only the latter is done.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> metric = GVendi(tiny_decoder("0.05M", vocabulary=len(tokenizer)), tokenizer, dim=64)
    >>> same = [{"prompt": "a = 1 ; a ?", "response": "=> 1"}] * 3
    >>> round(metric.score(same), 3), metric.score([*same, {"prompt": "b", "response": "c"}]) > 1.1
    (1.0, True)
    """

    def __init__(
        self,
        proxy: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        dim: int = 1024,
        *,
        seed: int = 0,
        side: int = 128,
        layers: str = "",
        columns: tuple[str, str] = ("prompt", "response"),
        max_length: int | None = None,
        batch_tokens: int = 2048,
    ) -> None:
        self.tokenizer, self.dim, self.columns = tokenizer, dim, columns
        config = getattr(proxy, "config", None)
        self.max_length = max_length or getattr(config, "max_position_embeddings", None)
        self.batch_tokens, self.cut = batch_tokens, 0
        self.proxy = proxy.eval()
        self.project = ProjectedGradients(
            proxy, response_nll, dim=dim, seed=seed, side=side, layers=layers
        )

    def batches(self, ds: Records) -> Iterator[Float[Tensor, "window dim"]]:
        """Unit vectors of up to 256 examples at a time, in order, on the CPU.

        An example without a response token (empty, or cut away) is a row of zeros.
        """
        rows: Any = ds
        records = iter(rows.to_dict("records") if hasattr(rows, "iloc") else rows)  # a DataFrame's
        while window := list(islice(records, _WINDOW)):
            yield self._window(window)

    def features(self, ds: Records) -> Float[Tensor, "n dim"]:
        """Unit vectors of all examples."""
        return torch.cat([torch.empty(0, self.dim), *self.batches(ds)])

    def score(self, ds: Records, *, q: float = 1.0) -> float:
        """The Vendi score of order q. Raises ValueError without examples."""
        stream = StreamingVendi(self.dim)
        for rows in self.batches(ds):
            stream.update(rows[rows.any(1)])
        return stream.compute(q)

    def _window(self, records: list[Mapping[str, Any]]) -> Tensor:
        prompt, response = self.columns
        if lacking := [name for name in self.columns if name not in records[0]]:
            raise ValueError(f"the records have no {' and no '.join(lacking)}: name the columns")
        encoded = [encode_response(self.tokenizer, r[prompt], r[response]) for r in records]
        limit = self.max_length or max(len(tokens) for tokens, _ in encoded)
        self.cut += sum(len(tokens) > limit for tokens, _ in encoded)
        rows = sorted(range(len(encoded)), key=lambda row: len(encoded[row][0]))
        found = torch.zeros(len(encoded), self.dim)
        while rows:
            longest = min(len(encoded[rows[-1]][0]), limit)
            size = max(1, self.batch_tokens // longest)
            taken, rows = rows[-size:], rows[:-size]
            batch = _batch([(encoded[row][0][:limit], encoded[row][1]) for row in taken])
            place = next(self.proxy.parameters()).device
            batch = {name: column.to(place) for name, column in batch.items()}
            found[taken] = nn.functional.normalize(self.project(batch), dim=1).cpu()
        return found


def response_nll(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """−log P of each row's labels in nats, summed; the model shifts them as transformers' do."""
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(labels.shape).sum(1)


def _batch(encoded: list[tuple[list[int], int]]) -> dict[str, Tensor]:
    """Padded on the right with token 0, which nothing before it can see."""

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        columns = [torch.tensor(row) for row in rows]
        return nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=fill)

    tokens = [tokens for tokens, _ in encoded]
    return {
        "input_ids": padded(tokens, 0),
        "attention_mask": padded([[1] * len(row) for row in tokens], 0),
        "labels": padded([response_labels(*each) for each in encoded], IGNORED),
    }
