"""Made-up domains: what is asked and read, what is made and kept, budgets and bounds by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generality.benchmarks import MultiDomain
from generality.errors import UserError
from generality.lab import Lab
from generality.measures import domain_overlap, proxy_discrepancy, two_level_bound
from generality.models import RecordedChat
from generality.selection import (
    DigitRenderer,
    DomainProposer,
    DomainSpec,
    ProceduralSynthesiser,
    PromptWriter,
    TemplateSynthesiser,
    TextSynthesiser,
    TextToImage,
    agreement_filter,
    budget_shares,
    depict_domains,
    depict_plainly,
    digit_specs,
    matched_budget,
    synthesise_domains,
)


@pytest.mark.parametrize(
    ("m", "n", "reported", "domains"),
    [(4, 100, 1.0199, 3.3247), (4, 1000, 0.4866, None), (32, 100, 0.8882, 1.3306)],
)
def test_the_bounds_of_the_sheet(m, n, reported, domains) -> None:
    given = {"m": m, "n": n, "delta": 0.05, "epsilon": 0.02}
    assert two_level_bound(0.1, 0.01, 0.05, **given) == pytest.approx(reported, abs=1e-4)
    if domains is not None:
        found = two_level_bound(0.1, 0.01, 0.05, form="domains", **given)
        assert found == pytest.approx(domains, abs=1e-4)
    with pytest.raises(ValueError, match="delta"):
        two_level_bound(0, 0, 0, m=1, n=1, delta=1)


def test_the_largest_difference_of_any_model_counts() -> None:
    always = [lambda x, k=k: np.eye(3)[np.full(len(x), k)] for k in range(3)]
    first, second = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert proxy_discrepancy(always, (first, first), (second, second)) == pytest.approx(0.5)


@given(st.integers(0, 5000), st.integers(1, 40))
def test_shares_add_up_and_differ_by_one(total: int, parts: int) -> None:
    shares = budget_shares(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_the_budgets_of_the_sheet() -> None:
    assert budget_shares(4000, 16) == [250] * 16
    assert budget_shares(4000, 3) == [1334, 1333, 1333]
    domains = np.repeat([5, 2, 9], [700, 10, 90])
    rows = matched_budget(domains, 300)
    assert [(domains[rows] == d).sum() for d in (2, 5, 9)] == [100, 100, 100]
    assert len(set(rows[domains[rows] == 5])) == 100  # none twice where there are enough
    counts = np.bincount(rows)[domains.searchsorted(0) :]
    assert set(counts[700:710]) == {10}


def test_domains_are_asked_for_by_class_with_role_and_known_ones() -> None:
    chat = RecordedChat(['["cave", "Sketch"]', '[{"name": "ship", "description": "at sea"}]'])
    specs = DomainProposer(chat, kind="photograph").propose(["dog", "cat"], known=["sketch"], n=2)
    assert specs == [DomainSpec("cave", "", "dog"), DomainSpec("ship", "at sea", "cat")]
    role, question = chat.heard[0]
    assert role["role"] == "system"
    assert "photograph of a dog" not in role["content"]
    assert "of a photograph of: dog. They differ from: sketch." in question["content"]
    assert "First say" in question["content"]


def test_an_answer_that_is_no_json_is_asked_for_again_then_read_by_line() -> None:
    again = RecordedChat(["I cannot.", 'Well: ["cave"]'])
    assert DomainProposer(again, mode="dataset").propose(["dog"])[0].name == "cave"
    listed = RecordedChat(["1. a cave\n2. a ship"])
    found = DomainProposer(listed, mode="dataset", retries=0).propose(["dog"])
    assert [spec.name for spec in found] == ["a cave", "a ship"]
    silent = RecordedChat(["no", "no", "no", "no"])
    with pytest.raises(UserError, match="gave no list in 3 answers.*'no'"):
        DomainProposer(silent, mode="dataset").propose(["dog"])


@given(st.text(max_size=200))
def test_nothing_a_model_says_breaks_the_reader(said: str) -> None:
    try:
        found = DomainProposer(RecordedChat([said]), mode="dataset", retries=0).propose(["a"])
    except UserError:
        return
    assert all(spec.name for spec in found)


def test_answers_are_kept_by_the_lab(tmp_path) -> None:
    lab = Lab(home=tmp_path, device="cpu", progress=False)
    answer = json.dumps(["a dog at dusk"])
    for _ in range(2):
        writer = PromptWriter(RecordedChat([answer]), lab=lab)
        assert writer.write(DomainSpec("dusk"), "dog") == ["a dog at dusk"]
    assert (lab.steps.computed, lab.steps.reused) == (1, 1)


def test_domains_are_asked_for_until_there_are_enough() -> None:
    from PIL import Image

    def pipeline(prompt, generator, guidance_scale):
        return type("Output", (), {"images": [Image.new("RGB", (4, 4))]})

    # two domains, one of them known, then the second that lacks; a prompt for each domain
    said = ['["cave", "photo"]', '["cave", "ship"]', '["a dog in a cave"]', '["a dog at sea"]']
    chat = RecordedChat(said)
    made = depict_domains(chat, pipeline, ["dog"], ["photo"], [2, 1], size=4)
    assert made["domains"].tolist() == [0, 0, 1]
    assert "differ from: photo, cave." in chat.heard[1][1]["content"]
    with pytest.raises(UserError, match="named 1 domains where 2 were asked for"):
        depict_domains(RecordedChat(['["cave"]'] * 3), pipeline, ["dog"], [], [1, 1], size=4)


def test_sentences_until_there_are_enough_none_twice() -> None:
    chat = RecordedChat(
        ["1. The soup was cold.\n2. Bad.\n3. The soup was cold.", "- A dull place."]
    )
    made = TextSynthesiser(chat).synthesise(DomainSpec("inns"), "negative", 2)
    assert made == ["The soup was cold.", "A dull place."]


def test_made_examples_say_what_made_them() -> None:
    maker = TemplateSynthesiser({"bad": ["{w} {domain}"], "good": ["{w} {domain}"]}, {"w": "xyz"})
    specs = [DomainSpec("inn"), DomainSpec("ship", label="good")]
    made = synthesise_domains(maker, specs, ("bad", "good"), per_class=2)
    assert made.data.domain_names == ("inn", "ship")
    assert made.data.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert made.data.domains.tolist() == [0, 0, 0, 0, 1, 1]
    table = made.take(np.array([False] * 4 + [True] * 2)).to_dataset()
    assert set(table.column_names) == {"input", "label", "synthesiser", "domain", "seed"}
    assert table["domain"][:] == ["ship", "ship"]


def test_a_filter_keeps_a_share_of_every_class() -> None:
    data = MultiDomain(
        np.arange(12.0), np.repeat([0, 1], [10, 2]), np.zeros(12, int), ("a", "b"), ("d",)
    )
    kept = agreement_filter(data, lambda inputs, names: -inputs, keep=0.5)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 3, 4, 10]
    assert agreement_filter(data, lambda inputs, names: inputs, keep=1).all()


def test_overlap_with_the_targets() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.array([[t.count("a"), t.count("b")] for t in texts], float)

    table = domain_overlap(["aa", "ab", "zz"], ["b", "a"], encode, threshold=0.9)
    assert table["target"].tolist()[:1] == ["a"]
    assert table["similarity"].tolist() == pytest.approx([1, 0.5**0.5, 0])
    assert table["overlaps"].tolist() == [True, False, False]
    assert domain_overlap([], ["a"], encode).empty


def test_rendered_domains_differ_and_their_first_images_stay(artifacts) -> None:
    maker = ProceduralSynthesiser(DigitRenderer(16))
    specs = digit_specs(6)
    few, many = (maker.synthesise(specs[0], "3", n) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    made = [maker.synthesise(spec, "3", 3) for spec in specs]
    assert all(0 <= images.min() < images.max() <= 1 for images in made)
    means = np.array([images.mean((0, 2, 3)) for images in made])
    assert len(np.unique(means.round(4), axis=0)) == 6
    plain = maker.synthesise(DomainSpec("plain"), "3", 3)
    assert plain[:, :, 0, 0].max() == 0
    assert plain.max() > 0.8


def test_a_diffusion_pipeline_gets_prompts_in_turn_and_a_seeded_generator() -> None:
    from PIL import Image

    asked = []

    def pipeline(prompt, generator, guidance_scale):
        asked.append((prompt, generator.initial_seed(), guidance_scale))
        return type("Output", (), {"images": [Image.new("RGB", (8, 8), (255, 0, 0))]})

    writer = PromptWriter(RecordedChat(['["a dog at dusk", "a dog at dawn"]']))
    maker = TextToImage(pipeline, writer=writer, size=4)
    images = maker.synthesise(DomainSpec("light"), "dog", 3, seed=2)
    assert images.shape == (3, 3, 4, 4)
    np.testing.assert_allclose(images[0, :, 0, 0], [1, 0, 0])
    assert [prompt for prompt, *_ in asked] == ["a dog at dusk", "a dog at dawn", "a dog at dusk"]
    assert len({seed for _, seed, _ in asked}) == 3
    assert asked[0][2] == 7.5
    asked.clear()
    plain = depict_plainly(pipeline, ("dog", "cat"), 3, size=4, guidance=0.0)
    assert [prompt for prompt, *_ in asked] == ["a photo of a dog"] * 2 + ["a photo of a cat"] * 2
    assert {guidance for *_, guidance in asked} == {0.0}
    assert plain["labels"].tolist() == [0, 0, 1, 1]
    assert plain["domains"].tolist() == [0] * 4
    with pytest.raises(UserError, match="no pipeline that diffusers loads"):
        TextToImage("./there/is/none")
