import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generality.agents import (
    ChatChoice,
    ChoiceTask,
    Demo,
    NameSimilarity,
    OptionLikelihood,
    paired_failures,
    parse_choice,
    parse_confidence,
    perturb,
    select_demos,
    stratified_cases,
)
from generality.benchmarks import MultiDomain
from generality.errors import UserError
from generality.measures import ShiftReport, wilson_interval
from generality.models import RecordedChat


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("Answer Choice: [airport_hangar]", ["airport", "airport_hangar"], "airport_hangar"),
        ("Answer Choice: Airport Hangar.", ["airport", "airport_hangar"], "airport_hangar"),
        ("Answer Choice: airport", ["airport", "airport_hangar"], "airport"),
        ("answer choice: 'Dog'", ["cat", "dog"], "dog"),
        ("**Answer Choice**: dog\nReasoning: no cat here", ["cat", "dog"], "dog"),
        ("Answer: dog", ["cat", "dog"], None),
        ("Answer Choice: dog or cat", ["cat", "dog"], None),
        ("Answer Choice: dog\nAnswer Choice: cat", ["cat", "dog"], None),
        ("Answer Choice: doggerel", ["cat", "dog"], None),
        ("Answer Choice: airport, airport hangar", ["airport", "airport_hangar"], None),
        ("", ["cat", "dog"], None),
    ],
)
def test_answers_are_read(text: str, classes: list[str], expected: str | None) -> None:
    assert parse_choice(text, classes) == expected


def test_confidence_is_read() -> None:
    said = ["Confidence Score: .9", "confidence: [1]", "Confidence Score: high", "Confidence: -0.2"]
    assert [parse_confidence(text) for text in said] == [0.9, 1.0, None, None]


def test_wilson_interval_of_the_released_chest_x_rays() -> None:
    assert wilson_interval(15, 31) == pytest.approx((0.3197, 0.6516), abs=5e-5)
    truth = [0] * 10 + [1] * 11 + [2] * 10
    said = [0] * 6 + [1] * 4 + [1] * 3 + [0] * 8 + [2] * 6 + [0] * 4
    report = ShiftReport(truth, {"two-shot": said})
    assert report.by("label")["accuracy"].tolist() == pytest.approx([0.6, 3 / 11, 0.6])
    assert report.by()["accuracy"].item() == pytest.approx(0.4839, abs=5e-5)


def test_the_released_sample_of_pacs() -> None:
    """CLIP has 134 of 140 right, and of the 35 sketches 29; LLaVA has 138."""
    domains = np.repeat(["art_painting", "cartoon", "photo", "sketch"], 35)
    clip, llava = np.zeros(140, int), np.zeros(140, int)
    clip[-6:] = llava[[0, 40]] = 1  # wrong; None counts as wrong too
    said = [None if wrong else 0 for wrong in llava]
    report = ShiftReport([0] * 140, {"clip": clip, "llava": said}, domains)
    summary = report.summary().set_index("model")
    assert summary["accuracy"].tolist() == pytest.approx([0.9571, 0.9857], abs=5e-5)
    assert summary.loc["clip", ["worst_domain", "worst"]].tolist() == [
        "sketch",
        pytest.approx(0.829, abs=5e-4),
    ]
    assert report.rescue_rate("llava", "clip") == 1.0


def test_equal_predictions_do_not_differ_and_rescue_nothing() -> None:
    truth, said = [0, 1, 0, 1], [0, 0, 0, 1]
    report = ShiftReport(truth, {"a": said, "b": said})
    assert report.paired("a", "b").p == 1.0
    assert report.paired("a", "b").difference == 0.0
    assert report.rescue_rate("b", "a") == 0.0


def test_mcnemar_by_hand() -> None:
    report = ShiftReport([1] * 6, {"a": [1] * 6, "b": [0] * 5 + [1]})
    pair = report.paired("a", "b")
    assert (pair.only_first, pair.only_second) == (5 / 6, 0)
    assert pair.p == pytest.approx(2 * 0.5**5)
    assert report.rescue_rate("a", "b") == 1.0
    assert np.isnan(report.rescue_rate("b", "a"))


def test_the_summary_tells_domains_apart() -> None:
    report = ShiftReport(
        truth=["x", "y", "x", "y", "x"],
        said={"m": ["x", "y", None, "y", "y"]},
        domains=["p", "p", "q", "q", "q"],
        confidence={"m": [0.9, 0.9, None, 0.9, 0.7]},
    )
    row = report.summary().iloc[0]
    assert (row["worst_domain"], row["unanswered"]) == ("q", pytest.approx(0.2))
    assert (row["accuracy"], row["by_domain"]) == (0.6, pytest.approx((1 + 1 / 3) / 2))
    assert row["spread"] == pytest.approx(2 / 3)
    assert row["ece"] == pytest.approx((3 * 0.1 + 0.7) / 4)
    assert row["auroc"] == 1.0


def test_what_pandas_calls_missing_is_no_answer() -> None:
    import pandas as pd

    report = ShiftReport(["a", "b"], {"m": pd.array(["a", None], dtype="string")})
    assert report.by()[["accuracy", "unanswered"]].values.tolist() == [[0.5, 0.5]]


