"""Low-bit weights learnt together with LoRA."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.measures import memory_of
from generality.models import tiny_decoder
from generality.models.packed_linear import GroupScales, dequantize, pack, unpack
from generality.modules import QALoRALinear, apply_qalora, apply_qat, settle_qat
from generality.modules.l4q_linear import (
    L4QLinear,
    apply_l4q,
    dequantized_model,
    lsq_quantize,
    quantized_model,
)
from generality.weights.group_quantizer import quantize, quantize_rtn, symmetric_scales


def the_sheet_s_layer() -> L4QLinear:
    linear = nn.Linear(4, 1, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[0.9, -1.2, 0.1, 0.45]]))
    layer = L4QLinear(linear, bits=3, group=4, rank=1)
    layer.lora_A.data = torch.tensor([[0.5, -0.5, 1.0, 0.25]])
    layer.lora_B.data = torch.tensor([[0.2]])
    return layer


def test_values_and_gradients_of_the_sheet():
    layer = the_sheet_s_layer()
    assert layer.step.item() == pytest.approx(0.3)
    y = layer(torch.ones(1, 4))
    assert y.item() == pytest.approx(0.6, abs=1e-6)
    (y.square() / 2).sum().backward()
    expected = {
        "lora_A": [[0, 0, 0.12, 0.12]],
        "lora_B": [[0.75]],
        "step": [[-0.4]],
        "offset": [[1.2]],
    }
    for name, gradient in expected.items():
        torch.testing.assert_close(
            getattr(layer, name).grad, torch.tensor(gradient, dtype=torch.float32)
        )


def test_the_layer_s_backward_is_autograd_s():
    torch.manual_seed(0)
    layer = L4QLinear(nn.Linear(10, 6), bits=2, group=4, rank=3, alpha=0.5).double()
    layer.lora_B.data.normal_()
    layer.offset.data.normal_(std=0.1)
    inner = [layer.lora_A, layer.lora_B, layer.step, layer.offset]
    x, toward = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True), torch.randn(2, 5, 6)
    ours = torch.autograd.grad((layer(x) * toward).sum(), [x, *inner])
    merged = layer.weight + 0.5 * layer.lora_B @ layer.lora_A
    weight = lsq_quantize(merged, layer.step, layer.offset, 2, 4)
    theirs = torch.autograd.grad(((x @ weight.T + layer.bias) * toward).sum(), [x, *inner])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_it_starts_as_rounding_to_nearest():
    torch.manual_seed(0)
    linear = nn.Linear(50, 7)
    layer = L4QLinear(linear, bits=4, group=16)
    rounded = quantize_rtn({"w": linear.weight.detach()}, ["w"], bits=4, group=16)["w"]
    x = torch.randn(3, 50)
    torch.testing.assert_close(layer(x), x @ rounded.T + linear.bias)


def test_with_many_bits_its_gradients_are_lora_s():
    torch.manual_seed(0)
    linear = nn.Linear(32, 8, bias=False)
    layer = L4QLinear(linear, bits=8, group=32, rank=2)
    layer.lora_B.data.normal_(std=0.01)
    layer.step.data.mul_(1.5)  # room, so that nothing is clipped
    x = torch.randn(64, 32)
    layer(x).square().sum().backward()
    a, b = (p.detach().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    (x @ (linear.weight.detach() + b @ a).T).square().sum().backward()
    for ours, theirs in ((layer.lora_A.grad, a.grad), (layer.lora_B.grad, b.grad)):
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 7), st.integers(1, 40), st.integers(0, 2**20))
def test_packing_loses_nothing(bits, rows, columns, seed):
    drawn = torch.Generator().manual_seed(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    integers = torch.randint(low, high, (rows, columns), generator=drawn).to(torch.int8)
    packed = pack(integers, bits)
    assert packed.numel() == -(-rows * columns * bits // 8)
    assert torch.equal(unpack(packed, bits, (rows, columns)), integers)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(1, 40), st.integers(1, 16), st.integers(0, 2**20))
def test_rounding_is_off_by_half_a_step_at_most_and_settled_at_once(bits, columns, group, seed):
    weight = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    scales = symmetric_scales(weight, bits, group)
    once = dequantize(quantize(weight, scales, bits, group), scales, group)
    step = scales.step.repeat_interleave(group, 1)[:, :columns]
    assert bool(((once - weight).abs() <= step / 2 * 1.001).all())
    again = dequantize(quantize(once, scales, bits, group), scales, group)
    torch.testing.assert_close(again, once)


def test_a_packed_model_says_the_same_and_is_small(tmp_path):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("gate_proj", nn.Linear(96, 64))
    model.add_module("head", nn.Linear(64, 3))
    apply_l4q(model, targets="gate_proj", bits=3, group=32, rank=2)
    assert not model.head.weight.requires_grad
    model.gate_proj.lora_B.data.normal_(std=0.1)
    x = torch.randn(5, 96)
    trained = model(x)
    packed = quantized_model(copy.deepcopy(model))
    torch.testing.assert_close(packed(x), trained, atol=1e-5, rtol=1e-5)
    save_file(packed.state_dict(), tmp_path / "packed.safetensors")
    stored = load_file(tmp_path / "packed.safetensors")
    assert stored["gate_proj.packed"].numel() == 96 * 64 * 3 // 8
    assert not any("lora" in name for name in stored)
    torch.testing.assert_close(dequantized_model(packed)(x), trained, atol=1e-5, rtol=1e-5)
    assert isinstance(packed.gate_proj, nn.Linear)


def test_training_keeps_no_weight_for_its_backward():
    class Plain(nn.Module):  # the same function, left to autograd
        def __init__(self, layer: L4QLinear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x):
            it = self.layer
            merged = it.weight + it.alpha * it.lora_B @ it.lora_A
            return x @ lsq_quantize(merged, it.step, it.offset, it.bits, it.group).T

    torch.manual_seed(0)
    layer = L4QLinear(nn.Linear(256, 256, bias=False), group=64)
    x = torch.randn(4, 256, requires_grad=True)
    ours, autograd = (memory_of(lambda m=m: m(x).sum()).saved for m in (layer, Plain(layer)))
    matrix = 256 * 256 * 4
    assert ours < 1.2 * matrix  # W0 itself, which is there anyway
    assert autograd > 3 * matrix


CHANGES = {
    "l4q": lambda model: apply_l4q(model, bits=3, group=16),
    "qalora": lambda model: apply_qalora(model, bits=3, group=16),
    "qat": lambda model: apply_qat(model, bits=3, group=16),
}


@pytest.mark.parametrize("way", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "autocast"])
def test_models_of_short_types_are_tuned_and_packed(way, dtype):
    model, ids = tiny_decoder("0.05M", vocabulary=40), torch.arange(3, 11)[None]
    plain = dtype == "autocast"
    CHANGES[way](model if plain else model.to(dtype))
    with torch.autocast("cpu", enabled=plain):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    assert all(p.dtype == torch.float32 for n, p in trained.items() if n.endswith("lora_A"))
    with torch.no_grad():
        if way == "qat":
            settle_qat(model)
        else:
            packed = quantized_model(model)(input_ids=ids, labels=ids).loss
            torch.testing.assert_close(packed.float(), loss.detach().float(), atol=3e-2, rtol=1e-2)
            dequantized_model(model)
        again = model(input_ids=ids, labels=ids).loss
    assert {p.dtype for p in model.parameters()} == {torch.float32 if plain else dtype}
    torch.testing.assert_close(again.float(), loss.detach().float(), atol=3e-2, rtol=1e-2)


def test_one_input_and_none():
    layer = the_sheet_s_layer()
    layer(torch.ones(4)).sum().backward()
    alone = layer.lora_B.grad.clone()
    layer.zero_grad()
    layer(torch.ones(1, 4)).sum().backward()
    assert torch.equal(layer.lora_B.grad, alone)
    assert layer(torch.ones(0, 4)).shape == (0, 1)


def test_everything_is_made_where_the_layer_is():
    linear = nn.Linear(8, 2, device="meta")
    for layer in (L4QLinear(linear, group=4), QALoRALinear(linear, group=4)):
        places = {t.device.type for t in (*layer.parameters(), *layer.buffers())}
        assert places == {"meta"}
    integers = torch.zeros(2, 8, dtype=torch.int8, device="meta")
    assert pack(integers, 3).device.type == unpack(pack(integers, 3), 3, (2, 8)).device.type


def test_held_scales_and_wrong_arguments():
    layer = the_sheet_s_layer()
    layer.learn_scales(False)
    layer(torch.ones(1, 4)).sum().backward()
    assert layer.step.grad is None
    with pytest.raises(ValueError, match="2 to 8 bits"):
        L4QLinear(nn.Linear(4, 4), bits=1)
    with pytest.raises(ValueError, match="one input or more, not 0"):
        L4QLinear(nn.Linear(4, 4), group=0)
    with pytest.raises(ValueError, match="no linear layer's name matches"):
        apply_l4q(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="'x' is not a matrix"):
        quantize_rtn({"w": torch.ones(2, 2)}, ["x"])
    scales = symmetric_scales(torch.zeros(2, 4), 4, 4)
    assert isinstance(scales, GroupScales)
    assert scales.step.tolist() == [[1.0], [1.0]]
