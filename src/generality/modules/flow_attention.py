"""Flow-Attention: attention in linear time, whose sources compete for a fixed amount of flow."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_EPS = 1e-6
_CHUNK = 64  # tokens whose products are made by one matrix
_BLOCK = 2**18  # numbers in the queries that are worked on together: 1 MiB stays in the cache

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
    approximation), and the product over sources is made in chunks of 64: no state per token
    is kept. Sums are in float32 at least, under autocast too. Tokens are worked on in blocks that
    fit the cache, between which only sums are carried.

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
        ValueError: `causal` with other numbers of sinks than of sources; an unknown kernel; a mask
            of another length.

    Source: Wu et al. 2022 (arXiv 2202.06258), equations 5 to 8; the causal form from the released
    code. There 1e-6 is added to sums instead of terms: outputs differ by that order.

    >>> x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    >>> whole = flow_attend(x, x, x, causal=True)
    >>> start = flow_attend(*[x[:, :, :4]] * 3, causal=True)
    >>> bool((whole[:, :, :4] - start).abs().max() < 1e-6)
    True
    """
    if causal:
        _check_causal(q, k)
    attend = _causal if causal else _both_ways
    with torch.autocast(q.device.type, enabled=False):
        masks, phi = (sink_mask, source_mask), _feature_map(kernel)
        for what, mask, x in (("sink", sink_mask, q), ("source", source_mask, k)):
            if mask is not None and mask.shape[-1] != x.shape[-2]:
                raise ValueError(
                    f"{what}_mask is of {mask.shape[-1]} tokens, and there are {x.shape[-2]}"
                )
        if not q.shape[-2] or not k.shape[-2]:  # nothing is asked, or nothing is there
            return v.new_zeros(*q.shape[:-1], v.shape[-1])
        return _joined(attend(q, k, v, masks, phi, clamp, competition, allocation), q, v)


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
    every = torch.eye(k.shape[-2], dtype=_wide(q).dtype, device=k.device)
    return flow_attend(
        q, k, every.expand(*k.shape[:-1], -1), causal=causal, kernel=kernel, clamp=clamp,
        competition=competition, allocation=allocation, sink_mask=sink_mask,
        source_mask=source_mask,
    )  # fmt: skip


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


Masks = tuple[Tensor | None, Tensor | None]


def _both_ways(
    q: Tensor, k: Tensor, v: Tensor, masks: Masks, phi: Kernel, clamp: float | None,
    competition: bool, allocation: bool,
) -> Iterator[Tensor]:  # fmt: skip
    """Blocks of the output, after passes over the blocks of queries and keys for their sums."""
    size = _block_size(q)
    sinks, sources = _features(q, phi, masks[0], size), _features(k, phi, masks[1], size)
    true_sinks, true_sources = (
        torch.full((1,), float(x.shape[-2])).to(_wide(x)) if mask is None
        else mask.sum(1)[:, None, None, None].to(_wide(x)).clamp(min=1)
        for x, mask in zip((q, k), masks, strict=True)
    )  # fmt: skip
    k_sum = _sum(y.sum(-2, keepdim=True) for y, _ in sources)
    q_sum = _sum(x.sum(-2, keepdim=True) for x, _ in sinks)
    emitted = _sum(_inverse(y @ q_sum.mT).mT @ y for y, _ in sources)
    absorbed = _sum(_inverse(x @ k_sum.mT).mT @ x for x, _ in sinks)
    products, totals = [], []
    for (y, true), value in zip(sources, v.split(size, -2), strict=True):
        value = value.to(y)
        if competition:
            flow = _competing(y @ absorbed.mT, clamp, true)
            totals.append(flow.logsumexp(-2, keepdim=True))
            value = value * (flow - totals[-1]).exp()
        products.append(y.mT @ value)
    if competition:  # a softmax over all blocks
        shares = torch.stack(totals).softmax(0) * true_sources
        products = [product * share for product, share in zip(products, shares, strict=True)]
    summary = _sum(products)
    for x, _ in sinks:
        share = _inverse(x @ k_sum.mT)
        if allocation:
            share = share * (x @ emitted.mT * (true_sinks / true_sources)).sigmoid()
        yield x @ summary * share


