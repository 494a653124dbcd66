"""Pipelines of diffusers by name."""

from __future__ import annotations

from typing import Any

from generality.errors import UserError, import_extra
from generality.models.load import HUB_FAILURES


def load_pipeline(name: str, *, device: str = "cpu") -> Any:
    """A diffusers pipeline from a folder or the hub (`hf:org/name`): safetensors, no code of its.

    Raises:
        UserError: diffusers is not installed, or there is no such pipeline.
    """
    diffusers = import_extra("diffusers", "diffusion")
    place = name.removeprefix("hf:")
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False
        )
    except (*HUB_FAILURES, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"'{name}' is no pipeline that diffusers loads: {reason}") from error
    return pipeline.to(device)
