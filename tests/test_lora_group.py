import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
)

from generality.measures import subspace_overlap
from generality.modules import LoRAGroup, split_qkv
from generality.objectives import orthogonal_group_loss

IDS = torch.arange(1, 13).reshape(2, 6)


def bert() -> nn.Module:
    return BertModel(
        BertConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2,
        )
    ).eval()  # fmt: skip


def llama() -> nn.Module:
    return LlamaModel(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1,
        )
    ).eval()  # fmt: skip


def gpt2() -> nn.Module:
    return GPT2Model(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)).eval()


def clip() -> nn.Module:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=8, patch_size=4,
        )
    ).eval()  # fmt: skip


def output(model: nn.Module) -> Tensor:
    if isinstance(model, CLIPVisionModel):
        return model(torch.linspace(0, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)).last_hidden_state
    return model(input_ids=IDS).last_hidden_state


def disturb(group: LoRAGroup) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in group.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def two_updates() -> tuple[LoRAGroup, str]:
    """The sheet's example: W, Δ1 and Δ2 of two rows and columns."""
    group = LoRAGroup(nn.ModuleDict({"query": nn.Linear(2, 2, bias=False)}), rank=1, num=2)
    [path] = group.layers
    layer = group.layers[path]
    values = {"group-0": ([[0.0, 1.0]], [[1.0], [0.0]]), "group-1": ([[1.0, 1.0]], [[0.0], [1.0]])}
    with torch.no_grad():
        layer.get_base_layer().weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        for name, (down, up) in values.items():
            layer.lora_A[name].weight.copy_(torch.tensor(down))
            layer.lora_B[name].weight.copy_(torch.tensor(up))
    return group, path


def test_the_penalty_matches_the_numbers_worked_by_hand() -> None:
    group, path = two_updates()
    assert group.deltas(path).tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 1]]]
    model = group.model
    assert orthogonal_group_loss(model, 1.0, diversify=False).item() == pytest.approx(16)
    assert orthogonal_group_loss(model, 1.0, preserve=False).item() == pytest.approx(1)
    assert orthogonal_group_loss(model).item() == pytest.approx(0.017)
    # three products of four entries
    assert orthogonal_group_loss(model, 1.0, reduction="mean").item() == pytest.approx(17 / 12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(1, 3), st.integers(1, 3))
def test_the_cheap_form_is_the_plain_one(inputs: int, outputs: int, rank: int, num: int) -> None:
    group = LoRAGroup(nn.ModuleDict({"v": nn.Linear(inputs, outputs)}), rank=rank, num=num)
    disturb(group)
    weight, deltas = group.weight("v"), group.deltas("v")
    plain = sum((weight @ delta.T).abs().sum() for delta in deltas)
    plain = plain + sum(
        (deltas[i] @ deltas[j].T).abs().sum() for i in range(num) for j in range(i + 1, num)
    )
    torch.testing.assert_close(orthogonal_group_loss(group.model, 1.0), plain)
    penalty = orthogonal_group_loss(group.model, 1.0)
    penalty.backward()
    cheap = [p.grad.clone() for p in group.parameters()]  # type: ignore[union-attr]
    for parameter in group.parameters():
        parameter.grad = None
    plain.backward()  # type: ignore[union-attr]
    for parameter, gradient in zip(group.parameters(), cheap, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [bert, llama, gpt2, clip])
def test_a_group_changes_nothing_at_first_and_merges_to_the_same(build) -> None:
    model = build()
    before = output(model).detach()
    group = LoRAGroup(model, rank=2, num=3)
    assert len(group.layers) == 4
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=1e-5)
    start = orthogonal_group_loss(model)
    start.backward()
    assert start.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in group.parameters())

    disturb(group)
    apart = output(model).detach()
    assert (apart - before).abs().max() > 1e-3
    group.merge()
    group.merge()  # once more changes nothing
    torch.testing.assert_close(output(model), apart, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="merged"):
        orthogonal_group_loss(model)
    group.unmerge()
    torch.testing.assert_close(output(model), apart, atol=1e-5, rtol=1e-5)
    plain = group.unload()
    torch.testing.assert_close(output(plain), apart, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert not hasattr(plain, "peft_config")


def test_an_unloaded_model_is_saved_as_a_plain_one(tmp_path) -> None:
    model = bert()
    group = LoRAGroup(model, rank=1, num=2)
    disturb(group)
    expected = output(model)
    group.unload().save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output(again), expected, atol=1e-5, rtol=1e-5)


