"""`generality compress`, each method from the command line to a model that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from generality.benchmarks.worlds import ChainPrograms, world_tokenizer
from generality.errors import UserError
from generality.models import load_model
from generality.training import compression


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a language model that knows nothing yet, and texts."""
    folder = tmp_path_factory.mktemp("compress")
    tokenizer = world_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    chains = ChainPrograms().sample(60, 2, 0)
    rows = [{"prompt": chain.prompt, "completion": f"=> {chain.answer}"} for chain in chains]
    (folder / "domain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "general.txt").write_text("\n".join(chain.prompt for chain in chains))
    return folder


def compressed(place: Path, generality, name: str, *options: str) -> dict:
    arguments = ["compress", str(place / "model"), "--domain", str(place / "domain.jsonl")]
    arguments += ["-o", str(place / name), "--json", "--device", "cpu", *options]
    answer = generality(*arguments)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "d-pruner"])
def test_weights_are_cut_and_the_rest_is_as_it_was(place, generality, method):
    found = compressed(
        place, generality, method, "--method", method, "--general", str(place / "general.txt"),
        "--steps", "3", "--sparsity", "0.6",
    )  # fmt: skip
    before = LlamaForCausalLM.from_pretrained(place / "model")
    after = AutoModelForCausalLM.from_pretrained(place / method)
    assert found["after"]["nonzero"] < found["before"]["nonzero"]
    assert found["after"]["general_loss"] > 0
    for name, weight in after.named_parameters():
        share = float((weight == 0).float().mean())
        if "_proj" in name:
            assert share == pytest.approx(0.6, abs=1e-3)
        stays = weight != 0
        same = torch.equal(weight[stays], before.get_parameter(name)[stays])
        assert same == (method != "sparsegpt" or "_proj" not in name)
    assert "made smaller by" in (place / method / "README.md").read_text()


def test_channels_are_removed_from_every_layer(place, generality):
    found = compressed(
        place, generality, "otov2", "--method", "otov2", "--steps", "60", "--learning-rate", "0.01"
    )
    model = AutoModelForCausalLM.from_pretrained(place / "otov2")
    assert 24 <= model.config.intermediate_size <= 40  # half of 64, up to the tolerance
    assert found["after"]["parameters"] < found["before"]["parameters"]
    assert found["after"]["bytes"] < 0.9 * found["before"]["bytes"]
    assert found["after"]["domain_loss"] < found["before"]["domain_loss"]  # it trained on the way


def test_heads_are_removed_from_every_layer(place, generality):
    options = ["--method", "otov2", "--steps", "40", "--learning-rate", "0.01", "--sparsity", "0.3"]
    found = compressed(place, generality, "heads", *options, "--heads", "0.5")
    model = AutoModelForCausalLM.from_pretrained(place / "heads")
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert model.model.layers[1].self_attn.o_proj.in_features == 16
    assert 38 <= config.intermediate_size <= 45
    assert found["after"]["domain_loss"] < found["before"]["domain_loss"]
    answer = generality(
        "compress", str(place / "model"), "--domain", str(place / "domain.jsonl"), "-o", "none",
        *options, "--heads", "0.1",
    )  # fmt: skip
    assert answer.code == 2
    assert "comes to 0; it may be 0.50" in answer.err


def test_bad_records_are_counted_and_left_out(place, generality):
    good = (place / "domain.jsonl").read_text().splitlines()
    bad = ['{"text": ', "7", '{"number": 3}', '{"text": " "}']
    mixed = place / "mixed.jsonl"
    mixed.write_text("\n".join([good[0], *bad, *good[1:20]]))
    general = place / "general.txt"
    arguments = [
        "compress", place / "model", "--domain", mixed, "--general", general, "--method",
        "magnitude", "--device", "cpu",
    ]  # fmt: skip
    answer = generality(*arguments, "-o", place / "counted", "--json")
    told = json.loads(answer.out)["records"]
    assert (told[str(mixed)]["read"], told[str(mixed)]["kept"]) == (24, 20)
    assert told[str(mixed)]["dropped"] == {
        "unparseable": 1, "not an object": 1, "missing field": 1, "empty text": 1,
    }  # fmt: skip
    assert told[str(general)]["dropped"] == {}
    answer = generality(*arguments, "-o", place / "said", "--limit", "3")
    assert answer.code == 2  # one good text among three
    assert "holds 1 texts (1 unparseable, 1 not an object)" in answer.err
    answer = generality(*arguments, "-o", place / "said")
    assert "1 of 24 records left out: missing field (4)" in answer.out
    answer = generality(*arguments, "-o", place / "refused", "--on-bad", "refuse")
    assert answer.code == 2
    assert "record 2: unparseable. Put it right" in answer.err


