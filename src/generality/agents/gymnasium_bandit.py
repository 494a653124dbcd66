"""A bandit in words as an environment of gymnasium, for its wrappers and for agents made for it."""

from __future__ import annotations

import string
from typing import Any

from generality.agents.text_bandit import TextBandit
from generality.errors import import_extra


def bandit_environment(bandit: TextBandit, *, longest: int = 8192) -> Any:
    """The bandit as a `gymnasium.Env`: observations are texts, actions the numbers of the arms.

    `reset(seed=…)` fixes the rewards of this episode and all after it, as gymnasium has it. Whoever
    answers in words plays the bandit itself.

    Args:
        bandit: is played by the environment, and so no longer by others.
        longest: observation, in characters.

    Raises:
        UserError: gymnasium is not installed.

    >>> env = bandit_environment(TextBandit((5, 15), sd=0, rounds=2, style="letters"))
    >>> env.reset(seed=0)[0], env.step(1)[:2], env.step(0)[:3]
    (':', ('b 15 :', 15.0), ('b 15 a 5 :', 5.0, True))
    """
    gymnasium = import_extra("gymnasium", "agents")

    class BanditEnvironment(gymnasium.Env):
        """Two arms, told in words."""

        def __init__(self) -> None:
            self.action_space = gymnasium.spaces.Discrete(2)
            self.observation_space = gymnasium.spaces.Text(longest, charset=string.printable)

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            told = bandit.reset()
            bandit.rng = self.np_random
            return told

        def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return bandit.step(int(action))

    return BanditEnvironment()