def _causal(
    q: Tensor, k: Tensor, v: Tensor, masks: Masks, phi: Kernel, clamp: float | None,
    competition: bool, allocation: bool,
) -> Iterator[Tensor]:  # fmt: skip
    """Blocks of the output, in one pass.

    Within a chunk every sum over the tokens so far is a triangle of one small matrix of flows; what
    came before the chunk is one vector or one state.
    """
    size = _block_size(q)
    sinks, sources = _features(q, phi, masks[0], size), _features(k, phi, masks[1], size)
    past: dict[str, Tensor] = {}
    for (x, _), (y, true), value in zip(sinks, sources, v.split(size, -2), strict=True):
        tokens = x.shape[-2]
        true = y.new_ones(1, 1, tokens, 1) if true is None else true
        x, y, value, true = (_chunks(each) for each in (x, y, value.to(y), true))
        flows = x @ y.mT
        sofar, later = flows.tril(), flows.mT.tril()  # rows of sinks; of sources
        # Sums grow with the number of sources so far, so they become means.
        count = _carried(past, "sources", true.flatten(-3, -2).cumsum(-2), torch.add)
        count = count.unflatten(-2, true.shape[-3:-1]).clamp(min=1)
        incoming = sofar.sum(-1, keepdim=True)
        incoming = incoming + x @ _before(past, "k", y.sum(-2, keepdim=True)).mT
        share = _inverse(incoming)
        if competition:
            given = count * share
            flow = later @ given + y @ _before(past, "absorbed", given.mT @ x).mT
            flow = _competing(flow / count, clamp, true).flatten(-3, -2)
            every = _carried(past, "every", flow.logcumsumexp(-2), torch.logaddexp)
            value = value * ((flow - every).exp().unflatten(-2, value.shape[-3:-1]) * count)
        if allocation:
            outgoing = later.sum(-1, keepdim=True)
            outgoing = outgoing + y @ _before(past, "q", x.sum(-2, keepdim=True)).mT
            taken = count * _inverse(outgoing)
            flow = sofar @ taken + x @ _before(past, "emitted", taken.mT @ y).mT
            share = share * (flow / count).sigmoid()
        product = sofar @ value + x @ _before(past, "product", y.mT @ value)
        yield (product * share).flatten(-3, -2)[..., :tokens, :]


def _block_size(q: Tensor) -> int:
    """Tokens of a block: some chunks."""
    token = max(q.numel() // max(q.shape[-2], 1), 1)
    return max(_BLOCK // token // _CHUNK, 1) * _CHUNK


def _features(
    x: Tensor, phi: Kernel, mask: Tensor | None, size: int
) -> list[tuple[Tensor, Tensor | None]]:
    """φ of each block, 0 where masked, and its mask as numbers, (batch, 1, tokens, 1)."""
    trues: Iterable[Tensor | None] = itertools.repeat(None)
    if mask is not None:
        trues = mask[:, None, :, None].to(_wide(x)).split(size, -2)
    features = [phi(_wide(block)) + _EPS for block in x.split(size, -2)]
    pairs = zip(features, trues, strict=False)
    return [(each if true is None else each * true, true) for each, true in pairs]


def _joined(blocks: Iterator[Tensor], q: Tensor, v: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return torch.cat([block.to(v) for block in blocks], -2)
    whole, start = v.new_empty(*q.shape[:-1], v.shape[-1]), 0
    for block in blocks:
        whole[..., start : start + block.shape[-2], :] = block
        start += block.shape[-2]
    return whole


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 1 where x is 0 because all is masked: what it multiplies is 0 too."""
    return 1 / x.masked_fill(x == 0, 1)


def _competing(flow: Tensor, clamp: float | None, true: Tensor | None) -> Tensor:
    flow = flow if clamp is None else flow.clamp(-clamp, clamp)
    return flow if true is None else flow.masked_fill(true == 0, -1e9)


def _chunks(x: Tensor) -> Tensor:
    """(…, tokens, features) as (…, chunks, chunk, features); the last is filled up with zeros."""
    chunk = min(_CHUNK, x.shape[-2])
    return nn.functional.pad(x, (0, 0, 0, -x.shape[-2] % chunk)).unflatten(-2, (-1, chunk))


def _before(past: dict[str, Tensor], name: str, sums: Tensor) -> Tensor:
    """Sums of all chunks before each chunk, from those of the chunks of a block."""
    upto = sums.cumsum(-3)
    earlier = upto - sums
    if name in past:
        earlier, upto = earlier + past[name], upto[..., -1:, :, :] + past[name]
    past[name] = upto[..., -1:, :, :]
    return earlier


def _carried(
    past: dict[str, Tensor], name: str, sums: Tensor, add: Callable[..., Tensor]
) -> Tensor:
    """Running sums of a block with those of the blocks before it, which they then replace."""
    if name in past:
        sums = add(sums, past[name])
    past[name] = sums.narrow(-2, -1, 1)
    return sums


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
