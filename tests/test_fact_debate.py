import numpy as np
import pytest

from generality.benchmarks.worlds.fact_debate import fact_debate, fact_questions

QUESTIONS = fact_questions(800, seed=0)
FACTS, CREDIT = QUESTIONS.facts, QUESTIONS.facts * QUESTIONS.rule


def test_no_turns_say_nothing() -> None:
    assert not fact_debate(FACTS, CREDIT, turns=0).features().any()


def test_a_debater_quotes_what_supports_it_and_tells_the_truth_unless_it_lies() -> None:
    talk = fact_debate(FACTS, CREDIT, turns=2, temperature=0.0)
    stated = talk.stated
    assert (np.count_nonzero(stated, axis=2) == 2).all()
    said = stated != 0
    np.testing.assert_array_equal(stated[said], np.broadcast_to(FACTS[:, None], said.shape)[said])
    speaks_for_one = CREDIT[said[:, 1]]  # credits of facts quoted for answer 1
    assert (speaks_for_one > 0).mean() > 0.95
    assert (CREDIT[said[:, 0]] < 0).mean() > 0.95


def test_lies_are_as_many_as_asked_and_flags_as_right() -> None:
    talk = fact_debate(FACTS, CREDIT, turns=4, lies=0.3, flag_accuracy=0.8)
    said = talk.stated != 0
    false = said & (talk.stated != FACTS[:, None])
    assert false.sum() / said.sum() == pytest.approx(0.3, abs=0.03)
    assert talk.flagged[false].mean() == pytest.approx(
        0.8 * 7 / 8, abs=0.04
    )  # the last: unanswered
    assert talk.flagged[said & ~false].mean() == pytest.approx(0.2 * 7 / 8, abs=0.04)
    honest = fact_debate(FACTS, CREDIT, turns=4, lies=0.0, flag_accuracy=1.0)
    assert not honest.flagged.any()


def test_seeds_are_other_debates_and_one_seed_is_the_same() -> None:
    one, same, other = (fact_debate(FACTS, CREDIT, seed=seed).stated for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(axis=(1, 2)).mean() > 0.5


def test_a_consultant_speaks_for_one_side_drawn_without_the_truth() -> None:
    talk = fact_debate(FACTS, CREDIT, kind="consultancy", turns=3)
    sides = (talk.stated != 0).any(2)
    assert (sides.sum(1) == 1).all()
    assert abs(2 * sides[:, 1].sum() - len(FACTS)) <= 1
    assert (sides[:, 1] == QUESTIONS.labels).mean() == pytest.approx(0.5, abs=0.06)


def test_a_market_argues_against_belief_and_stops_when_it_settles() -> None:
    def fixed(features: np.ndarray) -> np.ndarray:
        return np.full(len(features), 0.9)

    talk = fact_debate(FACTS, CREDIT, kind="market", judge=fixed, turns=5)
    assert (np.count_nonzero(talk.stated, axis=(1, 2)) == 1).all()
    assert not talk.stated[:, 1].any()
    with pytest.raises(ValueError, match="market"):
        fact_debate(FACTS, CREDIT, kind="market")


def test_everything_said_ends_a_debate() -> None:
    few = fact_questions(10, facts=3, relevant=2, visible=1, seed=1)
    talk = fact_debate(few.facts, few.facts * few.rule, turns=8)
    assert (np.count_nonzero(talk.stated, axis=2) == 3).all()
