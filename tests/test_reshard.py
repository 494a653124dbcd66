import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from generality.errors import UserError
from generality.weights import (
    DcpCheckpoint,
    Layout,
    LayoutSpec,
    ParamRule,
    Rank,
    TrainingState,
    load_training_state,
    open_training_state,
    reshard,
    rules_for,
    save_training_state,
    shard,
    training_state,
    unshard,
)
from generality.weights.parallel_layout import cut, join

FUSED = ParamRule(r"w", "subparams", sizes=(4, 2, 2))
RULES = (
    ParamRule(r"embed\.weight", "vocab", tied=True),
    ParamRule(r"layers\.\d+\.qkv", "subparams", sizes=(4, 2, 2)),
    ParamRule(r"layers\.\d+\.gate_up", "subparams", sizes=(1, 1)),
    ParamRule(r"layers\.\d+\.down", "row"),
    ParamRule(r"layers\.\d+\.norm|norm", "replicated"),
    ParamRule(r"layers\.\d+\.drifting", "average"),
    ParamRule(r"head", "column"),
)


def state(layers: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    shapes = {"embed.weight": (7, 3)}
    for layer in range(layers):
        sizes = {"qkv": (8, 3), "gate_up": (16, 3), "down": (3, 8), "norm": (3,), "drifting": (3,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in sizes.items()}
    shapes |= {"norm": (3,), "head": (4, 3)}
    generator = torch.Generator().manual_seed(0)
    return {
        name: {key: torch.randn(shape, generator=generator) for key in ("weight", "exp_avg")}
        | ({} if name == "norm" else {"step": torch.tensor(5.0)})
        for name, shape in shapes.items()
    }


def same(found, wanted) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].keys() == wanted[name].keys()
        for key, tensor in wanted[name].items():
            assert torch.equal(found[name][key], tensor), (name, key)


def test_a_fused_projection_is_cut_by_its_parts():
    whole = torch.arange(24.0).reshape(8, 3)
    first, second = cut(whole, FUSED, 2)
    assert first[:, 0].tolist() == [0, 3, 12, 18]
    assert second[:, 0].tolist() == [6, 9, 15, 21]
    assert torch.equal(join([first, second], FUSED, (8, 3)), whole)
    assert not torch.equal(torch.cat([first, second]), whole)
    row = cut(torch.arange(8.0).reshape(2, 4), ParamRule("r", "row"), 2)[1]
    assert row.tolist() == [[2, 3], [6, 7]]


def test_shares_of_a_parameter_are_padded_with_zeros():
    whole = {"w": {"weight": torch.arange(24.0).reshape(8, 3)}}
    layout = Layout.of(whole, LayoutSpec(tp=2, dp=5, zero=3), [FUSED])
    assert shard(whole, layout, Rank(0, 0, 4))["weight/w"].tolist() == [0, 0, 0]
    assert shard(whole, layout, Rank(0, 1, 0))["weight/w"].tolist() == [6, 7, 8]


SPECS = st.builds(
    LayoutSpec, st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)
)


@settings(max_examples=25, deadline=None)
@given(SPECS, SPECS)
def test_every_layout_gives_the_state_back(source, target):
    whole = state()
    layout = Layout.of(whole, source, RULES)
    shards = {rank: shard(whole, layout, rank) for rank in source.ranks()}
    same(unshard(shards, layout), whole)
    there = reshard(shards, layout, target)
    back = reshard(there, Layout.of(whole, target, RULES), source)
    assert back.keys() == shards.keys()
    for rank, part in shards.items():
        assert part.keys() == back[rank].keys()
        assert all(torch.equal(part[name], back[rank][name]) for name in part)


def test_a_vocabulary_loses_its_padding_and_a_tied_one_is_on_two_stages():
    whole = state()
    layout = Layout.of(whole, LayoutSpec(tp=2, pp=3), RULES)
    assert layout.local("embed.weight") == (4, 3)
    assert [rank.pp for rank in layout.spec.ranks() if "embed.weight" in layout.held(rank)] == [
        0, 0, 2, 2,
    ]  # fmt: skip
    assert [layout.stages(name) for name in ("layers.0.qkv", "layers.2.norm", "head")] == [
        (0,), (2,), (2,),
    ]  # fmt: skip


