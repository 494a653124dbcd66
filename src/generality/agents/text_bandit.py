"""A two-armed bandit that is played in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.errors import unknown


@dataclass(frozen=True)
class BanditStyle:
    """How a bandit is described.

    Attributes:
        intro: before the first round; {rounds} is their number.
        names: of the two arms.
        told: what a round adds; {name} and {reward}.
        ask: after the last round.
    """

    intro: str
    names: tuple[str, str]
    told: str
    ask: str


_RULES = (
    "Each has its own unknown average, and every {thing} gives a random number of points around it."
    " Earn as many points as you can in {rounds} rounds, and try both well enough to know them.\n"
)
STYLES = {
    "buttons": BanditStyle(
        "There are two buttons. " + _RULES.replace("{thing}", "press"), ("Button 1", "Button 2"),
        "You pressed {name} and got {reward} points.\n", "Think, then say: I choose Button",
    ),
    "slots": BanditStyle(
        "There are two slot machines. " + _RULES.replace("{thing}", "pull"),
        ("Machine 1", "Machine 2"), "You pulled {name} and got {reward} points.\n",
        "Think, then say: I choose Machine",
    ),
    "letters": BanditStyle("", ("a", "b"), "{name} {reward} ", ":"),
    "other-letters": BanditStyle("", ("c", "d"), "{name} {reward} ", ":"),
}  # fmt: skip
"""Descriptions by name; those of letters are for small models with `world_tokenizer`."""


class TextBandit:
    """Gaussian rewards of two arms; what is seen is a text, what is done a number or a text.

    `reset` and `step` are those of gymnasium (which is not needed; see `bandit_environment`). An
    answer that names no arm ends the episode, as in the paper.

    Args:
        means: of the two arms' rewards.
        sd: of both.
        rounds: of an episode.
        style: a name in `STYLES`, or a `BanditStyle`.
        bounds: rewards are rounded to whole numbers and clipped to these.

    Source: Rahn et al. 2024 (arXiv 2406.00244), section 3.

    >>> bandit = TextBandit((5, 15), sd=0, rounds=2, style="letters")
    >>> bandit.reset(seed=0)
    (':', {'regret': 0.0, 'valid': True})
    >>> bandit.step("7 12 b")
    ('b 15 :', 15.0, False, False, {'regret': 0.0, 'valid': True})
    >>> bandit.step(0)
    ('b 15 a 5 :', 5.0, True, False, {'regret': 10.0, 'valid': True})
    """

    def __init__(
        self,
        means: tuple[float, float],
        sd: float = 10.0,
        *,
        rounds: int = 50,
        style: str | BanditStyle = "buttons",
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        if isinstance(style, str) and style not in STYLES:
            raise unknown("description of a bandit", style, STYLES)
        if sd < 0 or rounds < 1:
            raise ValueError(f"sd is at least 0 and rounds at least 1, not {sd} and {rounds}")
        self.means, self.sd, self.rounds, self.bounds = means, sd, rounds, bounds
        self.style = STYLES[style] if isinstance(style, str) else style
        self.reset()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """A new episode: its text, and what else is known of it."""
        self.rng = np.random.default_rng(seed)
        self.history: list[tuple[int, int]] = []
        self.regret = 0.0
        return self.text, {"regret": 0.0, "valid": True}

    def step(self, action: int | str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The text after an action, its reward, whether the episode is over (or cut), and more."""
        arm = parse_arm(action, self.style) if isinstance(action, str) else action
        if arm not in (0, 1):
            return self.text, 0.0, True, False, {"regret": self.regret, "valid": False}
        reward = round(float(np.clip(self.rng.normal(self.means[arm], self.sd), *self.bounds)))
        self.history.append((arm, reward))
        self.regret += max(self.means) - self.means[arm]
        over = len(self.history) >= self.rounds
        return self.text, float(reward), over, False, {"regret": self.regret, "valid": True}

    @property
    def text(self) -> str:
        """All that was seen so far."""
        return bandit_text(self.history, self.style, self.rounds)


def bandit_text(history: Sequence[tuple[int, int]], style: BanditStyle, rounds: int = 50) -> str:
    """The prompt for a history of arms and rewards."""
    told = (style.told.format(name=style.names[arm], reward=reward) for arm, reward in history)
    return style.intro.format(rounds=rounds) + "".join(told) + style.ask


def parse_arm(answer: str, style: BanditStyle) -> int | None:
    """The arm that an answer names last, or None.

    >>> parse_arm("Button 1 is unsure. Action: I choose Button 2.", STYLES["buttons"])
    1
    """
    names = "|".join(map(re.escape, style.names))
    found = re.findall(rf"(?<!\w)({names})(?!\w)", answer)
    return style.names.index(found[-1]) if found else None


def arm_beliefs(
    history: Sequence[tuple[int, float]],
    *,
    sd: float,
    prior_mean: float,
    prior_sd: float,
) -> tuple[Float[np.ndarray, " arms"], Float[np.ndarray, " arms"]]:
    """Posterior means of the two arms' averages, and their standard deviations.

    >>> means, sds = arm_beliefs([(0, 10.0)], sd=1, prior_mean=0, prior_sd=1)
    >>> means.tolist(), sds.round(3).tolist()
    ([5.0, 0.0], [0.707, 1.0])
    """
    means, sds = np.zeros(2), np.zeros(2)
    for arm in (0, 1):
        seen = [reward for pulled, reward in history if pulled == arm]
        precision = 1 / prior_sd**2 + len(seen) / sd**2
        means[arm] = (prior_mean / prior_sd**2 + sum(seen) / sd**2) / precision
        sds[arm] = precision**-0.5
    return means, sds


def thompson_probability(
    means: Float[np.ndarray, " arms"], sds: Float[np.ndarray, " arms"]
) -> float:
    """Probability with which Thompson sampling takes the first arm.

    >>> thompson_probability(np.array([1.0, 1.0]), np.array([2.0, 3.0]))
    0.5
    """
    gap = (means[0] - means[1]) / math.hypot(*sds)
    return 0.5 * (1 + math.erf(gap / math.sqrt(2)))
