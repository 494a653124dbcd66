import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.errors import UserError
from generality.measures import response_logprob
from generality.models import RecordedChat, tiny_decoder
from generality.selection import (
    EmbeddingNearest,
    ExactMatch,
    FitSelector,
    LongestResponse,
    Majority,
    ModelJudge,
    NumberMatch,
    RandomResponse,
    ResponsePool,
    ReverseFit,
    ShortestResponse,
    StrongestSource,
    UnitTests,
    WorldCheck,
    selection_overlap,
)

# token log-probabilities of the four candidates of GRAPE's parity check
LOGPS = {"A": [-0.5, -0.5, -2, -0.4], "B": [-0.9] * 12, "C": [-1, -0.2], "D": [-0.3] * 20}


def candidates(names: str) -> ResponsePool:
    rows = [{"prompt": "p", "response": name} for name in names]
    pool = ResponsePool(rows).score("sum", lambda _, texts: [sum(LOGPS[t]) for t in texts])
    return pool.score("mean", lambda _, texts: [np.mean(LOGPS[t]) for t in texts])


def test_selection_matches_the_published_choices() -> None:
    three, four = candidates("ABC"), candidates("ABCD")
    assert three.select("mean").column("response") == ["C"]
    assert three.select("mean", k=2).column("response") == ["C", "A"]
    assert three.select("mean", order="min").column("response") == ["B"]
    assert four.select("mean").column("response") == ["D"]
    assert four.select("sum").column("response") == ["C"]
    perplexities = [math.exp(-score) for score in three.column("mean")]
    assert perplexities == pytest.approx([2.339647, 2.459603, 1.822119], abs=1e-6)


TOKENIZER = world_tokenizer()
MODEL = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
STYLES = ("full", "states", "reversed", "terse")
CHAINS = ChainPrograms().sample(5, (1, 3), seed=0)
POOL = ResponsePool(
    {"prompt": c.prompt, "response": solution(c, s), "source": s, "reference": c.answer}
    for s in STYLES
    for c in CHAINS
)


def selectors() -> list:
    return [
        FitSelector(MODEL, TOKENIZER),
        FitSelector(MODEL, TOKENIZER, reduce="sum"),
        ReverseFit(MODEL, TOKENIZER),
        StrongestSource("full"),
        RandomResponse(seed=1),
        LongestResponse(),
        ShortestResponse(),
        EmbeddingNearest(lambda texts: np.array([[len(t), 1.0] for t in texts]), ["a b c"]),
    ]


@pytest.mark.parametrize("selector", selectors(), ids=lambda s: type(s).__name__)
def test_with_one_response_per_prompt_every_selector_returns_the_pool(selector) -> None:
    single = POOL.where([source == "full" for source in POOL.column("source")])
    chosen = selector.select(single)
    assert chosen.column("response") == single.column("response")
    assert selector.select(POOL).composition("prompt_id") == single.composition("prompt_id")


def test_fit_takes_the_likeliest_and_reverse_the_least() -> None:
    scored = FitSelector(MODEL, TOKENIZER).score(POOL)
    expected = response_logprob(
        MODEL, TOKENIZER, POOL.column("prompt"), POOL.column("response"), shared_prefix=False
    )
    assert scored.column("fit") == pytest.approx(expected.tolist(), abs=1e-4)
    for selector, best in ((FitSelector, max), (ReverseFit, min)):
        chosen = selector(MODEL, TOKENIZER).select(POOL)
        for prompt, score in zip(chosen.column("prompt"), chosen.column("fit"), strict=True):
            rows = zip(POOL.column("prompt"), scored.column("fit"), strict=True)
            assert score == pytest.approx(best(s for p, s in rows if p == prompt), abs=1e-6)


def test_lengths_sources_and_templates() -> None:
    assert LongestResponse().select(POOL).composition() == {"full": 1.0}
    assert ShortestResponse().select(POOL).composition() == {"terse": 1.0}
    assert StrongestSource("states").select(POOL).composition() == {"states": 1.0}
    framed = FitSelector(MODEL, TOKENIZER, "a = 1 ; {prompt}").score(POOL).column("fit")
    assert framed != FitSelector(MODEL, TOKENIZER).score(POOL).column("fit")
    with pytest.raises(ValueError, match="prompt"):
        FitSelector(MODEL, TOKENIZER, "Question:")


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(len(POOL))))
def test_a_prompts_choice_does_not_depend_on_the_rest_of_the_pool(order: list[int]) -> None:
    moved = ResponsePool(POOL.dataset.select(order))
    first = [prompt == CHAINS[0].prompt for prompt in moved.column("prompt")]
    alone = ShortestResponse().select(moved.where(first)).column("response")
    assert alone[0] in ShortestResponse().select(moved).column("response")


def test_random_choices_are_the_same_in_parts_and_differ_by_seed() -> None:
    ids = POOL.column("prompt_id")
    whole = RandomResponse(0).select(POOL)
    parts = [RandomResponse(0).select(POOL.where([i == one for i in ids])) for one in set(ids)]
    texts = sorted(text for part in parts for text in part.column("response"))
    assert texts == sorted(whole.column("response"))
    others = [RandomResponse(seed).select(POOL) for seed in range(1, 6)]
    assert any(selection_overlap(whole, other) < 1 for other in others)


