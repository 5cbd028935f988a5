"""FID and KID against torchmetrics and closed forms; the error's size by simulation; features and their names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, DataError, ShapeError
from contraflow.evaluation import (
    efficientnet_features,
    frechet_distance,
    inception_features,
    kernel_distance,
    measure_quality,
    with_error,
)
from contraflow.evaluation.inception import Inception, resize_as_tensorflow_1


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rows(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    mixing = torch.randn(d, d, generator=seeded(99), dtype=torch.float64) / math.sqrt(d)
    return scale * torch.randn(n, d, generator=seeded(seed), dtype=torch.float64) @ mixing + shift


class Given(torch.nn.Module):
    """The images are the features."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore:Metric `(Kernel|Frechet) Inception Distance` will save:UserWarning")
@pytest.mark.parametrize("n", [300, 12])
def test_against_torchmetrics(n: int) -> None:
    """Many rows, and fewer rows than features."""
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    first, second = rows(n, 20, 1), rows(n, 20, 2, shift=0.3, scale=1.5)
    fid = FrechetInceptionDistance(feature=Given(20)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=Given(20), subsets=1, subset_size=n)
    for metric in (fid, kid):
        metric.update(first, real=True)
        metric.update(second, real=False)
    assert frechet_distance(first, second) == pytest.approx(fid.compute().item(), rel=1e-5)
    assert kernel_distance(first, second) == pytest.approx(kid.compute()[0].item(), rel=1e-5)


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = rows(50, 8, 1)
    assert abs(frechet_distance(x, x)) < 1e-10
    assert frechet_distance(x, rows(60, 8, 2)) == pytest.approx(frechet_distance(rows(60, 8, 2), x))


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    """N(0, I) and N(m, s² I): d m² + d (s − 1)², up to the noise and bias of 20,000 rows."""
    d, m, s = 4, 0.5, 2.0
    first, second = (torch.randn(20_000, d, generator=seeded(i), dtype=torch.float64) for i in (1, 2))
    truth = d * m**2 + d * (s - 1) ** 2
    assert frechet_distance(first, s * second + m) == pytest.approx(truth, abs=0.15)


def test_kernel_distance_is_unbiased() -> None:
    """Equal distributions, sets of 12: a biased estimate would be off by many standard errors. False alarm 1e-4."""
    values = torch.tensor([kernel_distance(rows(12, 3, 2 * i), rows(12, 3, 2 * i + 1)) for i in range(800)])
    assert abs(values.mean()) < 3.9 * values.std() / math.sqrt(800)
    assert values.min() < 0


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_the_error_has_the_size_of_the_spread(distance) -> None:
    """Over 80 pairs of fresh sets of 200 and 300 rows: standard deviation against the jackknife's estimates of it."""
    values, errors = [], []
    for seed in range(80):
        found = with_error(
            distance, rows(200, 3, 2 * seed), rows(300, 3, 2 * seed + 1, shift=0.4), generator=seeded(seed)
        )
        values.append(found.value)
        errors.append(found.standard_error)
    spread = torch.tensor(values).std().item()
    typical = torch.tensor(errors).square().mean().sqrt().item()
    assert typical == pytest.approx(spread, rel=0.3)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match=r"\(5, 3\) and \(5, 4\)"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ShapeError, match="at least two rows"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ConfigurationError, match="groups=10 for 19 and 50 rows"):
        with_error(frechet_distance, torch.zeros(19, 3), torch.zeros(50, 3))


def test_a_report_names_its_features() -> None:
    first, second = rows(60, 3, 1), rows(60, 3, 2)
    ours = measure_quality("samples", first, second, "EfficientNet-Lite0", False, seeded())
    assert str(ours).startswith("samples: FID on EfficientNet-Lite0 features 0.")
    assert ", KID on EfficientNet-Lite0 features " in str(ours)
    assert ours.fid.value == frechet_distance(first, second)
    published = measure_quality("samples", first, second, "Inception", True, seeded())
    assert str(published).startswith("samples: FID 0.")
    assert "60 images against 60" in str(published)
    assert published.as_dict()["kid"]["value"] == kernel_distance(first, second)


def test_features_of_efficientnet() -> None:
    """Grey and colour, levels stretched; the network is not in training mode."""
    pytest.importorskip("efficientnet_lite_pytorch")
    features = efficientnet_features()
    grey = torch.randint(0, 17, (2, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    found = features(grey, 17)
    assert found.shape == (2, 1280)
    assert found.dtype == torch.float64
    assert not features.published
    stretched = (grey.double() * 255 / 16).expand(-1, 3, -1, -1)
    assert torch.allclose(features(stretched, 256), found, atol=1e-4)
    assert torch.allclose(features(grey[:1], 17), found[:1], atol=1e-4), "image by image"
    with pytest.raises(ShapeError, match="1 or 3"):
        features(torch.zeros(1, 2, 8, 8), 17)


def test_the_resize_keeps_what_it_must() -> None:
    images = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(resize_as_tensorflow_1(images.expand(1, 1, 3, 4)[..., :3], 3), images[..., :3])
    wide = resize_as_tensorflow_1(images, 8)
    assert wide.shape == (1, 1, 8, 8)
    assert wide[0, 0, 0, ::2].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert wide[0, 0, 0, 7] == 3.0
    assert wide[0, 0, 3, 0] == pytest.approx(4 * 3 * 3 / 8)


def waves(shape: torch.Size | tuple[int, ...], phase: int) -> Tensor:
    """Numbers in [-1, 1] that any other program can make again."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * places**1.1 + phase).reshape(shape)


def test_the_network_of_published_distances() -> None:
    """On weights of waves: what the Inception network of torch-fidelity 0.4.0 gives, resizing included."""
    network, made = Inception(), {}
    for phase, (name, one) in enumerate(sorted(network.state_dict().items())):
        if name.endswith("conv.weight"):
            made[name] = 2 * waves(one.shape, phase) / math.sqrt(math.prod(one.shape[1:]))
        elif name.endswith(("running_var", "bn.weight")):
            made[name] = 1 + 0.3 * waves(one.shape, phase)
        elif name.endswith(("running_mean", "bn.bias")):
            made[name] = 0.1 * waves(one.shape, phase)
    network.load_state_dict(made, strict=False)
    images = (127.5 + 127.5 * waves((2, 3, 20, 24), 0)).round().float()
    with torch.no_grad():
        found = network.eval()(images).double()
    expected = [0.001129, 0.004801, 0.144890, 0.012565, 0.155412, 0.026122, 0.136878, 0.181759]
    assert found[0, ::256].tolist() == pytest.approx(expected, abs=3e-5)
    assert found.sum(dim=1).tolist() == pytest.approx([193.7134, 187.8761], rel=1e-5)
    assert found.square().sum(dim=1).tolist() == pytest.approx([30.30562, 29.28420], rel=1e-5)


def test_inception_weights_come_from_a_file(tmp_path: Path) -> None:
    """A state dictionary with the published names is taken, under the file's own name, since its sum is another."""
    torch.manual_seed(0)
    network = Inception()
    state = network.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save({key: one for key, one in state.items() if "num_batches" not in key}, tmp_path / "mine.pth")
    features = inception_features(tmp_path / "mine.pth")
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(features(images, 256), network.eval()(images.float()).double())
    assert not features.published
    assert features.name == "Inception (weights mine.pth)"


def test_what_is_no_inception_file(tmp_path: Path) -> None:
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("weights")
    for name in ("part.pth", "list.pth", "text.pth", "absent.pth"):
        with pytest.raises(DataError, match=name):
            inception_features(tmp_path / name)
