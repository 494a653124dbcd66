"""Pools of right responses from several sources: styles of solving chains, or your own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from generality.benchmarks import load_benchmark
from generality.benchmarks.worlds import STYLES, Chain, ChainPrograms, solution
from generality.errors import UserError
from generality.selection.judge import Judge, NumberMatch, WorldCheck
from generality.selection.response_pool import ResponsePool
from generality.selection.training_files import read_records

Tests = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Prompts and answers by name; "score" is the main one."""


class PoolSource(Protocol):
    """Where a study of choosing among responses has them from."""

    @property
    def judge(self) -> Judge:
        """Whether a response is right."""

    @property
    def tests(self) -> Tests:
        """What is tested on; no prompt of a pool is among them."""

    def pool(self, seed: int, count: int) -> ResponsePool:
        """Right responses to about `count` prompts, drawn by the seed."""


@dataclass(frozen=True)
class ChainPools:
    """Chains of sums modulo 5, each solved in every style; the source of a response is its style.

    Attributes:
        steps: of the chains tested on; prompts of a pool have as many or one more.
        test: chains of each test: "score", and "beyond" with two steps more.

    >>> source = ChainPools(steps=2, test=4)
    >>> sorted(source.pool(seed=0, count=3).composition())
    ['full', 'named', 'reversed', 'states', 'terse']
    >>> {name: len(prompts) for name, (prompts, _) in source.tests.items()}
    {'score': 4, 'beyond': 4}
    """

    steps: int = 3
    test: int = 250
    judge: Judge = field(default_factory=WorldCheck)

    @cached_property
    def tests(self) -> Tests:
        """Prompts and answers of "score" and "beyond"."""
        found = {}
        for name, steps in (("score", self.steps), ("beyond", self.steps + 2)):
            chains = ChainPrograms().sample(self.test, steps, 0)
            found[name] = [chain.prompt for chain in chains], [chain.answer for chain in chains]
        return found

    def pretraining(self, count: int, shares: Sequence[float]) -> tuple[list[str], list[str]]:
        """Prompts and solutions of about `count` chains, in styles of these shares of `STYLES`."""
        read = self._unseen(count, (1, self.steps), 0)
        styles = np.random.default_rng(0).choice(list(STYLES), len(read), p=shares)
        solved = [solution(chain, style) for chain, style in zip(read, styles, strict=True)]
        return [chain.prompt for chain in read], solved

    def pool(self, seed: int, count: int) -> ResponsePool:
        """A seed's chains, every style of solving each."""
        drawn = self._unseen(count, (self.steps, self.steps + 1), seed + 1)
        unique = {chain.prompt: chain for chain in drawn}
        return ResponsePool(
            {"prompt": chain.prompt, "response": solution(chain, style), "source": style,
             "reference": chain.answer}
            for chain in unique.values() for style in STYLES
        ).verify(self.judge, drop=True)  # fmt: skip

    @cached_property
    def _tested(self) -> set[str]:
        return {prompt for prompts, _ in self.tests.values() for prompt in prompts}

    def _unseen(self, count: int, steps: tuple[int, int], seed: int) -> list[Chain]:
        chains = ChainPrograms().sample(count, steps, seed)
        return [chain for chain in chains if chain.prompt not in self._tested]


ANSWERS = {
    "word": "{topic}",
    "sentence": "This article is about {topic}.",
    "reasoned": "It reports on people and events that belong to {topic}, so its topic is {topic}.",
    "form": "TOPIC: {topic} | LANGUAGE: English | KIND: news article",
}
"""Ways of saying what an article is about."""


def topic_pool(articles: int, *, words: int, seed: int) -> ResponsePool:
    """Several ways of saying what news articles are about, as the sources of right responses.

    Args:
        articles: how many, drawn by the seed.
        words: of an article.
        seed: of the draw.
    """
    benchmark = load_benchmark("bbc", words=words)
    texts, topics = (benchmark.splits["test"][column][:] for column in ("text", "label"))
    drawn = np.random.default_rng(seed).permutation(len(texts))[:articles]
    return ResponsePool(
        {"prompt": f"{texts[i]}\n\nQuestion: What is this article about?\nAnswer:",
         "response": said.format(topic=benchmark.label_names[topics[i]]), "source": way}
        for i in drawn for way, said in ANSWERS.items()
    )  # fmt: skip


class FilePools:
    """Your own pool, as two files of JSON lines in one folder.

    pool.jsonl: prompt, response, source, reference (a final answer, compared as a number).
    test.jsonl: prompt, answer. Prompts are texts to be continued, template applied.

    Args:
        folder: of the files.
        test: lines of test.jsonl that are used, the first ones.

    Raises:
        UserError: a file is missing, or lacks a column.
    """

    judge: Judge = NumberMatch()

    def __init__(self, folder: str | Path, *, test: int | None = None) -> None:
        self._rows = _columns(Path(folder) / "pool.jsonl", "prompt", "response")
        rows = _columns(Path(folder) / "test.jsonl", "prompt", "answer")[:test]
        self.tests = {"score": ([row["prompt"] for row in rows], [row["answer"] for row in rows])}

    def pool(self, seed: int, count: int) -> ResponsePool:
        """The responses to a seed's prompts that are right."""
        verified = ResponsePool(self._rows).verify(self.judge, drop=True)
        ids = list(dict.fromkeys(verified.column("prompt_id")))
        drawn = set(np.random.default_rng(seed).permutation(ids)[:count].tolist())
        return verified.where([one in drawn for one in verified.column("prompt_id")])


def _columns(path: Path, *names: str) -> list[dict[str, Any]]:
    rows = [record.content or {} for record in read_records(path)]
    if any(name not in row for row in rows for name in names):
        raise UserError(f"Every line of {path} needs {' and '.join(names)}.")
    return rows
