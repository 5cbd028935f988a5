"""A Gaussian mixture as base distribution, with one component for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from contraflow.distributions.base import BaseDistribution
from contraflow.errors import ConfigurationError


class ClassNormal(BaseDistribution):
    r"""A Gaussian for each class: p(z|y) = N(z; μ_y, I) with learned means and prior; p(z) = Σ_y π_y p(z|y).

    The means are initialised by draws from N(0, I) and the prior is initially uniform. Izmailov et al., Semi-supervised
    learning with normalizing flows, 2020 (arXiv:1912.13025).

    Args:
        event_shape: shape of one z.
        classes: number of classes.

    Raises:
        ConfigurationError: fewer than one class.

    >>> base = ClassNormal((2,), classes=3)
    >>> base.log_prob(torch.zeros(5, 2)).shape, base.log_joint(torch.zeros(5, 2)).shape
    (torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(self, event_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigurationError(f"classes={classes}: it must be at least 1.")
        self.event_shape = tuple(event_shape)
        self.means = nn.Parameter(torch.randn(classes, *self.event_shape))
        self.prior_logits = nn.Parameter(torch.zeros(classes))

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, y) in nats for every class y, ``(batch, classes)``."""
        flat, means = z.flatten(1), self.means.flatten(1)
        distances = (flat[:, None] - means).square().sum(dim=2)
        constant = flat.shape[1] * math.log(2 * math.pi)
        return self.prior_logits.log_softmax(0) - 0.5 * (distances + constant)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z) in nats, ``(batch,)``, or log p(z, y) for labels y given as the context."""
        joint = self.log_joint(z)
        return joint.logsumexp(dim=1) if context is None else joint.gather(1, context[:, None])[:, 0]

    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """n samples ``(n, *event_shape)`` of the classes in the context ``(n,)``, or of classes drawn from the prior.

        The temperature multiplies the deviation from the mean of the class.
        """
        means = self.means
        labels = context
        if labels is None:
            prior = self.prior_logits.softmax(0).expand(n, -1)
            labels = torch.multinomial(prior, 1, generator=generator)[:, 0]
        noise = torch.randn((n, *self.event_shape), generator=generator, dtype=means.dtype, device=means.device)
        return means[labels] + noise * temperature