def test_copies_that_drifted_are_averaged_only_where_a_rule_says_so():
    whole = state()
    layout = Layout.of(whole, LayoutSpec(tp=2), RULES)
    shards = {rank: shard(whole, layout, rank) for rank in layout.spec.ranks()}
    wanted = whole["layers.0.drifting"]["weight"] + 0.5
    shards[Rank(0, 1, 0)]["weight/layers.0.drifting"] += 1
    found = unshard(shards, layout)["layers.0.drifting"]["weight"]
    torch.testing.assert_close(found, wanted)
    shards[Rank(0, 1, 0)]["exp_avg/layers.1.norm"] += 1
    with pytest.raises(ValueError, match="exp_avg of 'layers.1.norm': copies"):
        unshard(shards, layout)["layers.1.norm"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda shards: shards.pop(Rank(0, 1, 0)), "rank pp000-tp001-dp000 is missing"),
        (lambda shards: shards[Rank(0, 0, 1)].pop("weight/head"), "lacks weight of 'head'"),
        (lambda shards: shards[Rank(0, 0, 1)].update({"weight/head": torch.zeros(9)}), "9 numbers"),
    ],
)
def test_what_is_missing_is_named(break_it, said):
    whole = state()
    layout = Layout.of(whole, LayoutSpec(tp=2, dp=2, zero=3), RULES)
    shards = {rank: shard(whole, layout, rank) for rank in layout.spec.ranks()}
    break_it(shards)
    with pytest.raises(ValueError, match=said):
        unshard(shards, layout)


def test_rules_must_match_once_and_cuts_must_come_out_even():
    whole = state()
    with pytest.raises(ValueError, match="'head' is matched by none"):
        Layout.of(whole, LayoutSpec(), RULES[:-1])
    with pytest.raises(ValueError, match="'head' is matched by 'head', 'h.*'"):
        Layout.of(whole, LayoutSpec(), (*RULES, ParamRule("h.*", "row")))
    with pytest.raises(ValueError, match="cannot be cut in 3"):
        cut(torch.zeros(8, 3), ParamRule("w", "column"), 3)
    with pytest.raises(ValueError, match="proportions"):
        cut(torch.zeros(9, 3), FUSED, 1)
    for wrong in ("tp=0", "tp=2;dp=3", "two", "zero=4"):
        with pytest.raises(ValueError, match="layout|at least"):
            LayoutSpec.parse(wrong)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_rules_cover_the_models_of_transformers(name):
    import transformers as t

    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "llama":
        made = t.LlamaForCausalLM(t.LlamaConfig(**sizes, intermediate_size=8))
    elif name == "gpt2":
        made = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    else:
        names = [f"model.layers.0.block_sparse_moe.experts.0.w{i}.weight" for i in (1, 2, 3)]
        whole = {name: {"weight": torch.zeros(4, 4)} for name in names}
        assert Layout.of(whole, LayoutSpec(tp=2), rules_for(name)).local(names[1]) == (4, 2)
        return
    whole = {key: {"weight": tensor} for key, tensor in made.state_dict().items()}
    layout = Layout.of(whole, LayoutSpec(tp=2, pp=1, dp=2, zero=1), rules_for(name))
    shards = {rank: shard(whole, layout, rank) for rank in layout.spec.ranks()}
    same(unshard(shards, layout), whole)


