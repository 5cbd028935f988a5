"""Interpolation in latent space."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.errors import ShapeError


def latent_arc(start: Tensor, end: Tensor, steps: int) -> Tensor:
    r"""Points on the arc between two latents, ends included: spherical interpolation.

        z(t) = sin((1-t)θ)/sin θ · start + sin(tθ)/sin θ · end,   θ the angle between them

    (slerp; Shoemake, Animating rotation with quaternion curves, 1985). Nearly all mass of a standard normal in D
    dimensions lies near the radius √D: the arc stays there, the straight line does not. For θ = 0 or π the straight
    line is returned.

    Args:
        start, end: ``(*event_shape)``.
        steps: number of points, at least 2.

    Raises:
        ShapeError: the shapes differ, or there are fewer than two points.

    >>> latent_arc(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3).norm(dim=1).round(decimals=4)
    tensor([1., 1., 1.])
    """
    if start.shape != end.shape or steps < 2:
        raise ShapeError(
            f"latents of shape {tuple(start.shape)} and {tuple(end.shape)}, steps={steps}: expected equal shapes and "
            "at least two points."
        )
    cosine = torch.nn.functional.cosine_similarity(start.flatten(), end.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos()
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).reshape(-1, *[1] * start.dim())
    if angle.sin() < 1e-4:  # parallel, or opposite, where the arc is not unique
        return start * (1 - t) + end * t
    return ((1 - t) * angle).sin() / angle.sin() * start + (t * angle).sin() / angle.sin() * end
