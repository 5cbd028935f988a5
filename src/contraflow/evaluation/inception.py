"""The Inception network of the published Fréchet Inception Distance, for weights that the user provides.

C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016 (arXiv:1512.00567), in the
variant of the weights "inception-2015-12-05": average pooling excludes the padding from the mean, the last block uses
maximum pooling, and images are resized as in TensorFlow 1.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contraflow.errors import DataError

#: The first digits of the SHA-256 of the published file, which are part of its name.
PUBLISHED = "6726825d"

Step = tuple[str, int, tuple[int, int], int]
"""Name, output channels, kernel and stride of a convolution."""


class _Convolution(nn.Module):
    """ReLU(BatchNorm(convolution)), padded to keep the size of images unless `stride` > 1 or `padded` is false."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int], stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Parallel branches, whose output channels are concatenated.

    Args:
        channels: of the input.
        branches: each a chain of convolutions; a list of two at the end of a chain is a fork with two outputs.
        pool: output channels of the pooling branch; 0 for 3×3 maximum pooling with stride 2 and no convolution.
        average: whether a pooling branch with a convolution averages, or takes the maximum.
    """

    def __init__(
        self, channels: int, branches: Sequence[Sequence[Step | list[Step]]], pool: int, average: bool = True
    ) -> None:
        super().__init__()
        self.pool, self.average = pool, average
        self.branches = [[[convolution[0] for convolution in _fork(step)] for step in branch] for branch in branches]
        for branch in branches:
            width = channels
            for step in branch:
                for name, out, kernel, stride in _fork(step):
                    self.add_module(name, _Convolution(width, out, kernel, stride))
                width = _fork(step)[-1][1]
        if pool:
            self.branch_pool = _Convolution(channels, pool, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for branch in self.branches:
            outputs = [x]
            for names in branch:
                outputs = [self.get_submodule(name)(outputs[0]) for name in names]
            ends += outputs
        if not self.pool:
            return torch.cat([*ends, F.max_pool2d(x, 3, 2)], dim=1)
        if self.average:
            pooled = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, 1, padding=1)
        return torch.cat([*ends, self.branch_pool(pooled)], dim=1)


def _fork(step: Step | list[Step]) -> list[Step]:
    return step if isinstance(step, list) else [step]


def _chain(name: str, *steps: tuple[int, tuple[int, int], int]) -> list[Step | list[Step]]:
    """Convolutions called name_1, name_2, …; a single one is called name."""
    if len(steps) == 1:
        return [(name, *steps[0])]
    return [(f"{name}_{index}", *step) for index, step in enumerate(steps, 1)]


_1, _3, _5, _wide, _high = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _block_35(channels: int, pool: int) -> _Mixed:
    """A block on 35×35 feature maps."""
    return _Mixed(
        channels,
        [
            _chain("branch1x1", (64, _1, 1)),
            _chain("branch5x5", (48, _1, 1), (64, _5, 1)),
            _chain("branch3x3dbl", (64, _1, 1), (96, _3, 1), (96, _3, 1)),
        ],
        pool,
    )


def _block_17(width: int) -> _Mixed:
    """A block on 17×17 feature maps, with 1×7 and 7×1 kernels in sequence."""
    w = width
    return _Mixed(
        768,
        [
            _chain("branch1x1", (192, _1, 1)),
            _chain("branch7x7", (w, _1, 1), (w, _wide, 1), (192, _high, 1)),
            _chain("branch7x7dbl", (w, _1, 1), (w, _high, 1), (w, _wide, 1), (w, _high, 1), (192, _wide, 1)),
        ],
        192,
    )


def _block_8(channels: int, average: bool) -> _Mixed:
    """A block on 8×8 feature maps, with 1×3 and 3×1 kernels in parallel."""

    def fork(name: str) -> list[Step]:
        return [(f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)]

    return _Mixed(
        channels,
        [
            _chain("branch1x1", (320, _1, 1)),
            [("branch3x3_1", 384, _1, 1), fork("branch3x3_2")],
            [("branch3x3dbl_1", 448, _1, 1), ("branch3x3dbl_2", 384, _3, 1), fork("branch3x3dbl_3")],
        ],
        192,
        average,
    )


class Inception(nn.Module):
    """The network of published FIDs, which computes 2,048 features of an image.

    >>> with torch.device("meta"):
    ...     sum(parameter.numel() for parameter in Inception().parameters())
    21785568
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, _3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, _3, padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, _3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, _1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, _3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_35(192, 32), _block_35(256, 64), _block_35(288, 64)
        self.Mixed_6a = _Mixed(
            288,
            [
                _chain("branch3x3", (384, _3, 2)),
                _chain("branch3x3dbl", (64, _1, 1), (96, _3, 1), (96, _3, 2)),
            ],
            0,
        )
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_block_17(w) for w in (128, 160, 160, 192))
        self.Mixed_7a = _Mixed(
            768,
            [
                _chain("branch3x3", (192, _1, 1), (320, _3, 2)),
                _chain("branch7x7x3", (192, _1, 1), (192, _wide, 1), (192, _high, 1), (192, _3, 2)),
            ],
            0,
        )
        self.Mixed_7b, self.Mixed_7c = _block_8(1280, average=True), _block_8(2048, average=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(n, 2048)`` of images.

        Args:
            images: ``(n, 3, H, W)``, brightness 0 … 255.
        """
        x = (resize_as_tensorflow_1(images, 299) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


def resize_as_tensorflow_1(images: Tensor, side: int) -> Tensor:
    """Resize images bilinearly at positions i·(old/new), which aligns the first pixel of a row but not the last.

    >>> resize_as_tensorflow_1(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]), 4)[0, 0, 0].tolist()
    [0.0, 2.0, 4.0, 4.0]
    """
    for axis in (2, 3):
        length = images.shape[axis]
        place = torch.arange(side, dtype=images.dtype, device=images.device) * (length / side)
        lower = place.long()
        upper = (lower + 1).clamp(max=length - 1)
        weight = (place - lower).reshape([-1, 1] if axis == 2 else [-1])
        below, above = images.index_select(axis, lower), images.index_select(axis, upper)
        images = below + (above - below) * weight
    return images


def load_inception(path: Path) -> tuple[Inception, bool]:
    """The network with weights from a file, and whether this file is the published one.

    Args:
        path: ``pt_inception-2015-12-05-6726825d.pth``, or another state dictionary with the same names.

    Raises:
        DataError: the file is absent, is not a state dictionary, or belongs to another network.
    """
    try:
        content = path.read_bytes()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        network = Inception()
        expected = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
        missing = sorted(expected - state.keys())
        if missing:
            raise DataError(
                f"{path}: {len(missing)} weights of the Inception network are missing, such as {missing[0]}."
            )
        network.load_state_dict({name: state[name] for name in expected}, strict=False)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes torch's reader raise almost anything
        raise DataError(f"{path}: not the weights of an Inception network: {error}") from error
    published = hashlib.sha256(content).hexdigest().startswith(PUBLISHED)
    return network.eval().requires_grad_(False), published
