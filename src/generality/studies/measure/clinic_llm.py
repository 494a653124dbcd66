"""Which hospitals does one clinical model fail, why, and does tuning it for each of them help?

Protocol (Jiang et al. 2024, arXiv 2402.10965). A model of notes is fitted to all sites (the floor)
and audited: the AUC of every site with its interval. A small model then tells from metadata where
it fails. Four strategies fit a model per site: its own rows alone, from the frozen encoder or from
the global model; its own rows and the most similar ones of other sites; one model per cluster.
Everything is done on a random and on a temporal split, with as many optimiser steps per model.

Two panels. "notes" are generated, so that it is known whom a model must fail; test sets are large,
and the ceiling is a global model with ten times the site's rows (at most `ceiling_notes` more).
"reviews" are patients' reviews of drugs, sites being groups of conditions; there is no ceiling.

Differences from the paper, each with its effect: its notes of four hospitals are private; our
encoder is frozen (a local model cannot adapt the language, which favours global ones) but for one
arm, which tunes its first three blocks for one site on the random split; reviews have 72 to 285
rows a site, so test AUCs are of 20 to 90 rows and scatter by 0.1. Controls of ours: random rows in
place of similar ones, and a global model trained twice as long (what "local from global" gets in
steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from generality.benchmarks import hospital_splits, load_benchmark, read_sites, split_sites
from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError, unknown
from generality.experiments import site_scores, tune_for_site
from generality.lab import Lab
from generality.measures import GroupAudit, delong, failure_drivers
from generality.models import BagOfWords
from generality.studies.study import Paper

PAPER = Paper(
    "Generalization in Healthcare AI: Evaluation of a Clinical Large Language Model",
    arxiv="2402.10965",
    year=2024,
)
FACTORS = ("panel", "part", "site", "split", "group", "feature")
METADATA = ("site_size", "age", "comorbidities", "words", "insurance", "borough")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    panels: tuple[str, ...] = ("notes", "reviews")  # or "table": your own, at data_path
    data_path: str | None = None  # of "table": a CSV with text, label (0, 1), site and date
    splits: tuple[str, ...] = ("random", "temporal")
    notes: int = 2000  # for training, over four hospitals of 60, 25, 12 and 3 %
    test_notes: int = 600  # for each hospital
    ceiling_notes: int = 1000  # most that are added to a hospital for its ceiling
    read_words: int = 60  # of a note that the model reads
    places: int = 512  # that words of notes are hashed into
    encoder: str = "minilm-l6"  # of reviews and tables
    tokens: int = 64  # of a review that the encoder reads
    drawn: float = 0.8  # share of the training rows of reviews each seed draws
    hidden: int = 32  # units of the head
    epochs: int = 10  # of the global head, Adam at 1e-3, batches of 32
    ratio: float = 1.0  # similar rows added, as a multiple of a site's own
    clusters: int = 4
    seeds: int = 5
    tuned_site: str | None = "contraception"  # for which the whole encoder is tuned too; or None
    tuned_seeds: int = 3
    tuned_splits: tuple[str, ...] = ("random",)
    tuned_layer: int = 3  # hidden state classified; the blocks after it are not run; -1: the last
    tuned_tokens: int = 32
    tuned_epochs: float = 5.0  # of the global model; the local one takes as many steps
    tuned_learning_rate: float = 2e-4  # Adam, batches of 32, cosine to 0


SCALES = {
    "smoke": Config(
        notes=150, test_notes=30, ceiling_notes=40, encoder="bag-of-words", epochs=1, hidden=4,
        seeds=2, tuned_site=None, splits=("random",), places=64,
    ),
    "small": Config(),
    "full": Config(
        panels=("table",), data_path="notes.csv", encoder="hf:emilyalsentzer/Bio_ClinicalBERT",
        tokens=512, seeds=10, tuned_site="all", tuned_seeds=5, tuned_splits=("random", "temporal"),
        tuned_layer=-1, tuned_tokens=512, tuned_epochs=3.0, tuned_learning_rate=2e-5,
    ),
}  # fmt: skip

NOTES = {"part": "strategy", "panel": "notes", "split": "random"}
REVIEWS = {"part": "strategy", "panel": "reviews", "split": "random"}
DRIVERS: dict[str, Any] = {"by": "feature", "where": {"part": "driver"}}
CLAIMS = (
    Claim(
        "The global model is worse at the hospital with the fewest notes",
        less("west", "north", by="site", where={**NOTES, "method": "global"}),
    ),
    Claim(
        "The global model is worse at the site with the fewest reviews",
        less("skin", "other", by="site", where={**REVIEWS, "method": "global"}),
    ),
    Claim(
        "Whom it fails depends on the size of the site, more than on the borough",
        greater("site_size", "borough", **DRIVERS),
    ),
    Claim(
        "So does the number of comorbidities, more than the borough",
        greater("comorbidities", "borough", **DRIVERS),
    ),
    Claim("So does the length of the note", greater("words", "borough", **DRIVERS)),
    Claim(
        "Age matters too, more than the borough",
        greater("age", "borough", **DRIVERS),
        paper_says="Age above 60 is a driver; in our notes it only goes with comorbidities.",
    ),
    Claim("Local tuning beats the global model on notes", greater("local", "global", where=NOTES)),
    Claim("Local tuning beats it on reviews", greater("local", "global", where=REVIEWS)),
    Claim(
        "Local tuning helps the smallest hospital most",
        interacts(("method", "local", "global"), ("site", "west", "north"), where=NOTES),
    ),
    Claim(
        "Similar notes of other hospitals help beyond the global model",
        greater("nearest", "global", where=NOTES),
    ),
    Claim(
        "A model per cluster beats the global model", greater("cluster", "global", where=NOTES)
    ),
    Claim(
        "Local tuning beats augmentation by similar notes", greater("local", "nearest", where=NOTES)
    ),
    Claim(
        "Similar notes help more than random ones", greater("nearest", "random-rows", where=NOTES)
    ),
    Claim(
        "The global model is worse on later notes than on a random split",
        less("temporal", "random", by="split", where={
            "part": "strategy", "panel": "notes", "method": "global",
        }),
    ),
    Claim(
        "Augmentation by similar notes helps more on a random split than on a temporal one",
        interacts(
            ("method", "nearest", "global"), ("split", "random", "temporal"),
            where={"part": "strategy", "panel": "notes"},
        ),
    ),
    Claim(
        "With the encoder tuned too, local tuning beats global tuning",
        greater("local", "global", where={"part": "tuned"}),
        expected_at="full",
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel and split: strategies by site, the audit and its drivers, tuning."""
    for panel in config.panels:
        rows = None if panel == "notes" else table(panel, config)
        for seed in lab.seeds(config.seeds):
            for split in config.splits:
                train, test, more = frames(rows, split, seed, config)
                X, X_test, X_more = (features(f, rows, config, lab) for f in (train, test, more))
                scores = lab.step(
                    site_scores, (X, train["label"].to_numpy(), train["site"].tolist()), X_test,
                    test["site"].tolist(),
                    (X_more, more["label"].to_numpy(), more["site"].tolist()),
                    hidden=config.hidden, epochs=config.epochs, ratio=config.ratio,
                    clusters=config.clusters, seed=seed,
                )  # fmt: skip
                shared = {"panel": panel, "split": split, "seed": seed}
                yield from strategy_rows(scores, train, test, shared)
                if split == "random":
                    yield from audit_rows(scores["global"], train, test, shared, lab)
                site = config.tuned_site
                tuned = split in config.tuned_splits and seed < config.tuned_seeds
                if panel != "notes" and site is not None and tuned:
                    yield from tuned_rows(site, train, test, shared, config, lab)


