"""The steps of SELMA on scenes: a base, skill experts, their merges, what they can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from generality.benchmarks.worlds.scenes import (
    SKILLS,
    answer_scene,
    draw_scene,
    scene_caption,
    scene_questions,
)
from generality.experiments.scene_painter import SceneNetwork, ScenePainter, train_painter
from generality.measures.dependency_graph_score import category_report, dependency_graph_scores
from generality.training.skill_experts import (
    adapter_conflict,
    merge_experts,
    train_skill_experts,
    with_adapter,
)

Pairs = tuple[Sequence[str], Float[np.ndarray, "n 9 9 3"]]
_ADAPTED = ["qkv", "proj", "wide", "narrow", "caption.0", "caption.2"]


class SceneSchool:
    """Trains and tests `ScenePainter`s for one seed.

    Args:
        config: with `skills`, `pretraining`, `weaker`, `wrong`, `test`, `rank`, `steps` and
            `learning_rate`, as in the study selma.
        folder: for adapters.
        seed: of everything.
    """

    def __init__(self, config: Any, folder: Path, seed: int) -> None:
        self.config, self.folder, self.seed = config, folder, seed
        rng = np.random.default_rng((seed, 1))
        self.test = {s: [scene_caption(s, rng) for _ in range(config.test)] for s in config.skills}

    def base(self, width: int, *, weaker: bool = False) -> ScenePainter:
        """A painter that learned from captions of which some are wrong."""
        rng = np.random.default_rng((self.seed, 2))
        count, steps = self.config.pretraining
        kinds = ("simple", *SKILLS)
        captions = [scene_caption(kinds[i % len(kinds)], rng) for i in range(count)]
        pictures = self.drawn(captions)
        wrong = rng.random(count) < self.config.wrong
        others = rng.permutation(count)
        told = [captions[others[i]] if wrong[i] else captions[i] for i in range(count)]
        torch.manual_seed(self.seed)
        painter = ScenePainter(SceneNetwork(width))
        train_painter(
            painter, painter.network, told, pictures, learning_rate=2e-3, seed=self.seed,
            steps=self.config.weaker if weaker else steps, decay=True,
        )  # fmt: skip
        return painter

    def drawn(self, captions: Sequence[str]) -> Float[np.ndarray, "n 9 9 3"]:
        """Pictures by the rule."""
        rng = np.random.default_rng((self.seed, 3))
        return np.stack([draw_scene(caption, rng) for caption in captions])

    def best_of(self, painter: ScenePainter, captions: Sequence[str], tries: int = 4) -> Any:
        """For each caption the best of some pictures, by the score itself."""
        every = np.stack(
            [painter.paint(captions, seed=self.seed + (i << 16)) for i in range(tries)]
        )
        marks = np.array(
            [
                [
                    np.mean(marks_of(caption, picture))
                    for caption, picture in zip(captions, pictures, strict=True)
                ]
                for pictures in every
            ]
        )
        return every[marks.argmax(0), np.arange(len(captions))]

    def experts(self, base: ScenePainter, data: Mapping[str, Pairs], name: str) -> list[Path]:
        """An adapter for each skill."""
        return self._adapters(base, data, name, self.config.steps)

    def union(self, base: ScenePainter, data: Mapping[str, Pairs], name: str) -> ScenePainter:
        """One adapter on all of them, for as many steps as the experts together."""
        captions = [caption for captions, _ in data.values() for caption in captions]
        pictures = np.concatenate([pictures for _, pictures in data.values()])
        steps = self.config.steps * len(data)
        return self.merged(base, self._adapters(base, {"all": (captions, pictures)}, name, steps))

    def merged(self, base: ScenePainter, adapters: Sequence[Path]) -> ScenePainter:
        """The base with the mean of what the adapters add."""
        adapter = merge_experts(adapters, base=adapters[0].parent / "base")
        return ScenePainter(with_adapter(base.network, adapter))

    def conflict(self, adapters: Sequence[Path]) -> float:
        """Mean cosine of what two adapters add to the weights."""
        cosines = adapter_conflict(adapters, base=adapters[0].parent / "base")
        return float(cosines[np.triu_indices(len(adapters), 1)].mean())

    def scores(self, painter: ScenePainter) -> dict[str, float]:
        """Share of questions about the held-out captions of each skill that pictures fulfil."""
        found = {}
        for skill, captions in self.test.items():
            pictures = painter.paint(captions, seed=self.seed)
            marks = [marks_of(c, p) for c, p in zip(captions, pictures, strict=True)]
            kinds = [[q.kind for q in scene_questions(c)] for c in captions]
            found[skill] = category_report(marks, kinds)["all"]
        return found

    def _adapters(
        self, base: ScenePainter, data: Mapping[str, Pairs], name: str, steps: int
    ) -> list[Path]:
        from peft import LoraConfig

        def train(network: Any, pairs: Pairs) -> None:
            train_painter(
                base, network, *pairs, steps=steps, learning_rate=self.config.learning_rate,
                seed=self.seed,
            )  # fmt: skip

        rank = self.config.rank
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=_ADAPTED)
        torch.manual_seed(self.seed)
        places = train_skill_experts(
            base.network, data, self.folder / name, config=lora, train=train
        )
        return list(places.values())


def marks_of(caption: str, picture: Float[np.ndarray, "9 9 3"]) -> list[float]:
    """The score of each question about one picture."""
    parents = [question.parents for question in scene_questions(caption)]
    return dependency_graph_scores(answer_scene(caption, picture), parents)
