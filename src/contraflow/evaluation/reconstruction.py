"""How exactly data come back through a flow, and what is proved about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError
from contraflow.flow import Flow


@dataclass(frozen=True)
class Reconstruction:
    """f⁻¹(f(x)) beside x, row by row.

    Attributes:
        error: largest |x - f⁻¹(f(x))| of any number of a row, in the units of the data, ``(n,)``, float64; for images
            x is the dequantised one, in levels.
        error_bound: bound on the Euclidean error of f⁻¹ at the latent that f gave, ``(n,)``; 0 where no iteration is
            needed, infinite where no bound is known.
        block_bound: the largest bound of any residual block on its own error, for the z that it was given, ``(n,)``.
        evaluations: of all g together, ``(n,)``; 0 where the inverse is in closed form.
        identical: share of the images that come back pixel for pixel; ``None`` for other data.
    """

    error: Tensor
    error_bound: Tensor
    block_bound: Tensor
    evaluations: Tensor
    identical: float | None


@torch.no_grad()
def reconstruct(flow: Flow, x: Tensor, *, batch_size: int = 200, generator: Generator | None = None) -> Reconstruction:
    """Through the flow and back.

    Args:
        flow: any flow with an inverse.
        x: ``(n, *event_shape)``, at least one row.
        batch_size: rows at once.
        generator: of the dequantisation noise, which x and what comes back share.

    Raises:
        ConfigurationError: a batch size below 1.
        InversionError: a residual block did not reach its tolerance.

    >>> from contraflow import residual_flow
    >>> found = reconstruct(residual_flow((2,), blocks=2, hidden=(16,)), torch.randn(5, 2))
    >>> bool((found.error <= found.error_bound + 1e-5).all())
    True
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size}: it must be at least 1.")
    parts, same = [], []
    for batch in x.split(batch_size):
        rows, *_ = flow._enter(batch.to(flow.device), None)
        between, _ = flow._preprocess(rows, None, generator)
        found = flow.invert(flow.bijection(between))
        given = flow._restore(between, None, generator)
        error = (found.value - given).flatten(1).abs().amax(dim=1).double()
        alone = torch.stack([found.error_bound.new_zeros(len(batch)), *(one.error_bound for one in found.blocks)])
        parts.append((error, found.error_bound.double(), alone.amax(dim=0).double(), found.evaluations))
        if not x.is_floating_point():
            back, levels = flow.preprocessing.quantise(found.value), flow.preprocessing.quantise(given)
            if not levels.is_floating_point():
                same.append((back == levels).flatten(1).all(dim=1))
    error, bound, largest, evaluations = (torch.cat(one).cpu() for one in zip(*parts, strict=True))
    identical = torch.cat(same).double().mean().item() if same else None
    return Reconstruction(error, bound, largest, evaluations, identical)
