"""Variational dequantisation: noise drawn from a small learned flow that is conditioned on the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from contraflow.errors import ConfigurationError
from contraflow.preprocessing.dequantisation import uniform_noise

#: Largest |s| of one layer, so that its scales lie between e⁻² and e².
_LARGEST_LOG_SCALE = 2.0


class VariationalDequantisation(nn.Module):
    r"""Learned noise u ~ q(u|x) in [0, 1)ᴰ for integer images x, in place of uniform noise.

        v_0 = ε,  v_l = m_l v_{l-1} + (1 - m_l)(e^{s_l} v_{l-1} + t_l),  (s_l, t_l) = net_l(m_l v_{l-1}, x),
        u = σ(v_3),  log q(u|x) = log p(ε) - Σ_l Σ (1 - m_l) s_l - Σ log σ'(v_3).

    The first mask is zero, so the first network depends on x alone; the other masks are the two checkerboards. For any
    density p over [0, levels)ᴰ, by Jensen's inequality, with equality if q(u|x) is proportional to p(x + u):

        log P(x) = log ∫_{[0,1)ᴰ} p(x + u) du >= E_{u ~ q(·|x)}[log p(x + u) - log q(u|x)].

    ε has a logistic distribution, in place of the paper's Gaussian: the networks are zero at initialisation, so q is
    then uniform and training starts from uniform dequantisation. J. Ho, X. Chen, A. Srinivas, Y. Duan, P. Abbeel,
    "Flow++: Improving flow-based generative models with variational dequantization and architecture design", 2019
    (arXiv:1902.00275), section 3.1. The cost is three networks of three convolutions for every image.

    Args:
        channels: C of the images.
        hidden: number of hidden channels of the networks.

    Raises:
        ConfigurationError: a number is below 1, or there are more than 1024 channels.

    >>> u, log_q = VariationalDequantisation(1)(torch.zeros(5, 1, 8, 8))
    >>> u.shape, log_q.abs().max() < 1e-3
    (torch.Size([5, 1, 8, 8]), tensor(True))
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        if not 1 <= channels <= 1024 or hidden < 1:
            raise ConfigurationError(
                f"channels={channels}, hidden={hidden}: variational dequantisation needs 1…1024 channels and at least "
                "1 hidden channel."
            )
        self.channels = channels
        self.nets = nn.ModuleList(_network(channels, hidden) for _ in range(3))

    def forward(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """u and log q(u|x) in nats, ``(batch,)``, for images x ``(batch, C, H, W)`` scaled to [0, 1]."""
        noise = uniform_noise(x, generator)
        epsilon = noise.clamp(torch.finfo(x.dtype).tiny, 1 - torch.finfo(x.dtype).eps).logit()
        v, logdet = self.transform(epsilon, x)
        return torch.sigmoid(v), _log_logistic(epsilon) - logdet - _log_logistic(v)

    def transform(self, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """v_3, before the sigmoid, and Σ_l Σ (1 - m_l) s_l, for v = ε."""
        board = _checkerboard(v)
        total = v.new_zeros(len(v))
        for net, mask in zip(self.nets, (torch.zeros_like(board), board, 1 - board), strict=True):
            raw, shift = net(torch.cat([mask * v, 2 * x - 1], dim=1)).chunk(2, dim=1)
            log_scale = (1 - mask) * _LARGEST_LOG_SCALE * torch.tanh(raw / _LARGEST_LOG_SCALE)
            v = v * log_scale.exp() + (1 - mask) * shift
            total = total + log_scale.flatten(1).sum(dim=1)
        return v, total


def _network(channels: int, hidden: int) -> nn.Sequential:
    """A network (masked v, x) → (raw s, t) that is zero at initialisation."""
    last = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    first, middle = nn.Conv2d(2 * channels, hidden, 3, padding=1), nn.Conv2d(hidden, hidden, 1)
    return nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)


def _checkerboard(like: Tensor) -> Tensor:
    """A mask ``(H, W)`` that is 1 where row + column is even."""
    rows, columns = (torch.arange(size, device=like.device) for size in like.shape[-2:])
    return ((rows[:, None] + columns) % 2 == 0).to(like.dtype)


def _log_logistic(v: Tensor) -> Tensor:
    """Σ log σ'(v) = Σ log σ(v) + log σ(-v), which is also the logistic log-density of v; ``(batch,)``."""
    return (F.logsigmoid(v) + F.logsigmoid(-v)).flatten(1).sum(dim=1)
