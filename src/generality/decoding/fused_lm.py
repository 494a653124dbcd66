"""A language model made of a large one and small experts, fused at every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from generality.decoding.fusion_processor import FusionLogitsProcessor
from generality.decoding.logit_fusion import FusionStrategy, StaticFusion, fuse_weighted
from generality.decoding.members import Members
from generality.decoding.same_vocabulary import check_same_vocabulary
from generality.errors import UserError

IGNORED = -100


@dataclass(frozen=True)
class ResponseScore:
    """How well a model foresees given tokens, one entry for each label that counts.

    Attributes:
        logprobs: of the labels, in nats.
        correct: whether the label was the likeliest token.
        weights: of the experts, there.
        rows: the sequence each entry belongs to.
    """

    logprobs: Float[Tensor, " labels"]
    correct: Bool[Tensor, " labels"]
    weights: Float[Tensor, "labels experts"]
    rows: Int[Tensor, " labels"]

    @property
    def loss(self) -> float:
        """Mean negative log-probability, in nats per token."""
        return -float(self.logprobs.mean())

    @property
    def accuracy(self) -> float:
        """Share of labels that were the likeliest token."""
        return float(self.correct.float().mean())

    @property
    def exact(self) -> float:
        """Share of sequences of which every label was the likeliest token."""
        wrong = self.rows[~self.correct].unique()
        return 1.0 - len(wrong) / max(len(self.rows.unique()), 1)


class FusedCache:
    """The caches of all models, handled as one."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self.caches = list(caches)

    def get_seq_length(self) -> int:
        """Tokens that it holds."""
        return int(self.caches[0].get_seq_length())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        for cache in self.caches:
            cache.batch_select_indices(indices)


