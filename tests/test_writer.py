"""Writers between their tunings, and the data of studies that tune them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.class_shares import evened, thinned
from generality.benchmarks.tuning_files import TuningFiles
from generality.benchmarks.worlds import answer_of
from generality.benchmarks.worlds.styled_chains import StyledChains
from generality.errors import UserError
from generality.experiments.hard_tasks import FileTasks
from generality.lab import Lab, TrainConfig
from generality.measures import response_logprob
from generality.measures.flips import flip_rows
from generality.selection import WorldCheck
from generality.selection.hard_chains import HardChains
from generality.selection.hard_material import HardMaterial, supervision_sets
from generality.training.writer import Writer

ONCE = TrainConfig(epochs=1, batch_size=2, learning_rate=1e-2)
PROMPTS, ANSWERS = ["a ?", "b ?", "c ?", "d ?"], ["=> 1", "=> 2", "=> 1", "=> 2"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(home=tmp_path, device="cpu", progress=False)


# ------------------------------------------------------------------------------- writers


def test_tuning_leaves_the_writer_as_it_is_and_keeps_weights_on_the_way(lab: Lab) -> None:
    base = Writer.tiny("0.05M")
    tuned = base.tuned(lab, PROMPTS, ANSWERS, config=ONCE, seed=0, keep=(0.5,))
    assert base.weights is None
    assert base.training is None
    half, end, start = (w.model().state_dict() for w in (tuned.kept(0.5), tuned, base))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(half[name], end[name])
    assert not torch.equal(half[name], start[name])
    with pytest.raises(ValueError, match=r"kept are 0.5, not 0.9"):
        tuned.kept(0.9)
    with pytest.raises(ValueError, match="no weights"):
        base.kept(0.5)


def test_a_writer_goes_on_from_its_weights(lab: Lab) -> None:
    base = Writer.tiny("0.05M")
    still = TrainConfig(epochs=1, batch_size=2, learning_rate=0.0)
    first = base.tuned(lab, PROMPTS, ANSWERS, config=ONCE, seed=0)
    same = first.tuned(lab, PROMPTS, ANSWERS, config=still, seed=5)
    for name, value in first.model().state_dict().items():
        assert torch.equal(value, same.model().state_dict()[name])


def test_numbers_of_a_writer_are_those_of_the_measures_and_are_kept(lab: Lab) -> None:
    base = Writer.tiny("0.05M")
    found = base.logprobs(lab, PROMPTS, ANSWERS, reduce="sum")
    direct = response_logprob(base.model(), base.tokenizer, PROMPTS, ANSWERS, reduce="sum")
    assert found == pytest.approx(direct.tolist(), abs=1e-4)
    assert base.moved(lab, base, PROMPTS, max_tokens=3, seed=0) == pytest.approx(0, abs=1e-6)
    tuned = base.tuned(lab, PROMPTS, ANSWERS, config=ONCE, seed=0)
    assert tuned.moved(lab, base, PROMPTS, max_tokens=3, seed=0) > 1e-4
    done = lab.steps.computed
    base.logprobs(lab, PROMPTS, ANSWERS, reduce="sum")
    assert lab.steps.computed == done


def test_accuracies_of_several_tests_do_not_mix(lab: Lab) -> None:
    base = Writer.tiny("0.05M")
    said = [text for [text] in base.write(lab, PROMPTS, max_tokens=2)]
    tests = {"own": (PROMPTS[:3], said[:3]), "other": (PROMPTS[3:], ["never"])}

    def judge(prompt: str, response: str, reference: str) -> float:
        return float(response == reference)

    assert base.accuracies(lab, tests, judge, max_tokens=2) == {"own": 1.0, "other": 0.0}


# --------------------------------------------------------------------------- their data

TASK = StyledChains(
    styles=("full", "named", "equations"), shares=(0.8, 0.15, 0.05), target=(2, 3), test=40
)


def test_every_style_of_an_example_is_right_and_gold_is_the_last() -> None:
    judge, data = WorldCheck(), TASK.examples(seed=0, count=20)
    for row in data:
        assert row["response"] == row["equations"]
        assert row["full"] != row["named"] != row["equations"]
        for style in TASK.styles:
            assert judge(row["prompt"], row[style], row["reference"]) == 1


def test_nothing_that_is_tested_is_trained_on() -> None:
    tested = {prompt for prompts, _ in TASK.tests.values() for prompt in prompts}
    pairs = TASK.pretraining(200)
    assert not tested & {prompt for prompt, _ in pairs}
    assert not tested & set(TASK.examples(seed=0, count=200)["prompt"])
    assert all(answer_of(text) for _, text in pairs)
    shares = [sum(" = " in text for _, text in pairs if ";" in text) / 200, len(pairs) / 200]
    assert shares == pytest.approx([0.55, 1.4], abs=0.2)  # "full" has signs; strings come on top


def test_a_share_of_paraphrases_is_spoilt_always_the_same_one() -> None:
    data, judge = TASK.examples(seed=0, count=300), WorldCheck()
    said = TASK.paraphrases(data)
    right = [judge(row["prompt"], said[row["prompt"]], row["reference"]) for row in data]
    assert sum(right) / len(right) == pytest.approx(0.8, abs=0.08)
    part = data.select(range(5))
    assert TASK.paraphrases(part) == {prompt: said[prompt] for prompt in part["prompt"]}


def test_files_to_tune_on_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs train.jsonl, target.jsonl and one task more"):
        TuningFiles(tmp_path)
    for name in ("train", "target"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "answer": "b", "response": "b"}')
    (tmp_path / "more.jsonl").write_text("no json")
    with pytest.raises(UserError, match=r"more.jsonl is not JSON lines"):
        TuningFiles(tmp_path)


# ------------------------------------------------------------------- supervision of hard tasks


def test_sets_of_hard_tasks_have_their_rates_and_their_lengths() -> None:
    source = HardChains(hard_steps=4, part_steps=(2, 3))
    chains = source.hard(40, seed=1)
    teacher = [f"{chain.start} 0 0 0 {chain.values[-1]} => 9" for chain in chains]
    material = source.material(chains, {"teacher": teacher}, seed=0)
    assert set(material.wrong) == {"teacher", "slip", "random"}
    assert all(item.right and not any(item.flags or [True]) for item in material.right)
    assert not any(item.right for items in material.wrong.values() for item in items)
    assert [len(part.flags or ()) for part in material.parts[0]] == [4] * 40  # three steps
    assert all(part.right for part in material.more_parts)
    sets = supervision_sets(
        material, error_rates=(0.5, 0.9), added_to=0.5, added=0.1, seed=0,
        length=lambda item: len((item.prompt + " " + item.response).split()),
    )  # fmt: skip
    wrong = {name: sum(not item.right for item in items) for name, (items, _) in sets.items()}
    assert wrong["hard-90-random"] == 36
    assert wrong["hard-50-slip"] == wrong["hard-doubled"] == 20
    assert (wrong["hard+subtasks"], wrong["hard+paraphrases"]) == (24, 40)
    words = {
        name: times * sum(len((i.prompt + " " + i.response).split()) for i in items)
        for name, (items, times) in sets.items()
    }
    assert words["subtasks"] == pytest.approx(words["hard-00"])
    assert len(sets["hard+subtasks"][0]) == len(sets["hard+paraphrases"][0]) == 80


def test_tested_chains_are_not_among_the_hard_ones_under_any_name() -> None:
    source = HardChains(modulus=2, hard_steps=2)
    tested = source.hard(8, seed=0)
    left = source.hard(200, seed=1, besides=tested)
    known = {(chain.start, chain.program) for chain in tested}
    assert left
    assert not known & {(chain.start, chain.program) for chain in left}


def test_material_from_files_and_what_is_missing(tmp_path: Path) -> None:
    part = {"prompt": "1 + 1?", "right": "1 + 1 = 2", "wrong": "1 + 1 = 3"}
    hard = {
        "prompt": "1 + 1 + 1?", "right": "1 + 1 = 2, 2 + 1 = 3",
        "wrong": {"model": "1 + 1 = 2, 2 + 1 = 4"}, "subtask": part, "paraphrase": part,
    }  # fmt: skip
    (tmp_path / "hard.jsonl").write_text(json.dumps(hard) + "\n")
    material = HardMaterial.from_files(tmp_path)
    assert material.wrong["model"][0].flags == [False, True]
    assert material.parts[1][0].response == "1 + 1 = 3"
    del hard["subtask"]
    (tmp_path / "hard.jsonl").write_text(json.dumps(hard) + "\n")
    with pytest.raises(UserError, match=r"KeyError: 'subtask'"):
        HardMaterial.from_files(tmp_path)
    with pytest.raises(UserError, match="needs lines with prompt"):
        HardMaterial.from_files(tmp_path / "nowhere")


def test_your_own_tasks_are_read_and_what_is_missing_is_named(tmp_path: Path) -> None:
    writer = Writer.tiny("0.05M")
    with pytest.raises(UserError, match=r"easy.jsonl is needed"):
        FileTasks(tmp_path, writer)
    (tmp_path / "easy.jsonl").write_text('{"prompt": "1 + 1?", "response": "2"}\n' * 3)
    (tmp_path / "test.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    world = FileTasks(tmp_path, writer, easy=2)
    assert world.easy == [("1 + 1?", "2")] * 2
    assert world.judge("1 + 1?", "That is 2.", world.test[1][0]) == 1
    (tmp_path / "test.jsonl").write_text('{"prompt": "1 + 1?"}\n')
    with pytest.raises(UserError, match="lacks 'answer'"):
        FileTasks(tmp_path, writer)


# -------------------------------------------------------------------------- rare classes


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 0.6))
def test_a_class_is_thinned_to_its_share_and_evened_again(rare: int, common: int, share: float):
    labels = np.array([True] * rare + [False] * common)
    kept = thinned(labels, share, most=200)
    assert len(set(kept.tolist())) == len(kept)
    assert labels[kept].sum() == min(rare, round(common * share / (1 - share)))
    rows = evened(labels[kept].astype(int))
    assert set(rows.tolist()) == set(range(len(kept)))
    counts = np.bincount(labels[kept][rows].astype(int))
    assert len(set(counts[counts > 0].tolist())) == 1


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\), not 1"):
        thinned(np.array([True, False]), 1, most=2)


def test_rows_of_flips_stand_beside_the_plain_update() -> None:
    old, truth = [0, 0, 1, 0], [0, 0, 0, 0]
    rows = flip_rows(
        old, {"plain": [0, 1, 0, 0], "worse": [1, 1, 1, 0]}, truth, plain="plain"
    )  # fmt: skip
    assert [(row["score"], row["floor"], row["ceiling"]) for row in rows] == [
        (0.25, 0.25, 0.0), (0.5, 0.25, 0.0),
    ]  # fmt: skip


def test_preferences_move_margins_and_matches_are_what_it_writes(lab: Lab) -> None:
    base = Writer.tiny("0.05M")
    more = TrainConfig(epochs=8, batch_size=4, learning_rate=1e-2)
    wrong = ["=> 2", "=> 1", "=> 2", "=> 1"]
    after = base.preferring(lab, PROMPTS, ANSWERS, wrong, config=more, seed=0, kind="simpo")
    before, now = (w.margins(lab, PROMPTS, ANSWERS, wrong, kind="mean") for w in (base, after))
    assert (now > before).all()
    assert not any(base.matches(lab, PROMPTS, ANSWERS))
    taught = base.tuned(lab, PROMPTS, ANSWERS, config=replace(more, epochs=40), seed=0)
    said = [text for [text] in taught.write(lab, PROMPTS, max_tokens=6)]
    assert taught.matches(lab, PROMPTS, ANSWERS) == [True] * 4
    assert said == ANSWERS


def test_a_writer_of_a_corpus_knows_its_frequent_words(lab: Lab) -> None:
    texts = ["good film", "good book", "odd"]
    writer = Writer.of_corpus(lab, "0.05M", texts, words=1, config=ONCE)
    known = writer.tokenizer.get_vocab()
    assert "good" in known
    assert "odd" not in known
    assert writer.training is not None
