"""Copies counted, splits that none crosses, tokens, a model of counts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.dedup_split import dedup_split, leakage_gap
from generality.benchmarks.worlds.algorithm_programs import ALGORITHMS, algorithm_programs
from generality.errors import UserError
from generality.experiments.code_readers import CodeCompressor, CodeReader, code_words
from generality.measures.corpus_audit import (
    audit_corpus,
    containment,
    duplication,
    jaccard,
    overlap,
)
from generality.measures.ngram_bits import NGramBits
from generality.measures.token_fertility import tokenizer_fertility, train_bpe

A, B = ["h1"] * 3 + ["h2"], ["h1", "h3", "h3"]


def test_the_papers_rates():
    assert duplication(A) == 0.75
    assert duplication(B) == pytest.approx(2 / 3)
    assert overlap(A, B) == pytest.approx(4 / 6)
    assert (jaccard(A, B), containment(A, B)) == (1 / 3, 0.5)
    assert all(math.isnan(rate) for rate in (duplication([]), overlap([], []), jaccard([], [])))


def test_an_audit():
    audit = audit_corpus(A + B, ["a"] * 4 + ["b"] * 3, sizes=[1, 1, 1, 9, 2, 5, 5])
    assert audit.duplication == {"a": 0.75, "b": pytest.approx(2 / 3)}
    assert audit.overlap[0, 1] == audit.overlap[1, 0] == pytest.approx(4 / 6)
    assert audit.distinct == {"a": 2, "b": 2}
    assert audit.by_size["b"] == (0.0, 1.0)
    again = audit_corpus(A + B, ["a"] * 4 + ["b"] * 3, sizes=np.array([1, 1, 1, 9, 2, 5, 5]))
    assert again.by_size["b"] == (0.0, 1.0)
    with pytest.raises(ValueError, match="one length"):
        audit_corpus(A, ["a"])


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), min_size=30, max_size=80),
    st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_nothing_crosses(rows, seed):
    keys, groups = [k for k, _ in rows], [g for _, g in rows]
    try:
        train, test = dedup_split(keys, groups=groups, seed=seed, keep_copies=True)
    except UserError:
        return
    assert len(train) + len(test) == len(rows)
    for values in (keys, groups):
        assert not {values[i] for i in train} & {values[i] for i in test}
    train, test = dedup_split(keys, groups=groups, seed=seed)
    assert len({keys[i] for i in [*train, *test]}) == len(train) + len(test) == len(set(keys))


def test_a_split_says_what_is_wrong():
    with pytest.raises(UserError, match="is empty"):
        dedup_split(["a"] * 9)
    with pytest.raises(ValueError, match="add up to 1"):
        dedup_split(["a", "b"], shares=(0.5, 0.4))
    with pytest.raises(ValueError, match="groups for"):
        dedup_split(["a", "b"], groups=["x"])


def test_a_leak_is_measured():
    keys = [*range(40)] * 5

    def memory(train, test):
        return float(np.isin(np.asarray(keys)[test], np.asarray(keys)[train]).mean())

    found = leakage_gap(memory, keys, splits=4)
    assert found.dedup == 0
    assert found.gap > 0.3
    assert found.raw == pytest.approx(found.copies)  # it knows copies and nothing else
    assert found.fresh == 0
    alone = leakage_gap(lambda train, test: 0.5, keys, splits=2)
    assert alone.gap == 0


def test_bpe_knows_every_byte_and_shortens_what_it_saw():
    text = "%1 = add nsw i32 %0, 7\n  ret i32 %1\n"
    own = train_bpe([text] * 5, 400)
    assert own.decode(own.encode(text + "ü\x00").ids) == text + "ü\x00"
    held = tokenizer_fertility(
        {"own": lambda t: own.encode(t).ids, "bytes": lambda t: t.encode()}, [text]
    )
    assert held["bytes"] == 1
    assert held["own"] > 1.5
    with pytest.raises(ValueError, match="not empty"):
        tokenizer_fertility({"bytes": lambda t: t.encode()}, [""])
    with pytest.raises(ValueError, match="256"):
        train_bpe([text], 100)


def test_ngram_bits_by_hand():
    model = NGramBits(2, order=2).fit([[0, 0, 1]])
    # p(0) = (2 + 2/2) / (3 + 2), p(1 | 0) = (1 + 2 · p(1)) / (2 + 2), p(1) = (1 + 2/2) / (3 + 2)
    expected = -math.log2(3 / 5) - math.log2((1 + 2 * 2 / 5) / 4)
    assert model.bits([0, 1]) == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=4), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_ngram_probabilities_add_up_to_one(texts, order):
    model = NGramBits(3, order=order).fit(texts)
    total = sum(2 ** -model.bits(text) for text in itertools.product(range(3), repeat=3))
    assert total == pytest.approx(1)


def test_a_compressor_gains_from_what_it_knows():
    compressor = CodeCompressor(lambda text: list(text.encode()), 256, order=4)
    text = "%1 = add i64 %0, 7"
    assert compressor([text] * 4, [text]) > 4
    assert compressor([], [text]) == pytest.approx(1)


def test_programs_say_the_same_in_three_languages():
    functions = algorithm_programs(60, seed=0, distinct=24, packages=3)
    assert {f.algorithm for f in functions} <= set(ALGORITHMS)
    assert len({f.program for f in functions}) < 24
    for f in functions:
        assert {text.count("{") - text.count("}") for text in f.sources.values()} == {0}
        assert all(f.name in text for text in f.sources.values())
        assert f.algorithm not in f.name
    assert functions == algorithm_programs(60, seed=0, distinct=24, packages=3)
    same = [f for f in functions if f.algorithm == "gcd"]
    assert all(f"return {f.name}(y, x % y);" in f.sources["c"] for f in same)


def test_reading_labels():
    assert code_words("@f(i32 %12)") == ["@f", "(", "i32", "%", ")"]
    train = ["%1 = add i32 %0, 1", "%1 = mul i32 %0, 1"] * 4
    reader = CodeReader([*train, "%3 = mul i32 %2, 9"])
    assert reader.accuracy(["a", "m"] * 4 + ["m"], range(8), [8]) == 1
    long = "define i32 @f() {\n  %1 = add i32 1, 1\n  %2 = add i32 1, 1\n  ret i32 1\n}"
    short = "define i32 @f() {\n  ret i32 1\n}"
    reader = CodeReader([long, short] * 3 + [short], sizes=True)
    assert reader.accuracy(["l", "s"] * 3 + ["s"], range(6), [6]) == 1
