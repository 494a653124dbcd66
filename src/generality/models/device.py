"""Which device to work on."""

from __future__ import annotations

import torch

from generality.errors import UserError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str = "auto") -> torch.device:
    """The device that a name stands for; "auto" is cuda, else mps, else cpu, as available.

    A number may follow, as in "cuda:1".

    Raises:
        UserError: an unknown name, or a device that this machine (or this torch) lacks.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    kind, _, index = device.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise unknown("device", device, DEVICES)
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device == "auto":
        return torch.device(next((kind for kind, count in present.items() if count), "cpu"))
    if present.get(kind, 1) <= int(index or 0):
        raise UserError(f"This machine has no device '{device}' that torch can use; take 'cpu'.")
    return torch.device(device)
