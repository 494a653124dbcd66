"""Flow-Attention: attention in linear time, whose sources compete for a fixed amount of flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_EPS = 1e-6
_CHUNK = 128  # tokens whose products are made by one matrix
_BLOCK = 2048  # tokens that are worked on together, so that they stay in the cache

Kernel = Callable[[Tensor], Tensor]
KERNELS: dict[str, Kernel] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "elu1": lambda x: nn.functional.elu(x) + 1,
    "uniform": torch.ones_like,
}
"""Non-negative feature maps φ by name; with "uniform" attention is the plain mean of the values."""


def flow_attend(
    q: Float[Tensor, "batch heads sinks dim"],
    k: Float[Tensor, "batch heads sources dim"],
    v: Float[Tensor, "batch heads sources value"],
    *,
    causal: bool = False,
    kernel: str | Kernel = "sigmoid",
    clamp: float | None = None,
    competition: bool = True,
    allocation: bool = True,
    sink_mask: Bool[Tensor, "batch sinks"] | None = None,
    source_mask: Bool[Tensor, "batch sources"] | None = None,
) -> Float[Tensor, "batch heads sinks value"]:
    """What each query receives; in time and memory linear in the number of tokens.

    Queries are sinks, keys sources, of a flow φ(q)·φ(k). Fixing what leaves every source to 1 says
    how much each sink receives (allocation: a sigmoid gate on its output); fixing what enters every
    sink says how much each source gives (competition: a softmax over the sources, times their
    number). Without both this is linear attention with the kernel φ.

    With `causal` every sum runs over the tokens so far, those over sinks too (the paper's
    approximation), and the product over sources is made in chunks of 128: no state per token
    is kept. Sums are in float32 at least, under autocast too.

    Args:
        q: queries; k: keys; v: values.
        causal: a sink sees sources up to its own place; as many sinks as sources.
        kernel: φ, a name in `KERNELS` or a function to non-negative numbers. 1e-6 is added to it.
        clamp: bound on the flow that enters the competition. The released vision code takes 1,
            language 5, decisions 10; the mean over sources is sinks / sources, so that with self-
            attention 1 cuts off all above average. None: no bound.
        competition: sources compete.
        allocation: outputs are gated.
        sink_mask: True for true queries; the others get 0. None: all.
        source_mask: True for true keys; the others give nothing. None: all.

    Raises:
        ValueError: `causal` with other numbers of sinks than of sources; an unknown kernel.

    Source: Wu et al. 2022 (arXiv 2202.06258), equations 5 to 8; the causal form from the released
    code. There 1e-6 is added to sums instead of terms: outputs differ by that order.

    >>> x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    >>> whole = flow_attend(x, x, x, causal=True)
    >>> start = flow_attend(*[x[:, :, :4]] * 3, causal=True)
    >>> bool((whole[:, :, :4] - start).abs().max() < 1e-6)
    True
    """
    with torch.autocast(q.device.type, enabled=False):
        options = causal, kernel, clamp, competition, allocation
        if not causal:
            flow = _Flow(q, k, *options, sink_mask, source_mask)
            received, given = flow.sides(v)
            product = received @ (flow.k.transpose(-1, -2) @ given)
            return (product * flow.allocation[..., None]).to(v)
        _check_causal(q, k)
        past: dict[str, Tensor] = {}
        outputs = []
        for start in range(0, q.shape[-2], _BLOCK):
            block = slice(start, start + _BLOCK)
            sinks = None if sink_mask is None else sink_mask[:, block]
            sources = None if source_mask is None else source_mask[:, block]
            flow = _Flow(q[..., block, :], k[..., block, :], *options, sinks, sources, past)
            received, given = flow.sides(v[..., block, :])
            product = _chunked_causal(received, flow.k, given, past)
            outputs.append((product * flow.allocation[..., None]).to(v))
        return torch.cat(outputs, -2)


def flow_weights(
    q: Float[Tensor, "batch heads sinks dim"],
    k: Float[Tensor, "batch heads sources dim"],
    *,
    causal: bool = False,
    kernel: str | Kernel = "sigmoid",
    clamp: float | None = None,
    competition: bool = True,
    allocation: bool = True,
    sink_mask: Bool[Tensor, "batch sinks"] | None = None,
    source_mask: Bool[Tensor, "batch sources"] | None = None,
) -> Float[Tensor, "batch heads sinks sources"]:
    """The matrix by which `flow_attend` multiplies the values: a diagnostic, in quadratic memory.

    Rows need not sum to 1. Arguments as in `flow_attend`.

    >>> q, k, v = torch.randn(3, 1, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(flow_weights(q, k) @ v, flow_attend(q, k, v), atol=1e-6))
    True
    """
    if causal:
        _check_causal(q, k)
    flow = _Flow(q, k, causal, kernel, clamp, competition, allocation, sink_mask, source_mask)
    weights = (flow.q / flow.incoming[..., None]) @ flow.k.transpose(-1, -2)
    weights = weights * flow.competition[..., None, :] * flow.allocation[..., None]
    return weights.tril() if causal else weights


class FlowAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with the weights of `flow_attend`; takes its place in any model.

    Constructor, parameters, initial weights, `state_dict` and `forward` are those of
    `nn.MultiheadAttention`, with these differences: `need_weights` is off by default, as it takes
    quadratic memory (then the weights are those of `flow_weights`); `dropout` falls on the output,
    as no attention matrix exists; `attn_mask` may only be a causal one, and `is_causal` needs
    none. `key_padding_mask` also masks the queries of self-attention.

    Args:
        embed_dim: features; num_heads: divides them.
        causal: always causal, whatever `forward` is told.
        kernel: see `flow_attend`, as for clamp, competition and allocation.
        options: of `nn.MultiheadAttention`: dropout (0.05 in the paper), bias, kdim, vdim,
            batch_first, device, dtype.

    Raises:
        ValueError: `add_bias_kv` or `add_zero_attn`, which flows do not have.

    Source: Wu et al. 2022 (arXiv 2202.06258).

    >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> layer.self_attn = FlowAttention(16, 2, batch_first=True)
    >>> layer(torch.randn(1, 1000, 16)).shape
    torch.Size([1, 1000, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *args: Any,
        causal: bool = False,
        kernel: str | Kernel = "sigmoid",
        clamp: float | None = None,
        competition: bool = True,
        allocation: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, *args, **options)
        if self.bias_k is not None or self.add_zero_attn:
            raise ValueError("FlowAttention has no add_bias_kv and no add_zero_attn")
        self._separate = not self._qkv_same_embed_dim
        # nn.TransformerEncoderLayer else computes softmax attention itself in eval mode.
        self._qkv_same_embed_dim = False
        self.causal = causal
        self.flow: dict[str, Any] = {
            "kernel": kernel, "clamp": clamp, "competition": competition, "allocation": allocation,
        }  # fmt: skip
        _feature_map(kernel)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights if they are needed; shapes as of `nn.MultiheadAttention`.

        Raises:
            ValueError: an `attn_mask` that is not causal, or a padding mask that adds numbers
                other than 0 and −∞ to scores: flows have no scores.
        """
        myself = query is key
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        causal = self.causal or is_causal or _is_causal(attn_mask)
        real = _real(key_padding_mask)
        masks: dict[str, Any] = {"source_mask": real, "sink_mask": real if myself else None}
        q, k, v = self._projected(query, key, value)
        mixed = flow_attend(q, k, v, causal=causal, **masks, **self.flow)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        output = nn.functional.dropout(output, self.dropout, self.training)
        weights = None
        if need_weights:
            weights = flow_weights(q, k, causal=causal, **masks, **self.flow)
            weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        if self._separate:
            weights: list[Tensor] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            weights = list(self.in_proj_weight.chunk(3))
        biases = [None] * 3 if self.in_proj_bias is None else list(self.in_proj_bias.chunk(3))
        return [
            nn.functional.linear(x, weight, bias)
            .unflatten(-1, (self.num_heads, self.head_dim))
            .transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        ]


