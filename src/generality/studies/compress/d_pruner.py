"""D-Pruner: which half of a language model's weights does one domain need, and the rest of text?

Protocol (Zhang et al. 2024, arXiv 2405.06275). A small decoder reads films, shops, newspapers,
tweets and reviews of drugs; a share of every matrix is cut to keep what it can do with drugs:
predict their reviews, say whether the patient is pleased and which ward the illness belongs to.
Scores come from general text (SparseGPT's), from the domain (Taylor scores after training on it,
`domain-only`), or both: `anchored` (that training held by Σ G (w − w₀)²), `d-pruner` (anchored and
general scores joined by rank) and `as-released` (the code's regulariser, and its w³).
Floor: magnitude. Ceiling: the dense model. Rivals: Wanda and SparseGPT, the latter adjusting the
weights that stay, calibrated on general text or on the domain's.

Differences from the paper, with their effect: a decoder of 0.3 million weights that has seen the
domain's own training texts instead of LLaMA2 (little is spare, so half of the weights cost more);
AdamW for two passes instead of LOMO for five, Taylor scores in a pass of their own after the
training instead of during it; general scores on the dense model's inputs, without SparseGPT's
adjustments (`sparsegpt` makes them); the share is `sparsity` itself instead of 52 %; no
fine-tuning after the cut; no summaries among the tasks; the decoder answers at chance (found before
anything was cut), so claims about answers are for larger models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generality.claims import Claim, Row, greater, less
from generality.lab import Lab, TrainConfig
from generality.lab.threads import threads
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.experiments.language_domains import LanguageDomains

PAPER = Paper("Pruning as a Domain-specific LLM Extractor", arxiv="2405.06275", year=2024)
FACTORS = ("sparsity",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str | None = None  # a name as load_model takes it; None: a decoder trained here
    data_path: str = (
        "data/d-pruner"  # with a model: folder of DOMAIN.train.jsonl, DOMAIN.test.jsonl
    )
    domain: str = "drugs"
    general: tuple[str, ...] = ("movie", "amazon", "nyt", "tweets")
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7)
    size: str = "0.25M"  # of the decoder
    limit: int | None = None  # texts of each domain at most; None: all
    words: int = 50  # of a text
    tokens: int = 400_000  # that the decoder reads in training
    base_learning_rate: float = 3e-3
    general_texts: int = 32  # of each general domain, for calibration
    domain_texts: int = 128  # of the domain, for calibration and training
    test: int = 60  # held-out texts of each domain; of drugs half are asked each question
    epochs: float = 2  # of training on the domain
    learning_rate: float = 3e-4  # of that training
    strength: float = 0.1  # λ of regulariser and anchor
    seeds: int = 4


SCALES = {
    "smoke": Config(
        general=("nyt",), sparsities=(0.5,), size="0.05M", limit=40, words=12, tokens=2000,
        general_texts=8, domain_texts=8, test=8, epochs=1, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        model="hf:meta-llama/Llama-2-7b-hf", domain="medical", general=("c4",), sparsities=(0.52,),
        words=700, general_texts=128, domain_texts=1000, test=300, epochs=5, learning_rate=1e-5,
        seeds=3,
    ),
}  # fmt: skip

HIGH = {"sparsity": [0.5, 0.52, 0.7]}
LOSS, OPEN, BOTH = {"on": "domain_loss"}, {"on": "open_loss"}, {"on": "mean_loss"}
CLAIMS = (
    Claim(
        "D-Pruner keeps the domain better than magnitude (loss of a token)",
        less("d-pruner", "magnitude", where=HIGH, **LOSS),
    ),
    Claim(
        "Better than Wanda on general text", less("d-pruner", "wanda", where=HIGH, **LOSS)
    ),
    Claim(
        "Better than SparseGPT on general text",
        less("d-pruner", "sparsegpt", where=HIGH, **LOSS),
    ),
    Claim(
        "Better than Wanda on the domain's text",
        less("d-pruner", "wanda-domain", where=HIGH, **LOSS),
    ),
    Claim(
        "Better than SparseGPT on the domain's text",
        less("d-pruner", "sparsegpt-domain", where=HIGH, **LOSS),
    ),
    Claim(
        "It answers more of the domain's questions than the model cut by magnitude",
        greater("d-pruner", "magnitude", on="accuracy", where=HIGH),
        expected_at="full",
    ),
    Claim(
        "General scores alone lose more of the domain",
        less("d-pruner", "general-only", where=HIGH, **LOSS),
    ),
    Claim(
        "Domain scores alone answer fewer of the domain's questions",
        greater("d-pruner", "domain-only", on="accuracy", where=HIGH),
        expected_at="full",
    ),
    Claim(
        "Domain scores alone lose more of general text",
        less("d-pruner", "domain-only", where=HIGH, **OPEN),
    ),
    Claim(
        "Over both kinds of text it beats general scores",
        less("d-pruner", "general-only", where=HIGH, **BOTH),
    ),
    Claim(
        "And domain scores",
        less("d-pruner", "domain-only", where=HIGH, **BOTH),
    ),
    Claim(
        "Calibration on the domain keeps more of it (Wanda)",
        less("wanda-domain", "wanda", where=HIGH, **LOSS),
    ),
    Claim(
        "And less of general text",
        greater("wanda-domain", "wanda", where=HIGH, **OPEN),
    ),
    Claim(
        "The released regulariser is inert (its largest share of a gradient is below 0.001)",
        less("as-released", 1e-3, on="regulariser"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed, sparsity and way to choose."""
    world, every = exams(config, lab), (*config.general, config.domain)
    for seed in lab.seeds(config.seeds):
        weights = None
        if config.model is None:
            how = TrainConfig(
                batch_size=32, learning_rate=config.base_learning_rate, optimizer="adamw",
                warmup=0.05, max_grad_norm=1.0,
            )  # fmt: skip
            weights = world.trained(lab, every, config.tokens, how, seed)
        for row in lab.step(cell, config, world, weights, seed):
            yield Row(seed=seed, **row)


