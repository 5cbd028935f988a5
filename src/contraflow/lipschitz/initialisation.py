"""How the weights of a bounded network start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contraflow.errors import unknown_name
from contraflow.lipschitz.activations import Activation
from contraflow.lipschitz.soft_normalisation import LipschitzLayer

#: Uniform weights of variance 1/(3 · inputs), torch's own for linear layers, or orthogonal ones.
INITIALISATIONS = ("default", "orthogonal")


@torch.no_grad()
def initialise(
    layers: Sequence[LipschitzLayer], initialisation: str | None, activation: Activation, zero_start: float
) -> None:
    """Set the weights of W_1 … W_n, which have torch's default now.

    Args:
        layers: W_1 … W_n.
        initialisation: one of `INITIALISATIONS`; ``None`` for orthogonal weights where the activation concatenates,
            which then has both factors of the Jacobian keep lengths, else for the default.
        activation: of the network.
        zero_start: factor of the last weight.

    Raises:
        ConfigurationError: unknown name.
    """
    if initialisation is None:
        initialisation = "orthogonal" if activation.width_factor > 1 else "default"
    if initialisation not in INITIALISATIONS:
        raise unknown_name("initialisation", initialisation, INITIALISATIONS)
    if initialisation == "orthogonal":
        for layer in layers:
            orthogonal_(layer.weight)
    layers[-1].weight.mul_(zero_start)


@torch.no_grad()
def orthogonal_(weight: Tensor) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer; a kernel that acts as such a matrix at
    every pixel (delta-orthogonal), in place. All singular values are 1.

    Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks,
    2014 (arXiv:1312.6120); Xiao et al., Dynamical isometry and a mean field theory of CNNs, 2018 (arXiv:1806.05393).

    >>> kernel = orthogonal_(torch.empty(4, 2, 3, 3))
    >>> torch.allclose(kernel[:, :, 1, 1].T @ kernel[:, :, 1, 1], torch.eye(2), atol=1e-6)
    True
    """
    matrix = torch.empty(weight.shape[:2], dtype=weight.dtype, device=weight.device)
    nn.init.orthogonal_(matrix)
    if weight.ndim == 2:
        return weight.copy_(matrix)
    centre = weight.shape[-1] // 2
    weight.zero_()[:, :, centre, centre] = matrix
    return weight
