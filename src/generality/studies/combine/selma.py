"""Can a text-to-image model teach itself skills one by one, and does merging beat one tuning?

Protocol (Li et al. 2024, arXiv 2403.06952). For each skill (counting, relations, colours of several
things, long captions) new captions grow from three by self-instruction; the model paints each once;
a low-rank adapter a skill is trained on those pairs; the adapters' mean is the generalist. Score:
the share of dependent yes-or-no questions about held-out captions that the picture answers yes (a
Davidsonian scene graph), read off by the rule that draws scenes. Floor: the model itself. Ceiling:
one adapter trained on the union of captions with pictures drawn by the rule. `merged` is the
method, `union` one adapter on all self-painted pairs for as many steps as the experts together,
`truth-merged` experts on drawn pictures, `one-expert` the mean of single experts over all skills
(the control), `best-of-4` experts on the best of four own pictures by the score itself (ours: it
filters with the judge), `weak-to-strong` experts of the model on pictures of a weaker one.

Differences from the paper, with their effect: scenes of nine cells and a transformer of 100,000
weights that predicts the clean picture instead of Stable Diffusion and noise (skills are few and
exact, the model has no world knowledge to draw on); a grammar instead of a language model writes
captions (no shared style; only copies are refused, since all captions of a grammar are alike, and
held-out captions of counting, of which there are 36, come up in training too); the base learned the
skills from captions of which 30 % are wrong (that is what it can improve on, SD was never told so);
rank 8, no checkpoint picked by validation. `painter` takes a diffusers pipeline and `judge` a model
that answers questions about pictures: then floor and ceiling are that model and nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from generality.benchmarks.worlds.scenes import SKILLS
from generality.claims import Claim, Row, equivalent, greater
from generality.errors import UserError
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper(
    "SELMA: Learning and Merging Skill-Specific Text-to-Image Experts with Auto-Generated Data",
    arxiv="2403.06952",
    year=2024,
)
FACTORS = ("skill",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    skills: tuple[str, ...] = SKILLS
    pretraining: tuple[int, int] = (3000, 4000)  # captions, steps of 64
    weaker: int = 1000  # steps of the weaker painter, half as wide
    width: int = 48  # of the transformer
    wrong: float = 0.3  # share of the base's captions that belong to another picture
    prompts: int = 200  # a skill
    test: int = 60  # captions a skill
    rank: int = 8
    steps: int = 200  # of an expert, batches of 64; the union has as many for each skill
    learning_rate: float = 1e-3  # Adam, constant, of adapters; pretraining falls from 2e-3
    seeds: int = 3
    painter: str = "scenes"  # or a diffusers pipeline: hf:org/name or a folder
    judge: str = "rule"  # or a model for visual question answering
    resolution: int = 512  # pixels on a side, of a pipeline

    def __post_init__(self) -> None:
        if len(self.skills) < 2 or set(self.skills) - set(SKILLS):
            raise UserError(f"skills are two or more of {', '.join(SKILLS)}.")
        if (self.painter == "scenes") != (self.judge == "rule"):
            raise UserError("The rule judges scenes only: a pipeline needs a judge, scenes none.")


SCALES = {
    "smoke": Config(
        skills=SKILLS[:2], pretraining=(60, 6), weaker=3, width=16, prompts=12, test=6, rank=2,
        steps=3, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        painter="hf:CompVis/stable-diffusion-v1-4", judge="hf:dandelin/vilt-b32-finetuned-vqa",
        prompts=1000, test=250, rank=128, steps=3000, learning_rate=3e-4,
    ),
}  # fmt: skip

CLAIMS = (
    Claim(
        "Experts on its own pictures, merged, make a model more faithful",
        greater("merged", "floor"),
    ),
    Claim("Merging skill experts beats one adapter for all skills", greater("merged", "union")),
    Claim(
        "Own pictures are as good as true ones (within 2 points)",
        equivalent("merged", "truth-merged", margin=0.02),
    ),
    Claim(
        "A stronger model learns from a weaker one's pictures", greater("weak-to-strong", "floor")
    ),
    Claim("The merged model beats single experts over all skills", greater("merged", "one-expert")),
    Claim("Choosing the best of four own pictures helps", greater("best-of-4", "merged")),
    Claim("True pictures, merged, beat the base", greater("truth-merged", "floor")),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed: each method on each skill."""
    for seed in lab.seeds(config.seeds):
        score = scenes_scores if config.painter == "scenes" else pipeline_scores
        for row in lab.step(score, config, seed):
            yield Row(seed=seed, **row)


