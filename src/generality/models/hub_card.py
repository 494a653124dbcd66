"""Model cards in the hub's form."""

from __future__ import annotations

import json
from collections.abc import Sequence


def merged_card(title: str, models: Sequence[str], body: str, *, command: str = "") -> str:
    """The card of a model that was made of others: what they were, the text, and the command.

    >>> print(merged_card("one", ["hf:org/base"], "Two made one.", command="generality merge a b"))
    ---
    library_name: transformers
    tags:
    - merge
    - generality
    base_model:
    - "org/base"
    ---
    # one
    <BLANKLINE>
    Two made one.
    <BLANKLINE>
    Made by
    <BLANKLINE>
    ```sh
    generality merge a b
    ```
    <BLANKLINE>
    """
    named = "\n".join(f"- {json.dumps(name.removeprefix('hf:'))}" for name in models)
    made = f"\nMade by\n\n```sh\n{command}\n```\n" if command else ""
    return f"""---
library_name: transformers
tags:
- merge
- generality
base_model:
{named}
---
# {title}

{body}
{made}"""
