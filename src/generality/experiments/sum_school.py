"""A pretrained language model that learns sums, for panels that show a method on a real model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generality.benchmarks import load_benchmark
from generality.benchmarks.worked_sums import WorkedSum, worked_sums
from generality.claims import Row
from generality.lab import Lab, TrainConfig
from generality.models import load_tokenizer, lora_network
from generality.models.artifacts import ARTIFACTS
from generality.training.writer import Writer

Lesson = tuple[str, str]
"""A prompt and the response that is learned."""

TUNING = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-3, warmup=0.1)


@dataclass(frozen=True)
class SumSchool:
    """Sums of reasoning-gym (no minus) and a named model that LoRA tunes on each arm's lessons.

    What a method chooses or changes is the lessons, so that any method of supervision can be shown
    here: `compare` tunes one model for each arm, from the same start, in the same order of places,
    and says what share of other sums it then gets right, writing greedily. LoRA goes to the last
    blocks alone and only its matrices are kept. One core of a small machine reads about a hundred
    tokens a second of a model of 135M parameters in training, and an arm of 24 lessons is 2,000.

    Args:
        lab: does the work, and keeps it.
        model: a model's name, or a size of `tiny_decoder` with random weights, which learns
            nothing and shows that all runs.
        terms: numbers in a sum.
        digits: of each.
        rank: of LoRA.
        last: blocks that are adapted, at the end.
        tuning: how.
        max_tokens: of an answer.

    >>> import tempfile
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> lessons, test = school.sums(4, 2, seed=0)
    >>> arms = {"worked": [(each.prompt, each.worked) for each in lessons]}
    >>> [(row["method"], row["score"]) for row in school.compare(arms, test, seed=0)]
    [('start', 0.0), ('worked', 0.0)]
    """

    lab: Lab
    model: str = "smollm2-135m"
    terms: int = 3
    digits: int = 1
    rank: int = 8
    last: int = 10
    tuning: TrainConfig = TUNING
    max_tokens: int = 40

    def sums(self, lessons: int, test: int, *, seed: int) -> tuple[list[WorkedSum], ...]:
        """So many sums to learn from, and others to be tested on."""
        found = worked_sums(lessons + test, seed, terms=self.terms, digits=self.digits)
        return found[:lessons], found[lessons:]

    @functools.cached_property
    def start(self) -> Writer:
        """The model as it is."""
        if self.model[0].isdigit() and self.model not in ARTIFACTS:
            return Writer.tiny(self.model)
        network = lora_network(self.model, rank=self.rank, last=self.last)
        return Writer(network, None, load_tokenizer(self.model))

    def taught(
        self, lessons: Sequence[Lesson], seed: int, *, start: Writer | None = None, **changes: Any
    ) -> Writer:
        """The model after these lessons; `changes` are of `tuning`."""
        tuning = replace(self.tuning, **changes)
        pairs = zip(*lessons, strict=True)
        return (start or self.start).tuned(self.lab, *pairs, config=tuning, seed=seed)

    def share_right(
        self, writer: Writer, test: Sequence[WorkedSum], prompts: Sequence[str] | None = None
    ) -> float:
        """Of greedy answers to these prompts; None: to the sums' own."""
        asked = [each.prompt for each in test] if prompts is None else prompts
        said = writer.write(self.lab, asked, max_tokens=self.max_tokens)
        return float(np.mean([e.check(text) for e, (text,) in zip(test, said, strict=True)]))

    def compare(
        self, arms: Mapping[str, Sequence[Lesson]], test: Sequence[WorkedSum], seed: int
    ) -> Iterator[Row]:
        """A row of each arm, `start` (no lessons) first: share right, lessons, tokens read."""
        yield Row(method="start", seed=seed, score=self.share_right(self.start, test),
                  examples=0, tokens=0)  # fmt: skip
        for method, lessons in arms.items():
            tuned = self.taught(lessons, seed)
            yield Row(
                method=method, seed=seed, score=self.share_right(tuned, test),
                examples=len(lessons), tokens=tuned.training.tokens if tuned.training else 0,
            )  # fmt: skip

    def logprobs(
        self, writer: Writer, prompts: Sequence[str], responses: Sequence[str]
    ) -> list[float]:
        """Mean log-probability of each response's tokens, in nats; kept, 32 pairs at a time."""
        return [
            each
            for place in range(0, len(prompts), 32)
            for each in writer.logprobs(
                self.lab, prompts[place : place + 32], responses[place : place + 32]
            )
        ]

    def continued(self, writer: Writer, texts: Sequence[str]) -> float:
        """Mean log-probability of a token of texts after their first five words, in nats."""
        begun = [" ".join(text.split()[:5]) for text in texts]
        rest = [" ".join(text.split()[5:]) for text in texts]
        return float(np.mean(self.logprobs(writer, begun, rest)))

    def as_long(self, lessons: Sequence[Lesson], as_these: Sequence[Lesson]) -> list[Lesson]:
        """The lessons over again, as often as makes as many tokens as the others have.

        To the nearest lesson; at least one.
        """
        room = sum(map(self._tokens, as_these))
        found: list[Lesson] = []
        read = 0
        while not found or read + self._tokens(lessons[len(found) % len(lessons)]) / 2 <= room:
            found.append(lessons[len(found) % len(lessons)])
            read += self._tokens(found[-1])
        return found

    def _tokens(self, lesson: Lesson) -> int:
        return len(self.start.tokenizer(" ".join(lesson))["input_ids"]) + 1


def after_solved(prompt: str, said: str, question: str) -> str:
    """A question after one that was answered, for a model that continues texts."""
    return f"{prompt} {said}\n\n{question}"


def other_texts(benchmark: str, count: int) -> list[str]:
    """Beginnings of 40 words of a benchmark's test texts, which have nothing to do with sums."""
    texts = load_benchmark(benchmark).splits["test"]["text"][:count]
    return [" ".join(text.split()[:40]) for text in texts]