def test_scales_of_l4q_wait_a_twentieth_of_the_updates(place, monkeypatch):
    waited = []
    monkeypatch.setattr(compression, "train", lambda *_, **__: None)
    monkeypatch.setattr(compression, "hold_scales", lambda _, steps: waited.append(steps))
    for steps in (10, 100, 1000):
        how = compression.Compression("l4q", steps=steps, group=16)
        compression.compress(load_model(str(place / "model")), [[5, 6, 7]], [], how)
    assert waited == [0, 5, 10]


def test_a_domain_needs_two_texts_of_two_tokens(place):
    how = compression.Compression("magnitude")
    with pytest.raises(UserError, match="all but 1: give longer"):
        compression.compress_checkpoint(
            str(place / "model"), place / "short", how, [" ", "a + b"], []
        )
    with pytest.raises(ValueError, match="at least one text"):
        compression.compress(load_model(str(place / "model")), [], [], how)


def test_weights_of_a_few_bits_load_as_they_were_saved(place, generality):
    options = ["--method", "l4q", "--bits", "3", "--group", "16", "--steps", "10"]
    options += ["--learning-rate", "0.01"]
    found = compressed(place, generality, "l4q", *options)
    plain = compressed(place, generality, "l4q-plain", *options, "--plain")
    packed, ordinary = load_model(str(place / "l4q")), load_model(str(place / "l4q-plain"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, ordinary(ids).logits)
    assert found["after"]["domain_loss"] == pytest.approx(plain["after"]["domain_loss"], rel=1e-4)
    assert found["after"]["bytes"] < plain["after"]["bytes"]
    assert packed.model.layers[0].mlp.up_proj.packed.dtype == torch.uint8
    values = ordinary.model.layers[0].mlp.up_proj.weight[0, :16].unique()
    assert len(values) <= 8
    answer = generality(
        "compress", str(place / "l4q"), "--domain", str(place / "domain.jsonl"), "-o", "twice"
    )
    assert answer.code == 2
    assert "is packed already" in answer.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--method", "d-prunner"], "Did you mean 'd-pruner'"),
        (["--method", "otov2", "--steps", "5"], "--steps 20"),
        (["--text", "body"], "body"),
        (["--heads", "0.5"], "removes no heads"),
        (["--plain"], "ordinary layers anyway"),
        (["--learning-rate", "-1"], "learning rate is above 0"),
        (["--domain", "blank.jsonl"], "holds 0 texts (2 empty text)"),
        (["--domain", "broken.jsonl"], "holds 1 texts (1 unparseable)"),
        (["--on-bad", "stop"], "no choice for --on-bad 'stop'"),
        (["--domain", "numbers.jsonl"], "Name the column of texts with --text"),
        (["-o", "model"], "is there already"),
        (["--domain", "one.txt"], "some to hold out"),
    ],
)
def test_mistakes_are_one_sentence(place, generality, monkeypatch, options, complaint):
    monkeypatch.chdir(place)
    (place / "one.txt").write_text("only this")
    (place / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (place / "numbers.jsonl").write_text('{"number": 3}\n{"number": 4}\n')
    (place / "blank.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    arguments = ["compress", "model", "--domain", "domain.jsonl", "-o", "new", *options]
    answer = generality(*arguments)
    assert answer.code == 2
    assert complaint in answer.err
    assert not (place / "new").exists()
