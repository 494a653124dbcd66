import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.signed_sums import signed_sums

DIGITS = {
    w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine".split())
}
SIGNS = {"plus": "+", "minus": "-"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 4), st.booleans())
def test_labels_are_the_signs_of_the_sums_as_written(seed, fewest, more, words) -> None:
    texts, labels = signed_sums(20, (fewest, fewest + more), words=words, seed=seed)
    assert len(texts) == len(labels) == 20
    for text, label in zip(texts, labels, strict=True):
        symbols = [SIGNS.get(word, DIGITS.get(word, word)) for word in text.split()]
        assert fewest <= len(symbols) // 2 <= fewest + more
        total = eval("".join(symbols))
        assert total != 0
        assert label == (total > 0)
        assert ("plus" in text or "minus" in text) == words


def test_words_and_digits_of_a_seed_are_the_same_sums_and_seeds_differ() -> None:
    digits, labels = signed_sums(50)
    words, same = signed_sums(50, words=True)
    assert (labels == same).all()
    assert words[0].split()[1] in DIGITS
    assert DIGITS[words[0].split()[1]] == digits[0].split()[1]
    assert signed_sums(50, seed=1)[0] != digits
    assert 10 < labels.sum() < 40


def test_longer_sums_have_more_terms() -> None:
    longest_short = max(len(text.split()) for text in signed_sums(50)[0])
    assert min(len(text.split()) for text in signed_sums(50, (8, 10))[0]) > longest_short


def test_no_sums_are_no_texts() -> None:
    texts, labels = signed_sums(0)
    assert texts == []
    assert labels.shape == (0,)
    with pytest.raises(ValueError, match="low >= high|high"):
        signed_sums(1, (5, 2))
