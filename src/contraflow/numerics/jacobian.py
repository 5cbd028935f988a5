"""Dense Jacobians, which tests compare every log-determinant with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def batch_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""J[b, i, j] = ∂ f(x)_{b,i} / ∂ x_{b,j}, with events flattened.

    It makes one backward pass per output dimension, so it is for tests and small dimensions.

    Args:
        function: maps ``(batch, *event)`` to ``(batch, *event)``, sample by sample.
        x: ``(batch, *event)``.

    Returns:
        ``(batch, out, in)``.

    >>> batch_jacobian(lambda x: x.flip(1) * 3, torch.zeros(1, 2))
    tensor([[[0., 3.],
             [3., 0.]]])
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x).flatten(1)
        rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(y.shape[1])]
    return torch.stack(rows, dim=1)
