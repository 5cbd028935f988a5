"""The implicit block: the inverse of a residual block after another residual block."""

from __future__ import annotations

from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.residual import ResidualBlock
from contraflow.logdet import TRAINING, LogDetEstimator
from contraflow.numerics import Contraction, FixedPointSolver


class ImplicitBlock(Chain):
    r"""The z with z + h(z) = x + g(x), for contractions g and h.

        log|det ∂z/∂x| = log|det(I + J_g(x))| - log|det(I + J_h(z))|

    It is the chain of a residual block and the inverse of another one, so the forward direction solves the fixed point
    z = x + g(x) - h(z) and the inverse solves x = z + h(z) - g(x). Unlike a residual block, it can contract as strongly
    as it expands: its slopes lie between (1 - L)/(1 + L) and (1 + L)/(1 - L). An error of the solver in z is one in the
    log-density, so these are accurate to its tolerance. Lu, Chen, Li, Wang, Zhu, Implicit normalizing flows, 2021
    (arXiv:2103.09527). docs/maths/implicit-block.md.

    Args:
        g: the contraction on the side of the data.
        h: the contraction on the side of the latent.
        logdet, inverse, gradient: as for `ResidualBlock`, for both.

    Raises:
        DomainError, ConfigurationError, InversionError: as for `ResidualBlock`; InversionError in both directions.

    >>> import torch
    >>> from contraflow.lipschitz import LipschitzMLP
    >>> z, logdet = ImplicitBlock(LipschitzMLP(2, (8,)), LipschitzMLP(2, (8,))).forward_and_logdet(torch.zeros(3, 2))
    >>> z.shape, logdet.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """

    def __init__(
        self,
        g: Contraction,
        h: Contraction,
        logdet: LogDetEstimator = TRAINING,
        inverse: FixedPointSolver | None = None,
        gradient: str = "dual",
    ) -> None:
        first, second = (ResidualBlock(contraction, logdet, inverse, gradient) for contraction in (g, h))
        super().__init__([first, Inverse(second)])