def test_reports_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 cases and 1 entries of m"):
        ShiftReport([0, 1], {"m": [0]})
    with pytest.raises(ValueError, match="another kind"):
        ShiftReport([0, 1], {"m": ["0", "1"]})
    with pytest.raises(ValueError, match="outside"):
        ShiftReport([0], {"m": [0]}, confidence={"m": [90]})


class Parrot(nn.Module):
    """Its next token is likelier the smaller the distance to the last one; 8 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    def generate(self) -> None: ...

    def forward(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
        counted = (input_ids * attention_mask).cumsum(1)  # all tokens so far, fillers apart
        near = -(torch.arange(8.0) - (counted % 8)[..., None]).abs()
        return _Output(near[:, -logits_to_keep:])


class _Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Digits:
    """Every digit is a token; 7 fills."""

    pad_token_id = 7

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(letter) for letter in text if letter.isdigit()]


def test_likelihood_of_options_of_several_tokens_in_batches() -> None:
    model = OptionLikelihood(batch=3)
    model.__dict__["_loaded"] = (Parrot(), Digits())
    prompts, classes = ["12", "3", "1 1 1 1", "5"], ["3", "35", "0"]
    found = model.log_likelihoods(prompts, classes)
    for i, prompt in enumerate(prompts):
        for j, name in enumerate(classes):
            ids, expected = Digits().encode(prompt), 0.0
            for token in Digits().encode(name):
                logits = -(torch.arange(8.0) - sum(ids) % 8).abs()
                expected += float(logits.log_softmax(0)[token])
                ids.append(token)
            assert found[i, j] == pytest.approx(expected, abs=1e-5)


def test_a_chat_is_shown_demos_and_the_full_list() -> None:
    chat = RecordedChat(["Answer Choice: [good]\nConfidence Score: 0.8", "I will not say."])
    task = ChoiceTask(["fine", "hm"], ("bad", "good"), "Which?")
    demos = [[Demo("awful", "bad")], []]
    first, second = ChatChoice(chat).predict(task, demos)
    assert (first.label, first.confidence) == ("good", 0.8)
    assert (second.label, second.confidence, second.raw) == (None, None, "I will not say.")
    assert [turn["role"] for turn in chat.heard[0]] == ["user", "assistant", "user"]
    assert all("bad, good" in turn["content"] for turn in chat.heard[0][::2])
    with pytest.raises(ValueError, match="lacks"):
        ChatChoice(chat).predict(task, [[Demo("x", "ugly")], []])


def test_orders_of_classes_are_drawn_for_every_item() -> None:
    task = ChoiceTask([""] * 50, ("a", "b"), order_seed=0)
    first = [task.listed(i)[0] for i in range(50)]
    assert {*first} == {"a", "b"}
    assert first == [task.listed(i)[0] for i in range(50)]
    with pytest.raises(ValueError, match="read apart"):
        ChoiceTask([], ("air_port", "Air Port"))


def test_names_are_put_into_the_template() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.eye(2)[: len(texts)]

    NameSimilarity(encode, template="a {}!").predict(ChoiceTask(["x", "y"], ("cat", "dog")))
    assert seen == ["x", "y", "a cat!", "a dog!"]


def data() -> MultiDomain:
    labels, domains = np.arange(24) % 3, np.arange(24) // 12
    return MultiDomain(
        [f"text {i}" for i in range(24)], labels, domains, ("a", "b", "c"), ("s", "t")
    )


@given(st.integers(1, 6), st.integers(0, 9))
def test_cases_fill_every_cell_alike(per_cell: int, seed: int) -> None:
    rows = stratified_cases(data(), per_cell=per_cell, seed=seed)
    drawn = data().take(rows)
    assert len({*rows.tolist()}) == len(rows) == 6 * min(per_cell, 4)
    assert np.bincount(3 * drawn.domains + drawn.labels).tolist() == [min(per_cell, 4)] * 6
    assert {*rows.tolist()} <= {*stratified_cases(data(), per_cell=6, seed=seed).tolist()}


def test_failures_of_the_reference() -> None:
    right = np.array([True, False, False, True, False])
    assert paired_failures(right).tolist() == [1, 2, 4]
    assert set(paired_failures(right, 2).tolist()) < {1, 2, 4}


def test_demos_are_balanced_or_nearest() -> None:
    for shown in select_demos(data(), ["q"] * 5, 3):
        assert {demo.label for demo in shown} == {"a", "b", "c"}
    number = {f"text {i}": i for i in range(24)}

    def encode(texts: list[str]) -> np.ndarray:
        angle = np.array([number[text] for text in texts]) / 24
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    [shown] = select_demos(data(), ["text 10"], 2, "nearest", encode=encode)
    assert shown[-1] == Demo("text 10", "b")
    with pytest.raises(ValueError, match="encode"):
        select_demos(data(), ["q"], 2, "nearest")


def test_perturbations_grow_and_stop_at_nothing() -> None:
    images = np.full((4, 3, 16, 16), 0.5, np.float32)
    assert perturb(images, "gaussian_noise", 0) is images
    noisy = perturb(images, "gaussian_noise", 0.01)
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05)
    text = ["the quick brown fox jumps over the lazy dog"] * 20
    changed = [sum(said != text[0] for said in perturb(text, "typos", p)) for p in (0.01, 0.3)]
    assert changed[0] < changed[1] == 20
    assert perturb(text, "typos", 0.1) == perturb(text, "typos", 0.1)
    with pytest.raises(UserError, match="gaussian_noise"):
        perturb(images, "gausian_noise")