def frames(
    rows: pd.DataFrame | None, split: str, seed: int, config: Config
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training rows, test rows, and rows added for the ceiling (none but for notes)."""
    if rows is None:
        return hospital_splits(
            split, notes=config.notes, test_notes=config.test_notes,
            ceiling_notes=config.ceiling_notes, seed=seed,
        )  # fmt: skip
    return *split_sites(rows, split, drawn=config.drawn, seed=seed), rows.iloc[:0]


def table(panel: str, config: Config) -> pd.DataFrame:
    """Reviews, or the user's own rows: text, label, site, date and metadata."""
    if panel == "reviews":
        return load_benchmark("drug_reviews").all_rows().to_pandas()
    if panel != "table":
        raise unknown("panel", panel, ("notes", "reviews", "table"))
    if config.data_path is None:
        raise UserError("The panel 'table' needs --set data_path=FILE.csv.")
    return read_sites(config.data_path)


def features(
    rows: pd.DataFrame, everything: pd.DataFrame | None, config: Config, lab: Lab
) -> np.ndarray:
    """Hashed words of a text's beginning, or the frozen encoder's features."""
    texts = rows["text"].tolist()
    if everything is None or config.encoder == "bag-of-words":
        begin = [" ".join(text.split()[: config.read_words]) for text in texts]
        return BagOfWords(config.places).encode(begin)
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    found = lab.embed(config.encoder, everything["text"].tolist(), max_length=config.tokens)
    return np.asarray(found)[rows.index.to_numpy()]


def strategy_rows(
    scores: dict[str, np.ndarray], train: pd.DataFrame, test: pd.DataFrame, shared: Row
) -> Iterator[Row]:
    """The AUC of each strategy at each site that has both classes to test on."""
    truth, where = test["label"].to_numpy(), test["site"].to_numpy()
    for site in np.unique(where):
        at = where == site
        auc = {name: delong(truth[at], score[at])[0] for name, score in scores.items()}
        if np.isnan(auc["global"]):
            continue
        for method in [name for name in scores if name != "ceiling"]:
            yield Row(
                method=method, score=auc[method], floor=auc["global"], ceiling=auc.get("ceiling"),
                part="strategy", site=site, points=100 * (auc[method] - auc["global"]),
                relative_percent=100 * (auc[method] / auc["global"] - 1),
                train_rows=int((train["site"] == site).sum()), test_rows=int(at.sum()), **shared,
            )  # fmt: skip


def audit_rows(
    score: np.ndarray, train: pd.DataFrame, test: pd.DataFrame, shared: Row, lab: Lab
) -> Iterator[Row]:
    """Whom the global model fails: every group's AUC, then what predicts its errors."""
    metadata = test.assign(site_size=test["site"].map(train["site"].value_counts()).fillna(0))
    metadata = metadata[["site", *(c for c in METADATA if c in metadata)]]
    bins = {"age": [0, 60, 120], "words": [0, 45, 10_000]}
    bins = {column: edges for column, edges in bins.items() if column in metadata}
    audit = GroupAudit(test["label"], score, metadata, bins=bins)
    for _, row in audit.table().iterrows():
        if np.isfinite(row["value"]):
            yield Row(
                method="global", score=row["value"], floor=None, ceiling=None, part="audit",
                feature=row["feature"], group=row["group"], low=row["low"], high=row["high"],
                test_rows=int(row["n"]), prevalence=row["prevalence"], **shared,
            )  # fmt: skip
    if shared["panel"] != "notes":
        return
    wrong = ((score > 0.5) != test["label"]).astype(int).to_numpy()
    found = lab.step(drivers, wrong, metadata[list(METADATA)].to_dict("list"))
    for feature, importance, low, high in zip(*found, strict=True):
        yield Row(
            method="driver", score=importance, floor=None, ceiling=None, part="driver",
            feature=feature, low=low, high=high, **shared,
        )  # fmt: skip


def drivers(wrong: np.ndarray, metadata: dict[str, list[Any]]) -> list[list[Any]]:
    """Names, importances and intervals of what predicts errors."""
    found = failure_drivers(wrong, pd.DataFrame(metadata), repeats=1)
    return [found[column].tolist() for column in ("driver", "importance", "low", "high")]


def tuned_rows(
    site: str, train: pd.DataFrame, test: pd.DataFrame, shared: Row, config: Config, lab: Lab
) -> Iterator[Row]:
    """Global and local tuning of the whole encoder, at one site or at "all", in as many steps."""
    for name in np.unique(train["site"]) if site == "all" else [site]:
        asked = test[test["site"] == name]
        said = tune_for_site(
            lab, config.encoder, name, train["text"].tolist(), train["label"].to_numpy(),
            train["site"].tolist(), asked["text"].tolist(), epochs=config.tuned_epochs,
            learning_rate=config.tuned_learning_rate, layer=config.tuned_layer,
            max_length=config.tuned_tokens, seed=shared["seed"],
        )  # fmt: skip
        truth = asked["label"].to_numpy()
        aucs = {method: delong(truth, each[:, 1])[0] for method, each in said.items()}
        for method, auc in aucs.items():
            if np.isfinite(auc):
                yield Row(
                    method=method, score=auc, floor=aucs["global"], ceiling=None, part="tuned",
                    site=name, test_rows=len(asked), **shared,
                )  # fmt: skip
