"""The head of a classifier on features, whatever library it comes from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn


def as_head(head: Any) -> nn.Module:
    """A torch module from features to logits: a copy of `head`, which is left as it is.

    Args:
        head: an `nn.Module`; a fitted scikit-learn linear classifier (`coef_`, `intercept_`), whose
            one score for two classes becomes two logits of opposite sign; or (weights (K, d),
            bias (K,) or None).

    Raises:
        ValueError: for anything else, or shapes that do not fit.

    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1])
    >>> model = LogisticRegression().fit(X, y)
    >>> logits = as_head(model)(torch.tensor(X, dtype=torch.float32))
    >>> bool(np.allclose(logits.softmax(-1).detach(), model.predict_proba(X), atol=1e-6))
    True
    """
    if isinstance(head, nn.Module):
        return copy.deepcopy(head)
    if hasattr(head, "coef_"):
        weights, bias = np.atleast_2d(head.coef_), np.atleast_1d(head.intercept_)
        if len(weights) == 1:
            weights, bias = np.vstack([-weights, weights]) / 2, np.array([-bias[0], bias[0]]) / 2
        if len(bias) != len(weights):
            bias = np.broadcast_to(bias, len(weights))
    elif isinstance(head, tuple) and len(head) == 2:
        weights, bias = head
    else:
        raise ValueError(
            "a head is a torch module, a fitted linear classifier or (weights, bias), "
            f"not {type(head).__name__}"
        )
    rows = torch.as_tensor(np.array(weights), dtype=torch.float32)
    if rows.ndim != 2 or (bias is not None and np.shape(bias) != (len(rows),)):
        raise ValueError("weights have shape (classes, features) and bias (classes,)")
    linear = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(rows)
        if bias is not None:
            linear.bias.copy_(torch.as_tensor(np.array(bias), dtype=torch.float32))
    return linear
