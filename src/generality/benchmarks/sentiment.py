"""Human-rated sentiment of short texts from four domains: movie, amazon, nyt, tweets."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.splits import balance, hash_split, normalised
from generality.errors import UserError, unknown

DOMAINS = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
LABEL_NAMES = ("negative", "positive")
TEST_SHARE = 0.3

_FEATURES = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=list(LABEL_NAMES)),
        "rating": Value("float64"),
        "domain": Value("string"),
        "id": Value("string"),
    }
)


@dataclass(frozen=True)
class Snippet:
    """One rated text; the rating is the raters' mean, from −4 (negative) to 4 (positive)."""

    id: str
    domain: str
    rating: float
    text: str

    @property
    def document(self) -> str:
        """What must not be on both sides of a split: the review or editorial it is a sentence of.

        Movie snippets and tweets stand alone, so there it is the normalised text.
        """
        document, _, sentence = self.id.partition("_")
        return document if sentence else normalised(self.text)


def read_snippets(path: Path, domain: str) -> list[Snippet]:
    """Parse a file of `id TAB mean rating TAB text` lines in UTF-8.

    Raises ValueError for a line of another form or a rating outside [−4, 4].
    """
    snippets = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t", maxsplit=2)
        if len(cells) != 3 or not -4 <= float(cells[1]) <= 4:
            raise ValueError(f"{path.name}, line {number}: not 'id TAB rating TAB text': {line!r}")
        snippets.append(Snippet(f"{domain}-{cells[0]}", domain, float(cells[1]), cells[2]))
    return snippets


def clean_text(text: str) -> str:
    """HTML entities unescaped until none is left, whitespace made single spaces.

    >>> clean_text("I  &amp;lt;3 it")
    'I <3 it'
    """
    while (unescaped := html.unescape(text)) != text:
        text = unescaped
    return " ".join(text.split())


def clean(snippets: Iterable[Snippet]) -> list[Snippet]:
    """Texts made clean, empty ones and duplicates dropped.

    Duplicates are texts with equal `normalised` forms, in any domain. The first is kept, unless
    one copy is rated positive and another negative: then none is.
    """
    copies: dict[str, list[Snippet]] = {}
    for snippet in snippets:
        text = clean_text(snippet.text)
        if text:
            copies.setdefault(normalised(text), []).append(replace(snippet, text=text))
    return [
        group[0]
        for group in copies.values()
        if not min(s.rating for s in group) < 0 < max(s.rating for s in group)
    ]


def load_sentiment(
    *,
    domain: str | None = None,
    target: str | None = None,
    margin: float = 0.5,
    balanced: bool = False,
    path: str | Path | None = None,
) -> Benchmark:
    """Is a short text positive (label 1) or negative (label 0), as 15 to 20 people rated it?

    Columns: text, label, rating (the raters' mean, −4 to 4), domain, id. Cleaning is that of
    `clean`; a rating nearer to 0 than `margin` is dropped because raters disagree there. A hash of
    the review or editorial a sentence is from (movie, tweets: of the normalised text) sends 30 %
    of them to test, whatever the options. Split by sentence, a bag of words scores 1.5 (amazon)
    and 2 (nyt) points more, from having seen the rest of the same document.

    Args:
        domain: only this one of movie, amazon, nyt, tweets; None for all four.
        target: train on the other three domains and test on this one. There are then two more
            splits: "source_test" (the other domains' test rows) and "target_train" (the target's
            training rows, for a ceiling).
        margin: smallest |rating| kept, at least 0; a rating of exactly 0 is never kept.
        balanced: as many rows of each label in every domain and split; the larger class keeps the
            rows with the lowest hashes.
        path: a folder that holds the four files, in place of the pinned artifact.

    Raises:
        UserError: for an unknown domain, both `domain` and `target`, or a margin that leaves no
            rows of one label.

    Source: Hutto & Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
    Social Media Text", ICWSM-14; the data released with it.
    """
    if domain is not None and target is not None:
        raise UserError("Give the sentiment benchmark a domain or a target, not both.")
    for name in (domain, target):
        if name is not None and name not in DOMAINS:
            raise unknown("sentiment domain", name, DOMAINS)
    if not 0 <= margin < 4:
        raise UserError(f"margin is a rating in [0, 4), not {margin}.")

    folder = _artifact() if path is None else Path(path)
    rated = clean(s for name in DOMAINS for s in read_snippets(_find(folder, name), name))
    rated = [s for s in rated if abs(s.rating) >= margin and s.rating != 0]
    in_test = hash_split((s.document for s in rated), TEST_SHARE, salt="sentiment")

    rows = {
        (name, split): _sample(
            [
                s
                for s, test in zip(rated, in_test, strict=True)
                if s.domain == name and test == flag
            ],
            balanced,
        )
        for name in DOMAINS
        for split, flag in (("train", False), ("test", True))
    }

    def gather(split: str, domains: Iterable[str]) -> Dataset:
        return _dataset([s for name in domains for s in rows[name, split]])

    if target is None:
        domains = tuple(DOMAINS) if domain is None else (domain,)
        splits = {"train": gather("train", domains), "test": gather("test", domains)}
        shift = Shift("none", "where the text comes from", domains, domains)
    else:
        others = tuple(name for name in DOMAINS if name != target)
        splits = {
            "train": gather("train", others),
            "test": gather("test", [target]),
            "source_test": gather("test", others),
            "target_train": gather("train", [target]),
        }
        shift = Shift("domain", "where the text comes from", others, (target,))
    for split, dataset in splits.items():
        if len(set(dataset["label"][:])) < 2:
            raise UserError(
                f"With margin={margin} the {split} split of the sentiment benchmark has fewer than "
                "two labels; use a smaller margin."
            )
    return Benchmark(
        name="sentiment",
        splits=DatasetDict(splits),
        label_names=LABEL_NAMES,
        shift=shift,
        source="Hutto & Gilbert 2014 (ICWSM), from the source distribution of vaderSentiment 3.3.2",
        licence="MIT (vaderSentiment); the texts belong to their authors",
        notes=(
            f"|rating| ≥ {margin:g}; duplicates dropped within and across domains; test share "
            f"{TEST_SHARE:g} by hash of the review, editorial, snippet or tweet."
        ),
    )


def _artifact() -> Path:
    from generality.models.artifacts import fetch  # late: a folder of one's own needs no fetching

    return fetch("vader-sentiment")


def _find(folder: Path, domain: str) -> Path:
    found = sorted(folder.rglob(DOMAINS[domain]))
    if not found:
        raise UserError(f"There is no {DOMAINS[domain]} in or below {folder}.")
    return found[0]


def _sample(snippets: list[Snippet], balanced: bool) -> list[Snippet]:
    if not balanced:
        return snippets
    labels = [int(s.rating > 0) for s in snippets]
    if len(set(labels)) < 2:
        return []
    kept = balance(labels, [normalised(s.text) for s in snippets], salt="sentiment-balance")
    return [snippets[i] for i in kept]


def _dataset(snippets: list[Snippet]) -> Dataset:
    columns = {
        "text": [s.text for s in snippets],
        "label": [int(s.rating > 0) for s in snippets],
        "rating": [s.rating for s in snippets],
        "domain": [s.domain for s in snippets],
        "id": [s.id for s in snippets],
    }
    return Dataset.from_dict(columns, features=_FEATURES)