def register_flow_attention(name: str = "flow", **options: Any) -> str:
    """Make Flow-Attention a choice of transformers: `from_pretrained(…, attn_implementation=name)`.

    Works for encoders and, causally, for decoders in training and scoring. To generate, say
    `use_cache=False`: the causal form needs past queries, which a key-value cache lacks.
    `options` go to `flow_attend`. A model trained with softmax must be trained further.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(
    ...     vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...     num_attention_heads=2, attn_implementation=register_flow_attention()))
    >>> model(torch.ones(1, 5, dtype=torch.long), use_cache=False).logits.shape
    torch.Size([1, 5, 20])
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        is_causal: bool | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
        real = None if attention_mask is None else attention_mask.bool()
        mine = real if query.shape[2] == key.shape[2] else None
        mixed = flow_attend(
            query, key, value, causal=causal, source_mask=real, sink_mask=mine, **options
        )
        return mixed.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
    # That of flash attention hands on the (batch, tokens) padding mask as it is.
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    return name


class _Flow:
    """Kernelised queries and keys, incoming and conserved flows, and what those weigh."""

    def __init__(
        self, q: Tensor, k: Tensor, causal: bool, kernel: str | Kernel, clamp: float | None,
        competition: bool, allocation: bool, sink_mask: Tensor | None, source_mask: Tensor | None,
        past: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        past = {} if past is None else past  # causal sums over earlier blocks, kept up to date
        phi, least = _feature_map(kernel), torch.finfo(_wide(q).dtype).tiny
        self.q, sinks = _masked(phi(_wide(q)) + _EPS, sink_mask)
        self.k, sources = _masked(phi(_wide(k)) + _EPS, source_mask)

        def total(name: str, x: Tensor) -> Tensor:
            if not causal:
                return x.sum(-2, keepdim=True)
            return _carried(past, name, x.cumsum(-2), torch.add, -2)

        # Causal sums grow with the number of sources so far, so they become means.
        count = total("sources", sources)[..., 0].clamp(min=1)
        mean = count if causal else torch.ones_like(count)
        ratio = 1.0 if causal else total("sinks", sinks)[..., 0].clamp(min=1) / count
        self.incoming = (self.q * total("k", self.k)).sum(-1).clamp(min=least)
        outgoing = (self.k * total("q", self.q)).sum(-1).clamp(min=least)
        self.allocation, self.competition = torch.ones_like(self.incoming), sources[..., 0]
        if allocation:
            emitted = total("emitted", self.k * mean[..., None] / outgoing[..., None])
            self.conserved_sinks = (self.q * emitted).sum(-1) / mean
            self.allocation = (self.conserved_sinks * ratio).sigmoid()
        if competition:
            absorbed = total("absorbed", self.q * mean[..., None] / self.incoming[..., None])
            self.conserved_sources = flow = (self.k * absorbed).sum(-1) / mean
            flow = flow if clamp is None else flow.clamp(-clamp, clamp)
            flow = flow.masked_fill(sources[..., 0] == 0, -1e9)
            if causal:
                every = _carried(past, "every", flow.logcumsumexp(-1), torch.logaddexp, -1)
            else:
                every = flow.logsumexp(-1, keepdim=True)
            self.competition = (flow - every).exp() * count

    def sides(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """What multiplies the sources' sum for each sink, and what each source gives."""
        given = v.to(self.k) * self.competition[..., None]
        return self.q / self.incoming[..., None], given


