"""Loading without other libraries' progress bars: the caller shows its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*, warnings: bool = True) -> Iterator[None]:
    """No progress bars from `transformers` inside the block, nor `warnings` if so; then as before.

    Leave warnings out only where what they would say is looked at otherwise.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if not warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
