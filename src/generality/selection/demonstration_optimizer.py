"""Searching for the demonstrations that teach best, led by students' mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

Demonstrations = tuple[tuple[str, int], ...]
"""Solved examples: (text, class)."""

Answerer = Callable[[Demonstrations, list[str]], Sequence[int]]
"""From demonstrations and texts to a class for each text: a model that reads examples."""


@dataclass(frozen=True)
class Mistake:
    """A training item that students got wrong.

    Attributes:
        text: the item.
        label: its true class.
        said: what students said, those who were wrong.
    """

    text: str
    label: int
    said: tuple[int, ...]


Reflector = Callable[[Demonstrations, Sequence[Mistake], np.random.Generator], Demonstrations]
"""From demonstrations and what students got wrong with them to better ones."""

Metric = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], float]
"""From true and given classes to a score, higher being better."""


@dataclass(frozen=True)
class Candidate:
    """Demonstrations, the teacher's training score with them, and the round they come from."""

    demonstrations: Demonstrations
    score: float
    round: int


@dataclass(frozen=True)
class DemonstrationOptimizer:
    """Beam search over lists of demonstrations, whose new entries answer students' mistakes.

    Each round, every list of the beam is given to the students as examples in context, who answer
    an exam drawn from the training items. Their mistakes, pooled, go to the reflector, which
    proposes a new list; that `proposals` times. Old and new lists are scored by how well the
    *teacher* does with them on training items, and the best stay. Test items are never seen.

    Source: Ning et al. 2024 (arXiv 2406.14629), section 5 and the released search (their M3): 5
    rounds, beam 4, exams of 64 items, lists of 8. There the reflector is the teacher as a language
    model that is asked for reasons and then for new examples; `swap_in_mistakes` is a template in
    its place, without a model. Training items are scored by brute force.

    Args:
        teacher: whose score is optimised, and who finally answers with the list.
        students: who sit the exams; the teacher itself may be one.
        reflect: proposes a list from a list and mistakes.
        beam: lists kept after each round.
        rounds: how many.
        exam: training items in each exam.
        errors: mistakes shown to the reflector at a time, drawn at random from all.
        mix: how many such draws are shown together.
        proposals: new lists from each list of the beam.
        scored: training items that candidates are scored on, the same for all; None: all.
        seed: of everything drawn.

    >>> def nearest(demonstrations, texts):  # a model that reads examples: the closest length
    ...     return [min(demonstrations, key=lambda d: abs(len(d[0]) - len(t)))[1] for t in texts]
    >>> texts = ["x" * n for n in range(1, 41)]
    >>> labels = [int(len(text) > 20) for text in texts]
    >>> search = DemonstrationOptimizer(nearest, [nearest], swap_in_mistakes, rounds=3, exam=20)
    >>> found = search.run(texts, labels, [(("x", 0), ("xx", 1))], metric=share_right)
    >>> found[0].round > 0, found[0].score > 0.6
    (True, True)
    """

    teacher: Answerer
    students: Sequence[Answerer]
    reflect: Reflector
    beam: int = 4
    rounds: int = 5
    exam: int = 64
    errors: int = 8
    mix: int = 1
    proposals: int = 4
    scored: int | None = None
    seed: int = 0

    def run(
        self,
        texts: Sequence[str],
        labels: Sequence[int],
        start: Sequence[Demonstrations],
        *,
        metric: Metric | None = None,
    ) -> list[Candidate]:
        """The last beam, best first; `metric` is the F1 of the rarer class unless another is given.

        Raises:
            ValueError: nothing to start from, no student, or not one label per text.
        """
        if not start or not self.students or len(texts) != len(labels):
            raise ValueError("the search needs a list to start from, a student, a label per text")
        rng = np.random.default_rng(self.seed)
        truth = np.asarray(labels)
        measured = np.sort(rng.permutation(len(texts))[: self.scored])
        metric = metric or minority_f1

        def score(demonstrations: Demonstrations) -> float:
            said = self.teacher(demonstrations, [texts[row] for row in measured])
            return metric(truth[measured], np.asarray(said))

        beam = [Candidate(list_, score(list_), 0) for list_ in dict.fromkeys(start)]
        for round_ in range(1, self.rounds + 1):
            known = {candidate.demonstrations for candidate in beam}
            for candidate in beam[: self.beam]:
                rows = rng.permutation(len(texts))[: self.exam]
                wrong = self._mistakes(candidate.demonstrations, texts, truth, rows)
                for _ in range(self.proposals if wrong else 0):
                    shown = rng.permutation(len(wrong))[: self.errors * self.mix]
                    proposed = self.reflect(
                        candidate.demonstrations, [wrong[place] for place in shown], rng
                    )
                    if proposed not in known:
                        known.add(proposed)
                        beam = [*beam, Candidate(proposed, score(proposed), round_)]
            beam = sorted(beam, key=lambda candidate: -candidate.score)[: self.beam]
        return beam

    def _mistakes(
        self, list_: Demonstrations, texts: Sequence[str], truth: np.ndarray, rows: np.ndarray
    ) -> list[Mistake]:
        asked = [texts[row] for row in rows]
        answers = np.array([list(student(list_, asked)) for student in self.students])
        found = []
        for row, said in zip(rows, answers.T, strict=True):
            wrong = tuple(int(answer) for answer in said if answer != truth[row])
            if wrong:
                found.append(Mistake(texts[row], int(truth[row]), wrong))
        return found


