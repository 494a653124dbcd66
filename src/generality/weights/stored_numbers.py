"""Numbers of tensors as safetensors stores them, read and made by NumPy: torch takes long to load.

NumPy has no bfloat16 and no floats of eight bits: those are held as the unsigned integers of their
bits, beside the name of what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"), "F8_E4M3": ("float8_e4m3fn", "u1"),
    "F8_E5M2": ("float8_e5m2", "u1"), "I64": ("int64", "<i8"), "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"), "I8": ("int8", "i1"), "U64": ("uint64", "<u8"),
    "U32": ("uint32", "<u4"), "U16": ("uint16", "<u2"), "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"), "C64": ("complex64", "<c8"),
}  # fmt: skip
"""safetensors' name of a type → torch's, and the type of NumPy that holds it."""

NAMES = {torch_name: name for name, (torch_name, _) in DTYPES.items()}


def dtype_name(dtype: Any) -> str:
    """safetensors' name of a type, given by that or by torch's (or as torch has it).

    Raises:
        ValueError: safetensors stores no such type.

    >>> dtype_name("F32"), dtype_name("bfloat16")
    ('F32', 'BF16')
    """
    said = str(dtype).removeprefix("torch.")
    if said in DTYPES:
        return said
    if said not in NAMES:
        raise ValueError(f"tensors of the type {said} are not stored")
    return NAMES[said]


def torch_name(dtype: str) -> str:
    """torch's name of a type."""
    return DTYPES[dtype][0]


def torch_dtype(dtype: str) -> torch.dtype:
    """torch's type by safetensors' name."""
    import torch

    found: torch.dtype = getattr(torch, torch_name(dtype))
    return found


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The type of NumPy that holds it."""
    return np.dtype(DTYPES[dtype][1])


def is_floating(dtype: str) -> bool:
    """Whether it is a real floating-point number."""
    return dtype.startswith(("F", "BF"))


def wide_dtype(dtype: str) -> np.dtype[Any]:
    """What sums of it are made in: float32 at least."""
    return np.dtype(np.float64 if dtype == "F64" else np.float32)


def stored(tensor: Any) -> tuple[NDArray[Any], str]:
    """A tensor's (or array's) numbers, flat, and the name of what they are; shares its memory.

    >>> import torch
    >>> stored(torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16))
    (array([16256, 16384], dtype=uint16), 'BF16')
    """
    name = dtype_name(tensor.dtype)
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1), name
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    held: NDArray[Any] = flat.view(torch.uint8).numpy().view(numpy_dtype(name))
    return held, name


def as_tensor(held: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor on the same memory.

    >>> as_tensor(np.array([16256, 16384], np.uint16), "BF16", (2, 1)).tolist()
    [[1.0], [2.0]]
    """
    import torch

    return torch.from_numpy(held.view(np.uint8)).view(torch_dtype(dtype)).view(shape)


def widen(held: NDArray[Any], dtype: str, out: NDArray[Any]) -> NDArray[Any]:
    """Stored numbers in float32 or more; `out` says which, and is written only where they are not.

    >>> widen(np.array([16256, 16384], np.uint16), "BF16", np.empty(2, np.float32))
    array([1., 2.], dtype=float32)
    """
    if held.dtype == out.dtype:
        return held
    if dtype == "BF16" and out.dtype == np.float32:
        np.left_shift(held, 16, out=out.view(np.uint32), dtype=np.uint32)
    elif dtype == "BF16":
        np.copyto(out, widen(held, dtype, np.empty(len(held), np.float32)))
    elif dtype.startswith("F8") or dtype == "F16":  # NumPy takes ten times as long
        np.copyto(out, as_tensor(held.copy(), dtype, (len(held),)).float().numpy())
    else:
        np.copyto(out, held)
    return out


def narrow(wide: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Numbers as they are stored, rounded to the nearest, of two to the even one.

    >>> narrow(np.array([1.0, 2.001], np.float32), "BF16")
    array([16256, 16384], dtype=uint16)
    """
    if dtype == "BF16":
        bits = wide.astype(np.float32, copy=False).view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        held = rounded.view("<u2")[1::2].copy()
        held[np.isnan(wide)] = 0x7FC0
        return held
    if dtype.startswith("F8") or dtype == "F16":
        import torch

        return stored(torch.from_numpy(wide).to(torch_dtype(dtype)))[0]
    with np.errstate(over="ignore"):
        return wide.astype(numpy_dtype(dtype), copy=False)