class FusedCausalLM(nn.Module):
    """A large frozen model whose logits move as experts moved from their bases, token by token.

    It is called as a causal language model of transformers is, and writes through the large
    model's own `generate`. Every model keeps a cache of its own; one that is the base of several
    experts, or both large and base, runs once. Gradients reach the models whose parameters want
    them, which is how UniR trains a reasoner beside a frozen backbone.

    Source: Fan et al. 2024 (arXiv 2406.15480); Liu et al. 2024 (arXiv 2401.08565); Kim et al. 2025
    (arXiv 2505.19075).

    Args:
        large: the model that is moved, of transformers.
        experts: tuned small models, with the tokens of the large one.
        bases: what each was tuned from; None for an expert whose logits are added as they are.
        strategy: `StaticFusion(1.0)` unless given.

    >>> from generality.decoding import KLMatchedFusion
    >>> from generality.models import tiny_decoder
    >>> large, base, tuned = (tiny_decoder("0.05M", seed, vocabulary=60) for seed in range(3))
    >>> fused = FusedCausalLM(large, [tuned], [base], KLMatchedFusion())
    >>> fused.generate(torch.tensor([[1, 7, 9]]), max_new_tokens=4, do_sample=False).shape
    torch.Size([1, 7])
    """

    def __init__(
        self,
        large: nn.Module,
        experts: Sequence[nn.Module],
        bases: Sequence[nn.Module | None] | None = None,
        strategy: FusionStrategy | None = None,
    ) -> None:
        super().__init__()
        bases = [None] * len(experts) if bases is None else list(bases)
        if not experts or len(experts) != len(bases):
            raise ValueError(f"{len(experts)} experts and {len(bases)} bases")
        self.members = Members([large, *experts, *bases])
        self.experts = len(experts)
        self.strategy = strategy or StaticFusion()

    @classmethod
    def load(
        cls, large: str, experts: Sequence[tuple[str, str | None]],
        strategy: FusionStrategy | None = None, *, device: str = "auto",
    ) -> FusedCausalLM:  # fmt: skip
        """Models by name, as in `load_model`; each name is loaded once.

        Args:
            large: the model that is moved.
            experts: of each its name and that of its base, or None.

        Raises:
            UserError: a model cannot be had, does not write text, or has other tokens.
        """
        from generality.models import load_model, load_tokenizer

        names = dict.fromkeys([large, *(name for pair in experts for name in pair if name)])
        tokenizers = {name: load_tokenizer(name) for name in names}
        check_same_vocabulary(tokenizers)
        models: dict[str, Any] = {name: load_model(name, device=device) for name in names}
        for name, model in models.items():
            if not hasattr(model, "generate"):
                raise UserError(f"The model '{name}' does not write text.")
            known, told = model.get_input_embeddings().num_embeddings, tokenizers[name].vocab_size
            if known < told:
                raise UserError(
                    f"The model '{name}' knows {known} tokens and its tokenizer {told}: save the "
                    "tokenizer it was trained with beside it."
                )
        bases = [models[base] if base else None for _, base in experts]
        return cls(models[large], [models[name] for name, _ in experts], bases, strategy).eval()

    @property
    def large(self) -> Any:
        """The model that is moved."""
        return self.members.models[0]

    @property
    def config(self) -> Any:
        """The large model's configuration."""
        return self.large.config

    @property
    def generation_config(self) -> Any:
        """The large model's settings for writing, such as the tokens that end a text."""
        return getattr(self.large, "generation_config", None)

    @property
    def device(self) -> torch.device:
        """Where tokens go: the large model's device."""
        return next(self.large.parameters()).device

    def new_cache(self) -> FusedCache:
        """An empty cache for `past_key_values`."""
        return FusedCache(self.members.new_caches())

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all_tokens"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: FusedCache | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> Any:
        """Fused logits, as a `CausalLMOutputWithPast`; the loss too where there are labels.

        `position_ids` and `use_cache` are accepted and not needed: positions follow from the mask,
        and a cache is used where one is given.
        """
        from transformers.modeling_outputs import CausalLMOutputWithPast

        logits, _weights = self._fused(input_ids, attention_mask, past_key_values, logits_to_keep)
        loss = None
        if labels is not None:
            flat = logits[:, :-1].flatten(0, 1)
            loss = nn.functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORED)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        **options: Any,
    ) -> Any:
        """The large model's `generate`, with the experts in a logits processor.

        Prompts of different lengths are padded on the left. Greedy, sampled and beam search work,
        as do streamers, stopping criteria and further processors, which see the fused logits.
        """
        more = options.pop("logits_processor", [])
        processor = FusionLogitsProcessor(
            [self.members.model(1 + t) for t in range(self.experts)],
            [self.members.model(1 + self.experts + t) for t in range(self.experts)],
            self.strategy, attention_mask=attention_mask, large=self.large,
        )  # fmt: skip
        return self.large.generate(
            input_ids, attention_mask=attention_mask, logits_processor=[processor, *more], **options
        )

    @torch.inference_mode()
    def score(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        labels: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
    ) -> ResponseScore:
        """How well the fused model foresees given tokens: one pass of each model over a batch.

        Labels are the tokens themselves, −100 where they do not count, padded on the right; the
        first one never counts, as nothing comes before it. Memory: the logits of every model at
        the labels that any row has.
        """
        columns = (labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
        logits, weights = self._fused(input_ids, attention_mask, None, columns)
        wanted = labels[:, columns + 1]
        counted = wanted != IGNORED
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(wanted)[counted]
        logits, wanted = logits[counted], wanted[counted]
        logprobs = logits.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
        return ResponseScore(logprobs, logits.argmax(-1) == wanted, weights[counted], rows)

    def _fused(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: FusedCache | None,
        keep: int | Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits and weights, (batch, kept tokens, …)."""
        before = cache.get_seq_length() if cache is not None else 0
        if attention_mask is None:
            shape = len(input_ids), before + input_ids.shape[1]
            attention_mask = input_ids.new_ones(shape)
        found = self.members(input_ids, attention_mask, cache and cache.caches, keep)
        flat: list[Any] = [None if each is None else each.flatten(0, 1) for each in found]
        logits, weights = fuse_weighted(
            flat[0], flat[1 : 1 + self.experts], flat[1 + self.experts :], self.strategy
        )
        kept = len(input_ids), -1
        return logits.unflatten(0, kept), weights.unflatten(0, kept)
