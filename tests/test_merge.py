import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny_models
from generality.errors import UserError
from generality.weights import (
    Checkpoint,
    interference,
    merge,
    merge_adapters,
    row_sums,
    task_vectors,
)
from generality.weights import merging as merging_module
from generality.weights.merge_models import merge_models
from generality.weights.merge_recipe import Recipe, group_of
from generality.weights.merging import Merger
from generality.weights.row_sums import kth_largest

DELTAS = torch.tensor(
    [
        [1, -0.4, 0.2, 0, 0.6, -0.1],
        [0.5, 0.8, -0.3, 0.1, -0.7, 0.05],
        [-0.2, 0.3, 0.9, -0.5, -0.6, 0.4],
    ]
)
EXPERTS = [{"w": delta} for delta in DELTAS]
BASE = {"w": torch.zeros(6)}


def close(found, wanted, **tolerance):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), **tolerance)


# Values of the sheet, and of peft -----------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "mergekit", "peft"])
def test_values_computed_by_hand(variant):
    average = [0.4333, 0.2333, 0.2667, -0.1333, -0.2333, 0.1167]
    close(merge(EXPERTS)["w"], average, atol=1e-4, rtol=0)
    made = merge(EXPERTS, "task-arithmetic", base=BASE, lam=0.4, variant=variant)["w"]
    close(made, [0.52, 0.28, 0.32, -0.16, -0.28, 0.14])
    made = merge(EXPERTS, "ties", base=BASE, density=0.5, variant=variant)["w"]
    close(made, [0.75, 0.80, 0.90, -0.50, -0.65, 0])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.25)])
@pytest.mark.parametrize("density", [0.2, 0.37, 1.0])
def test_the_variant_peft_is_peft(weights, density):
    from peft.utils.merge_utils import task_arithmetic, ties

    torch.manual_seed(0)
    deltas = [torch.randn(7, 11) for _ in range(3)]
    base = torch.randn(7, 11)
    experts = [{"w": base + delta} for delta in deltas]
    deltas = [expert["w"] - base for expert in experts]
    factors = torch.tensor(weights)
    made = merge(experts, "ties", base={"w": base}, density=density, variant="peft",
                 weights=weights)["w"]  # fmt: skip
    close(made, base + ties(deltas, factors, density), atol=1e-6, rtol=0)
    made = merge(experts, "task-arithmetic", base={"w": base}, variant="peft", weights=weights)
    close(made["w"], base + task_arithmetic(deltas, factors), atol=1e-6, rtol=0)


def test_peft_keeps_as_many_as_it_says_where_magnitudes_are_tied():
    from peft.utils.merge_utils import ties

    delta = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 2])
    made = merge([{"w": delta}], "ties", base={"w": torch.zeros(8)}, density=0.5, variant="peft")
    assert made["w"].tolist() == [1.0, 1, 1, 0, 0, 0, 0, 2]
    assert ties([delta], torch.ones(1), 0.5).sum() == 5


def mergekit(deltas, weights, density, rule):
    """What mergekit 0.1.5 computes (generalized_task_arithmetic.py, sparsify.py)."""
    if rule == "ties":
        masks = [torch.zeros(delta.numel()) for delta in deltas]
        for delta, mask in zip(deltas, masks, strict=True):
            kept = delta.abs().reshape(-1).argsort(descending=True)
            mask[kept[: max(1, int(density * delta.numel()))]] = 1
        deltas = [d * mask.reshape_as(d) for d, mask in zip(deltas, masks, strict=True)]
    stacked = torch.stack(deltas)
    factors = torch.tensor(weights).view(-1, *[1] * (stacked.dim() - 1))
    stacked = stacked * factors
    if rule == "task-arithmetic":
        return stacked.sum(0)
    agree = stacked.sign() == (stacked.sum(0) >= 0).float() * 2 - 1
    divisor = (factors * agree).sum(0)
    divisor[divisor == 0] = 1
    return (stacked * agree).sum(0) / divisor


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.25)])
@pytest.mark.parametrize("rule", ["ties", "task-arithmetic"])
def test_the_variant_mergekit_is_mergekit(weights, rule):
    torch.manual_seed(1)
    base = torch.randn(13, 17)
    experts = [{"w": base + torch.randn(13, 17)} for _ in range(3)]
    deltas = [expert["w"] - base for expert in experts]
    made = merge(experts, rule, base={"w": base}, weights=weights, density=0.3, lam=0.7,
                 variant="mergekit")["w"]  # fmt: skip
    close(made, base + 0.7 * mergekit(deltas, weights, 0.3, rule), atol=1e-6, rtol=0)