# Forms on disk ----------------------------------------------------------------------------------


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("to", ["universal", "dcp", LayoutSpec(dp=3, zero=1)])
def test_every_form_on_disk_holds_everything(tmp_path: Path, to):
    model, optimizer = trained()
    rng = torch.get_rng_state()
    saved = training_state(model, optimizer, rng=rng, step=7)
    out = tmp_path / "out"
    told = save_training_state(saved, out, to=to, rules=rules_for("replicated"))
    assert told["parameters"] == 4
    found = open_training_state(out)
    assert list(found.parameters) == list(saved.parameters)
    same(found.parameters, saved.parameters)
    assert found.extra["step"] == 7
    assert torch.equal(found.extra["rng"], rng)
    fresh = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    again = torch.optim.AdamW(fresh.parameters(), lr=0.5)
    load_training_state(found, fresh, again)
    assert again.param_groups[0]["lr"] == 0.1
    x = torch.randn(5, 3)
    for each, stepper in ((model, optimizer), (fresh, again)):
        stepper.zero_grad()
        each(x).sum().backward()
        stepper.step()
    assert all(map(torch.equal, model.parameters(), fresh.parameters()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_checkpoint_of_pytorch_is_read_as_it_was_named(tmp_path: Path):
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(2, dtype=torch.bfloat16)}
    dcp.save({"app": {"net": tensors}, "epoch": 3}, checkpoint_id=tmp_path, no_dist=True)
    found = open_training_state(tmp_path)
    same(found.parameters, {name: {"weight": tensors[name]} for name in found.parameters})
    assert found.extra == {"epoch": 3}
    assert DcpCheckpoint(tmp_path).nbytes() == 28


def test_nothing_that_comes_from_outside_is_unpickled(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "done",)

    dcp.save({"w": torch.ones(2), "x": [1]}, checkpoint_id=tmp_path, no_dist=True)
    contents = (tmp_path / ".metadata").read_bytes()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="refused"):
        DcpCheckpoint(tmp_path)
    (tmp_path / ".metadata").write_bytes(contents)
    checkpoint = DcpCheckpoint(tmp_path)
    [info] = [i for index, i in checkpoint.metadata.storage_data.items() if index.fqn == "x"]
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    file = tmp_path / info.relative_path
    info.offset, info.length = file.stat().st_size, len(buffer.getvalue())
    with file.open("ab") as end:
        end.write(buffer.getvalue())
    with pytest.raises(UserError, match="nothing else is unpickled"):
        checkpoint.read("x")
    torch.save({"model": Evil()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="nothing else is unpickled"):
        open_training_state(tmp_path / "a.pt")
    assert not (tmp_path / "done").exists()


def test_a_damaged_checkpoint_is_said_to_be(tmp_path: Path):
    good = tmp_path / "good"
    dcp.save({"w": torch.ones(200)}, checkpoint_id=good, no_dist=True)
    [data] = good.glob("*.distcp")
    whole = data.read_bytes()
    data.write_bytes(whole[:100])
    with pytest.raises(UserError, match="too short"):
        open_training_state(good)
    data.unlink()
    with pytest.raises(UserError, match=f"lacks the file {data.name}"):
        open_training_state(good)
    (good / ".metadata").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        open_training_state(good)
    (good / ".metadata").unlink()
    with pytest.raises(UserError, match="is no checkpoint"):
        open_training_state(good)
    with pytest.raises(UserError, match="There is no checkpoint"):
        open_training_state(tmp_path / "none")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (torch.ones(2), "no tensors by name"),
        ({}, "no tensors by name"),
        ({0: torch.ones(2)}, "no tensors by name"),
        ({"model": {"w": torch.ones(2)}, "optimizer": {"lr": 0.1}}, "no state of an optimizer"),
    ],
)
def test_a_file_that_holds_something_else_is_said_to(tmp_path: Path, held, said):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(UserError, match=said):
        open_training_state(tmp_path / "a.pt")


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path):
    model, _ = trained()
    saved, out = training_state(model), tmp_path / "out"
    with pytest.raises(UserError, match="matched by none"):
        save_training_state(saved, out, to=LayoutSpec(tp=2))
    with pytest.raises(UserError, match="cannot be cut in 3"):
        save_training_state(saved, out, to=LayoutSpec(tp=3), rules=(ParamRule(".*", "column"),))
    saved.parameters["1.bias"]["weight"][1] = float("nan")
    for to in ("universal", "dcp", LayoutSpec()):
        with pytest.raises(UserError, match="weight of '1.bias' has a number that is not finite"):
            save_training_state(saved, out, to=to, rules=rules_for("replicated"))
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(UserError, match="exists already"):
        save_training_state(saved, out)


def test_a_full_disk_is_said_before_work_begins(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="free"):
        save_training_state(training_state(trained()[0]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_part_or_an_index_that_is_wrong_is_named(tmp_path: Path):
    model, optimizer = trained()
    saved = training_state(model, optimizer)
    ranks, universal = tmp_path / "ranks", tmp_path / "universal"
    save_training_state(saved, ranks, to=LayoutSpec(dp=2, zero=3), rules=rules_for("replicated"))
    save_training_state(saved, universal)
    part = ranks / "pp000-tp000-dp001.safetensors"
    tensors = load_file(part)
    save_file({**tensors, "weight/0.weight": torch.zeros(3)}, part)
    with pytest.raises(UserError, match="3 numbers of weight of '0.weight', not 6"):
        open_training_state(ranks)
    part.unlink()
    with pytest.raises(UserError, match=f"lacks {part.name}"):
        open_training_state(ranks)
    told = json.loads((universal / "universal.json").read_text())
    told["parameters"]["0.bias"]["file"], told["parameters"]["1.bias"]["file"] = (
        told["parameters"]["1.bias"]["file"], told["parameters"]["0.bias"]["file"],
    )  # fmt: skip
    (universal / "universal.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="does not hold what universal.json says of '0.bias'"):
        dict(open_training_state(universal).parameters)


def test_a_model_that_differs_is_not_loaded():
    saved = training_state(trained()[0])
    with pytest.raises(ValueError, match="the model lacks '1.bias'"):
        load_training_state(saved, nn.Sequential(nn.Linear(3, 4)))
    other = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="no state of an optimizer"):
        load_training_state(training_state(other), other, torch.optim.AdamW(other.parameters()))
    assert isinstance(saved, TrainingState)


# Real processes ---------------------------------------------------------------------------------


def test_a_curve_goes_on_in_other_processes_as_if_nothing_had_happened(tmp_path: Path):
    script = Path(__file__).with_name("reshard_ranks.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curves = json.loads(done.stdout)
    before, after = (torch.tensor(curves.pop(name)) for name in ("before", "after"))
    torch.testing.assert_close(torch.tensor(curves.pop("fsdp 2 before")), before)
    assert set(curves) == {
        "fsdp 2 to 1", "fsdp 2 to 4", "fsdp 2 to tensor 2", "tensor 2 to pipeline 2",
    }  # fmt: skip
    for name, losses in curves.items():
        torch.testing.assert_close(torch.tensor(losses), after, msg=lambda m, n=name: f"{n}: {m}")
    assert (after[1:] != after[0]).all()
