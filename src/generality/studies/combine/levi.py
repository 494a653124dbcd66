"""LEVI: do heads on several layers, each beside a small model from scratch, survive a shift?

Protocol (Roh et al. 2024, arXiv 2402.04644). A model trained on one domain is tested on shifted
ones. Panel "cue": sentiment of one domain with a word appended that agrees with the label (at the
rate `cue`), tested with the word reversed and on another domain without it. Panel "codes", a task
far from pretraining: lists of words of which the first decides by a sign that it was given at
random, tested on longer lists and on lists diluted with words never seen. Floor: a linear probe of
the frozen last layer. Ceiling: the same with the shift's own labelled training data. Trivial
controls: layer-wise heads widened to LEVI's number of weights, and the mean of full tuning's and
the small model's probabilities.

Differences from the paper, with their effect: the first blocks of MiniLM, frozen, instead of T5 and
ViT (weaker late layers); code words and planted words instead of ratings over time and genre (the
shifts are known, and harsher); a fixed number of epochs instead of the best by in-domain validation
(nothing chosen, so small models may overfit); widths, layers and rates are ours, since the paper's
could not be recovered; seeds redraw cues, codes, first weights and order, not the texts (intervals
do not cover the draw of texts). Full tuning is brief at `small` and skips the panel of codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks.shifted_texts import ShiftedTexts, coded_lists, cued_sentiment
from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError
from generality.estimators.layerwise_heads import LayerReader, layerwise_heads
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy
from generality.models import load_model, load_tokenizer
from generality.models.identity import model_identity
from generality.modules import probed
from generality.studies.study import Paper
from generality.training.ways_to_tune import text_ways_to_tune

PAPER = Paper(
    "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views",
    arxiv="2402.04644",
    year=2024,
)
FACTORS = ("panel", "shift")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "minilm-l6"
    layers: tuple[int, ...] = (1, 2, 3)  # hidden states read; the last is also the probes'
    panels: tuple[str, ...] = ("cue", "codes")
    source: str = "amazon"  # sentiment domain trained on
    others: tuple[str, ...] = ("tweets",)  # and tested on
    cue: float = 0.9  # how often the appended word agrees with the label in training
    train: int = 320  # texts of the cue panel
    codes: int = 400  # lists of the codes panel, also for its ceilings
    code_words: int = 20  # in use in these lists
    test: int = 200  # texts of each shift
    target: int = 200  # labelled texts of another domain, for its ceiling
    max_length: int = 32  # tokens
    seeds: int = 5
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3  # AdamW, cosine to 0; heads and small model
    vocab: int = 4096  # of the small model; ids are hashed into it
    dim: int = 64  # its width; 2 blocks
    tuned_panels: tuple[str, ...] = ("cue",)
    tuned_seeds: int = 5
    tuned_epochs: float = 2
    tuned_learning_rate: float = 2e-4  # Adam, batch 32, cosine to 0; as in weak-to-strong

    def __post_init__(self) -> None:
        for panel in (*self.panels, *self.tuned_panels):
            if panel not in ("cue", "codes"):
                raise UserError(f"A panel is 'cue' or 'codes', not '{panel}'.")
        if not 0.5 <= self.cue <= 1 or not self.layers or not self.panels:
            raise UserError("cue is in [0.5, 1], and layers and panels name at least one.")


SCALES = {
    "smoke": Config(
        layers=(1, 2), train=24, codes=16, test=16, target=16, max_length=12, seeds=2,
        epochs=2, batch_size=16, vocab=256, dim=16, tuned_seeds=1, tuned_epochs=1,
    ),
    "small": Config(),
    "full": Config(
        model="hf:google-bert/bert-base-uncased", layers=(3, 6, 9, 12), epochs=20,
        others=("movie", "nyt", "tweets"), train=1600, codes=3000, code_words=100, test=500,
        target=1200, max_length=128, seeds=10, tuned_panels=("cue", "codes"), tuned_seeds=10,
        tuned_epochs=4, tuned_learning_rate=5e-5,
    ),
}  # fmt: skip

SHIFTED = {"shift": lambda column: column != "in-domain"}
CUE, CODES = {"panel": "cue", **SHIFTED}, {"panel": "codes", **SHIFTED}
SAME = {"panel": "cue", "shift": "in-domain"}
CLAIMS = (
    Claim("LEVI beats full fine-tuning under shift", greater("levi", "full-tuning", where=CUE)),
    Claim("LEVI beats a linear probe under shift", greater("levi", "linear-probe", where=CUE)),
    Claim("LEVI beats probing, then tuning, under shift", greater("levi", "lp-ft", where=CUE)),
    Claim("LEVI beats weights half-way under shift", greater("levi", "wise-ft", where=CUE)),
    Claim(
        "LEVI beats averaging full tuning with the small model (equal views, no shared heads)",
        greater("levi", "tuned-and-scratch", where=CUE),
    ),
    Claim(
        "LEVI is less than 3 points worse than full tuning without shift",
        greater("levi", -0.03, on="over_tuning", where=SAME),
    ),
    Claim(
        "The model from scratch helps where the task is far from pretraining",
        greater("levi", "heads-only", where=CODES),
    ),
    Claim(
        "More so than beside a task that pretraining knows",
        interacts(("method", "levi", "heads-only"), ("panel", "codes", "cue"), where=SHIFTED),
    ),
    Claim(
        "It is the view and not the weights: heads alone of the same size do worse there",
        greater("levi", "heads-only-wide", where=CODES),
    ),
    Claim(
        "Middle layers help: reading the last layer only does worse under shift",
        greater("levi", "last-layer-and-scratch", where=SHIFTED),
    ),
    Claim(
        "LEVI adds at most 5 % to the backbone's weights",
        less("levi", 0.05, on="added_weights"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel, seed, method and shift."""
    lab.fetch(config.model)
    backbone = lab.step(count_weights, config.model, model_identity(config.model))
    for name in config.panels:
        seeds = lab.seeds(config.seeds)
        panels = [(cue_panel if name == "cue" else codes_panel)(config, seed) for seed in seeds]
        texts = [text for panel in panels for text in panel.texts]
        read = LayerReader(lab, config.model, config.layers, texts, max_length=config.max_length)
        for seed, panel in zip(seeds, panels, strict=True):
            tuned = name in config.tuned_panels and seed < config.tuned_seeds
            found, added = methods(config, lab, read, panel, seed, tuned)
            for shift, (_, truth) in panel.tests.items():
                goal = panel.targets.get(shift)
                ceiling = goal and lab.step(
                    probed, read(goal.texts)["hidden"][:, -1], goal.labels,
                    {shift: read(panel.tests[shift].texts)["hidden"][:, -1]},
                )[shift]  # fmt: skip
                scores = {method: accuracy(p[shift], truth) for method, p in found.items()}
                for method, score in scores.items():
                    yield Row(
                        method=method, seed=seed, panel=name, shift=shift, score=score,
                        floor=scores["linear-probe"] if goal else None,
                        ceiling=accuracy(ceiling, truth) if goal else None,
                        over_tuning=score - scores["full-tuning"] if tuned and not goal else None,
                        added_weights=added[method] / backbone if method in added else None,
                    )  # fmt: skip


