"""What is known of one problem: its correct programs, and beginnings of programs that are right."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, Literal

from generality.selection.state_tracer import Key, StateTracer, Trace

Status = Literal["not executable", "no match", "too long", "known", "partial", "full"]
Statements = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A program to learn from.

    Attributes:
        text: its statements, as they were written, joined by the buffer's separator.
        full: whether it is complete; only then does an end-of-sequence token follow.
    """

    text: str
    full: bool


@dataclass(frozen=True)
class _Known:
    written: Statements
    canonical: Statements  # without the accidents of formatting

    def begins(self, other: _Known) -> bool:
        return other.canonical[: len(self.canonical)] == self.canonical


class SolutionBuffer:
    """Fully and partially correct programs for one problem, starting from its reference solution.

    A program is fully correct when its answer is the gold one: what comes after the statement
    that sets it is cut off. A beginning of a program is partially correct when the values of its
    variables are those that a known program has at some point. Of each sampled program the longest
    correct part is saved, unless it is known or, when partial, the beginning of something known;
    saved beginnings of it are dropped, and its own states become known.

    Two programs that come to the gold answer by accident are not told apart from correct ones, and
    statements that change nothing useful make states match by chance: about 3 % of what the
    paper saved was such.

    Args:
        reference: a correct program.
        tracer: runs programs; by default Python whose answer is in `answer`.
        gold: the correct answer; None: the reference's.
        partial: save partially correct programs too.
        length_tolerance: statements by which a program may exceed the shortest known way to the
            same state (or answer), at least 0.
        separator: between statements in what `targets` and `prefix` give.

    Source: Ni et al. 2023 (arXiv 2205.14318), algorithm 1 and section 3.

    Raises:
        ValueError: the reference cannot be run, or does not give the gold answer.

    >>> import random
    >>> buffer = SolutionBuffer("n0 = 3; n1 = n0 * 4; answer = n1 + 2")
    >>> buffer.offer("x = 3 ; y = 4 * x ; answer = 2 + y"), buffer.offer("answer = 3 * 4 + 2")
    ('full', 'full')
    >>> buffer.offer("q = 3 ; r = 4 * q ; answer = r - 2"), buffer.offer("answer = 13")
    ('partial', 'no match')
    >>> [target.text for target in buffer.targets(10, rng=random.Random(0)) if not target.full]
    ['q = 3\\nr = 4 * q']
    """

    def __init__(
        self,
        reference: str,
        tracer: StateTracer | None = None,
        *,
        gold: Any = None,
        partial: bool = True,
        length_tolerance: int = 0,
        separator: str = "\n",
    ) -> None:
        if length_tolerance < 0:
            raise ValueError(f"length_tolerance is at least 0, not {length_tolerance}")
        self.tracer = tracer or StateTracer()
        self.keep_partial, self.tolerance, self.separator = partial, length_tolerance, separator
        trace = self.tracer(reference)
        if trace is None or trace.answers[-1] is None:
            raise ValueError(f"the reference cannot be run to an answer: {reference!r}")
        self.gold = trace.answers[-1] if gold is None else gold
        self._full: list[_Known] = []
        self._partial: list[_Known] = []
        self._shortest: dict[Key, int] = {}  # statements of the shortest known way to a state
        end = next((i for i, a in enumerate(trace.answers) if self._is_gold(a)), None)
        if end is None:
            raise ValueError(f"the reference's answer is not {self.gold!r}: {reference!r}")
        self._save_full(trace, end)

    @property
    def full(self) -> list[str]:
        """Fully correct programs, the reference first."""
        return [self.separator.join(known.written) for known in self._full]

    @property
    def partial(self) -> list[str]:
        """Partially correct ones."""
        return [self.separator.join(known.written) for known in self._partial]

    def offer(self, program: str) -> Status:
        """Look at a sampled program (its prefix included), and keep what is right about it."""
        return self.offer_trace(self.tracer(program))

    def offer_trace(self, trace: Trace | None) -> Status:
        """As `offer`, for a program that was traced already; None: it cannot be run."""
        if trace is None:
            return "not executable"
        furthest, too_long = None, False
        for i, (key, answer) in enumerate(zip(trace.keys, trace.answers, strict=True)):
            if self._is_gold(answer):
                if i + 1 > min(len(k.written) for k in self._full) + self.tolerance:
                    return "too long"
                return self._save_full(trace, i)
            if answer is not None:
                break
            if key in self._shortest:
                fits = i + 1 <= self._shortest[key] + self.tolerance
                too_long = not fits
                furthest = i if fits else furthest
        if furthest is None or not self.keep_partial:
            return "too long" if too_long else "no match"
        return self._save_partial(trace, furthest)

    def targets(
        self, most: int = 10, *, rng: random.Random, prioritise: Literal["full", "none"] = "full"
    ) -> list[Target]:
        """At most `most` programs to learn from: the reference first, then the others.

        Where there are more, they are drawn at random, with `prioritise="full"` the partially
        correct ones only when all fully correct ones are in.
        """
        if most < 1:
            raise ValueError(f"at least one program is learned from, not {most}")
        reference, *full = [Target(text, True) for text in self.full]
        partial = [Target(text, False) for text in self.partial]
        groups = [full, partial] if prioritise == "full" else [full + partial]
        chosen = [reference]
        for group in groups:
            room = most - len(chosen)
            chosen += group if len(group) <= room else rng.sample(group, room)
        return chosen

    def prefix(self, rng: random.Random) -> str:
        """A beginning to continue from, drawn evenly: a partially correct program, or nothing."""
        return rng.choice(["", *self.partial])

    def _is_gold(self, answer: Any) -> bool:
        numbers = all(isinstance(x, (int, float)) for x in (answer, self.gold))
        if numbers:
            return math.isclose(answer, self.gold, rel_tol=1e-9, abs_tol=1e-4)
        return answer is not None and answer == self.gold

    def _save_full(self, trace: Trace, last: int) -> Status:
        known = _Known(trace.statements[: last + 1], trace.canonical(last + 1))
        if any(known.canonical == other.canonical for other in self._full):
            return "known"
        self._full.append(known)
        self._partial = [other for other in self._partial if not other.begins(known)]
        self._learn(trace.keys[:last])
        return "full"

    def _save_partial(self, trace: Trace, last: int) -> Status:
        known = _Known(trace.statements[: last + 1], trace.canonical(last + 1))
        if any(known.begins(other) for other in (*self._full, *self._partial)):
            return "known"
        kept = [other for other in self._partial if not other.begins(known)]
        self._partial = [*kept, known]
        self._learn(trace.keys[: last + 1])
        return "partial"

    def _learn(self, keys: tuple[Key, ...]) -> None:
        for count, key in enumerate(keys, 1):
            self._shortest[key] = min(count, self._shortest.get(key, count))
