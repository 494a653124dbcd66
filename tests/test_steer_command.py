import json
from pathlib import Path

import pytest
import torch

from fusion_models import save_models
from generality.benchmarks.worlds import world_tokenizer
from generality.decoding import SteeringVector, collect_activations, weighted_steering_vector
from generality.models import load_model

RECORDS = [
    {"prompt": "a 3 b 7 :", "weight": 0.6, "group": "first"},
    {"prompt": "a 3 :", "weight": 0.1, "group": "first"},
    {"prompt": "b 9 b 2 :", "weight": 0.3, "group": "second"},
    {"prompt": "a 1 b 2 :", "weight": 0.0, "group": "second"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    [path] = save_models(tmp_path_factory.mktemp("models"), "player")
    return path


def written(path: Path, records) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_a_vector_is_learned_kept_and_written_with(generality, tmp_path, model):
    lines = written(tmp_path / "prompts.jsonl", RECORDS)
    done = generality("steer", model, "--learn", lines, "-o", "v.safetensors", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    kept = SteeringVector.load(tmp_path / "v.safetensors")
    assert (told["layer"], told["prompts"], told["mean weight"]) == (kept.layer, 4, 0.25)
    tokens = [world_tokenizer()(record["prompt"])["input_ids"] for record in RECORDS]
    states = collect_activations(load_model(model).eval(), tokens, [kept.layer])[0]
    weights, groups = [r["weight"] for r in RECORDS], [r["group"] for r in RECORDS]
    torch.testing.assert_close(kept.vector, weighted_steering_vector(states, weights, groups))

    def say(beta: float, *options: str) -> dict[str, list[str]]:
        settings = ("--max-tokens", 6, "--temperature", 0, "--beta", beta, "--json")
        with_it = ("--vector", "v.safetensors", "--prompt", "a 3 b 7 :")
        done = generality("steer", model, *with_it, *settings, *options)
        assert done.code == 0, done.err
        return json.loads(done.out)

    none, pushed = say(0.0), say(300.0, "--control", "shuffled", "--samples", "2")
    assert none["steered"] == none["unsteered"] == pushed["unsteered"][:1]
    assert pushed["steered"][0] == pushed["steered"][1] != pushed["unsteered"][0]
    assert pushed["shuffled"] != pushed["steered"]


def test_nothing_is_written_beyond_the_context(generality, tmp_path, model):
    SteeringVector(torch.ones(48), 1, 1.0).save(tmp_path / "v.safetensors")
    settings = ("--vector", "v.safetensors", "--temperature", 0, "--max-tokens", 60, "--json")
    done = generality("steer", model, *settings, "--prompt", "a " * 60)
    assert done.code == 0, done.err
    assert all(len(text.split()) <= 4 for texts in json.loads(done.out).values() for text in texts)
    done = generality("steer", model, *settings, "--prompt", "a " * 64)
    assert (done.code, "longer than the 64 tokens" in " ".join(done.err.split())) == (2, True)


def test_indecision_between_choices_is_a_weight(generality, tmp_path, model):
    records = [{"prompt": r["prompt"], "choices": [" a", " b"]} for r in RECORDS]
    lines = written(tmp_path / "prompts.jsonl", records)
    done = generality("steer", model, "--learn", lines, "-o", "v.safetensors", "--layer", "1")
    assert done.code == 0, done.err
    assert "layer: 1" in done.out
    mean = float(done.out.split("mean weight: ")[1].split()[0])
    assert 0 < mean <= 0.6932  # nats; at most that of two choices that are as likely


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Say what to learn from"),
        (["--learn", "good.jsonl"], "-o OUT.safetensors"),
        (["--learn", "none.jsonl", "-o", "v"], "There is no file none.jsonl"),
        (["--learn", "utf16.jsonl", "-o", "v"], "record 1 is no JSON, or not in UTF-8"),
        (["--learn", "none.json", "-o", "v"], "record 1 needs a"),
        (["--learn", "one.jsonl", "-o", "v"], "a list of two texts or more"),
        (["--learn", "even.jsonl", "-o", "v"], "all weights, or all activations, are alike"),
        (["--learn", "long.jsonl", "-o", "v"], "longer than the 64 tokens"),
        (["--learn", "good.jsonl", "-o", "."], "is a folder; name a file"),
        (["--learn", "good.jsonl", "-o", "none/v"], "does not exist; make it"),
        (["--vector", "wide.safetensors", "--prompt", "a", "--beta", "nan"], "a finite number"),
        (["--learn", "good.jsonl", "-o", "v", "--layer", "9"], "layer is 0"),
        (["--learn", "flat.jsonl", "-o", "v"], "all weights are 0"),
        (["--vector", "wide.safetensors"], "--prompt"),
        (["--vector", "wide.safetensors", "--prompt", "a", "--control", "other"], "shuffled or"),
        (["--vector", "wide.safetensors", "--prompt", " "], "Say by --prompt"),
        (["--vector", "wide.safetensors", "--prompt", "a"], "does not fit this model"),
        (["--vector", "good.jsonl", "--prompt", "a"], "no steering vector"),
    ],
)
def test_mistakes_are_one_sentence(generality, tmp_path, model, options, said):
    written(tmp_path / "good.jsonl", RECORDS)
    written(tmp_path / "flat.jsonl", [{**record, "weight": 0} for record in RECORDS])
    (tmp_path / "utf16.jsonl").write_text('{"prompt": "a", "weight": 1}', encoding="utf-16")
    written(tmp_path / "none.json", [{"prompt": "a", "weight": float("nan")}])
    written(tmp_path / "even.jsonl", [{"prompt": "a", "weight": 2}] * 2)
    written(tmp_path / "long.jsonl", [{"prompt": "a " * 65, "weight": 1}])
    written(tmp_path / "one.jsonl", [{"prompt": "a", "choices": ["b"]}])
    SteeringVector(torch.ones(3), 0, 1.0).save(tmp_path / "wide.safetensors")
    done = generality("steer", model, *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
