from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import (
    BENCHMARKS,
    Shift,
    balance,
    halves,
    hash_split,
    leaks,
    load_benchmark,
    normalised,
    stratified,
)
from generality.benchmarks.bbc import LABEL_NAMES, originals, read_articles
from generality.benchmarks.sentiment import DOMAINS, Snippet, clean, clean_text, read_snippets
from generality.errors import UserError

# The registry


def test_a_mistyped_benchmark_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'boolq'"):
        load_benchmark("bolq")
    with pytest.raises(UserError, match="Did you mean 'domain'"):
        load_benchmark("sentiment", domian="movie")
    with pytest.raises(UserError, match="option of the benchmark sciq 'name'"):
        load_benchmark("sciq", name="boolq")


def test_a_benchmark_is_added_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "mine", "generality.benchmarks.sentiment:load_sentiment")
    with pytest.raises(UserError, match="Did you mean 'movie'"):
        load_benchmark("mine", domain="movies")


# Sentiment


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    """Four tiny files in the released format, deep in a folder."""
    folder = tmp_path / "some" / "where"
    folder.mkdir(parents=True)
    for domain, file in DOMAINS.items():
        documents = domain in ("amazon", "nyt")
        lines = [
            f"{f'{i // 5}_{i % 5}' if documents else i}\t{rating}\t{domain} text number {i}"
            for i in range(200)
            for rating in [(-1) ** i * (0.3 if i % 10 == 0 else 1.5 if i % 3 else 0.9)]
        ]
        (folder / file).write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return tmp_path


def test_snippets_are_parsed_and_other_lines_refused(tmp_path: Path) -> None:
    file = tmp_path / "movie.txt"
    file.write_bytes("1\t2.5\tUn café\tto like\r\n\r\n2\t-4\tno\r\n".encode())
    assert read_snippets(file, "movie") == [
        Snippet("movie-1", "movie", 2.5, "Un café\tto like"),
        Snippet("movie-2", "movie", -4.0, "no"),
    ]
    for line in ("1\t2.5", "1\t4.5\ttoo high", "1\tnan\tno rating"):
        file.write_text(f"1\t0\tfine\n{line}\n")
        with pytest.raises(ValueError, match="line 2"):
            read_snippets(file, "movie")


def test_cleaning_follows_its_rule() -> None:
    def rated(i: int, rating: float, text: str, domain: str = "movie") -> Snippet:
        return Snippet(f"{domain}-{i}", domain, rating, text)

    kept = clean(
        [
            rated(1, 1.0, "Tom &amp;amp; Jerry\t &lt;3"),
            rated(2, 2.0, "  &nbsp; "),
            rated(3, 1.0, "Good film!"),
            rated(4, 0.2, "good   FILM", "tweets"),
            rated(5, 1.0, "So so."),
            rated(6, -0.1, "so, so", "nyt"),
            rated(7, -1.0, ":("),
            rated(8, 1.0, ":)"),
        ]
    )
    assert [(s.id, s.text) for s in kept] == [
        ("movie-1", "Tom & Jerry <3"),
        ("movie-3", "Good film!"),
        ("movie-7", ":("),
        ("movie-8", ":)"),
    ]


