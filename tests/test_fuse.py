"""`generality fuse`: prompts from everywhere, scores, and what it says of mistakes."""

from __future__ import annotations

import io
import json
import sys

import pytest

from fusion_models import save_models
from generality.decoding import FusedCausalLM, KLMatchedFusion, StaticFusion, teacher_forced
from generality.models import generate_texts, load_tokenizer, tiny_decoder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    return save_models(tmp_path_factory.mktemp("models"), "large", "tuned", "base", "other")


@pytest.fixture
def fuse(generality, models):
    large, tuned, base, _ = models

    def call(*arguments: object):
        named = ("--large", large, "--expert", f"{tuned}:{base}", "--device", "cpu")
        return generality("fuse", *arguments, *named, "--max-tokens", 5)

    return call


PROMPTS = ["a = 3 ; a ?", "c ?", "b = 1 ; b ?"]


def test_prompts_from_arguments_files_and_stdin_are_answered_alike(
    fuse, models, tmp_path, monkeypatch
):
    large, tuned, base, _ = models
    model = FusedCausalLM.load(large, [(tuned, base)], KLMatchedFusion(), device="cpu")
    expected = generate_texts(model, load_tokenizer(large), PROMPTS, max_tokens=5)
    lines = "".join(json.dumps({"prompt": prompt, "id": 7}) + "\n" for prompt in PROMPTS)
    (tmp_path / "in.jsonl").write_text(lines)
    options = ("--dynamic", "--template", "{prompt}")

    def texts(answer) -> list[str]:
        assert answer.code == 0, answer.err
        return [json.loads(line)["completion"] for line in answer.out.splitlines()]

    assert texts(fuse("in.jsonl", *options)) == expected
    assert texts(fuse(*[f"--prompt={prompt}" for prompt in PROMPTS], *options)) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines + "\n" + PROMPTS[0] + "\n"))
    assert texts(fuse("-", *options)) == [*expected, expected[0]]
    assert fuse("in.jsonl", *options, "-o", "out.jsonl").code == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [
        {"prompt": prompt, "id": 7, "completion": text}
        for prompt, text in zip(PROMPTS, expected, strict=True)
    ]
    (one,) = json.loads(fuse("-p", PROMPTS[0], *options, "--json").out)
    assert one["completion"] == expected[0]
    assert fuse("-p", PROMPTS[0], *options).out.strip() == expected[0]  # as it is written


def test_evaluation_beside_each_model(fuse, models, tmp_path):
    large, tuned, base, _ = models
    rows = [{"prompt": prompt, "completion": "=> 3"} for prompt in PROMPTS]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    answer = fuse("--evaluate", "data.jsonl", "--alpha", 0.5, "--template", "{prompt}", "--json")
    found = json.loads(answer.out)
    assert [row["model"] for row in found] == [large, tuned, "fused"]
    model = FusedCausalLM.load(large, [(tuned, base)], StaticFusion(0.5), device="cpu")
    tokenizer, responses = load_tokenizer(large), ["=> 3"] * 3
    expected = teacher_forced(model, tokenizer, PROMPTS, responses)
    assert found[-1]["loss"] == pytest.approx(expected.loss, abs=1e-4)
    assert found[-1]["weights"] == [0.5]
    alone = teacher_forced(model.large, tokenizer, PROMPTS, responses, batch_size=1)
    assert found[0]["loss"] == pytest.approx(alone.loss, abs=1e-4)
    assert found[0]["tokens"] == 9  # =>, 3 and the end, three times
    assert "fused" in fuse("--evaluate", "data.jsonl", "--template", "{prompt}").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give prompts"),
        (("-p", "a ?", "--dynamic", "--alpha", 1), "leave --alpha out"),
        (("-p", "a ?", "--alpha", 1, "--alpha", 2), "once for each of the 1 experts"),
        (("-p", "a ?", "--expert", ":"), "is not TUNED:BASE"),
        (("-p", "a ?", "--expert", "nowhere"), "no model 'nowhere'"),
        (("-p", "a ?", "--template", "none"), "{prompt} in it"),
        (("-p", "a " * 70, "--template", "{prompt}"), "more than the 64"),
        (("none.jsonl",), "none.jsonl"),
        (("-p", "a ?", "--out", "nowhere/x.jsonl"), "does not exist; make it"),
        (("-p", "a ?", "--json", "--evaluate", "none.jsonl"), "--json prints one document"),
        (("-p", "a ?", "--alpha", "nan"), "--alpha is a finite number, not nan"),
    ],
)
def test_mistakes_are_said(fuse, arguments, said):
    answer = fuse(*arguments)
    assert answer.code == 2
    assert said in answer.err


def test_examples_too_long_to_read_are_said_to_be(fuse, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a " * 80, "completion": "=> 3"}))
    answer = fuse("--evaluate", "long.jsonl", "--template", "{prompt}")
    assert (answer.code, answer.out) == (2, "")
    assert "No example of long.jsonl is within the 64 tokens" in " ".join(answer.err.split())


def test_an_expert_without_a_base_is_added_and_cannot_be_matched(generality, models):
    large, tuned, *_ = models
    named = ("--large", large, "--expert", tuned, "--device", "cpu", "-p", "c ?")
    assert generality("fuse", *named, "--max-tokens", 3).code == 0
    answer = generality("fuse", *named, "--dynamic")
    assert answer.code == 2
    assert "TUNED:BASE" in answer.err


def test_other_tokens_are_refused_by_the_first_that_differs(generality, models, tmp_path):
    (strange,) = save_models(tmp_path, "strange", extra=("up",))
    answer = generality("fuse", "--large", models[0], "--expert", strange, "-p", "c ?")
    assert answer.code == 2
    assert "token 66 is missing in the first and 'up' in the second" in answer.err


def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(generality, models, tmp_path):
    tiny_decoder("0.05M", 0, vocabulary=20).save_pretrained(tmp_path / "few")
    load_tokenizer(models[0]).save_pretrained(tmp_path / "few")
    answer = generality("fuse", "--large", models[0], "--expert", str(tmp_path / "few"), "-p", "?")
    assert answer.code == 2
    assert "knows 20 tokens and its tokenizer 66" in answer.err