def test_the_variants_differ_where_they_say():
    base = {"big": torch.zeros(4), "small": torch.zeros(4)}
    one = {"big": torch.tensor([4.0, 5, 6, 7]), "small": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    paper = merge([one], "ties", base=base, density=0.5)
    close(paper["big"], [4.0, 5, 6, 7])  # trimmed over the whole model
    assert not paper["small"].any()
    kit = merge([one], "ties", base=base, density=0.5, variant="mergekit")
    close(kit["big"], [0.0, 0, 6, 7])  # tensor by tensor
    close(kit["small"], [0, 0, 0.3, 0.4])
    # where signs cancel exactly the paper asks the model's majority, the others take +
    pair = [{"w": torch.tensor([1.0, -2, -2])}, {"w": torch.tensor([-1.0, -2, -2])}]
    zero = {"w": torch.zeros(3)}
    close(merge(pair, "ties", base=zero, density=1.0)["w"], [-1.0, -2, -2])
    for variant in ("mergekit", "peft"):
        made = merge(pair, "ties", base=zero, density=1.0, variant=variant)["w"]
        close(made, [1.0, -2, -2])


def plainly(experts, base, recipe):
    """Whole tensors in float32, with nothing done piece by piece."""
    weights = recipe.weights or (1.0,) * len(experts)
    wide = [{name: t.float() for name, t in state.items()} for state in (base, *experts)]
    deltas = [{name: e[name] - wide[0][name] for name in e} for e in wide[1:]]
    if recipe.method == "ties":
        deltas = [trimmed(delta, recipe) for delta in deltas]
    elif recipe.method.startswith("dare"):
        deltas = [drawn(delta, number, recipe) for number, delta in enumerate(deltas)]
    made, cancelled = {}, 1.0
    if recipe.variant == "paper":  # what cancels has the model's more frequent sign
        summed = (sum(d[name] * w for d, w in zip(deltas, weights, strict=True)) for name in base)
        cancelled = math.copysign(1, float(sum(total.sign().sum() for total in summed)))
    for name in base:
        parts = torch.stack([delta[name] for delta in deltas])
        w = torch.tensor(weights)[:, None]
        if recipe.method in ("task-arithmetic", "dare"):
            total = (parts * w).sum(0)
        else:
            plain, parts = parts, parts * w
            elected = (plain if recipe.variant == "peft" else parts).sum(0)
            sign = torch.where(elected == 0, cancelled, elected.sign())
            agree = parts * sign > 0
            count = (agree * (1 if recipe.variant == "peft" else w)).sum(0)
            undivided = recipe.variant == "mergekit" and recipe.method == "dare-ties"
            total = (parts * agree).sum(0) / (1 if undivided else count.clamp_min(1e-30))
        made[name] = (wide[0][name] + recipe.scale * total).to(base[name].dtype)
    return made


def trimmed(delta, recipe):
    sizes = {name: d.abs().sort(descending=True, stable=True) for name, d in delta.items()}
    if recipe.variant == "paper":
        k = int(recipe.kept * sum(len(d) for d in delta.values()))
        threshold = torch.cat(list(delta.values())).abs().sort(descending=True)[0][k - 1]
        return {name: d * (d.abs() >= threshold) for name, d in delta.items()}
    kept = {name: torch.zeros(len(d)) for name, d in delta.items()}
    for name, (_, order) in sizes.items():
        kept[name][order[: max(int(recipe.kept * len(order)), recipe.variant == "mergekit")]] = 1
    return {name: d * kept[name] for name, d in delta.items()}


def drawn(delta, number, recipe):
    left, bound = {}, round(recipe.kept * 65536)
    for name, d in delta.items():
        whole = recipe.variant == "mergekit" and len(d) <= merging_module.WHOLE
        block = len(d) if whole else merging_module.BLOCK
        named = xxhash.xxh3_64_intdigest(name.encode())
        draws = []
        for place in range(-(-len(d) // block)):
            chance = np.random.SFC64((recipe.seed, number, named, place))
            size = min(block, len(d) - place * block)
            value = chance.random_raw(-(-size // 8)).view("u1")[:size].astype(int) * 256
            tied = (value // 256 == bound // 256).nonzero()[0]
            value[tied] += chance.random_raw(-(-len(tied) // 8)).view("u1")[: len(tied)]
            draws.append(value)
        kept = d * torch.from_numpy(np.concatenate(draws) < bound)
        rescaled = d.double().abs().sum() / kept.double().abs().sum().clamp_min(1e-30)
        left[name] = kept * float(rescaled if recipe.variant == "mergekit" else 65536 / bound)
    return left


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["paper", "mergekit", "peft"])
@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "dare-ties"])
def test_pieces_merge_as_whole_tensors_do(monkeypatch, method, variant, dtype):
    for name, value in {"PIECE": 256, "BLOCK": 1024, "WHOLE": 3000}.items():
        monkeypatch.setattr(merging_module, name, value)
    monkeypatch.setattr(row_sums, "SMALL", 900)
    torch.manual_seed(0)
    sizes = {"a": 2501, "b": 5003, "c": 7, "d": 1024}
    base = {name: torch.randn(size).to(dtype) for name, size in sizes.items()}
    experts = [
        {name: (t.float() + torch.randn(t.shape) / 10).to(dtype) for name, t in base.items()}
        for _ in range(3)
    ]
    for recipe in (
        Recipe(method, variant=variant, density=0.37),
        Recipe(method, (0.5, 2.0, 0.25), 0.2, 0.7, 3, variant),
    ):
        made = Merger(experts, recipe, base=base)
        for name, wanted in plainly(experts, base, recipe).items():
            assert made.tensor(name).dtype == dtype
            close(made.tensor(name), wanted, atol=1e-6, rtol=torch.finfo(dtype).eps)


def test_a_large_tensor_is_rescaled_as_a_whole():
    torch.manual_seed(0)
    base = {"w": torch.randn(1_100_001), "v": torch.randn(300_002)}
    experts = [{name: t + torch.randn(t.shape) / 10 for name, t in base.items()} for _ in range(2)]
    recipe = Recipe("dare-ties", variant="mergekit", density=0.3)
    made = merge(experts, "dare-ties", base=base, variant="mergekit", density=0.3)
    for name, wanted in plainly(experts, base, recipe).items():
        close(made[name], wanted, atol=1e-6, rtol=1e-6)


def test_dare_keeps_a_share_and_the_mean():
    delta = torch.linspace(-1, 2, 200)
    base, expert = {"w": torch.ones(200)}, {"w": 1 + delta}
    draws = [merge([expert], "dare", base=base, density=0.1, lam=1.0, seed=seed)["w"] - 1
             for seed in range(400)]  # fmt: skip
    kept = torch.stack(draws) != 0
    assert 0.095 < kept.float().mean() < 0.105
    close(draws[0][kept[0]], 10 * delta[kept[0]], atol=1e-4, rtol=1e-4)
    mean, error = torch.stack(draws).mean(0), delta.abs() * 3 / 400**0.5
    assert ((mean - delta).abs() <= 4 * error + 1e-3).all()
    kit = merge([expert], "dare", base=base, density=0.1, variant="mergekit")["w"] - 1
    close(kit.abs().sum(), delta.abs().sum(), rtol=1e-4, atol=0)  # its rescaling keeps that sum


def test_draws_depend_on_seed_name_and_place_only():
    torch.manual_seed(0)
    experts = [{"a": torch.randn(50), "b": torch.randn(50)} for _ in range(2)]
    base = {"a": torch.zeros(50), "b": torch.zeros(50)}
    made = merge(experts, "dare-ties", base=base, seed=3)
    again = merge([{"b": e["b"]} for e in experts], "dare-ties", base={"b": base["b"]}, seed=3)
    assert torch.equal(made["b"], again["b"])
    assert not torch.equal(made["b"], merge(experts, "dare-ties", base=base, seed=4)["b"])
    assert not torch.equal((made["a"] != 0), (made["b"] != 0))


def test_slerp():
    x, y = {"w": torch.tensor([[1.0, 0.0]])}, {"w": torch.tensor([[0.0, 1.0]])}
    close(merge([x, y], "slerp")["w"], [[0.5**0.5, 0.5**0.5]])
    close(merge([x, y], "slerp", weights=(2.0, 1.0))["w"], [[3**0.5 / 2, 0.5]])
    close(merge([x, y], "slerp", weights=(1.0, 0.0))["w"], [[1.0, 0.0]])
    close(merge([x, {"w": x["w"] * 3}], "slerp")["w"], [[2.0, 0.0]])  # parallel: a straight line


def test_fisher_weighs_number_by_number():
    experts = [{"w": torch.tensor([1.0, 1, 1])}, {"w": torch.tensor([3.0, 3, 3])}]
    known = [{"w": torch.tensor([1.0, 3, 0])}, {"w": torch.tensor([1.0, 1, 0])}]
    close(merge(experts, "fisher", fisher=known)["w"], [2.0, 1.5, 2.0])
    made = merge(experts, "fisher", fisher=known, weights=(1.0, 3.0))["w"]
    close(made, [2.5, 2.0, 2.5])


def test_layerwise():
    torch.manual_seed(0)
    names = ["layers.0.self_attn.q_proj.weight", "layers.0.mlp.up_proj.weight", "embed.weight"]
    base = {name: torch.randn(4, 5) for name in names}
    experts = [{name: t + torch.randn(4, 5) for name, t in base.items()} for _ in range(3)]
    plain, average = merge(experts, "layerwise", base=base), merge(experts)
    for name in names:
        close(plain[name], average[name])
    made = merge(experts, "layerwise", base=base, groups={"0.mlp": [0.0, 1.0, 0.0]})
    close(made[names[1]], experts[1][names[1]])
    close(made[names[0]], average[names[0]])


def test_groups_of_tensors():
    assert group_of("transformer.h.10.attn.c_attn.weight") == "10.attention"
    assert group_of("model.layers.2.post_attention_layernorm.weight") == "2.rest"
    assert group_of("model.layers.2.mlp.up_proj.weight", "layer") == "2"
    assert group_of("lm_head.weight", "tensor") == "lm_head.weight"


def test_task_vectors_and_interference():
    found = task_vectors(EXPERTS, BASE)
    assert torch.equal(found[1]["w"], DELTAS[1])
    seen = interference(EXPERTS, BASE)
    unit = DELTAS / DELTAS.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(seen.cosines, (unit @ unit.T).numpy(), atol=1e-6)
    np.testing.assert_allclose(seen.norms, DELTAS.norm(dim=1).numpy(), rtol=1e-6)
    assert seen.sign_conflict == 1.0  # every one of the six has both signs
    with pytest.raises(ValueError, match="no experts"):
        interference([], BASE)
    with pytest.raises(ValueError, match="'w' has numbers that are not finite"):
        interference([{"w": DELTAS[0] * float("nan")}], BASE)
    same = interference([EXPERTS[0], EXPERTS[0]], BASE)
    assert (same.sign_conflict, round(same.cosines[0, 1], 6)) == (0.0, 1.0)


# Properties ---------------------------------------------------------------------------------------

STATES = st.integers(0, 2**16).map(
    lambda seed: [
        {"w": torch.from_numpy(row)}
        for row in np.random.default_rng(seed).normal(size=(4, 9)).astype(np.float32)
    ]
)


@settings(max_examples=25, deadline=None)
@given(STATES, st.permutations([1, 2, 3]), st.sampled_from(["average", "task-arithmetic", "ties"]))
def test_the_order_of_experts_does_not_matter(states, order, method):
    base, experts = states[0], states[1:]
    made = merge(experts, method, base=base)["w"]
    other = merge([states[i] for i in order], method, base=base)["w"]
    close(made, other, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(STATES)
def test_identical_experts_merge_to_themselves_and_one_third_is_the_average(states):
    base, expert = states[0], states[1]
    close(merge([expert] * 3)["w"], expert["w"])
    made = merge([expert] * 3, "ties", base=base, density=1.0)["w"]
    close(made, expert["w"], atol=1e-6, rtol=1e-5)
    made = merge(states[1:], "task-arithmetic", base=base, lam=1 / 3)["w"]
    close(made, merge(states[1:])["w"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 500, 999, 5000, 9_999, 10_000])
@pytest.mark.parametrize("shape", ["normal", "ties", "sorted", "zeros"])
def test_the_kth_largest_of_many_is_exact(monkeypatch, k, shape):
    monkeypatch.setattr(row_sums, "SMALL", 100)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=10_000).astype(np.float32))
    values = {"normal": values, "ties": values.round(decimals=1), "sorted": values.sort()[0],
              "zeros": values * (values.abs() > 2)}[shape]  # fmt: skip
    threshold, room = kth_largest(lambda: iter(values.split(997)), 10_000, k)
    sizes = values.abs().sort(descending=True)[0]
    assert threshold == sizes[k - 1]
    tied = int((sizes == threshold).sum())
    wanted = k - int((sizes > threshold).sum())
    assert room == (None if wanted == tied else wanted)


@pytest.mark.parametrize("method", ["average", "ties", "dare-ties", "slerp"])
def test_checkpoints_merge_as_tensors_in_memory_do_in_any_dtype(tmp_path, monkeypatch, method):
    monkeypatch.setattr(merging_module, "PIECE", 64)  # many pieces, and a narrow band is sorted
    monkeypatch.setattr(row_sums, "SMALL", 500)
    torch.manual_seed(0)
    states = [{"a": torch.randn(30, 40).bfloat16(), "b": torch.randn(5), "n": torch.arange(3)}
              for _ in range(3)]  # fmt: skip
    for number, state in enumerate(states):
        (tmp_path / str(number)).mkdir()
        save_file(state, tmp_path / str(number) / "model.safetensors")
    opened = [Checkpoint(tmp_path / str(number)) for number in range(3)]
    for variant in ("paper", "mergekit"):
        streamed = merge(opened[1:], method, base=opened[0], variant=variant)
        whole = merge(states[1:], method, base=states[0], variant=variant)
        assert all(torch.equal(streamed[name], whole[name]) for name in whole)
        assert whole["a"].dtype == torch.bfloat16
    if method == "ties":
        kept = (whole["a"].float() != states[0]["a"].float()).float().mean()
        assert 0.2 < kept < 0.41  # 20 % of each of two, tensor by tensor


def test_wrong_arguments():
    with pytest.raises(ValueError, match="needs the base"):
        merge(EXPERTS, "ties")
    with pytest.raises(ValueError, match="two models, not 3"):
        merge(EXPERTS, "slerp")
    with pytest.raises(ValueError, match="2 weights for 3"):
        merge(EXPERTS, weights=(1, 2))
    with pytest.raises(ValueError, match="add up to 0"):
        merge(EXPERTS[:2], weights=(1, -1))
    with pytest.raises(ValueError, match="'v' is in one"):
        merge([*EXPERTS, {"w": DELTAS[0], "v": DELTAS[0]}])
    with pytest.raises(ValueError, match="shape"):
        merge([*EXPERTS, {"w": DELTAS[0][:2]}])
    with pytest.raises(UserError, match="Did you mean 'ties'"):
        merge(EXPERTS, "tie")
    with pytest.raises(UserError, match="at most 1, not 2"):
        merge(EXPERTS, "ties", base=BASE, density=2)
    with pytest.raises(UserError, match="integers that differ"):
        merge([{"n": torch.tensor([1])}, {"n": torch.tensor([2])}])


@pytest.mark.parametrize("method", ["average", "task-arithmetic", "ties", "dare-ties", "slerp"])
def test_numbers_that_are_none_are_named(method):
    bad = {"w": torch.tensor([1, 2, float("nan"), 3, 4, 5])}
    with pytest.raises(UserError, match="'w' of model 2 has numbers that are not finite"):
        merge([EXPERTS[0], bad], method, base=BASE, density=1.0)


# Whole models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in range(4):
        model = tiny_models.llama(number)
        model.save_pretrained(folder / str(number), max_shard_size="20KB" if number == 2 else "1GB")
        tiny_models.tokenizer().save_pretrained(folder / str(number))
    return folder


def test_a_merged_model_loads_and_says_what_it_is(models, tmp_path, generality):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    answer = generality("merge", *(models / n for n in "123"), "-o", out, "--weights", "2,1,1",
                        "--shard-size", "20KB", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["method"], told["tensors"], told["resumed"]) == ("average", 30, 0)
    merged = AutoModelForCausalLM.from_pretrained(out).state_dict()
    parts = [tiny_models.llama(number).state_dict() for number in (1, 2, 3)]
    for name, tensor in merged.items():
        close(tensor, (2 * parts[0][name] + parts[1][name] + parts[2][name]) / 4)
    assert len(AutoTokenizer.from_pretrained(out)) == len(tiny_models.tokenizer())
    assert len(list(out.glob("*.safetensors"))) > 1
    card = (out / "README.md").read_text()
    assert f"| {models / '1'} | 2.0 |" in card
    assert "generality merge" in card
    again = generality("merge", models / "1", models / "2", "-o", out)
    assert (again.code, "is there already" in again.err) == (2, True)


def test_the_dtype_can_be_chosen_and_the_command_says_what_it_did(models, tmp_path, generality):
    answer = generality("merge", models / "1", models / "2", "-o", "out", "--method", "ties",
                        "--base", models / "0", "--dtype", "bfloat16")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "2 models merged by ties" in answer.out
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "bfloat16" in (config.get("dtype"), config.get("torch_dtype"))


def test_settings_that_a_method_does_not_use_are_refused(models, generality) -> None:
    given = ("merge", models / "1", models / "2", "-o", "out")
    for option, value in (("--density", 0.2), ("--lambda", 0.5), ("--fisher", models)):
        answer = generality(*given, option, value)
        assert (answer.code, answer.out) == (2, "")
        assert f"average has no use for {option}: leave it out." in " ".join(answer.err.split())


def broken(models: Path, folder: Path, how: str) -> Path:
    shutil.copytree(models / "1", folder)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if how == "shape":
        weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(16, 16)
    elif how == "vocabulary size":
        weights["model.embed_tokens.weight"] = torch.ones(99, 16)
    elif how == "missing tensor":
        del weights["model.norm.weight"]
    elif how == "nan":
        weights["model.norm.weight"][3] = float("nan")
    elif how == "architecture":
        config["model_type"] = "mistral"
    elif how == "heads":
        config["num_attention_heads"] = 4
    elif how == "quantised":
        config["quantization_config"] = {"quant_method": "gptq"}
    elif how == "tokenizer":
        path = folder / "tokenizer.json"
        path.write_text(path.read_text().replace('"film"', '"movie"'))
    elif how == "cut off":
        save_file(weights, folder / "model.safetensors")
        os.truncate(folder / "model.safetensors", 900)
    if how != "cut off":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("shape", "'model.layers.1.mlp.up_proj.weight' is 32×16 in .* and 16×16 in .* fine-tunes"),
        ("vocabulary size", "vocabularies have different sizes: .*resize_token_embeddings"),
        ("missing tensor", "has 'model.norm.weight' and .* has not"),
        ("nan", "'model.norm.weight' of '.*broken' has numbers that are not finite"),
        ("architecture", "model_type is llama in one and mistral in the other"),
        ("heads", "num_attention_heads is 2 in one and 4"),
        ("quantised", "is quantised: merge the model it was made from"),
        ("tokenizer", "number 5 is 'film' in one and 'movie' in the other"),
        ("cut off", "is not a whole safetensors file|is cut off"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_words(models, tmp_path, how, said):
    folder = broken(models, tmp_path / "broken", how)
    with pytest.raises(UserError, match=said):
        merge_models([models / "0", folder], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "tie"], "Did you mean 'ties'"),
        (["--method", "ties"], "name it by --base"),
        (["--weights", "1"], "1 numbers for 2 models"),
        (["--weights", "a,b"], "numbers with commas"),
        (["--weights", "1,-1"], "must not add up to 0"),
        (["--method", "layerwise", "--base", "0", "--weights", "none.json"], "a JSON file"),
        (["--method", "fisher"], "needs the Fisher information"),
        (["--method", "fisher", "--fisher", "nowhere"], "no Fisher information in 'nowhere'"),
        (["--weights", "nan,1"], "--weights are finite numbers"),
        (["--inner", "ties"], "are for layerwise"),
        (["--method", "layerwise", "--base", "0", "--granularity", "row"], "no granularity 'row'"),
        (["--as-adapter", "--evaluate", "exam.jsonl"], "chooses no settings"),
        (["--dtype", "int8"], "no dtype 'int8'"),
        (["--shard-size", "many"], "a size like 5GB"),
        (["--as-adapter"], "a whole model, not an adapter"),
        (["--base", "nowhere/model"], "no model folder 'nowhere/model'"),
    ],
)
def test_mistakes_at_the_command_line(models, generality, monkeypatch, options, said):
    answer = generality("merge", models / "1", models / "2", "-o", "out",
                        *(models / "0" if each == "0" else each for each in options))  # fmt: skip
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not Path("out").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from generality.weights import merging
from generality.weights.merge_models import merge_models
from generality.weights.merge_recipe import Recipe
whole, written = merging.Merger.pieces, []
def pieces(self, name):
    written.append(name)
    if len(written) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, name)
merging.Merger.pieces = pieces
folder = Path(sys.argv[1])
merge_models([folder / "1", folder / "2"], sys.argv[2], Recipe("dare-ties"), base=folder / "0")
"""


def test_a_merge_that_was_killed_goes_on_and_ends_as_one_that_was_not(models, tmp_path):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, models, out], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    assert not list(tmp_path.rglob("*.safetensors"))
    recipe = Recipe("dare-ties")
    sources = [models / "1", models / "2"]
    assert merge_models(sources, out, recipe, base=models / "0")["resumed"] == 11
    merge_models(sources, tmp_path / "whole", recipe, base=models / "0")
    one, other = (load_file(path / "model.safetensors") for path in (out, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_disk_too_small_is_said_before_work_begins(models, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(UserError, match="needs 0.02 GB and the disk .* free some"):
        merge_models([models / "0", models / "1"], tmp_path / "out")


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory) -> list[Path]:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")
    for number, rank in enumerate((2, 3)):
        torch.manual_seed(number)
        targets = ["q_proj", "up_proj"] if number else ["q_proj"]
        config = LoraConfig(r=rank, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        lora = get_peft_model(tiny_models.llama(), config)
        lora.peft_config["default"].base_model_name_or_path = str(models / "0")
        lora.save_pretrained(folder / str(number))
    return [folder / "0", folder / "1"]


def test_adapters_merge_into_a_model_and_into_one_adapter_alike(
    models, adapters, tmp_path, generality
):
    from peft import PeftModel

    answer = generality("merge", *adapters, "-o", "whole")
    assert answer.code == 0, answer.err
    answer = generality("merge", *adapters, "-o", "one", "--as-adapter", "--json")
    assert json.loads(answer.out)["ranks"] == [3, 5]
    lora = PeftModel.from_pretrained(tiny_models.llama(), tmp_path / "one")
    merged = lora.merge_and_unload().state_dict()
    whole = Checkpoint(tmp_path / "whole")
    for name in whole:
        close(merged[name], whole[name], atol=1e-6, rtol=1e-5)
    base = Checkpoint(models / "0")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(whole[name], base[name], atol=1e-3)


def test_adapters_of_other_bases_or_ways_to_merge_are_refused(models, adapters):
    with pytest.raises(ValueError, match="by 'cat', not 'linear'"):
        merge_adapters(adapters, how="linear")
    with pytest.raises(UserError, match="is a whole model"):
        merge_adapters([adapters[0], models / "0"])


def test_adapters_are_added_to_the_base_that_is_named(models, adapters, tmp_path):
    moved = tmp_path / "adapter"
    shutil.copytree(adapters[0], moved)
    path = moved / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="gone', is not here: name it with --base"):
        merge_models([moved], tmp_path / "lost")
    merge_models([moved], tmp_path / "found", base=models / "0")
    named = merge_adapters([moved], base=str(models / "0")).config["base_model_name_or_path"]
    assert named == str(models / "0")
    merge_models([adapters[0]], tmp_path / "same")
    one, other = Checkpoint(tmp_path / "found"), Checkpoint(tmp_path / "same")
    assert all(torch.equal(one[name], other[name]) for name in one)


WITHOUT = """
import sys
sys.modules["torch"] = None  # its import fails
from generality.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""


def test_merging_loads_nothing_that_it_does_not_use(models, tmp_path):
    for method in ("average", "task-arithmetic", "ties", "dare-ties", "slerp"):
        said = subprocess.run(
            [sys.executable, "-c", WITHOUT, "merge", models / "1", models / "2", "-o",
             tmp_path / method, "--method", method, "--base", models / "0"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert not {"sklearn", "scipy", "pandas", "transformers"} & set(said.stdout.split())
