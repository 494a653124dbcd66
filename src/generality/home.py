"""Where generality keeps what it fetched and computed: one folder, `GENERALITY_HOME`."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The root of every cache: `$GENERALITY_HOME`, or the platform's own cache folder."""
    configured = os.environ.get("GENERALITY_HOME")
    return (
        Path(configured).expanduser()
        if configured
        else Path(platformdirs.user_cache_dir("generality"))
    )


def artifacts_home() -> Path:
    """Fetched models and data, one folder each."""
    return home() / "artifacts"


def steps_home() -> Path:
    """Results of memoised steps."""
    return home() / "steps"