def grown_captions(skill: str, count: int, seed: int) -> list[str]:
    """New captions of a skill, grown from three; the grammar writes what a language model would."""
    from generality.benchmarks.worlds.scenes import scene_caption
    from generality.selection.self_instruct import SelfInstructPool

    rng = np.random.default_rng((seed, SKILLS.index(skill)))
    seeds = [scene_caption(skill, rng) for _ in range(3)]
    pool = SelfInstructPool(
        seeds, lambda shown: [scene_caption(skill, rng) for _ in range(20)], seed=seed,
        max_rouge_l=0.95,
    )  # fmt: skip
    return pool.grow(count, patience=5)


def scenes_scores(config: Config, seed: int) -> list[dict[str, Any]]:
    """Base, experts and merges of one seed on scenes."""
    from generality.experiments.scene_school import SceneSchool
    from generality.lab.threads import threads

    with threads(1), TemporaryDirectory() as folder:
        school = SceneSchool(config, Path(folder), seed)
        base, weaker = school.base(config.width), school.base(config.width // 2, weaker=True)
        captions = {skill: grown_captions(skill, config.prompts, seed) for skill in config.skills}
        own = {s: (c, base.paint(c, seed=seed)) for s, c in captions.items()}
        best = {s: (c, school.best_of(base, c)) for s, c in captions.items()}
        truth = {s: (c, school.drawn(c)) for s, c in captions.items()}
        weak = {s: (c, weaker.paint(c, seed=seed)) for s, c in captions.items()}
        experts = school.experts(base, own, "own")
        models = {
            "base": base,
            "weaker": weaker,
            "merged": school.merged(base, experts),
            "union": school.union(base, own, "union"),
            "truth-merged": school.merged(base, school.experts(base, truth, "truth")),
            "truth-union": school.union(base, truth, "truth-union"),
            "best-of-4": school.merged(base, school.experts(base, best, "best")),
            "weak-to-strong": school.merged(base, school.experts(base, weak, "weak")),
        }
        singles = [school.merged(base, [expert]) for expert in experts]
        scores = {name: school.scores(model) for name, model in models.items()}
        alone = [school.scores(model) for model in singles]
        scores["one-expert"] = {s: float(np.mean([a[s] for a in alone])) for s in config.skills}
        scores["own-expert"] = {s: a[s] for s, a in zip(config.skills, alone, strict=True)}
        conflict = school.conflict(experts)
    return rows(config.skills, scores, conflict)


def pipeline_scores(config: Config, seed: int) -> list[dict[str, Any]]:
    """Base, experts, their merge and the union of one seed on a diffusers pipeline."""
    from generality.experiments.pipeline_school import PipelineSchool

    with TemporaryDirectory() as folder:
        school = PipelineSchool(config, Path(folder), seed)
        captions = {skill: grown_captions(skill, config.prompts, seed) for skill in config.skills}
        own = {skill: (c, school.paint(c)) for skill, c in captions.items()}
        scores = {"base": school.scores(grown_captions)}
        experts = school.experts(own)
        scores["merged"] = school.scores(grown_captions, experts)
        scores["union"] = school.scores(grown_captions, [school.union(own)])
    return rows(config.skills, scores, float("nan"))


def rows(
    skills: Sequence[str], scores: dict[str, dict[str, float]], conflict: float
) -> list[dict[str, Any]]:
    """A row for each method and skill, beside floor and ceiling."""
    ceiling = scores.get("truth-union", {})
    return [
        {
            "method": method, "skill": skill, "score": values[skill],
            "floor": scores["base"][skill], "ceiling": ceiling.get(skill), "cosine": conflict,
        }
        for method, values in scores.items()
        for skill in skills
    ]  # fmt: skip
