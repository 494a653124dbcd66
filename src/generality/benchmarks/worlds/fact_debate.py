"""Debates about questions with hidden facts, simulated: the protocol without the eloquence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Judge = Callable[[Float[np.ndarray, "n features"]], Float[np.ndarray, " n"]]
"""From the features of a talk so far to the probability in [0, 1] of answer 1."""


@dataclass(frozen=True)
class FactQuestions:
    """Yes-no questions of which a weak reader sees a few of the facts.

    Attributes:
        facts: −1 or 1, all of them.
        labels: the true answers, 0 or 1.
        visible: which facts the weak reader sees.
        rule: weight of every fact; most are 0.
    """

    facts: Float[np.ndarray, "n facts"]
    labels: Int[np.ndarray, " n"]
    visible: Int[np.ndarray, " visible"]
    rule: Float[np.ndarray, " facts"]


def fact_questions(
    count: int, *, facts: int = 24, relevant: int = 9, visible: int = 6, seed: int = 0
) -> FactQuestions:
    """Questions whose answer is the sign of a weighted sum of a few of their facts.

    Rule, visible facts and questions are all drawn by the seed. Weights are ±U(0.5, 1.5).

    Raises:
        ValueError: more relevant or visible facts than there are.

    >>> questions = fact_questions(1000, seed=0)
    >>> bool((questions.labels == (questions.facts @ questions.rule > 0)).all())
    True
    >>> int((questions.rule != 0).sum()), len(questions.visible)
    (9, 6)
    """
    if not (1 <= relevant <= facts and 0 <= visible <= facts):
        raise ValueError(f"of {facts} facts, {relevant} relevant and {visible} visible ones")
    rng = np.random.default_rng(seed)
    rule = np.zeros(facts)
    chosen = rng.choice(facts, relevant, replace=False)
    rule[chosen] = rng.choice([-1, 1], relevant) * rng.uniform(0.5, 1.5, relevant)
    seen = np.sort(rng.choice(facts, visible, replace=False))
    values = rng.choice([-1.0, 1.0], (count, facts))
    return FactQuestions(values, (values @ rule > 0).astype(int), seen, rule)


@dataclass(frozen=True)
class FactTalk:
    """What was said about each question.

    Attributes:
        stated: value that the debater for each answer gave a fact; 0 where it said nothing of it.
        flagged: whether its opponent called that value false.
    """

    stated: Float[np.ndarray, "n answers facts"]
    flagged: Bool[np.ndarray, "n answers facts"]

    def features(self) -> Float[np.ndarray, "n four_facts"]:
        """For a reader: stated values, then those that were flagged, by answer argued for.

        They say who argued for what, not who is called A: exchanging letters changes nothing.
        """
        flat = [part.reshape(len(part), -1) for part in (self.stated, self.stated * self.flagged)]
        return np.concatenate(flat, axis=1)


def fact_debate(
    facts: Float[np.ndarray, "n facts"],
    attribution: Float[np.ndarray, "n facts"],
    *,
    kind: Literal["debate", "consultancy", "market"] = "debate",
    turns: int = 3,
    lies: float = 0.0,
    flag_accuracy: float = 0.8,
    temperature: float = 0.5,
    judge: Judge | None = None,
    tolerance: float = 0.02,
    seed: int = 0,
) -> FactTalk:
    """Debaters that quote the facts which, by their model, speak for the answer they defend.

    At each of its turns a debater quotes the fact not yet quoted by it with the largest support,
    its attribution towards the answer plus Gumbel noise of scale `temperature`·(mean |attribution|
    of the question): sampled, as a model's words are. With probability `lies` it instead takes the
    fact that speaks most against it and states the opposite of its value. In a debate both sides
    speak in every turn, in an order drawn by question, and who speaks next calls the quote before
    it true or false, rightly with probability `flag_accuracy`; the very last quote is unanswered.
    A consultant argues for an answer drawn at random, unanswered. A market maker argues against
    what the judge believes now, until a quote moves the judge by no more than `tolerance`.

    Args:
        facts: −1 or 1.
        attribution: what each fact contributes to the log-odds of answer 1, in the debater's view.
        kind: of talk.
        turns: rounds; 0 says nothing.
        lies: probability in [0, 1] that a quote is false.
        flag_accuracy: in [0, 1]; 0.5 says nothing.
        temperature: at least 0; with 0 only sides, order, lies and flags differ by seed.
        judge: needed for "market".
        tolerance: change in probability.
        seed: of all draws.

    Raises:
        ValueError: shapes that differ, an unknown kind, a market without a judge.

    Source: our simulation of Lang et al. 2025 (arXiv 2501.13124), which uses language models.

    >>> questions = fact_questions(4, seed=0)
    >>> talk = fact_debate(questions.facts, questions.facts * questions.rule, turns=3)
    >>> (talk.stated != 0).sum((1, 2)).tolist()
    [6, 6, 6, 6]
    """
    if facts.shape != attribution.shape:
        raise ValueError(f"facts of shape {facts.shape}, attributions of {attribution.shape}")
    if kind not in ("debate", "consultancy", "market") or (kind == "market" and judge is None):
        raise ValueError(f"kind is debate, consultancy or market (with a judge), not '{kind}'")
    rng = np.random.default_rng(seed)
    n, d = facts.shape
    talk = FactTalk(np.zeros((n, 2, d)), np.zeros((n, 2, d), bool))
    everyone = np.arange(n)
    opens = rng.permutation((everyone + rng.integers(2)) % 2)  # the answer the first speaker has
    noise = temperature * np.abs(attribution).mean(1, keepdims=True)
    believed = judge(talk.features()) if kind == "market" and judge else np.zeros(n)
    last: tuple[np.ndarray, np.ndarray] | None = None  # answers and facts of the quote before
    going = np.full(n, True)
    for _ in range(turns):
        for answers in (opens, 1 - opens) if kind == "debate" else (opens,):
            if kind == "market":
                answers = (believed < 0.5).astype(int)
            sign = (2 * answers - 1)[:, None]
            said = talk.stated[everyone, answers] != 0
            if said.all():
                return talk  # there is nothing left to quote
            support = sign * attribution + noise * rng.gumbel(size=(n, d))
            lying = rng.random(n) < lies
            support[lying] -= 2 * (sign * attribution)[lying]
            quoted = np.where(said, -np.inf, support).argmax(1)
            value = facts[everyone, quoted] * np.where(lying, -1, 1)
            if kind == "debate" and last is not None:
                _flag(talk, facts, *last, np.asarray(rng.random(n) < flag_accuracy))
            open_ = going & ~said.all(1)
            talk.stated[everyone[open_], answers[open_], quoted[open_]] = value[open_]
            last = answers, quoted
        if kind == "market" and judge:
            moved = judge(talk.features())
            going &= np.abs(moved - believed) > tolerance
            believed = moved
    return talk


def _flag(
    talk: FactTalk,
    facts: np.ndarray,
    answers: np.ndarray,
    quoted: np.ndarray,
    rightly: Bool[np.ndarray, " n"],
) -> None:
    everyone = np.arange(len(facts))
    false = talk.stated[everyone, answers, quoted] != facts[everyone, quoted]
    talk.flagged[everyone, answers, quoted] = false == rightly