def exams(config: Config, lab: Lab) -> LanguageDomains:
    """The decoder's domains, or those of a model by name in files."""
    from generality.experiments.language_domains import model_domains

    return model_domains(
        lab, (*config.general, config.domain), size=config.size, model=config.model,
        folder=config.data_path, words=config.words, test=config.test, limit=config.limit,
    )  # fmt: skip


def cell(config: Config, world: LanguageDomains, weights: Any, seed: int) -> list[dict[str, Any]]:
    """All ways at all sparsities for one model and one draw of calibration texts."""
    from generality.measures import dual_importance
    from generality.training.domain_pruning import DomainPruning

    with threads(1):
        model = world.model(weights)
        task = DomainPruning(
            model,
            world.read(config.general, config.general_texts, seed=seed),
            world.read([config.domain], config.domain_texts, seed=seed),
            TrainConfig(
                config.epochs, 8, learning_rate=config.learning_rate, optimizer="adamw",
                max_grad_norm=1.0, warmup=0.1, schedule="linear",
            ),
            strength=config.strength, seed=seed,
        )  # fmt: skip
        plain, anchored = task.domain_scores("plain"), task.domain_scores("anchored")
        scores = {
            "magnitude": task.magnitude(),
            "wanda": task.wanda("general"),
            "wanda-domain": task.wanda("domain"),
            "general-only": task.general_scores,
            "domain-only": plain,
            "as-released": task.domain_scores("released", cubic=True),
            "anchored": anchored,
            "d-pruner": dual_importance(task.general_scores, anchored),
        }
        share = task.released_share()
        dense, reader = read(config, world, model), copy.deepcopy(model)
        rows: list[dict[str, Any]] = []
        for sparsity in config.sparsities:
            found = {}
            for name in (*scores, "sparsegpt", "sparsegpt-domain"):
                if name in scores:
                    scope: Any = "row" if "wanda" in name else "matrix"
                    cut = task.pruned(scores[name], sparsity, scope=scope)
                else:
                    cut = task.sparsegpt(sparsity, "domain" if "domain" in name else "general")
                reader.load_state_dict(cut)
                found[name] = read(config, world, reader)
            rows += [
                {
                    "method": name, "sparsity": sparsity, "score": -one["domain_loss"],
                    "floor": -found["magnitude"]["domain_loss"], "ceiling": -dense["domain_loss"],
                    **one, **{f"dense_{key}": value for key, value in dense.items()},
                    "regulariser": share if name == "as-released" else None,
                }
                for name, one in found.items()
            ]  # fmt: skip
    return rows


def read(config: Config, world: LanguageDomains, model: Any) -> dict[str, float]:
    """Losses in the domain and in general (nats a token), and answers in the domain."""
    domain, general = world.loss(model, [config.domain]), world.loss(model, config.general)
    return {
        "domain_loss": domain,
        "open_loss": general,
        "mean_loss": (domain + general) / 2,
        "accuracy": world.accuracy(model, [config.domain]),
    }