def cue_panel(config: Config, seed: int) -> ShiftedTexts:
    """A word gives the label away, mostly."""
    return cued_sentiment(
        config.source, config.others, cue=config.cue, train=config.train, test=config.test,
        target=config.target, seed=seed,
    )  # fmt: skip


def codes_panel(config: Config, seed: int) -> ShiftedTexts:
    """Words have secret signs."""
    return coded_lists(
        load_tokenizer(config.model).get_vocab(), train=config.codes, test=config.test,
        words=config.code_words, code=seed,
    )  # fmt: skip


def methods(
    config: Config, lab: Lab, read: LayerReader, panel: ShiftedTexts, seed: int, tuned: bool
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, int]]:
    """Probabilities by method and shift, and the weights that ensembles add to the backbone."""
    source = read(panel.train.texts)
    tests = {shift: read(texts) for shift, (texts, _) in panel.tests.items()}
    last = source["hidden"][:, -1]
    lasts = {shift: found["hidden"][:, -1] for shift, found in tests.items()}
    settings = TrainConfig(
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        optimizer="adamw", dropout=True,
    )  # fmt: skip
    every = tuple(range(len(config.layers)))
    arms: dict[str, dict[str, Any]] = {
        "levi": {"layers": every},
        "heads-only": {"layers": every, "dim": 0},
        "last-layer-and-scratch": {"layers": every[-1:]},
        "scratch": {"layers": ()},
    }
    found, added = {"linear-probe": lab.step(probed, last, panel.train.labels, lasts)}, {}
    for arm, options in arms.items():
        options = {"vocab": config.vocab, "dim": config.dim, **options}
        result = lab.step(
            layerwise_heads, source, panel.train.labels, tests, settings=settings, seed=seed,
            **options,
        )  # fmt: skip
        found[arm], added[arm] = result["probabilities"], result["weights"]
    per_unit = len(every) * (last.shape[1] + 3)
    found["heads-only-wide"] = lab.step(
        layerwise_heads, source, panel.train.labels, tests, settings=settings, seed=seed,
        layers=every, vocab=config.vocab, dim=0, head_hidden=added["levi"] // per_unit,
    )["probabilities"]  # fmt: skip
    if tuned:
        whole = TrainConfig(epochs=config.tuned_epochs, learning_rate=config.tuned_learning_rate)
        found |= lab.step(
            text_ways_to_tune, config.model, model_identity(config.model), *panel.train, last,
            {shift: texts for shift, (texts, _) in panel.tests.items()}, layer=config.layers[-1],
            max_length=config.max_length, seed=seed, device=lab.device, config=whole,
        )  # fmt: skip
        found["tuned-and-scratch"] = {
            shift: (found["full-tuning"][shift] + found["scratch"][shift]) / 2 for shift in tests
        }
    return found, added


def count_weights(model: str, identity: str) -> int:
    """Weights of a backbone."""
    return sum(p.numel() for p in load_model(model, device="cpu").parameters())
