import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from generality.agents import (
    Consultancy,
    Debate,
    MarketMaking,
    Transcript,
    Turn,
    augment_with_context,
)
from generality.agents.debate import draw_sides
from generality.errors import UserError
from generality.estimators import SoftLabelEnsemble, SoftProbe, WeakToStrong, combine_soft_labels
from generality.measures import ensemble_diversity
from generality.models.chat import RecordedChat

MEMBERS = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]]
ANSWERS = ("no", "yes")


def test_members_are_combined_as_the_sheet_computes_it() -> None:
    np.testing.assert_allclose(combine_soft_labels(MEMBERS), [0.55, 0.45])
    assert combine_soft_labels(MEMBERS, "logit")[1] == pytest.approx(0.422336, abs=1e-6)
    assert combine_soft_labels(MEMBERS, "vote").tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="combine is"):
        combine_soft_labels(MEMBERS, "mean")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_combined_labels_are_distributions_whatever_the_order(m: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = rng.dirichlet(np.ones(k), size=(m, 7))
    for how in ("prob", "logit", "vote"):
        found = combine_soft_labels(said, how)
        np.testing.assert_allclose(found.sum(-1), 1)
        np.testing.assert_allclose(found, combine_soft_labels(said[::-1], how), atol=1e-12)


def test_diversity_of_copies_and_of_opposites() -> None:
    truth = np.array([0, 0, 1, 1])
    one = np.eye(2)[[0, 1, 1, 1]]
    copies = ensemble_diversity(np.stack([one, one, one]), truth)
    assert (copies.disagreement, copies.error_correlation) == (0.0, pytest.approx(1.0))
    apart = ensemble_diversity(np.stack([one, 1 - one]), truth)
    assert (apart.disagreement, apart.error_correlation) == (1.0, pytest.approx(-1.0))
    assert apart.member_accuracy == 0.5
    assert np.isnan(ensemble_diversity(np.stack([one, one])).error_correlation)
    with pytest.raises(ValueError, match="two members"):
        ensemble_diversity(one[None])


def problem(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6))
    return X, (X.sum(1) + rng.normal(size=n) > 0).astype(int)


def test_an_ensemble_of_one_is_plain_weak_to_strong_bit_for_bit() -> None:
    X, y = problem()
    parts = [(X[rows, :2], X[rows]) for rows in (slice(80), slice(80, 160), slice(160, 240))]
    labels = [y[:80], y[80:160], y[160:]]
    given_ = [piece for pair in zip(parts, labels, strict=True) for piece in pair]
    plain = WeakToStrong(SoftProbe(epochs=2), SoftProbe(epochs=2)).run(*given_, seeds=range(2))
    alone = WeakToStrong(SoftLabelEnsemble(SoftProbe(epochs=2)), SoftProbe(epochs=2))
    assert alone.run(*given_, seeds=range(2)) == plain


def test_members_learn_from_views_of_their_own_and_from_seeds_of_their_own() -> None:
    X, y = problem()
    views = [X[:, :3], X[:, 3:]]
    ensemble = SoftLabelEnsemble([SoftProbe(), LogisticRegression()]).fit(views, y)
    each = ensemble.member_probabilities(views)
    np.testing.assert_array_equal(
        each[1], LogisticRegression(random_state=1009).fit(views[1], y).predict_proba(views[1])
    )
    np.testing.assert_allclose(ensemble.predict_proba(views), each.mean(0))
    assert ensemble.score(views, y) > max((p.argmax(1) == y).mean() for p in each)
    seeds = SoftLabelEnsemble(SoftProbe(epochs=1), members=3).fit(X, y)
    assert [model.random_state for model in seeds.models_] == [0, 1009, 2018]
    texts = [[f"{view[0] > 0} {view[1] > 0}" for view in X[:, columns]] for columns in
             ((0, 1), (2, 3))]  # fmt: skip
    words = make_pipeline(CountVectorizer(), LogisticRegression())
    reading = SoftLabelEnsemble(words, members=2).fit(texts, y)
    assert reading.member_probabilities(texts).shape == (2, len(y), 2)
    with pytest.raises(ValueError, match="2 members, but 3"):
        ensemble.predict_proba([X, X, X])


def test_each_members_own_debate_supervises_the_student() -> None:
    X, y = problem()
    cuts = [slice(80), slice(80, 160), slice(160, 240)]
    weak = SoftLabelEnsemble([LogisticRegression(), LogisticRegression()])
    given_ = [([X[rows, :3], X[rows, 3:]], X[rows]) for rows in cuts]
    pieces = [piece for own, rows in zip(given_, cuts, strict=True) for piece in (own, y[rows])]
    rows = WeakToStrong(weak, SoftProbe(epochs=2)).run(*pieces, seeds=[0])
    fitted = weak.fit(given_[0][0], y[:80])
    assert rows[0]["score"] == fitted.score(given_[2][0], y[160:])
    sparse = [csr_matrix(X[rows, :3] * (X[rows, :3] > 0)) for rows in cuts]
    pieces = [
        piece for x, rows in zip(sparse, cuts, strict=True) for piece in ((x, X[rows]), y[rows])
    ]
    protocol = WeakToStrong(LogisticRegression(), SoftProbe(epochs=2))
    assert len(protocol.run(*pieces, seeds=[0])) == 3
    pieces[2] = (sparse[0], X[:80])
    with pytest.warns(UserWarning, match="80 of 80 transfer"):
        protocol.run(*pieces, seeds=[0])