def test_as_many_of_each_prompt_as_the_original_had() -> None:
    wanted = {prompt: 1 + place % 2 for place, prompt in enumerate(POOL.column("prompt"))}
    counted = POOL.with_column("original", [wanted[p] for p in POOL.column("prompt")])
    chosen = FitSelector(MODEL, TOKENIZER).select(counted, "original")
    assert len(chosen) == sum(wanted.values())


def test_unscored_rows_are_never_chosen() -> None:
    rows = [{"prompt": "p", "response": r} for r in ("a", "b")]
    pool = ResponsePool(rows).with_column("s", [float("nan"), -5.0])
    assert pool.select("s").column("response") == ["b"]
    assert len(pool.with_column("s", [float("nan")] * 2).select("s")) == 0
    assert len(ResponsePool([]).select("s")) == 0


def test_scores_come_in_batches_in_which_a_prompts_responses_are_neighbours() -> None:
    seen: list[list[str]] = []

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append(prompts)
        return [float(len(response)) for response in responses]

    scored = POOL.score("n", score, batch_size=9)
    assert scored.column("n") == [len(response) for response in POOL.column("response")]
    assert all(len(prompts) <= 9 for prompts in seen)
    for prompts in seen:
        assert sum(a != b for a, b in itertools.pairwise(prompts)) == len(set(prompts)) - 1


def test_pairs_for_preference_training_go_from_right_to_wrong() -> None:
    rows = [{"prompt": "p", "response": r, "reference": "3"} for r in ("=> 3", "=> 4", "=> 2")]
    pairs = ResponsePool(rows).verify(WorldCheck()).preference_pairs("correct")
    assert pairs["chosen"][:] == ["=> 3", "=> 3"]
    assert set(pairs["rejected"]) == {"=> 4", "=> 2"}


def test_bad_pools_and_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="response"):
        ResponsePool([{"prompt": "p"}])
    with pytest.raises(ValueError, match="prompts are texts"):
        ResponsePool([{"prompt": 1, "response": "r"}])
    frame = pd.DataFrame([{"prompt": "p", "response": r} for r in ("a", "b b")])
    assert LongestResponse().select(ResponsePool(frame)).column("response") == ["b b"]
    with pytest.raises(ValueError, match="no column 'fit'"):
        POOL.select("fit")
    with pytest.raises(ValueError, match="k is at least 1"):
        POOL.select("source", k=0)
    with pytest.raises(ValueError, match="order"):
        POOL.select("source", order="best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("response", "reference", "score"),
    [
        ("The answer is 1,234.", "1234", 1.0),
        ("#### -7", "−7", 1.0),
        ("7 apples and 8 pears", "7", 0.0),
        ("it is .5", "0.50", 1.0),
        ("none", "none", 0.0),
        ("2.0000000001", "2", 1.0),
    ],
)
def test_last_numbers(response: str, reference: str, score: float) -> None:
    assert NumberMatch("last-number")("", response, reference) == score


def test_math_verify_where_it_is_installed() -> None:
    pytest.importorskip("math_verify")
    judge = NumberMatch("math-verify")
    assert judge("", "so it is $\\frac{1}{2}$", "0.5") == 1.0
    assert judge("", "so it is $\\frac{1}{3}$", "0.5") == 0.0
    assert NumberMatch().engine == "math-verify"


def test_math_verify_asked_for_and_missing_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    with pytest.raises(UserError, match=r"generality\[llm\]"):
        NumberMatch("math-verify")


def test_text_judges() -> None:
    assert ExactMatch(extract=lambda text: text.split(":")[-1])("", "Answer: Paris ", "paris") == 1
    assert ExactMatch(extract=lambda text: None)("", "?", "paris") == 0
    assert WorldCheck()("", "1 2 => 2 => 3", "3") == 1
    assert all(POOL.verify(WorldCheck()).column("correct"))


def test_a_majority_needs_enough_votes() -> None:
    votes = ["=> 3", "=> 3", "no answer"]
    for tau, expected in ((2, 1.0), (3, 0.0)):
        assert Majority(lambda p, n: votes, n=3, tau=tau)("", "=> 3") == expected
    assert Majority(lambda p, n: votes)("", "no answer") == 0.0
    with pytest.raises(ValueError, match="tau"):
        Majority(lambda p, n: votes, n=3, tau=4)


def test_a_model_judge_counts_what_it_cannot_read() -> None:
    judge = ModelJudge(RecordedChat(["**Yes**", "no, it is not", "Perhaps."]))
    with pytest.warns(UserWarning, match="Perhaps"):
        assert [judge("q", "r", "g") for _ in range(3)] == [1.0, 0.0, 0.0]
    assert judge.unclear == 1


def test_unit_tests_run_the_last_block() -> None:
    judge = UnitTests(seconds=10)
    good = "```python\ndef f(x):\n    return x + 1\n```"
    assert judge("", good, ["assert f(1) == 2", "assert f(0) == 1"]) == 1.0
    assert judge("", good, "assert f(1) == 3") == 0.0
    assert judge("", "not code at all", "assert True") == 0.0
