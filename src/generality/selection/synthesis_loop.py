"""Prismatic synthesis: generate, solve, check, and keep what lies where the pool is thin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generality.measures.vendi import vendi_score

Record = Mapping[str, Any]
"""One example: `prompt`, `response`, and whatever else its maker knows."""

Generator = Callable[[list[Record], int, int], Sequence[Record]]
"""From demonstrations, a number and a seed to as many candidates (records with a `prompt`)."""

Solver = Callable[[list[Record], int], Sequence[Sequence[str]]]
"""From candidates and a seed to several responses for each."""

Judge = Callable[[Record, Sequence[str]], str | None]
"""From a candidate and its responses to the one to keep; None refuses the candidate."""

Decontaminator = Callable[[list[Record]], Bool[np.ndarray, " records"]]
"""Which records must not be kept, such as those that overlap with a test set."""


class Proxy(Protocol):
    """What gives examples their directions; `generality.measures.GVendi` does."""

    def features(self, ds: list[Record], /) -> Float[Tensor, "n dim"]:
        """A vector for each record."""


class Filter(Protocol):
    """Which candidates to accept, given the pool; `SparseClusterFilter` does."""

    def fit(self, pool: Float[Tensor, "n dim"], /) -> Any:
        """Look at the pool."""

    def accept(self, candidates: Float[Tensor, "n dim"], /) -> Bool[np.ndarray, " n"]:
        """True for those to keep."""


@dataclass(frozen=True)
class MajorityAgreement:
    """Keeps a response whose final answer at least `tau` of the first `n` responses share.

    Args:
        answer: from a response to its final answer; None where it has none, which never agrees.
        n: responses looked at.
        tau: how many must agree; of tied answers the one given first counts.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 4: 3 samples, 2 of which agree.

    >>> judge = MajorityAgreement(lambda response: response.rpartition("=> ")[2] or None)
    >>> judge({}, ["1 2 => 2", "3 => 3", "2 => 2"]), judge({}, ["=> 1", "=> 2", "=> 3"])
    ('1 2 => 2', None)
    """

    answer: Callable[[str], Any]
    n: int = 3
    tau: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.tau <= self.n:
            raise ValueError(f"tau is between 1 and n, not {self.tau} of {self.n}")

    def __call__(self, candidate: Record, responses: Sequence[str]) -> str | None:
        """The first response that gives the answer most agree on."""
        answers = [self.answer(response) for response in responses[: self.n]]
        votes = Counter(answer for answer in answers if answer is not None)
        if not votes or votes.most_common(1)[0][1] < self.tau:
            return None
        return responses[answers.index(votes.most_common(1)[0][0])]


@dataclass(frozen=True)
class AcceptAtRandom:
    """The control of `SparseClusterFilter`: accepts a share of candidates whatever they are.

    Args:
        rate: the share, in (0, 1].
        seed: of the draws, which go on from call to call.
    """

    rate: float = 0.5
    seed: int = 0
    _draws: list[np.random.Generator] = field(default_factory=list, repr=False)

    def fit(self, pool: Any) -> AcceptAtRandom:
        """Looks at nothing."""
        return self

    def accept(self, candidates: Any) -> Bool[np.ndarray, " n"]:
        """True with probability `rate`."""
        if not self._draws:
            self._draws.append(np.random.default_rng(self.seed))
        return self._draws[0].random(len(candidates)) < self.rate


@dataclass(frozen=True)
class Round:
    """What one round of synthesis did.

    Attributes:
        round: 1, 2, ….
        generated: candidates.
        agreed: those of which a response was kept by the judge.
        clean: those of them that are no copy and not contaminated.
        accepted: those of them that the filter let through.
        added: those of them that fitted into the pool's final size.
        pool: its size afterwards.
        vendi: the Vendi score of its directions afterwards (grows with the size).
    """

    round: int
    generated: int
    agreed: int
    clean: int
    accepted: int
    added: int
    pool: int
    vendi: float


@dataclass
class SynthesisLoop:
    """Grows a pool of examples to a size, round by round.

    A round draws demonstrations from the pool for every candidate, generates, solves, keeps what
    the judge agrees to, drops copies of the pool and what the decontaminator names, and adds what
    the filter accepts; the next round's filter looks at the pool that came of it.

    Args:
        generator: makes candidates from demonstrations.
        solver: gives each several responses.
        judge: keeps one of them, or none.
        proxy: gives examples their directions.
        filter: which directions to accept.
        decontaminator: which records to refuse; None refuses none.
        batch: candidates of a round.
        demonstrations: how many the generator is shown for each call.
        per_call: candidates asked for in a call.
        difficulty: weight with which a record is drawn as a demonstration; None: all equal.
        seed: of the draws; round r of seed s never draws as another round or seed does.

    Attributes:
        records: the pool, once `run` has begun.
        log: the rounds so far.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 4, with 5 demonstrations for 2 candidates a
    call and about 3,000 candidates a round.
    """

    generator: Generator
    solver: Solver
    judge: Judge
    proxy: Proxy
    filter: Filter
    decontaminator: Decontaminator | None = None
    batch: int = 3000
    demonstrations: int = 5
    per_call: int = 2
    difficulty: Callable[[Record], float] | None = None
    seed: int = 0
    records: list[Record] = field(default_factory=list, init=False)
    log: list[Round] = field(default_factory=list, init=False)

    def run(self, pool: Sequence[Record], size: int, *, rounds: int = 100) -> Iterator[Round]:
        """Yield each round when it is done, until the pool has `size` records or `rounds` are over.

        Raises:
            ValueError: the pool to begin with is empty.
        """
        if not pool:
            raise ValueError("synthesis begins with a pool of at least one example")
        self.records, self.log = list(pool), []
        z = self.proxy.features(self.records)
        for number in range(1, rounds + 1):
            if len(self.records) >= size:
                return
            candidates = self._generate(number)
            agreed = self._solve(candidates, number)
            clean = self._clean(agreed)
            new = self.proxy.features(clean) if clean else z[:0]
            self.filter.fit(z)
            accepted = self.filter.accept(new) if clean else np.zeros(0, dtype=bool)
            kept = np.flatnonzero(accepted)[: size - len(self.records)]
            self.records += [clean[row] for row in kept]
            z = torch.cat([z, new[torch.as_tensor(kept, dtype=torch.long)]])
            done = Round(
                number, len(candidates), len(agreed), len(clean), int(np.sum(accepted)), len(kept),
                len(self.records), vendi_score(z),
            )  # fmt: skip
            self.log.append(done)
            yield done

    def _generate(self, number: int) -> list[Record]:
        rng = np.random.default_rng([self.seed, number])
        weigh = self.difficulty or (lambda record: 1.0)
        weights = np.array([weigh(record) for record in self.records])
        found: list[Record] = []
        while len(found) < self.batch:
            drawn = rng.choice(len(self.records), self.demonstrations, p=weights / weights.sum())
            shown = [self.records[row] for row in drawn]
            found += self.generator(shown, self.per_call, int(rng.integers(2**31)))
        return found[: self.batch]

    def _solve(self, candidates: list[Record], number: int) -> list[Record]:
        seed = int(np.random.default_rng([self.seed, number, 1]).integers(2**31))
        responses = self.solver(candidates, seed)
        judged = [
            (candidate, self.judge(candidate, said))
            for candidate, said in zip(candidates, responses, strict=True)
        ]
        return [{**candidate, "response": kept} for candidate, kept in judged if kept is not None]

    def _clean(self, records: list[Record]) -> list[Record]:
        seen = {record["prompt"] for record in self.records}
        new: dict[str, Record] = {}
        for record in records:
            if record["prompt"] not in seen:
                new.setdefault(record["prompt"], record)
        clean = list(new.values())
        if self.decontaminator is None or not clean:
            return clean
        refused = self.decontaminator(clean)
        return [record for record, bad in zip(clean, refused, strict=True) if not bad]