def test_debaters_take_turns_and_read_each_other() -> None:
    chat = RecordedChat(["A one", "B one", "A two", "B two"])
    talk = Debate(chat, turns=2).run("Is it?", ANSWERS, seed=0)
    assert [(turn.speaker, turn.text) for turn in talk.turns] == [
        ("A", "A one"), ("B", "B one"), ("A", "A two"), ("B", "B two"),
    ]  # fmt: skip
    sides = {turn.speaker: turn.answer for turn in talk.turns}
    assert sides["A"] != sides["B"]
    assert f"is: {ANSWERS[sides['B']]}" in chat.heard[1][0]["content"]
    assert [m["role"] for m in chat.heard[1]] == ["system", "user"]
    assert chat.heard[1][1]["content"] == "Is it?\n\nA one"
    assert [(m["role"], m["content"]) for m in chat.heard[2][2:]] == [
        ("assistant", "A one"), ("user", "B one"),
    ]  # fmt: skip
    assert [m["content"] for m in chat.heard[3]][2:] == ["B one", "A two"]


def test_a_generator_gets_all_questions_of_a_turn_at_once() -> None:
    calls: list[tuple[list[str], int]] = []

    def generate(prompts: list[str], seed: int) -> list[str]:
        calls.append((prompts, seed))
        return ["because " + str(len(calls))] * len(prompts)

    questions = [f"Question {i}?" for i in range(6)]
    talks = Debate(generate, turns=3).run_all(questions, ANSWERS, seed=2)
    assert [len(prompts) for prompts, _ in calls] == [6] * 6
    assert len({seed for _, seed in calls}) == 6
    assert "Debater A: because 1\nDebater B: because 2" in calls[2][0][0]
    assert sum(talk.turns[0].answer for talk in talks) == 3
    with pytest.raises(UserError, match="gave 0 texts"):
        Debate(lambda prompts: []).run("?", ANSWERS)


@given(st.integers(0, 200), st.integers(0, 1000))
def test_sides_are_balanced_and_know_nothing_of_the_truth(n: int, seed: int) -> None:
    sides = draw_sides(n, seed)
    assert abs(2 * sides.sum() - n) <= 1
    np.testing.assert_array_equal(sides, draw_sides(n, seed))


def test_a_consultant_argues_for_one_side_and_a_market_against_the_belief() -> None:
    talk = Consultancy(lambda prompts: ["so"] * len(prompts), turns=4).run("?", ANSWERS)
    assert {turn.speaker for turn in talk.turns} == {"A"}
    assert len({turn.answer for turn in talk.turns}) == 1

    def judge(texts: list[str]) -> list[float]:
        return [0.5 + 0.1 * text.count("(yes)") - 0.15 * text.count("(no)") for text in texts]

    market = MarketMaking(lambda prompts: ["so"] * len(prompts), judge, turns=3)
    talk = market.run("?", ANSWERS)
    assert [turn.answer for turn in talk.turns] == [0, 1, 1]
    assert talk.beliefs == pytest.approx((0.5, 0.35, 0.45, 0.55))
    stubborn = MarketMaking(lambda prompts: ["so"] * len(prompts), lambda t: [0.9] * len(t))
    assert len(stubborn.run("?", ANSWERS).turns) == 1
    for judge_ in (lambda texts: [], lambda texts: [float("nan")] * len(texts)):
        with pytest.raises(UserError, match=r"1 texts a number in \[0, 1\]"):
            MarketMaking(lambda prompts: prompts, judge_).run("?", ANSWERS)
    with pytest.raises(ValueError, match="two answers, not 3"):
        Debate(lambda prompts: prompts).run("?", ("a", "b", "c"))  # type: ignore[arg-type]


LONG = Transcript(
    "?", ANSWERS,
    (Turn("A", 1, "a " * 50), Turn("B", 0, "b " * 10), Turn("A", 1, "c " * 5),
     Turn("B", 0, "d " * 80)),
)  # fmt: skip


@given(st.integers(0, 160))
def test_truncation_gives_both_speakers_the_same_budget(budget: int) -> None:
    words = LONG.to_context(budget).split()
    a, b = words.count("a") + words.count("c"), words.count("b") + words.count("d")
    assert a == min(55, budget // 2)
    assert b == min(90, budget // 2)
    assert words.count("c") == min(5, budget // 4)  # the last turn does not pay for the first


def test_contexts_join_the_weak_models_texts_only() -> None:
    data = Dataset.from_dict({"id": [1, 2], "text": ["x", "y"], "label": [0, 1]})
    silent = Debate(lambda prompts: prompts, turns=0).run_all(data["text"], ANSWERS)
    assert augment_with_context(data, silent).to_dict() == data.to_dict()
    longer = augment_with_context(data, [LONG, LONG], max_tokens=4)
    assert longer.column_names == ["id", "text", "label"]
    assert longer["text"][0] == "x\n\nA (yes): a\nB (no): b\nA (yes): c\nB (no): d"
    assert LONG.swapped().swapped() == LONG
    with pytest.raises(ValueError, match="at least 0, not -1"):
        LONG.to_context(-1)
    assert LONG.to_context(4, speakers=("A",)) == "A (yes): a a\nA (yes): c c"
    with pytest.raises(ValueError, match="2 rows, but 1"):
        augment_with_context(data, [LONG])
