import json
import shutil

import numpy as np
import pytest
import torch

import tiny_models
from generality.errors import UserError
from generality.experiments.turned_digits import DigitParts, TurnedDigits
from generality.training.merge_sweep import candidates, read_exam, sweep_merges
from generality.weights import merge, search_merge
from generality.weights.merge_recipe import Recipe


def test_a_search_finds_the_weights_of_each_group_and_is_never_below_equal_ones():
    torch.manual_seed(0)
    names = ["layers.0.mlp.w", "layers.1.self_attn.w", "norm.w"]
    base = {name: torch.zeros(3) for name in names}
    experts = [{name: torch.randn(3) for name in names} for _ in range(2)]
    wanted = {"0.mlp": [0.9, 0.1], "1.attention": [0.2, 0.8], "other": [0.5, 0.5]}
    goal = merge(experts, "layerwise", base=base, groups=wanted)

    def fitness(state):
        return -float(sum(((state[name] - goal[name]) ** 2).sum() for name in names))

    found = search_merge(experts, base, fitness, budget=300)
    assert found.score > -0.02 > found.uniform
    for group, weights in wanted.items():
        np.testing.assert_allclose(found.groups[group], weights, atol=0.2)
    assert fitness(found.tensors) == found.score == max(found.scores)
    again = search_merge(experts, base, fitness, budget=20)
    assert len(again.scores) == 20
    assert np.array_equal(again.scores, found.scores[:20])  # the same seed
    assert search_merge(experts, base, fitness, budget=1).score == found.uniform
    with pytest.raises(ValueError, match="at least 1"):
        search_merge(experts, base, fitness, budget=0)
    with pytest.raises(ValueError, match="nothing to merge"):
        search_merge([], base, fitness)
    with pytest.raises(ValueError, match="fitness of merge 1 is nan"):
        search_merge(experts, base, lambda _: float("nan"))


def test_settings_that_were_given_are_not_tried():
    assert len(candidates(Recipe("average"), 3)) == 1
    assert len(candidates(Recipe("average"), 2)) == 3
    assert len(candidates(Recipe("dare", lam=0.3, density=0.5, weights=(1, 1)), 2)) == 1
    assert {option.density for option in candidates(Recipe("ties", lam=1.0), 3)} == {
        0.1, 0.2, 0.5, 1.0,
    }  # fmt: skip


@pytest.fixture
def exam(tmp_path):
    words = tiny_models.WORDS
    rng = np.random.default_rng(0)
    lines = [
        {"prompt": " ".join(rng.choice(words, 3)), "response": answer, "task": task}
        for task, answer in (("praise", "very good film"), ("blame", "bad"), ("other", "not long"))
        for _ in range(8)
    ]
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for number in range(3):
        model = tiny_models.llama(number)
        model.save_pretrained(folder / str(number))
        tiny_models.tokenizer().save_pretrained(folder / str(number))
    return folder


def test_what_is_chosen_is_the_best_of_one_half_and_reported_on_the_other(folders, exam):
    read = read_exam(exam, held_out=["other"], limit=3)
    assert {task: len(pairs[0]) for task, pairs in read.report.items()} == {
        "praise": 3, "blame": 3, "other": 3,
    }  # fmt: skip
    recipe, report = sweep_merges([folders / "1", folders / "2"], read,
                                  Recipe("task-arithmetic", lam=1.0), base=folders / "0",
                                  multitask=folders / "1")  # fmt: skip
    tried = report["tried"]
    assert len(tried) == 3
    assert max(line["score"] for line in tried) == report["chosen_by"]
    assert recipe.weights == max(tried, key=lambda line: line["score"])["weights"]
    rows = {line["model"]: line for line in report["table"]}
    assert set(rows) == {"merged", "base", "multitask", str(folders / "1"), str(folders / "2")}
    assert rows["multitask"]["tasks"] == rows[str(folders / "1")]["tasks"]
    held_in = np.mean([rows["base"]["tasks"][task] for task in ("praise", "blame")])
    assert rows["base"]["held_in"] == pytest.approx(held_in)
    assert rows["base"]["held_out"] == rows["base"]["tasks"]["other"]
    assert rows["base"]["recovered"] in (0.0, None)


