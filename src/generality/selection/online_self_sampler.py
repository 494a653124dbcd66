"""A language model that finds more solutions to learn from while it is trained."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.models.generation import generate_texts
from generality.models.prompt_response import encode_response, joined
from generality.objectives.multi_target import MultiTargetLoss
from generality.selection.solution_buffer import SolutionBuffer, Status, Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ROUNDS = 1_000_000  # seeds of one sampler's draws, one per round


class OnlineSelfSampler(nn.Module):
    """Wraps a causal language model; called with rows, it samples, keeps what is right, and learns.

    One call does what a step of the paper does for a batch of problems: draws a known-good
    beginning for each, lets the model go on from it (without gradient), offers the programs to the
    problems' buffers, and returns the loss over everything the buffers then hold. Parameters are
    the model's, so any loop trains it: `sampler(rows).backward()`, or `lab.train` with
    `sampler.examples()` and loss None (micro-batches of a whole batch, as losses are per problem).

    Costs beside a step of ordinary training: the writing, and one forward and backward pass over
    all targets instead of one. `every` gathers the writing of many steps into one large batch.

    Source: Ni et al. 2023 (arXiv 2205.14318), algorithm 1. Differences: the loss is over the
    program alone (`context=True` adds the problem's text, counted once per target as the released
    code does); buffers live in one process, so nothing is merged between workers.

    Args:
        model: to train.
        tokenizer: its tokenizer.
        prompts: the problems' texts.
        buffers: what is known of each; they grow.
        loss: over the targets of each problem.
        samples: drawn per problem and round; 0: learn from what the buffers hold, sample nothing.
        temperature: of the draws.
        max_tokens: of one continuation.
        guided: begin half-way through known-good programs; False: always from the start.
        most: targets per problem in one step.
        every: steps from one round of sampling for all problems to the next; None: in each step,
            for its problems only, as the paper does.
        context: whether the loss is over the problem's text as well.
        batch_size: programs written together.
        seed: of the draws.

    Raises:
        ValueError: prompts and buffers are not as many.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer(["answer", "x"])
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> buffers = [SolutionBuffer("x = 2 * 3 ; answer = x + 1", separator=" ; ")]
    >>> sampler = OnlineSelfSampler(model, tokenizer, ["2 * 3 + 1 ?"], buffers, max_tokens=8)
    >>> sampler(torch.tensor([0])).backward()
    >>> sampler.sampled, sampler.counts.total()
    (1, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Sequence[str],
        buffers: Sequence[SolutionBuffer],
        *,
        loss: MultiTargetLoss | None = None,
        samples: int = 1,
        temperature: float = 0.8,
        max_tokens: int = 100,
        guided: bool = True,
        most: int = 10,
        every: int | None = None,
        context: bool = False,
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(prompts) != len(buffers):
            raise ValueError(f"{len(prompts)} prompts and {len(buffers)} buffers")
        self.model, self.loss = model, loss or MultiTargetLoss()
        self.tokenizer, self.prompts, self.known = tokenizer, prompts, buffers
        self.samples, self.guided, self.every = samples, guided, every
        self.most, self.context, self.seed = most, context, seed
        self.writing: dict[str, Any] = {
            "temperature": temperature, "max_tokens": max_tokens, "batch_size": batch_size,
        }  # fmt: skip
        self.counts: Counter[Status] = Counter()
        self.sampled = 0
        self._rng = random.Random(seed)
        self._rounds = self._steps = 0
        self._encoded: dict[tuple[int, Target], tuple[list[int], int]] = {}

    def examples(self) -> list[dict[str, int]]:
        """One example per problem, for `lab.train`: its row, which also counts as its label."""
        return [{"rows": row, "labels": row} for row in range(len(self.prompts))]

    def forward(
        self, rows: Int[Tensor, " batch"], labels: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Sample for these problems (or, every so often, for all), then their loss."""
        if self.samples and self.every is None:
            self.sample(rows.tolist())
        elif self.samples and self._steps % (self.every or 1) == 0:
            self.sample(range(len(self.prompts)))
        self._steps += 1
        return self.learn(rows.tolist())

    def sample(self, rows: Sequence[int]) -> Counter[Status]:
        """Write programs for these problems, offer them to their buffers; what became of them."""
        rows = [row for row in rows for _ in range(self.samples)]
        begun = [self.known[row].prefix(self._rng) if self.guided else "" for row in rows]
        begun = [
            f"{text}{self.known[row].separator}" if text else ""
            for row, text in zip(rows, begun, strict=True)
        ]
        training = self.model.training
        self.model.eval()
        written = generate_texts(
            self.model, self.tokenizer,
            [joined(self.prompts[row], text)[0] for row, text in zip(rows, begun, strict=True)],
            seed=self.seed * _ROUNDS + self._rounds, **self.writing,
        )  # fmt: skip
        self.model.train(training)
        programs = [before + after for before, after in zip(begun, written, strict=True)]
        found = Counter(self._offered(rows, programs))
        self._rounds += 1
        self.sampled += len(rows)
        self.counts += found
        return found

    def _offered(self, rows: Sequence[int], programs: list[str]) -> list[Status]:
        tracers = {id(self.known[row].tracer) for row in rows}
        if len(tracers) > 1:
            return [self.known[row].offer(p) for row, p in zip(rows, programs, strict=True)]
        traces = self.known[rows[0]].tracer.many(programs) if rows else []
        return [self.known[row].offer_trace(t) for row, t in zip(rows, traces, strict=True)]

    def learn(self, rows: Sequence[int]) -> Float[Tensor, ""]:
        """The loss over what the buffers of these problems hold."""
        groups, encoded = [], []
        for group, row in enumerate(rows):
            for target in self.known[row].targets(self.most, rng=self._rng):
                groups.append(group)
                encoded.append(self._encode(row, target))
        place = next(self.model.parameters()).device
        width = max(len(tokens) for tokens, _ in encoded)
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([row + [pad] * (width - len(row)) for row, _ in encoded])
        at = torch.arange(width)
        ends = torch.tensor([len(row) for row, _ in encoded])[:, None]
        starts = torch.tensor([0 if self.context else start for _, start in encoded])[:, None]
        tokens, attention = tokens.to(place), (at < ends).long().to(place)
        counted = ((at >= starts) & (at < ends))[:, 1:].to(place)
        logits = self.model(input_ids=tokens, attention_mask=attention).logits[:, :-1].float()
        logps = -nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        loss: Tensor = self.loss(logps, torch.tensor(groups, device=place), counted)
        return loss

    def _encode(self, row: int, target: Target) -> tuple[list[int], int]:
        """Tokens and where the program begins; only a full program is followed by an end."""
        if (row, target) not in self._encoded:
            self._encoded[row, target] = encode_response(
                self.tokenizer, self.prompts[row], target.text, eos=target.full
            )
        return self._encoded[row, target]
