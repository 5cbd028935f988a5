"""Reconstruction of data by a flow and its inverse, with error bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError
from contraflow.flow import Flow


@dataclass(frozen=True)
class Reconstruction:
    """f⁻¹(f(x)) compared with x, row by row.

    Attributes:
        error: largest |x - f⁻¹(f(x))| over the entries of a row, in the units of the data, ``(n,)``, float64; for
            images x is the dequantised image, in levels.
        error_bound: bound on the Euclidean error of f⁻¹ at the computed latent, ``(n,)``; 0 if the inverse is in
            closed form, infinite if no bound is known.
        block_bound: largest error bound of a single residual block, for the z that the block was given, ``(n,)``.
        evaluations: number of evaluations of all g together, ``(n,)``; 0 if the inverse is in closed form.
        identical: share of the images that are reconstructed pixel for pixel; ``None`` for other data.
    """

    error: Tensor
    error_bound: Tensor
    block_bound: Tensor
    evaluations: Tensor
    identical: float | None


@torch.no_grad()
def reconstruct(flow: Flow, x: Tensor, *, batch_size: int = 200, generator: Generator | None = None) -> Reconstruction:
    """Map data to latent space and back.

    Args:
        flow: any flow with an inverse.
        x: ``(n, *event_shape)``, at least one row.
        batch_size: number of rows in one pass.
        generator: of the dequantisation noise; x and its reconstruction share the noise.

    Raises:
        ConfigurationError: a batch size below 1.
        InversionError: a residual block did not reach its tolerance.

    >>> from contraflow import residual_flow
    >>> reconstruction = reconstruct(residual_flow((2,), blocks=2, hidden=(16,)), torch.randn(5, 2))
    >>> bool((reconstruction.error <= reconstruction.error_bound + 1e-5).all())
    True
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size}: it must be at least 1.")
    parts, same = [], []
    for batch in x.split(batch_size):
        rows, *_ = flow._enter(batch.to(flow.device), None)
        preprocessed, _ = flow._preprocess(rows, None, generator)
        solution = flow.invert(flow.bijection(preprocessed))
        original = flow._restore(preprocessed, None, generator)
        error = (solution.value - original).flatten(1).abs().amax(dim=1).double()
        zero = solution.error_bound.new_zeros(len(batch))
        of_blocks = torch.stack([zero, *(block.error_bound for block in solution.blocks)])
        parts.append((error, solution.error_bound.double(), of_blocks.amax(dim=0).double(), solution.evaluations))
        if not x.is_floating_point():
            levels = flow.preprocessing.quantise(original)
            if not levels.is_floating_point():
                same.append((flow.preprocessing.quantise(solution.value) == levels).flatten(1).all(dim=1))
    error, bound, block_bound, evaluations = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    identical = torch.cat(same).double().mean().item() if same else None
    return Reconstruction(error, bound, block_bound, evaluations, identical)