def swap_in_mistakes(
    demonstrations: Demonstrations,
    mistakes: Sequence[Mistake],
    rng: np.random.Generator,
    *,
    swaps: int = 2,
) -> Demonstrations:
    """The list with `swaps` of its examples replaced by the mistakes most students made.

    A reflector without a language model. A mistake comes in with its true class, in the place of
    an example of the same class drawn at random, so that the balance of classes stays; of any
    class, where the list has none of its own.

    >>> wrong = [Mistake("easy", 1, (0,)), Mistake("hard", 1, (0, 0))]
    >>> swap_in_mistakes((("a", 0), ("b", 1)), wrong, np.random.default_rng(0), swaps=1)
    (('a', 0), ('hard', 1))
    """
    shown = {text for text, _ in demonstrations}
    new = [mistake for mistake in mistakes if mistake.text not in shown]
    hardest = sorted(new, key=lambda mistake: -len(mistake.said))[:swaps]
    result, free = list(demonstrations), list(range(len(demonstrations)))
    for mistake in hardest:
        same = [place for place in free if result[place][1] == mistake.label]
        if not same and all(label != mistake.label for _, label in result):
            same = free
        if not same:
            continue
        place = int(rng.choice(same))
        free.remove(place)
        result[place] = (mistake.text, mistake.label)
    return tuple(result)


def swap_in_random(texts: Sequence[str], labels: Sequence[int]) -> Reflector:
    """A control for `swap_in_mistakes`: as many texts of a pool, drawn whatever students said.

    >>> reflect = swap_in_random(["c", "d"], [0, 1])
    >>> wrong = [Mistake("hard", 1, (0,))] * 2
    >>> sorted(reflect((("a", 0), ("b", 1)), wrong, np.random.default_rng(0)))
    [('c', 0), ('d', 1)]
    """

    def reflect(
        demonstrations: Demonstrations, mistakes: Sequence[Mistake], rng: np.random.Generator
    ) -> Demonstrations:
        rows = rng.choice(len(texts), min(len(mistakes), len(texts)), replace=False)
        drawn = [Mistake(texts[row], int(labels[row]), ()) for row in rows]
        return swap_in_mistakes(demonstrations, drawn, rng)

    return reflect


def balanced_lists(
    texts: Sequence[str], labels: Sequence[int], count: int, length: int, rng: np.random.Generator
) -> list[Demonstrations]:
    """`count` lists of `length` examples drawn from a pool, as many of each class.

    Raises:
        ValueError: the length is no multiple of the number of classes.

    >>> balanced_lists(["a", "b"], [0, 1], 1, 2, np.random.default_rng(0))
    [(('a', 0), ('b', 1))]
    """
    truth = np.asarray(labels)
    classes = np.unique(truth).tolist()
    if length % len(classes):
        raise ValueError(f"{length} examples cannot be shared evenly by {len(classes)} classes")
    each = length // len(classes)
    return [
        tuple((texts[row], label) for label in classes
              for row in rng.choice(np.flatnonzero(truth == label), each, replace=False))
        for _ in range(count)
    ]  # fmt: skip


def minority_f1(truth: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"]) -> float:
    """F1 of the class that is rarer in `truth`, in [0, 1]; of equal ones the larger number.

    >>> round(minority_f1(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])), 3)
    0.5
    """
    classes, counts = np.unique(truth, return_counts=True)
    rare = classes[counts == counts.min()][-1]
    hits = int(((truth == rare) & (said == rare)).sum())
    total = int((truth == rare).sum() + (said == rare).sum())
    return 2 * hits / total if total else 0.0


def share_right(truth: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"]) -> float:
    """Accuracy, as a metric.

    >>> share_right(np.array([0, 1]), np.array([0, 0]))
    0.5
    """
    return float((truth == said).mean())
