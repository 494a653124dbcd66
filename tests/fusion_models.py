"""Folders of tiny models that can be fused, and that take a conversation."""

from __future__ import annotations

from pathlib import Path

from generality.benchmarks.worlds import world_tokenizer
from generality.models import tiny_decoder

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}=> {% endif %}{{ m.content }} "
    "{% if loop.first and m.role == 'assistant' %}{{ raise_exception('who asks?') }}{% endif %}"
    "{% endfor %}? "
)


def save_models(folder: Path, *names: str, extra: tuple[str, ...] = ()) -> list[str]:
    """A tiny decoder in a folder of each name; their paths."""
    tokenizer = world_tokenizer(extra)
    tokenizer.chat_template = TEMPLATE
    for seed, name in enumerate(names):
        tiny_decoder("0.05M", seed, vocabulary=len(tokenizer), context=64).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in names]