def test_only_the_adapters_learn_and_their_sizes_are_the_papers() -> None:
    model = bert()
    group = LoRAGroup(model, rank=2, num=2)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("group-" in name for name in trained)
    optimizer = torch.optim.Adam(group.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (output(model).square().mean() + orthogonal_group_loss(model)).backward()
        assert all(p.grad is not None for p in group.parameters())
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.equal(frozen[name]), name
    assert all(delta.norm() > 0 for path in group.layers for delta in group.deltas(path))
    # 12 blocks × q, v × N × 2 · 768 · r of ViT-B/16, N = r = 4
    wide = LoRAGroup(nn.ModuleDict({"q": nn.Linear(768, 768), "v": nn.Linear(768, 768)}))
    assert 12 * sum(p.numel() for p in wide.parameters()) == 589_824


def test_no_gradient_reaches_the_pretrained_weight_and_a_descent_lowers_the_overlap() -> None:
    group = LoRAGroup(nn.ModuleDict({"q": nn.Linear(8, 3)}), rank=2, num=2)
    disturb(group)
    group.layers["q"].get_base_layer().weight.requires_grad_(True)
    before = subspace_overlap(group.weight("q"), group.deltas("q")[0])
    optimizer = torch.optim.Adam([group.layers["q"].lora_A[n].weight for n in group.names], 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        orthogonal_group_loss(group.model, 1.0).backward()
        optimizer.step()
    assert group.layers["q"].get_base_layer().weight.grad is None
    assert subspace_overlap(group.weight("q"), group.deltas("q")[0]) < 0.2 * before
    assert group.deltas("q").norm() > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_a_fused_layer_is_split_into_its_thirds(bias: bool) -> None:
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=bias)})})
    fused = model["attn"]["qkv"].weight.detach().clone()  # type: ignore[index]
    assert split_qkv(model) == ["attn.qkv"]
    group = LoRAGroup(model, rank=1, num=1)
    assert sorted(group.layers) == ["attn.qkv.query", "attn.qkv.value"]
    torch.testing.assert_close(group.weight("attn.qkv.query"), fused[:4])
    torch.testing.assert_close(group.weight("attn.qkv.value"), fused[8:])


def test_seeds_make_the_adapters_and_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (LoRAGroup(bert(), seed=seed) for seed in (0, 0, 1))
    assert not torch.get_rng_state().equal(state)  # the models drew from it
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(a.equal(b) for a, b, _ in pairs)
    assert not all(a.equal(c) for a, _, c in pairs)
    model = bert()
    state = torch.get_rng_state()
    LoRAGroup(model)
    assert torch.get_rng_state().equal(state)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no query and value"):
        LoRAGroup(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="at least 1"):
        LoRAGroup(bert(), num=0)
    model = bert()
    LoRAGroup(model)
    with pytest.raises(ValueError, match="give another"):
        LoRAGroup(model)
    with pytest.raises(ValueError, match="no active LoRA"):
        orthogonal_group_loss(bert())
    with pytest.raises(ValueError, match="reduction"):
        orthogonal_group_loss(model, reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one size"):
        split_qkv(nn.ModuleDict({"qkv": nn.Linear(4, 10)}))


def test_one_adapter_has_none_to_differ_from() -> None:
    group = LoRAGroup(bert(), num=1)
    disturb(group)
    assert orthogonal_group_loss(group.model, preserve=False).item() == 0
    assert orthogonal_group_loss(group.model, diversify=False).item() > 0


@pytest.mark.parametrize("make", [bert, llama])
def test_only_the_first_blocks_are_adapted_and_alike(make) -> None:
    first = LoRAGroup(make(), rank=2, num=2, blocks=1, seed=3)
    every = LoRAGroup(make(), rank=2, num=2, seed=3)
    assert len(first.layers) == 2
    assert len(every.layers) == 4
    assert list(first.layers) == list(every.layers)[:2]
    with pytest.raises(ValueError, match="found no query"):
        LoRAGroup(make(), rank=2, num=2, blocks=0)


def test_the_report_sees_shared_directions_and_nothing_in_a_group_of_one() -> None:
    group = LoRAGroup(bert(), rank=1, num=2)
    for path in group.layers:
        layer = group.layers[path]
        for adapter in group.names:
            layer.lora_A[adapter].weight.data = torch.eye(16)[:1].clone()
            layer.lora_B[adapter].weight.data = torch.ones(16, 1)
    found = group.report()
    assert found["update_norm"] == pytest.approx(8.0)  # two updates of norm 4, the same
    assert found["shared_directions"] == pytest.approx(1.0)
    first = next(iter(group.layers))
    expected = subspace_overlap(group.weight(first), group.deltas(first)[0])
    assert 0 < expected < 1
    assert set(LoRAGroup(bert(), rank=1, num=1).report()) == {"update_norm", "overlap"}