@given(st.text())
def test_clean_texts_are_clean_already(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


def test_columns_labels_and_the_shift(snippets: Path) -> None:
    bench = load_benchmark("sentiment", domain="nyt", path=snippets)
    assert set(bench.splits) == {"train", "test"}
    assert bench.shift == Shift("none", "where the text comes from", ("nyt",), ("nyt",))
    for split in bench.splits.values():
        assert split.column_names == ["text", "label", "rating", "domain", "id"]
        assert set(split["domain"]) == {"nyt"}
        assert [int(r > 0) for r in split["rating"]] == list(split["label"])
        assert min(abs(r) for r in split["rating"]) >= 0.5

    bench = load_benchmark("sentiment", target="nyt", path=snippets)
    assert (bench.shift.kind, bench.shift.tested_on) == ("domain", ("nyt",))
    assert set(bench.splits["train"]["domain"]) == {"movie", "amazon", "tweets"}
    assert set(bench.splits["source_test"]["domain"]) == {"movie", "amazon", "tweets"}
    assert set(bench.splits["test"]["domain"]) == set(bench.splits["target_train"]["domain"])


def test_no_option_moves_a_text_to_the_other_side(snippets: Path) -> None:
    def sides(**options: object) -> dict[str, bool]:
        splits = load_benchmark("sentiment", path=snippets, **options).splits
        return {i: "test" in name for name, split in splits.items() for i in split["id"]}

    reference = sides(margin=0.0)
    for options in (
        {},
        {"domain": "amazon"},
        {"target": "movie"},
        {"margin": 1.0},
        {"balanced": True},
    ):
        assert sides(**options).items() <= reference.items()


def test_a_document_is_on_one_side_only(snippets: Path) -> None:
    splits = load_benchmark("sentiment", path=snippets).splits
    for domain in ("amazon", "nyt"):
        train, test = (
            {i.split("_")[0] for i in splits[s]["id"] if i.startswith(domain)}
            for s in ("train", "test")
        )
        assert train
        assert test
        assert not train & test


def test_balanced_means_equal_labels_in_every_domain_and_split(snippets: Path) -> None:
    for split in load_benchmark("sentiment", balanced=True, path=snippets).splits.values():
        counts = Counter(zip(split["domain"], split["label"], strict=True))
        for domain in DOMAINS:
            assert counts[domain, 0] == counts[domain, 1] > 0


def test_sentiment_refuses_what_makes_no_sense(snippets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not both"):
        load_benchmark("sentiment", domain="movie", target="nyt")
    with pytest.raises(UserError, match="margin"):
        load_benchmark("sentiment", margin=-1)
    with pytest.raises(UserError, match="fewer than two labels"):
        load_benchmark("sentiment", margin=3, path=snippets)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="There is no movieReviewSnippets"):
        load_benchmark("sentiment", path=empty)


# BBC


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for label in LABEL_NAMES:
        (folder / label).mkdir(parents=True)
        for i in range(1, 11):
            body = " ".join(f"{label}{i}word{j}" for j in range(40))
            text = f"Title {label} {i}\n\n{body}\n\nIt cost £5."
            encoding = "latin-1" if i == 1 else "utf-8"
            (folder / label / f"{i:03}.txt").write_bytes(text.encode(encoding))
    (folder / "tech" / "readme.txt").write_text("not an article")
    return tmp_path


def test_articles_are_decoded_and_labelled(articles: Path) -> None:
    found = read_articles(articles)
    assert len(found) == 50
    assert all("£5" in a.text and "Â" not in a.text for a in found)
    assert found[0].id == "business/001"
    assert found[0].text.split("\n")[0] == "Title business 1"


def test_copies_are_dropped_and_words_shorten_without_moving_a_row(articles: Path) -> None:
    copy = read_articles(articles)[0].text
    (articles / "data" / "sports" / "011.txt").write_text(copy.upper())
    (articles / "data" / "tech" / "011.txt").write_text(f"Another title\n\n{copy}\n\nAnd more.")
    whole = load_benchmark("bbc", path=articles)
    short = load_benchmark("bbc", path=articles, words=4)
    assert sum(len(split) for split in whole.splits.values()) == 50
    for split in ("train", "test"):
        assert list(whole.splits[split]["id"]) == list(short.splits[split]["id"])
        assert all(len(t.split()) == 4 for t in short.splits[split]["text"])
    assert whole.label_names == LABEL_NAMES
    assert short.splits["train"]["text"][0].count("\n") == 1


def test_a_copy_of_a_dropped_copy_can_stay() -> None:
    a, b, c = (" ".join(f"{letter}{i}" for i in range(60)) for letter in "abc")
    assert originals([a, f"{a} {b}", f"{b} {c}"]) == [0, 2]


def test_bbc_refuses_what_makes_no_sense(articles: Path) -> None:
    with pytest.raises(UserError, match="words"):
        load_benchmark("bbc", words=0, path=articles)
    with pytest.raises(UserError, match=r"no business/NNN\.txt"):
        load_benchmark("bbc", path=articles / "data" / "business")


# The pinned artifacts


def pinned(name: str, **options: object) -> DatasetDict:
    from generality.models.artifacts import fetch

    try:
        fetch({"sentiment": "vader-sentiment", "bbc": "bbc-news"}[name])
    except UserError as error:
        pytest.skip(str(error))
    return load_benchmark(name, **options).splits


SENTIMENT_COUNTS = {
    "train": {
        ("amazon", 0): 823,
        ("amazon", 1): 1192,
        ("movie", 0): 3550,
        ("movie", 1): 3508,
        ("nyt", 0): 1256,
        ("nyt", 1): 784,
        ("tweets", 0): 720,
        ("tweets", 1): 1598,
    },
    "test": {
        ("amazon", 0): 407,
        ("amazon", 1): 546,
        ("movie", 0): 1525,
        ("movie", 1): 1487,
        ("nyt", 0): 498,
        ("nyt", 1): 387,
        ("tweets", 0): 291,
        ("tweets", 1): 667,
    },
}


def test_the_sentiment_counts_are_pinned() -> None:
    splits = pinned("sentiment")
    counts = {
        name: Counter(zip(split["domain"][:], split["label"][:], strict=True))
        for name, split in splits.items()
    }
    assert counts == SENTIMENT_COUNTS
    found = leaks(splits["train"]["text"][:], splits["test"]["text"][:])
    assert (found.exact, found.normalised) == (0, 0)
    assert not any("&amp;" in text or "&lt;" in text for text in splits["train"]["text"][:])


def test_the_bbc_counts_are_pinned() -> None:
    splits = pinned("bbc")
    assert {name: list(np.bincount(s["label"][:])) for name, s in splits.items()} == {
        "train": [355, 257, 259, 320, 220],
        "test": [142, 104, 127, 166, 101],
    }
    found = leaks(splits["train"]["text"][:], splits["test"]["text"][:])
    assert (found.exact, found.normalised) == (0, 0)
    assert not any("�" in text or "Â" in text for text in splits["train"]["text"][:])


# Splits

PINNED_SPLIT = [False, True, True, False, True, False]
texts = st.text(max_size=30)


@given(st.lists(texts, max_size=60), st.floats(0, 1), st.randoms())
def test_a_hash_split_looks_at_each_key_alone(keys: list[str], share: float, random) -> None:
    mask = hash_split(keys, share, "salt")
    assert mask.dtype == bool
    assert mask.shape == (len(keys),)
    side = dict(zip(keys, mask, strict=True))
    assert all(side[key] == test for key, test in zip(keys, mask, strict=True))
    shuffled = random.sample(keys, len(keys))
    assert all(
        side[k] == t for k, t in zip(shuffled, hash_split(shuffled, share, "salt"), strict=True)
    )
    assert (mask <= hash_split(keys, min(1.0, share + 0.1), "salt")).all()


def test_a_hash_split_has_its_share_and_never_changes() -> None:
    keys = [f"row {i}" for i in range(20_000)]
    mask = hash_split(keys, 0.3)
    assert abs(mask.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(keys))
    other = hash_split(keys, 0.3, "other")
    assert abs((mask & other).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / len(keys))
    assert hash_split(["a", "b", "c", "d", "é", "\ud800"], 0.5).tolist() == PINNED_SPLIT
    with pytest.raises(ValueError, match="share"):
        hash_split(keys, 1.5)


@given(st.integers(0, 200), st.integers(0, 1000))
def test_halves_are_disjoint_complete_and_seeded(n: int, seed: int) -> None:
    a, b = halves(n, seed)
    assert sorted([*a, *b]) == list(range(n))
    assert len(a) - len(b) in (0, 1)
    again = halves(n, seed)
    assert (a == again[0]).all()
    assert (b == again[1]).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(0, 99))
