"""A language model tuned on texts and brought to a few bits, in each of several ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from generality.lab.train import TrainConfig, train
from generality.measures.memory_of import memory_of
from generality.measures.weight_importance import linear_layers
from generality.modules.l4q_linear import (
    L4QLinear,
    apply_l4q,
    dequantized_model,
    hold_scales,
    quantized_model,
)
from generality.modules.lsq_weight import apply_qat, settle_qat
from generality.modules.qalora_linear import apply_qalora
from generality.training.layer_by_layer import quantize_gptq
from generality.training.token_batches import mean_loss, token_batches
from generality.weights.group_quantizer import quantize_rtn

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Tuned:
    """What came of one way.

    Attributes:
        model: ordinary layers that hold the weights as they are used.
        saved: bytes kept for the backward pass of one training batch, weights included.
        trained: numbers that were trained: gradients and optimiser state are of their size.
    """

    model: nn.Module
    saved: int = 0
    trained: int = 0


@dataclass(frozen=True)
class LowBitTuning:
    """Ways from a causal language model and texts to a tuned model of a few bits.

    All ways that train take the same texts in the same order, the same number of steps and the
    same targets, the linear layers of the blocks.

    Args:
        model: of transformers, with Llama-like names; is not changed.
        texts: tokens to tune on; also what GPTQ calibrates on.
        tuning: how.
        bits: 2 to 8.
        group: inputs that share a step.
        rank: of LoRA, wherever there is one; its factor is 1.
        warmup: first steps in which L4Q holds its scales.
        seed: of LoRA's first weights and the order of texts.
    """

    model: nn.Module
    texts: Texts
    tuning: TrainConfig
    bits: int = 4
    group: int = 32
    rank: int = 4
    warmup: int = 10
    seed: int = 0

    def rtn(self, model: nn.Module | None = None) -> Tuned:
        """A model (by default the given one) rounded to nearest."""
        rounded = copy.deepcopy(model or self.model)
        names = [f"{name}.weight" for name in linear_layers(rounded)]
        rounded.load_state_dict(
            quantize_rtn(rounded.state_dict(), names, bits=self.bits, group=self.group)
        )
        return Tuned(rounded)

    def gptq(self, model: nn.Module | None = None, texts: int = 64) -> Tuned:
        """A model rounded by GPTQ, calibrated on the first texts."""
        rounded = copy.deepcopy(model or self.model)
        batches = token_batches(self.texts[:texts], 16)
        rounded.load_state_dict(quantize_gptq(rounded, batches, bits=self.bits, group=self.group))
        return Tuned(rounded)

    def lora(self) -> Tuned:
        """LoRA at full precision, merged: what rounding takes from."""
        return self._lora(self.model)

    def qlora(self) -> Tuned:
        """LoRA beside rounded weights, as QLoRA; merged here, but not low-bit any more.

        QLoRA's own four-bit type is replaced by the rounding that all ways here share.
        """
        return self._lora(self.rtn().model)

    def qalora(self) -> Tuned:
        """LoRA on sums of groups of inputs, merged into the offsets: QA-LoRA."""
        model = self._seeded(
            lambda model: apply_qalora(model, bits=self.bits, group=self.group, rank=self.rank)
        )
        return self._trained(model, lambda model: dequantized_model(quantized_model(model)))

    def l4q(self, *, learn_scales: bool = True) -> Tuned:
        """L4Q; without `learn_scales` the steps and offsets stay those of rounding."""
        model = self._seeded(
            lambda model: apply_l4q(model, bits=self.bits, group=self.group, rank=self.rank)
        )
        return self._trained(
            model, lambda model: dequantized_model(quantized_model(model)), scales=learn_scales
        )

    def qat(self) -> Tuned:
        """All weights of the linear layers trained under rounding, with learnt scales."""
        model = self._seeded(lambda model: apply_qat(model, bits=self.bits, group=self.group))
        return self._trained(model, settle_qat)

    def _lora(self, model: nn.Module) -> Tuned:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank, lora_alpha=self.rank, target_modules=[*linear_layers(model)]
        )
        adapted = self._seeded(lambda model: get_peft_model(model, config), model)
        return self._trained(adapted, lambda adapted: adapted.merge_and_unload())

    def _seeded(
        self, change: Callable[[nn.Module], nn.Module], model: nn.Module | None = None
    ) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return change(copy.deepcopy(model or self.model))

    def _trained(
        self, model: nn.Module, settle: Callable[[Any], nn.Module], *, scales: bool = True
    ) -> Tuned:
        for layer in model.modules():
            if isinstance(layer, L4QLinear):
                layer.learn_scales(scales)
        count = hold_scales(model, self.warmup)
        batch = token_batches(self.texts[: self.tuning.batch_size], self.tuning.batch_size)[0]
        saved = memory_of(lambda: mean_loss(model, batch)).saved
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        examples = [{"input_ids": [*text], "labels": [*text]} for text in self.texts]
        place = str(next(model.parameters()).device.type)
        train(model, examples, None, self.tuning, seed=self.seed, device=place, progress=count)
        return Tuned(settle(model), saved, trained)
