"""Ways to tune a model that ends in a few bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from generality.experiments.language_domains import LanguageDomains, tokenizer_pieces
from generality.lab import TrainConfig
from generality.measures.weight_importance import linear_layers
from generality.models import bpe_tokenizer, tiny_decoder
from generality.modules import LSQWeight, QALoRALinear, apply_qalora, apply_qat, settle_qat
from generality.training.low_bit_tuning import LowBitTuning
from generality.weights import quantize_rtn

GROUP = 16


@pytest.fixture(scope="module")
def task() -> LowBitTuning:
    drawn = torch.Generator().manual_seed(0)
    texts = torch.randint(3, 40, (12, 9), generator=drawn).tolist()
    tuning = TrainConfig(2, 4, learning_rate=1e-2, optimizer="adamw")
    return LowBitTuning(
        tiny_decoder("0.05M", vocabulary=40), texts, tuning, bits=2, group=GROUP, rank=2, warmup=2
    )


def is_low_bit(model: nn.Module) -> bool:
    return all(
        len(group.unique()) <= 4
        for layer in linear_layers(model).values()
        for row in layer.weight
        for group in row.split(GROUP)
    )


@pytest.mark.parametrize(
    ("way", "low_bit"),
    [("rtn", True), ("gptq", True), ("lora", False), ("qlora", False), ("qalora", True),
     ("l4q", True), ("qat", True)],
)  # fmt: skip
def test_what_each_way_ends_in(task, way, low_bit):
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    tuned = getattr(task, way)()
    assert is_low_bit(tuned.model) == low_bit
    names = {name for name, _ in tuned.model.named_parameters()}
    assert names == {name for name, _ in task.model.named_parameters()}
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, before[name])
        if "_proj" not in name:
            assert torch.equal(tuned.model.state_dict()[name], tensor)
    assert (tuned.trained > 0) == (way not in ("rtn", "gptq"))


def test_what_each_way_trains(task):
    sizes = {name: getattr(task, name)().trained for name in ("lora", "l4q", "qat")}
    layers = linear_layers(task.model).values()
    weights = sum(layer.weight.numel() for layer in layers)
    scales = sum(2 * m.out_features * -(-m.in_features // GROUP) for m in layers)
    assert sizes["l4q"] == sizes["lora"] + scales
    assert sizes["qat"] == weights + scales


def test_held_scales_stay_and_learnt_ones_wait(task):
    def values(model: nn.Module) -> set[float]:
        weight = linear_layers(model)["model.layers.0.self_attn.q_proj"].weight
        return {round(float(v), 5) for v in weight[0, :GROUP].detach().unique()}

    start = values(task.rtn().model)
    low = min(abs(value) for value in start if value)
    held = values(task.l4q(learn_scales=False).model)
    assert all(abs(value / low - round(value / low)) < 1e-3 for value in held)
    waiting = LowBitTuning(**{**task.__dict__, "warmup": 100}).l4q()
    assert values(waiting.model) == held
    assert values(task.l4q().model) != held


def test_qalora_by_hand_and_merged():
    linear = nn.Linear(3, 1, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[0.9, -1.2, 0.45]]))
    layer = QALoRALinear(linear, bits=3, group=2, rank=1)
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5]])
    # steps 0.3 and 0.15; sums of groups 1 + 2 and 4; LoRA 0.5 · (2 · 3 − 4)
    y = layer(torch.tensor([[1.0, 2.0, 4.0]]))
    assert y.item() == pytest.approx(0.9 - 2.4 + 4 * 0.45 + 1.0, abs=1e-6)
    merged = layer.quantized()
    torch.testing.assert_close(merged.weight(), torch.tensor([[1.9, -0.2, -0.05]]))
    with pytest.raises(ValueError, match="no linear layer's name matches"):
        apply_qalora(nn.Sequential(linear))


def test_weights_trained_under_rounding():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("proj", nn.Linear(32, 4))
    plain = copy.deepcopy(model)
    apply_qat(model, bits=2, group=16, targets="proj")
    nearest = quantize_rtn({"w": plain.proj.weight.detach()}, ["w"], bits=2, group=16)["w"]
    torch.testing.assert_close(model.proj.weight, nearest)
    assert isinstance(model.proj.parametrizations.weight[0], LSQWeight)
    x = torch.randn(5, 32)
    model(x).sum().backward()
    # nothing is clipped at the start: the gradient of the weight goes straight through
    straight = x.sum(0).expand(4, -1)
    torch.testing.assert_close(model.proj.parametrizations.weight.original.grad, straight)
    settle_qat(model)
    assert not parametrize.is_parametrized(model.proj)
    torch.testing.assert_close(model.proj.weight.detach(), nearest)


def test_a_tokenizer_of_own_texts():
    tokenizer = bpe_tokenizer(["low lower lowest", "new newer"] * 3, 280)
    assert (
        tokenizer.decode(tokenizer.encode("newest – ☃"), skip_special_tokens=True) == "newest – ☃"
    )
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == 1
    assert len(tokenizer) <= 280
    assert bpe_tokenizer(["low lower lowest", "new newer"] * 3, 280).get_vocab() == (
        tokenizer.get_vocab()
    )
    with pytest.raises(ValueError, match="259"):
        bpe_tokenizer(["a"], 100)


def test_what_a_model_that_only_copies_knows():
    asked = [("fine", "verdict ?", "good"), ("sore", "verdict ?", "bad"), ("plain", "", "")]
    texts = {"train": {"drugs": asked}, "test": {"drugs": asked}}
    world = LanguageDomains(texts, tokenizer_pieces(["fine sore verdict good bad"], 265), "0.05M")
    assert world.choices("verdict ?") == ("bad", "good")
    model = world.network(0)
    assert world.accuracy(model, ["drugs"]) in (0.0, 0.5, 1.0)
    uniform = torch.tensor(len(world.tokenizer)).log()
    nn.init.zeros_(model.model.norm.weight)  # all logits 0
    assert world.loss(model, ["drugs"]) == pytest.approx(float(uniform), rel=1e-5)
    assert world.read(["drugs"], 2)[0][-1] == world.tokenizer.eos_token_id
