"""Preprocessing of integer images for a flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from contraflow.bijections.bijection import Bijection
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.errors import ConfigurationError, ShapeError, unknown_name
from contraflow.preprocessing.augmentation import flip_and_crop, mutate_pixels
from contraflow.preprocessing.dequantisation import add_noise, check_levels, dequantise, quantise
from contraflow.preprocessing.variational_dequantisation import VariationalDequantisation

PerChannel = float | Sequence[float]

DEQUANTISATIONS = ("uniform", "variational")


class ImagePreprocessing(Bijection):
    r"""Bit reduction, dequantisation, scaling, and the logit transform or standardisation of integer images.

    With L levels after reduction and u ~ U[0, 1):

        y = (⌊x / (levels/L)⌋ + u) / L,
        z = log s − log(1 − s),  s = alpha + (1 − 2 alpha) y     (alpha given), or
        z = (y − mean) / std                                     (standardise given), or  z = y.

    With ``dequantisation="variational"``, u ~ q(u|x) is learned together with the flow (`VariationalDequantisation`)
    and −log q(u|x) is added to the log-determinant of `forward_and_logdet`, so that the mean of a flow's log_prob is
    the evidence lower bound of log P(x). `inverse` does not know u, so its log-determinant lacks that term.

    The log-determinant is that of the map from *reduced integer pixels*: it contains −D log L, and
    −log_prob / (D log 2) is in bits per dimension of those pixels (for ``bits=5``, of the 5-bit image). Bit reduction
    itself changes the data and has no log-determinant.

    The inverse returns real pixels. Samples of a flow may lie outside [0, L), with the logit transform by up to
    L alpha / (1 − 2 alpha); `quantise` clamps them and returns integers. Reduced levels stay reduced: 0…31 for 5 bits.

    L. Dinh, J. Sohl-Dickstein, S. Bengio, "Density estimation using Real NVP", 2017 (arXiv:1605.08803), section 4.1;
    alpha = 0.05 there and for CIFAR-10, 1e-6 for MNIST in G. Papamakarios et al., 2017 (arXiv:1705.07057).

    Args:
        levels: number of integer levels of the data as given, 2…256.
        bits: number of bits to which each pixel is reduced; levels must then be a power of two.
        alpha: margin of the logit transform, in (0, ½); None for no logit transform.
        flip: whether `augment` mirrors half of the training images.
        crop_padding: padding of the random crops of `augment`; 0 for no crops.
        mutate: share of pixels that `augment` replaces by uniform levels, for the background of a likelihood ratio.
        standardise: mean and std of the pixels scaled to [0, 1], one number or one for each channel; needs alpha=None.
        dequantisation: ``"uniform"`` or ``"variational"``.
        channels: C of the images; required for variational dequantisation.

    Raises:
        ConfigurationError: an argument is out of range, alpha and standardise are both given, the dequantisation is
            unknown, or variational dequantisation lacks channels.
    """

    def __init__(
        self,
        levels: int = 256,
        bits: int | None = None,
        alpha: float | None = 0.05,
        flip: bool = False,
        crop_padding: int = 0,
        standardise: tuple[PerChannel, PerChannel] | None = None,
        dequantisation: str = "uniform",
        channels: int | None = None,
        mutate: float = 0.0,
    ) -> None:
        super().__init__()
        _check_arguments(levels, bits, alpha, crop_padding, standardise)
        if not 0 <= mutate <= 1:
            raise ConfigurationError(f"mutate={mutate}: a share of pixels lies in [0, 1].")
        self.levels, self.bits, self.alpha = levels, bits, alpha
        self.flip, self.crop_padding, self.mutate = flip, crop_padding, mutate
        self.standardised = standardise is not None
        self.dequantisation, self.channels = dequantisation, channels
        self.noise = _noise(dequantisation, channels)
        self.elementwise = Logit(alpha) if alpha is not None else _affine(standardise or (0.0, 1.0))

    @property
    def reduced_levels(self) -> int:
        """L, the number of integer levels after bit reduction."""
        return self.levels if self.bits is None else 2**self.bits

    def forward_and_logdet(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """z and the log-determinant for integer images x ``(batch, C, H, W)``; u is drawn from `generator`.

        Raises:
            ShapeError: x is not ``(batch, C, H, W)``.
            DomainError: x does not hold the integers 0…levels − 1.
        """
        _check_images(x)
        pixels, log_q = self._dequantise(self.reduce(x), generator)
        z, logdet = self.elementwise.forward_and_logdet(self._check_channels(pixels / self.reduced_levels))
        return z, logdet - self._log_scale(x) - log_q

    def inverse_and_logdet(
        self, z: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Real pixels and log|det| for z ``(batch, C, H, W)``.

        Raises:
            ShapeError: z is not ``(batch, C, H, W)``.
        """
        _check_images(z)
        y, logdet = self.elementwise.inverse_and_logdet(self._check_channels(z))
        return y * self.reduced_levels, logdet + self._log_scale(z)

    def inverse_lipschitz_bound(self) -> float:
        return self.elementwise.inverse_lipschitz_bound() * self.reduced_levels

    def reduce(self, x: Tensor) -> Tensor:
        """Pixels reduced to L levels, ⌊x / (levels / L)⌋, in floating point.

        Raises:
            DomainError: x does not hold the integers 0…levels − 1.
        """
        pixels = check_levels(x, self.levels)
        return pixels if self.bits is None else torch.floor(pixels / (self.levels // self.reduced_levels))

    def quantise(self, x: Tensor) -> Tensor:
        """Integer pixels, uint8 in 0…L − 1, from the real pixels that `inverse` returns.

        Raises:
            DomainError: x holds NaN.
        """
        return quantise(x, self.reduced_levels)

    def augment(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Training images after flips, crops and replaced pixels; the images themselves if no augmentation is set.

        Raises:
            ShapeError: the images are not ``(n, C, H, W)``, or too small for `crop_padding`.
        """
        if self.flip or self.crop_padding:
            images = flip_and_crop(images, flip=self.flip, crop_padding=self.crop_padding, generator=generator)
        return mutate_pixels(images, self.mutate, self.levels, generator) if self.mutate else images

    def config(self) -> dict[str, Any]:
        """The arguments as plain values, for `preprocessing_from_config`."""
        affine = self.elementwise
        return {
            "kind": "image",
            "levels": self.levels,
            "bits": self.bits,
            "alpha": self.alpha,
            "flip": self.flip,
            "crop_padding": self.crop_padding,
            "mutate": self.mutate,
            "dequantisation": self.dequantisation,
            "channels": self.channels,
            "standardise": [affine.shift.flatten().tolist(), affine.scale.flatten().tolist()]
            if self.standardised and isinstance(affine, Affine)
            else None,
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config().items() if name != "kind")

    def _dequantise(self, pixels: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor | float]:
        """pixels + u, and log q(u|x), which is 0 for uniform noise."""
        if self.noise is None:
            return dequantise(pixels, generator), 0.0
        weights = next(self.noise.parameters())
        noise, log_q = self.noise((self._check_channels(pixels) / self.reduced_levels).to(weights.dtype), generator)
        return add_noise(pixels, noise.to(pixels.dtype)), log_q.to(pixels.dtype)

    def _log_scale(self, x: Tensor) -> float:
        """D log L."""
        return math.prod(x.shape[1:]) * math.log(self.reduced_levels)

    def _check_channels(self, x: Tensor) -> Tensor:
        channels = len(self.elementwise.shift) if isinstance(self.elementwise, Affine) else 1
        if channels not in (1, x.shape[1]):
            raise ShapeError(f"standardise is for {channels} channels, but the images have {x.shape[1]}.")
        if self.channels not in (None, x.shape[1]):
            raise ShapeError(f"channels={self.channels}, but the images have {x.shape[1]}.")
        return x


def channel_moments(images: Tensor, levels: int, bits: int | None = None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of dequantised images scaled to [0, 1], for `standardise`.

    Args:
        images: uint8 ``(n, C, H, W)`` in 0 … levels - 1.
        levels, bits: as for `ImagePreprocessing`.

    >>> mean, std = channel_moments(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), levels=2)
    >>> mean, round(std[0] ** 2, 4)
    ([0.25], 0.0208)
    """
    kept = levels if bits is None else 2**bits
    pixels = torch.arange(levels, dtype=torch.float64).div(levels // kept, rounding_mode="floor")
    centres, within = (pixels + 0.5) / kept, 1 / (12 * kept**2)
    counts = torch.stack([channel.flatten().bincount(minlength=levels) for channel in images.unbind(1)])
    shares = counts / counts.sum(dim=1, keepdim=True, dtype=torch.float64)
    mean = shares @ centres
    variance = (shares * (centres - mean[:, None]).square()).sum(dim=1) + within
    return mean.tolist(), variance.sqrt().tolist()


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise ShapeError(f"expected images (batch, C, H, W), got shape {tuple(x.shape)}.")


def _check_arguments(
    levels: int, bits: int | None, alpha: float | None, crop_padding: int, standardise: object | None
) -> None:
    if not 2 <= levels <= 256:
        raise ConfigurationError(f"levels must lie in 2…256, got {levels}.")
    if bits is not None and (levels & (levels - 1) or not 1 <= bits <= levels.bit_length() - 1):
        raise ConfigurationError(f"bits={bits} needs levels to be a power of two of at least 2^bits, got {levels}.")
    if alpha is not None and not 0 < alpha < 0.5:
        raise ConfigurationError(f"alpha must lie between 0 and 0.5, or be None, got {alpha}.")
    if alpha is not None and standardise is not None:
        raise ConfigurationError(f"alpha={alpha} and standardise exclude each other; pass alpha=None to standardise.")
    if crop_padding < 0:
        raise ConfigurationError(f"crop_padding must not be negative, got {crop_padding}.")


def _noise(dequantisation: str, channels: int | None) -> VariationalDequantisation | None:
    if dequantisation not in DEQUANTISATIONS:
        raise unknown_name("dequantisation", dequantisation, DEQUANTISATIONS)
    if dequantisation == "uniform":
        return None
    if channels is None:
        raise ConfigurationError(
            "dequantisation=variational needs the number of channels of the images: give channels."
        )
    return VariationalDequantisation(channels)


def _affine(standardise: tuple[PerChannel, PerChannel]) -> Affine:
    """(y − mean) / std, with mean and std of shape (C, 1, 1)."""
    mean, std = (torch.as_tensor(values, dtype=torch.get_default_dtype()).reshape(-1, 1, 1) for values in standardise)
    if 0 in (len(mean), len(std)) or (len(mean) != len(std) and 1 not in (len(mean), len(std))):
        raise ConfigurationError(
            f"mean and std need one value, or one for each channel, got {len(mean)} and {len(std)}."
        )
    if not bool((std > 0).all()):
        raise ConfigurationError(f"std must be positive, got {std.flatten().tolist()}.")
    return Affine(mean, std)