def _carried(
    past: dict[str, Tensor], name: str, sums: Tensor, add: Callable[..., Tensor], dim: int
) -> Tensor:
    """Running sums of a block with those of the blocks before it, which they then replace."""
    if name in past:
        sums = add(sums, past[name])
    past[name] = sums.narrow(dim, -1, 1)
    return sums


def _chunked_causal(q: Tensor, k: Tensor, v: Tensor, past: dict[str, Tensor]) -> Tensor:
    """Σ_{j ≤ i} (q_i·k_j) v_j: within chunks by a small matrix, before them by one state each."""
    tokens = q.shape[-2]
    chunk = min(_CHUNK, tokens)
    q, k, v = (
        nn.functional.pad(x, (0, 0, 0, -tokens % chunk)).unflatten(-2, (-1, chunk))
        for x in (q, k, v)
    )
    states = k.transpose(-1, -2) @ v
    sums = states.cumsum(-3)
    earlier = sums - states
    if "product" in past:
        earlier = earlier + past["product"]
        sums = sums[..., -1:, :, :] + past["product"]
    past["product"] = sums[..., -1:, :, :]
    product = (q @ k.transpose(-1, -2)).tril() @ v + q @ earlier
    return product.flatten(-3, -2)[..., :tokens, :]


def _check_causal(q: Tensor, k: Tensor) -> None:
    if q.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"causal Flow-Attention needs as many queries as keys, not {q.shape[-2]} and "
            f"{k.shape[-2]}: past queries count too, which a key-value cache does not keep"
        )


def _feature_map(kernel: str | Kernel) -> Kernel:
    if callable(kernel):
        return kernel
    if kernel not in KERNELS:
        raise ValueError(f"kernel is a function or one of {', '.join(KERNELS)}, not {kernel!r}")
    return KERNELS[kernel]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _masked(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """x with zeros where masked, and the mask as numbers, (batch or 1, 1, tokens, 1)."""
    if mask is None:
        return x, x.new_ones(1, 1, x.shape[-2], 1)
    true = mask[:, None, :, None].to(x)
    return x * true, true


def _real(padding: Tensor | None) -> Tensor | None:
    """True for true tokens, from a mask of `nn.MultiheadAttention`: True or −∞ for padding."""
    if padding is None:
        return None
    if padding.dtype == torch.bool:
        return ~padding
    masked = padding == -torch.inf
    if bool((padding.masked_fill(masked, 0) != 0).any()):
        raise ValueError("a float key_padding_mask may hold 0 and -inf only: flows have no scores")
    return ~masked


def _is_causal(mask: Tensor | None) -> bool:
    if mask is None:
        return False
    forbidden = mask if mask.dtype == torch.bool else mask == -torch.inf
    if mask.dim() != 2 or not torch.equal(forbidden, torch.ones_like(forbidden).triu(1)):
        raise ValueError(
            "Flow-Attention takes no attn_mask but a causal one: pass is_causal=True, or "
            "key_padding_mask for padding"
        )
    return True
