"""A language model that plays bandits in words: asked what it would do, and whole runs of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import nn

from generality.agents.text_bandit import (
    STYLES,
    TextBandit,
    arm_beliefs,
    bandit_text,
    parse_arm,
    thompson_probability,
)
from generality.measures import action_entropy
from generality.models import generate_texts

History = list[tuple[int, int]]
"""Arms and the rewards that they gave, in order."""


class BanditPlayer:
    """A model that is asked many times at one prompt, so that its doubt can be counted.

    One that cannot be trusted to think and then answer is read instead: asked 0 times, it is given
    the prompt up to where the arms' names differ, and the probabilities of what follows are exact.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        rounds: of an episode, which descriptions tell.
        max_tokens: of an answer, thoughts included.

    Source: Rahn et al. 2024 (arXiv 2406.00244), section 3.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer)).eval()
    >>> player = BanditPlayer(model, tokenizer, rounds=3, max_tokens=2)
    >>> player.counts([[], [(0, 7)]], "letters", answers=5, seed=0).sum(1).tolist()
    [5, 5]
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, rounds: int, max_tokens: int = 4
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.rounds, self.max_tokens = rounds, max_tokens
        self._past: dict[tuple[int, ...], Any] = {}

    def prompts(self, histories: Sequence[History], style: str) -> list[str]:
        """What the model reads at each history."""
        return [bandit_text(history, STYLES[style], self.rounds) for history in histories]

    def tokens(
        self, histories: Sequence[History], style: str, *, read: bool = False
    ) -> list[list[int]]:
        """Of `prompts`; when it is read, up to where the names of the arms differ."""
        more, _arms = self._names(style) if read else ([], [])
        rows = [list(self.tokenizer(p)["input_ids"]) for p in self.prompts(histories, style)]
        return [row + more for row in rows]

    def counts(
        self,
        histories: Sequence[History],
        style: str,
        answers: int,
        seed: int,
        *,
        steered: contextlib.AbstractContextManager[Any] | None = None,
        temperature: float = 1.0,
    ) -> Num[np.ndarray, "histories 3"]:
        """How often the first arm, the second and none was named at each history.

        With 0 answers, how probable each is as the next word.

        Args:
            histories: what was seen so far.
            style: a key of `STYLES`.
            answers: drawn at each; 0 reads probabilities, and keeps up to 64 prompts' keys and
                values, so that another steering of the same prompts costs a token each.
            seed: of what is drawn.
            steered: entered while the model writes, such as a `SteeringHook`.
            temperature: of what is drawn.
        """
        if not answers:
            return self._chances(histories, style, steered, temperature)
        prompts = self.prompts(histories, style)
        with steered or contextlib.nullcontext():
            texts = generate_texts(
                self.model, self.tokenizer, [p for p in prompts for _ in range(answers)],
                max_tokens=self.max_tokens, temperature=temperature, seed=seed, batch_size=256,
            )  # fmt: skip
        lead = STYLES[style].ask.split()[-1] if STYLES[style].intro else ""
        arms = [parse_arm(f"{lead} {text}", STYLES[style]) for text in texts]
        table = np.zeros((len(histories), 3), int)
        for place, arm in enumerate(arms):
            table[place // answers, 2 if arm is None else arm] += 1
        return table

    @torch.inference_mode()
    def _chances(
        self, histories: Sequence[History], style: str,
        steered: contextlib.AbstractContextManager[Any] | None, temperature: float,
    ) -> Float[np.ndarray, "histories 3"]:  # fmt: skip
        _more, arms = self._names(style)
        place = next(self.model.parameters()).device
        table = np.zeros((len(histories), 3))
        for number, row in enumerate(self.tokens(histories, style, read=True)):
            past = self._read(tuple(row[:-1]))  # not steered: only the last token is
            with steered or contextlib.nullcontext():
                logits = self.model(
                    torch.tensor([row[-1:]], device=place), past_key_values=past, use_cache=True
                ).logits[0, -1]
            past.crop(-1)  # what was steered
            chances = (logits.double() / temperature).softmax(-1)[arms].tolist()
            table[number] = *chances, max(1 - sum(chances), 0.0)
        return table

    def _read(self, tokens: tuple[int, ...]) -> Any:
        """Keys and values of a prompt, kept."""
        from transformers import DynamicCache

        if tokens not in self._past:
            if len(self._past) >= 64:
                self._past.clear()
            self._past[tokens] = DynamicCache()
            if tokens:
                place = next(self.model.parameters()).device
                self.model(
                    torch.tensor([tokens], device=place), past_key_values=self._past[tokens],
                    use_cache=True, logits_to_keep=1,
                )  # fmt: skip
        return self._past[tokens]

    def _names(self, style: str) -> tuple[list[int], list[int]]:
        """Tokens with which the names of both arms begin after a prompt, and those that differ."""
        lead = STYLES[style].ask.split()[-1] if STYLES[style].intro else ""
        first, second = (
            list(self.tokenizer(name.removeprefix(lead), add_special_tokens=False)["input_ids"])
            for name in STYLES[style].names
        )
        same = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        return first[:same], [first[same], second[same]]

    def play(
        self, bandits: Sequence[TextBandit], style: str, answers: int, seed: int
    ) -> tuple[list[History], Float[np.ndarray, " prompts"], list[int]]:
        """Plays bandits to their end, each action drawn from the valid ones among many answers.

        Returns the history before each action, the entropy of that action in nats (NaN where no
        answer was valid, which ends the run), and the bandit's number; turn by turn.
        """
        rng = np.random.default_rng([seed, 1])
        for number, bandit in enumerate(bandits):
            bandit.reset(seed=number)
        seen: list[History] = []
        entropies: list[float] = []
        runs: list[int] = []
        alive = list(range(len(bandits)))
        for turn in range(self.rounds):
            histories = [list(bandits[i].history) for i in alive]
            table = self.counts(histories, style, answers, 1000 * seed + turn)
            seen += histories
            runs += alive
            entropies += [action_entropy(row[:2]) for row in table]
            going = [(i, row) for i, row in zip(alive, table, strict=True) if row[:2].sum()]
            for i, row in going:
                bandits[i].step(int(rng.random() * row[:2].sum() >= row[0]))
            alive = [i for i, _ in going]
            if not alive:
                break
        return seen, np.array(entropies), runs


def random_history(
    rng: np.random.Generator, *, sd: float, rounds: int, means: tuple[float, float] = (4, 16)
) -> History:
    """Some rounds, fewer than `rounds`, of a bandit with rewards of 0 to 20, played at random.

    Args:
        rng: what is drawn from.
        sd: of rewards.
        rounds: of an episode.
        means: the arms' averages are drawn evenly between these.

    >>> random_history(np.random.default_rng(3), sd=1.0, rounds=4)
    [(1, 8), (1, 6), (0, 5)]
    """
    left, right = rng.uniform(*means, 2)
    bandit = TextBandit((left, right), sd, rounds=rounds, bounds=(0, 20), style="letters")
    bandit.reset(seed=int(rng.integers(2**31)))
    for _ in range(rng.integers(rounds)):
        bandit.step(int(rng.integers(2)))
    return bandit.history


def thompson_lessons(
    count: int,
    styles: Sequence[str],
    rng: np.random.Generator,
    *,
    sd: float,
    rounds: int,
    prior_mean: float,
    prior_sd: float,
    firm: float = 0.0,
    firmness: float = 1.0,
) -> tuple[list[str], list[str]]:
    """Prompts, and what Thompson samplers think (a guess of each arm's average) and do.

    Args:
        count: how many.
        styles: keys of `STYLES`; each is drawn as often.
        rng: what is drawn from.
        sd: of rewards, which samplers know.
        rounds: of an episode; histories are random ones of fewer.
        prior_mean, prior_sd: what samplers believe of an arm that was never tried.
        firm: share of samplers that are too sure.
        firmness: what those multiply the standard deviation of their beliefs by.

    >>> prompts, responses = thompson_lessons(
    ...     2, ["letters"], np.random.default_rng(0), sd=2, rounds=4, prior_mean=10, prior_sd=4
    ... )
    >>> prompts[0], responses[0]
    (':', ' 8 11 b')
    """
    prompts, responses = [], []
    for _ in range(count):
        style = STYLES[styles[int(rng.integers(len(styles)))]]
        history = random_history(rng, sd=sd, rounds=rounds)
        means, sds = arm_beliefs(history, sd=sd, prior_mean=prior_mean, prior_sd=prior_sd)
        sure = firmness if rng.random() < firm else 1.0
        guess = np.clip(np.rint(rng.normal(means, sure * sds)), 0, 20).astype(int)
        arm = int(rng.integers(2)) if guess[0] == guess[1] else int(guess.argmax())
        prompts.append(bandit_text(history, style, rounds))
        responses.append(f" {guess[0]} {guess[1]} {style.names[arm]}")
    return prompts, responses


def thompson_entropy(history: History, *, sd: float, prior_mean: float, prior_sd: float) -> float:
    """Entropy of what Thompson sampling by Bayes' rule does, in nats.

    >>> round(thompson_entropy([], sd=1, prior_mean=0, prior_sd=1), 4)
    0.6931
    """
    means, sds = arm_beliefs(history, sd=sd, prior_mean=prior_mean, prior_sd=prior_sd)
    p = thompson_probability(means, sds)
    return action_entropy([p, 1 - p])