def test_the_command_writes_what_it_chose(folders, exam, generality, tmp_path):
    answer = generality("merge", folders / "1", folders / "2", "-o", "out", "--base", folders / "0",
                        "--evaluate", exam, "--examples", 2, "--search", 3, "--json",
                        "--method", "task-arithmetic")  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["method"] == "layerwise"
    assert set(told["settings"]["groups"]) >= {"0.attention", "2.mlp", "other"}
    assert len(told["evaluation"]["table"]) == 4
    assert told["evaluation"]["merges"] == 3
    assert "layerwise" in (tmp_path / "out" / "README.md").read_text()


def test_fisher_averages_are_chosen_too(folders, exam):
    models, known = [folders / "1", folders / "2"], [folders / "0", folders / "0"]
    recipe, report = sweep_merges(models, read_exam(exam, limit=2), Recipe("fisher"), fisher=known)
    assert len(report["tried"]) == 3
    assert recipe.weights == max(report["tried"], key=lambda line: line["score"])["weights"]


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("fisher", {}, "needs the Fisher information"),
        ("slerp", {"search": 2}, "slerp does not do that"),
        ("average", {"search": 2}, "--search adds to the models' base"),
        ("average", {"multitask": "strange"}, "model_type is llama in one and gpt2 in the other"),
    ],
)
def test_what_cannot_be_swept_is_said_in_words(folders, exam, tmp_path, method, options, said):
    if "multitask" in options:
        shutil.copytree(folders / "1", tmp_path / "strange")
        config = tmp_path / "strange" / "config.json"
        config.write_text(config.read_text().replace('"llama"', '"gpt2"'))
        options = {"multitask": tmp_path / "strange"}
    with pytest.raises(UserError, match=said):
        sweep_merges([folders / "1", folders / "2"], read_exam(exam), Recipe(method), **options)


def test_files_of_a_body_alone_are_scored(folders, exam, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in "12":
        shutil.copytree(folders / name, tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        bare = {key.removeprefix("model."): tensor for key, tensor in load_file(file).items()}
        save_file(bare, file, metadata={"format": "pt"})
    read = read_exam(exam, limit=2)
    tables = [
        sweep_merges([home / "1", home / "2"], read, Recipe("average"))[1]["table"]
        for home in (folders, tmp_path)
    ]
    assert [line["tasks"] for line in tables[0]] == [line["tasks"] for line in tables[1]]
    assert tables[0][1]["tasks"] != tables[0][2]["tasks"]


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (['{"prompt": "a", "response": "b"}'] * 4, [], "no column 'task'"),
        (['{"prompt": "a", "response": "b", "task": "t"}'] * 3, [], "has 3 examples"),
        (['{"prompt": "a", "response": "b", "task": "t"}'] * 4, ["--held-out", "u"], "no task 'u'"),
        (['{"prompt": "a", "response": "b", "task": "t"}'] * 4, ["--held-out", "t"], "Every task"),
        (['{"prompt": "a", "task": "t"}'] * 4, [], "is no example"),
    ],
)
def test_an_exam_that_is_none_is_refused(folders, generality, tmp_path, lines, options, said):
    (tmp_path / "exam.jsonl").write_text("\n".join(lines))
    answer = generality("merge", folders / "1", folders / "2", "-o", "out", "--evaluate",
                        "exam.jsonl", *options)  # fmt: skip
    assert answer.code == 2
    assert said in answer.err


def test_digits_are_dealt_out_and_turned():
    parts = DigitParts(base=50, train=200, validation=50, test=200, epochs=10, learning_rate=5e-3)
    digits = TurnedDigits((0, 90), parts, seed=0)
    upright, turned = digits.turned[:, 0].view(2, 8, 8)
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (0, 1)), atol=1e-5, rtol=0)
    experts = digits.tune(digits.network(32), [[0], [1]])
    own = [digits.accuracy(expert, "test", [task]) for task, expert in enumerate(experts)]
    other = [digits.accuracy(expert, "test", [1 - task]) for task, expert in enumerate(experts)]
    assert min(own) > max(other) + 0.2  # each knows its own angle
    _model, lam = digits.best_merge(
        digits.network(32), [e.state_dict() for e in experts], [0, 1], "ties", (0.5, 1.0)
    )
    assert lam in (0.5, 1.0)
    with pytest.raises(ValueError, match="1797"):
        TurnedDigits((0,), DigitParts(base=1700), seed=0)
