"""Batched writing by SmolLM2-135M beside one prompt at a time, on the same prompts.

Questions of 10 to 60 words in the model's chat template, answered greedily; tokens per second of
`generate_texts` in batches, of `generate_texts` one at a time, and of transformers' own `generate`
one at a time. Turns alternate, and the best of each counts. Target: 3 times the tokens per second
of one prompt at a time.

Quiet, on 2 cores, about 3 minutes: python benchmarks/generation.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from generality.models import load_model, load_tokenizer
from generality.models.generation import generate_texts

SUBJECTS = (
    "rivers bridges volcanoes libraries bicycles glaciers markets orchards maps clocks".split()
)


def questions(tokenizer, count: int) -> list[str]:
    """Chats about subjects, of different lengths."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        some = draw.choice(SUBJECTS, size=draw.integers(2, 8))
        text = "Write a paragraph about " + ", and then about ".join(some) + ", as in a letter."
        chat = [{"role": "user", "content": text}]
        found.append(
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )
    return found


@torch.inference_mode()
def plain(model, tokenizer, prompts: list[str], tokens: int) -> list[str]:
    """Transformers' own loop, one prompt at a time."""
    texts = []
    for prompt in prompts:
        asked = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        written = model.generate(
            **asked, max_new_tokens=tokens, do_sample=False, temperature=None, top_p=None,
            top_k=None, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        new = written[0, asked["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return texts


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    arguments.add_argument("--tokens", type=int, default=48)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=2)
    options = arguments.parse_args()
    tokenizer, model = load_tokenizer("smollm2-135m"), load_model("smollm2-135m", device="cpu")
    prompts = questions(tokenizer, options.prompts)
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]

    def ours(size: int) -> list[str]:
        return generate_texts(
            model, tokenizer, prompts, max_tokens=options.tokens, batch_size=size,
            special_tokens=False,
        )  # fmt: skip

    ways = {
        f"batches of {options.batch}": lambda: ours(options.batch),
        "one at a time": lambda: ours(1),
        "transformers' generate, one at a time": lambda: plain(
            model, tokenizer, prompts, options.tokens
        ),
    }
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {len(prompts)} prompts of "
        f"{min(lengths)} to {max(lengths)} tokens, at most {options.tokens} written to each"
    )
    rates: dict[str, float] = {}
    texts: dict[str, list[str]] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            texts[name] = way()
            seconds = time.perf_counter() - started
            written = sum(len(tokenizer(text)["input_ids"]) for text in texts[name])
            rates[name] = max(rates.get(name, 0.0), written / seconds)
    batched, single, theirs = ways
    for name, rate in rates.items():
        print(f"{name:40} {rate:8.1f} tokens/s")
    print(f"{'batches over one at a time':40} {rates[batched] / rates[single]:8.2f} x (target 3)")
    print(f"{'batches over transformers':40} {rates[batched] / rates[theirs]:8.2f} x")
    same = np.mean([a == b for a, b in zip(texts[batched], texts[theirs], strict=True)])
    print(f"the same text as transformers': {100 * same:.0f} % of prompts")


if __name__ == "__main__":
    main()