def test_stratified_keeps_the_shares(labels: list[int], data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(0, len(labels)))
    rows = stratified(labels, size, seed)
    assert len(rows) == len(set(rows.tolist())) == size
    taken = Counter(labels[i] for i in rows)
    for label, count in Counter(labels).items():
        assert abs(taken[label] - count * size / len(labels)) < 1


def test_stratified_refuses_more_than_there_is() -> None:
    with pytest.raises(UserError, match="3 rows, fewer than the 4"):
        stratified([0, 1, 1], 4, seed=0)
    with pytest.raises(ValueError, match="size"):
        stratified([0, 1, 1], -1, seed=0)


@given(st.lists(st.tuples(st.integers(0, 3), texts), max_size=60, unique_by=lambda r: r[1]))
def test_balance_takes_equally_many_whatever_the_order(rows: list[tuple[int, str]]) -> None:
    kept = balance([label for label, _ in rows], [key for _, key in rows])
    counts = Counter(rows[i][0] for i in kept)
    assert len(set(counts.values())) <= 1
    assert set(counts) == {label for label, _ in rows}
    turned = rows[::-1]
    again = balance([label for label, _ in turned], [key for _, key in turned])
    assert {rows[i] for i in kept} == {turned[i] for i in again}
    assert len(balance([0, 0, 0, 1, 1, 1], list("abcdef"), size=5)) == 4


@given(st.lists(texts, max_size=30), st.lists(texts, max_size=30))
def test_leaks_counts_every_copy(train: list[str], test: list[str]) -> None:
    found = leaks(train, [*test, *train])
    assert found.exact == sum(t in train for t in test) + len(train)
    assert found.normalised >= found.exact
    assert set(range(len(test), len(test) + len(train))) <= set(found.rows)


def test_normalised_forgets_form_only() -> None:
    assert normalised("A—b,\tＣ!") == normalised("a b c")
    assert normalised(":(") != normalised(":)")
    assert normalised("  ") == ""
