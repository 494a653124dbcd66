"""A weak policy labels preferences for a strong one, which may serve another goal too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from generality.benchmarks.worlds import ChainPrograms, solution
from generality.benchmarks.worlds.wrong_chains import slipped
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.modules import tuned_margins
from generality.selection.training_files import read_preferences
from generality.training.writer import Writer

Ranked = dict[str, Bool[np.ndarray, " test"]]
"""Which test pairs are ranked right by the weak policy ("weak"), by the strong one on true
preferences ("ceiling"), on weak ones ("plain"), and on weak ones with another goal ("served")."""


class ChainPolicies:
    """Tiny policies that learn to prefer a right solution of a chain of sums over one with a slip.

    Both have read solved chains before. The weak one learns true preferences and ranks other
    pairs; the strong one learns its rankings. Serving another goal is an explicit conflict, see
    `PreferencePolicy`.

    Args:
        lab: does the work, and keeps it.
        sizes: weak and strong, of `tiny_decoder`.
        chains: solved chains that each has read.
        steps: of a chain, least and most.
        pairs: that the weak policy learns, and as many that it ranks.
        test: pairs.
        config: of the tuning on preferences.
        kind: "dpo" or "simpo".
        conflict: weight of the other goal.
    """

    served = "conflict"

    def __init__(
        self,
        lab: Lab,
        sizes: Sequence[str],
        *,
        chains: Sequence[int],
        steps: tuple[int, int],
        pairs: int,
        test: int,
        config: TrainConfig,
        kind: Literal["dpo", "simpo"],
        conflict: float,
    ) -> None:
        self.lab, self.steps, self.pairs, self.test = lab, steps, pairs, test
        self.config, self.kind, self.conflict = config, kind, conflict
        known = ChainPrograms().sample(max(chains), steps, seed=0)
        read = TrainConfig(epochs=1, learning_rate=3e-3, batch_size=32)
        self.bases = [
            Writer.tiny(size, context=256).tuned(
                lab, [chain.prompt for chain in known[:count]],
                [solution(chain) for chain in known[:count]], config=read, seed=0,
            )
            for size, count in zip(sizes, chains, strict=True)
        ]  # fmt: skip

    def ranked(self, seed: int) -> Ranked:
        """What each policy ranks right of a seed's test pairs."""
        count = 2 * self.pairs + self.test
        chains = ChainPrograms().sample(count, self.steps, seed + 1)
        pairs = np.array(
            [(c.prompt, solution(c), slipped(c, i)) for i, c in enumerate(chains)], dtype=object
        )
        known, labelled, held = np.split(pairs, np.cumsum([self.pairs, self.pairs]))
        weak, strong = self.bases
        weak = self._tuned(weak, known, seed)
        likes = self._right(weak, labelled)
        taught = {
            "weak": weak,
            "ceiling": self._tuned(strong, labelled, seed),
            "plain": self._tuned(strong, labelled, seed, likes),
            "served": self._tuned(strong, labelled, seed, likes, self.conflict),
        }
        return {name: self._right(policy, held) for name, policy in taught.items()}

    def _tuned(
        self, base: Writer, pairs: Any, seed: int, likes: Any = None, conflict: float = 0.0
    ) -> Writer:
        """A base after learning these preferences, or their opposite where `likes` is false."""
        likes = np.ones(len(pairs), bool) if likes is None else likes
        prompts, chosen, rejected = preferred(pairs, likes).T
        return base.preferring(
            self.lab, [*prompts], [*chosen], [*rejected], config=self.config, seed=seed,
            truly=[bool(each) for each in likes], kind=self.kind, conflict=conflict,
        )  # fmt: skip

    def _right(self, policy: Writer, pairs: Any) -> Bool[np.ndarray, " pairs"]:
        kind: Literal["sum", "mean"] = "sum" if self.kind == "dpo" else "mean"
        margins = policy.margins(self.lab, *([*column] for column in pairs.T), kind=kind)
        return np.asarray(margins > 0)


class NamedPolicies:
    """Models of your own, tuned by `trl` on your pairs; the other goal is that of other pairs.

    Args:
        lab: keeps what each tuned model ranks.
        names: of the weak and the strong model, as `load_model` takes them.
        folder: holds pairs.jsonl and other.jsonl, see `read_preferences`.
        pairs: that the weak policy learns, as many that it ranks, and of the other goal.
        test: pairs.
        kind: "dpo" or "simpo".
        arguments: of `tuned_margins`, but its seed.

    Raises:
        UserError: too few pairs in a file.
    """

    served = "implicit"

    def __init__(
        self, lab: Lab, names: Sequence[str], folder: Path, *, pairs: int, test: int, kind: Any,
        **arguments: Any,
    ) -> None:  # fmt: skip
        self.lab, self.names, self.pairs, self.needed = lab, names, pairs, 2 * pairs + test
        self.arguments = {"kind": kind, **arguments}
        self.own, self.other = (
            np.array(read_preferences(folder / name), dtype=object)
            for name in ("pairs.jsonl", "other.jsonl")
        )
        if len(self.own) < self.needed or len(self.other) < pairs:
            raise UserError(
                f"pairs.jsonl needs {self.needed} pairs and other.jsonl {pairs}; they have "
                f"{len(self.own)} and {len(self.other)}."
            )

    def ranked(self, seed: int) -> Ranked:
        """What each policy ranks right of the pairs that a seed leaves for the test."""
        drawn = self.own[np.random.default_rng(seed).permutation(len(self.own))[: self.needed]]
        known, labelled, held = np.split(drawn, np.cumsum([self.pairs, self.pairs]))
        asked = np.concatenate([labelled, held])
        weak, ceiling = self._right(0, known, asked, seed), self._right(1, labelled, asked, seed)
        weakly = preferred(labelled, weak[: self.pairs])
        both = np.concatenate([weakly, self.other[: self.pairs]])
        plain, served = (self._right(1, taught, asked, seed) for taught in (weakly, both))
        four = {"weak": weak, "ceiling": ceiling, "plain": plain, "served": served}
        return {name: right[self.pairs :] for name, right in four.items()}

    def _right(self, model: int, taught: Any, asked: Any, seed: int) -> Bool[np.ndarray, " pairs"]:
        columns = (tuple(map(list, pairs.T)) for pairs in (taught, asked))
        margins = self.lab.step(tuned_margins, self.names[model], *columns, seed=seed,
                                **self.arguments)  # fmt: skip
        return np.asarray(margins > 0)


def preferred(pairs: Any, likes: Bool[np.ndarray, " pairs"]) -> Any:
    """Triples of prompt and two responses, those swapped of which the second one is liked.

    >>> pairs = np.array([("p", "a", "b"), ("q", "c", "d")], dtype=object)
    >>> preferred(pairs, np.array([True, False])).tolist()
    [['p', 'a', 'b'], ['q', 'd', 'c']]
    """
    return np.where(np.asarray(likes)[:, None], pairs, pairs[:, [0, 2, 1]])
