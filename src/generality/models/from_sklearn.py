"""scikit-learn's small networks as modules, for what needs gradients or hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "identity": nn.Identity,
}  # fmt: skip


def sklearn_mlp(fitted: Any, *, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The layers of a fitted `MLPClassifier` or `MLPRegressor`: Linear, activation, …, Linear.

    Outputs are logits, one where there are two classes, or the regressor's predictions.

    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> x = np.linspace(-1, 1, 8)[:, None]
    >>> fitted = MLPRegressor(hidden_layer_sizes=4, solver="lbfgs").fit(x, x[:, 0] ** 2)
    >>> network = sklearn_mlp(fitted, dtype=torch.float64)
    >>> np.allclose(network(torch.tensor(x)).detach()[:, 0], fitted.predict(x))
    True
    """
    layers: list[nn.Module] = []
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight.T.copy()))
            layer.bias.copy_(torch.as_tensor(bias))
        layers += [layer, _ACTIVATIONS[fitted.activation]()]
    return nn.Sequential(*layers[:-1])
