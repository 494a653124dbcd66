import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import code_words, plant_word

WORDS = ("oak", "elm", "ash", "fir", "yew", "box")
CUES = ("violet", "amber", "teal")


@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]), st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_a_planted_word_agrees_as_often_as_asked(seed: int, agree: float, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, 400)
    planted = plant_word(["a text"] * 400, labels, CUES[:classes], agree, seed=seed)
    shown = np.array([CUES.index(text.removeprefix("a text ")) for text in planted])
    assert abs((shown == labels).mean() - agree) < (0.15 if agree == 0.5 else 1e-9)
    assert plant_word(["a text"] * 400, labels, CUES[:classes], agree, seed=seed) == planted


def test_a_word_is_planted_for_known_classes_only() -> None:
    with pytest.raises(ValueError, match="two classes"):
        plant_word(["a"], np.array([2]), ("violet", "amber"), 1.0)
    with pytest.raises(ValueError, match="two classes"):
        plant_word(["a"], np.array([0]), ("violet", "amber"), 1.5)


def test_a_code_is_a_sum_of_fixed_signs() -> None:
    texts, labels = code_words(WORDS, 300, lengths=(1, 3))
    sign = {
        text: 2 * label - 1 for text, label in zip(texts, labels, strict=True) if " " not in text
    }
    assert sorted(sign) == sorted(WORDS)
    assert sum(sign.values()) == 0
    for text, label in zip(texts, labels, strict=True):
        assert label == (sum(sign[word] for word in text.split()) > 0)


def test_texts_change_with_the_seed_and_meanings_with_the_code() -> None:
    texts, labels = code_words(WORDS, 40)
    assert (texts, labels.tolist()) != code_words(WORDS, 40, seed=1)
    again, other = code_words(WORDS, 40, code=1)
    assert again == texts
    assert other.tolist() != labels.tolist()


def test_neutral_words_follow_each_word_and_change_no_label() -> None:
    texts, labels = code_words(WORDS, 50, lengths=(3,), neutral=("the", "a"), seed=2)
    assert all(set(text.split()[1::2]) <= {"the", "a"} for text in texts)
    bare = [" ".join(text.split()[::2]) for text in texts]
    sign = dict(zip(*code_words(WORDS, 60, lengths=(1,)), strict=True))
    expected = [sum(2 * sign[word] - 1 for word in text.split()) > 0 for text in bare]
    assert labels.astype(bool).tolist() == expected


def test_the_first_word_decides_where_it_should() -> None:
    sign = dict(zip(*code_words(WORDS, 60, lengths=(1,)), strict=True))
    texts, labels = code_words(WORDS, 100, decides="first", neutral=("a",))
    assert labels.tolist() == [sign[text.split()[0]] for text in texts]


def test_bad_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="'total' or 'first'"):
        code_words(WORDS, 2, decides="last")  # type: ignore[arg-type]
    for words, lengths in ((WORDS[:5], (3,)), (WORDS, (4,)), (WORDS, ())):
        with pytest.raises(ValueError, match="even number"):
            code_words(words, 2, lengths=lengths)
