"""Preprocessing: round trip, log-determinant against the autograd Jacobian, extremes, state."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contraflow.bijections import Chain
from contraflow.errors import ConfigurationError, DomainError, ShapeError
from contraflow.preprocessing import (
    ImagePreprocessing,
    TablePreprocessing,
    dequantise,
    flip_and_crop,
    preprocessing_from_config,
    quantise,
)

IMAGE_ARGUMENTS = [
    {},
    {"alpha": 1e-6},
    {"alpha": None},
    {"levels": 17},
    {"bits": 5},
    {"bits": 8, "alpha": 0.2},
    {"alpha": None, "standardise": (0.5, 0.25)},
    {"alpha": None, "standardise": ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])},
    {"levels": 2, "alpha": 0.01},
]


def pixels(preprocessing, shape=(2, 3, 2, 2), seed=0):
    return torch.randint(0, preprocessing.levels, shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("arguments", IMAGE_ARGUMENTS)
def test_logdet_is_that_of_the_jacobian(arguments):
    preprocessing = ImagePreprocessing(**arguments).double()
    x = pixels(preprocessing).double()
    z, logdet = preprocessing.forward_and_logdet(x, generator=seeded())
    for index, image in enumerate(z):
        jacobian = torch.autograd.functional.jacobian(preprocessing.inverse, image[None])
        dense = torch.linalg.slogdet(jacobian.reshape(12, 12))[1]
        torch.testing.assert_close(-dense, logdet[index], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(preprocessing.inverse_and_logdet(z)[1], -logdet, rtol=1e-8, atol=1e-8)


def test_forward_jacobian_of_the_whole_map():
    preprocessing = ImagePreprocessing(alpha=0.05).double()
    x = pixels(preprocessing, (1, 1, 2, 2)).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: preprocessing.forward(v, generator=seeded()), x)
    dense = torch.linalg.slogdet(jacobian.reshape(4, 4))[1]
    logdet = preprocessing.forward_and_logdet(x, generator=seeded())[1]
    torch.testing.assert_close(dense[None], logdet)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("arguments", IMAGE_ARGUMENTS)
def test_round_trip(arguments, dtype):
    preprocessing = ImagePreprocessing(**arguments)
    x = pixels(preprocessing, (5, 3, 4, 4)).to(dtype)
    before = x.clone()
    reduced = preprocessing.reduce(x)
    z, logdet = preprocessing.forward_and_logdet(x, generator=seeded())
    assert logdet.shape == (5,)
    back = preprocessing.inverse(z)
    assert float((back.double() - reduced.double() - 0.5).abs().max()) < 0.5 + 1e-3
    inside = torch.frac(back) > 1e-3
    inside &= torch.frac(back) < 1 - 1e-3
    assert float(inside.float().mean()) > 0.9
    assert torch.equal(preprocessing.quantise(back)[inside], reduced.to(torch.uint8)[inside])
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_extreme_pixels_stay_finite(alpha, dtype):
    preprocessing = ImagePreprocessing(alpha=alpha)
    x = torch.tensor([0.0, 255.0], dtype=dtype).repeat(500_000).reshape(10, 1, 1000, 100)
    z, logdet = preprocessing.forward_and_logdet(x, generator=seeded())
    assert torch.isfinite(z).all()
    assert torch.isfinite(logdet).all()
    back, inverse_logdet = preprocessing.inverse_and_logdet(z)
    assert torch.isfinite(back).all()
    assert torch.isfinite(inverse_logdet).all()


class LargestDraw:
    """torch.rand's largest value, 1 − 2⁻²⁴, everywhere."""

    @staticmethod
    def rand(shape, **_):
        return torch.full(shape, 1 - 2**-24)


def test_the_largest_draw_does_not_reach_the_next_level(monkeypatch):
    x = torch.arange(256, dtype=torch.float32)
    assert float((x + LargestDraw.rand(x.shape)).max()) == 256, "the trap is there"
    monkeypatch.setattr(torch, "rand", LargestDraw.rand)
    assert torch.equal(dequantise(x).floor(), x)


def test_uniform_images_cost_exactly_eight_bits():
    """With no logit and a uniform density on [0, 1)ᴰ, −log p / (D log 2) is log₂ of the number of levels."""
    for arguments, bits in [({}, 8), ({"bits": 5}, 5), ({"levels": 17}, math.log2(17))]:
        preprocessing = ImagePreprocessing(alpha=None, **arguments)
        logdet = preprocessing.forward_and_logdet(pixels(preprocessing, (3, 3, 4, 4)))[1]
        torch.testing.assert_close(-logdet / (48 * math.log(2)), torch.full((3,), float(bits)))


def test_draws_are_uniform_and_follow_the_generator():
    x = torch.zeros(100_000)
    u = dequantise(x, seeded())
    assert torch.equal(u, dequantise(x, seeded()))
    assert not torch.equal(u, dequantise(x, seeded(8)))
    assert abs(float(u.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / len(x))
    assert abs(float(u.var()) - 1 / 12) < 4 * math.sqrt(1 / 180 / len(x))


def test_bit_reduction_keeps_the_high_bits():
    preprocessing = ImagePreprocessing(bits=5)
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert preprocessing.reduce(x).flatten().tolist() == [k >> 3 for k in range(256)]
    assert int(preprocessing.quantise(torch.tensor([300.0]))) == 31


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 1, 2, 2), 256.0), "256"),
        (torch.full((1, 1, 2, 2), -1), "-1"),
        (torch.full((1, 1, 2, 2), 0.5), "0.5"),
        (torch.full((1, 1, 2, 2), math.nan), "nan"),
        (torch.full((1, 1, 2, 2), math.inf), "inf"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.float16), "float16"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "bool"),
    ],
)
def test_errors_repeat_invalid_pixels(bad, message):
    with pytest.raises(DomainError, match=message):
        ImagePreprocessing().forward(bad)


def test_bad_shapes_and_arguments():
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        ImagePreprocessing().forward(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="3 channels, but the images have 2"):
        ImagePreprocessing(alpha=None, standardise=([0.0] * 3, [1.0] * 3)).forward(torch.zeros(1, 2, 4, 4))
    with pytest.raises(DomainError, match="NaN"):
        quantise(torch.tensor([math.nan]), 256)
    for arguments in [
        {"levels": 1},
        {"levels": 257},
        {"levels": 17, "bits": 2},
        {"bits": 9},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"standardise": (0.0, 1.0)},
        {"alpha": None, "standardise": (0.0, -1.0)},
        {"alpha": None, "standardise": ([0.0, 1.0], [1.0, 1.0, 1.0])},
        {"crop_padding": -1},
    ]:
        with pytest.raises(ConfigurationError):
            ImagePreprocessing(**arguments)


@pytest.mark.parametrize("arguments", [*IMAGE_ARGUMENTS, {"flip": True, "crop_padding": 4}])
def test_configuration_and_state_survive(arguments):
    preprocessing = ImagePreprocessing(**arguments)
    again = preprocessing_from_config(json.loads(json.dumps(preprocessing.config())))
    assert again.config() == preprocessing.config()
    again.load_state_dict(preprocessing.state_dict())
    x = pixels(preprocessing)
    assert torch.equal(again.forward(x, generator=seeded()), preprocessing.forward(x, generator=seeded()))


def test_bad_configurations():
    with pytest.raises(ConfigurationError, match=r"'imag'.*Did you mean 'image'"):
        preprocessing_from_config({"kind": "imag"})
    with pytest.raises(ConfigurationError, match="colour"):
        preprocessing_from_config({"kind": "image", "colour": 3})
    with pytest.raises(ConfigurationError, match="std"):
        preprocessing_from_config({"kind": "table", "mean": [1.0]})


def test_flip_only_mirrors_half():
    images = torch.arange(200 * 6, dtype=torch.uint8).reshape(200, 1, 2, 3)
    out = flip_and_crop(images, flip=True, crop_padding=0, generator=seeded())
    kept = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert (kept | mirrored).all()
    assert 60 < int(mirrored.sum()) < 140


def test_crop_is_a_window_of_the_reflected_image():
    images = torch.rand(30, 2, 5, 7, generator=seeded())
    out = flip_and_crop(images, flip=False, crop_padding=2, generator=seeded())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    windows = padded.unfold(2, 5, 1).unfold(3, 7, 1)  # (n, C, 5, 5, 5, 7)
    matches = (windows == out[:, :, None, None]).flatten(4).all(4).all(1)
    assert (matches.flatten(1).sum(1) == 1).all()
    assert int(matches.any(0).sum()) > 12, "offsets vary"


def test_augment_does_nothing_by_default_and_does_not_change_its_argument():
    images = pixels(ImagePreprocessing(), (4, 3, 8, 8)).to(torch.uint8)
    assert ImagePreprocessing().augment(images) is images
    before = images.clone()
    out = ImagePreprocessing(flip=True, crop_padding=3).augment(images, seeded())
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    with pytest.raises(ShapeError, match="crop_padding=8"):
        ImagePreprocessing(crop_padding=8).augment(images)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 5), scale=st.floats(-6, 6))
def test_table_laws(seed, width, scale):
    generator = torch.Generator().manual_seed(seed)
    rows = 3 + 10**scale * torch.randn(40, width, dtype=torch.float64, generator=generator)
    preprocessing = TablePreprocessing.fit(rows)
    z, logdet = preprocessing.forward_and_logdet(rows)
    torch.testing.assert_close(z.mean(0), torch.zeros(width, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(width, dtype=torch.float64), atol=1e-6, rtol=0)
    jacobian = torch.autograd.functional.jacobian(lambda row: preprocessing(row[None])[0], rows[0])
    torch.testing.assert_close(logdet, torch.linalg.slogdet(jacobian)[1].expand(40))
    back, inverse_logdet = preprocessing.inverse_and_logdet(z)
    torch.testing.assert_close(back, rows)
    torch.testing.assert_close(inverse_logdet, -logdet)


def test_table_errors_name_the_column():
    rows = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    with pytest.raises(DomainError, match=r"'speed' is constant \(5\).*Drop it"):
        TablePreprocessing.fit(rows, columns=["time", "speed"])
    with pytest.raises(DomainError, match="column 1 is constant"):
        TablePreprocessing.fit(rows)
    with pytest.raises(DomainError, match="std 0"):
        TablePreprocessing([0.0], [0.0])
    with pytest.raises(ShapeError, match="same length"):
        TablePreprocessing([0.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"\(batch, 1\)"):
        TablePreprocessing([0.0], [1.0]).forward(rows)


def test_table_configuration():
    preprocessing = TablePreprocessing.fit(torch.randn(50, 3, generator=seeded()), columns=["a", "b", "c"])
    again = preprocessing_from_config(json.loads(json.dumps(preprocessing.config())))
    assert again.columns == ("a", "b", "c")
    assert torch.equal(again.std, preprocessing.std)
    assert set(again.state_dict()) == {"mean", "std"}


def test_each_map_states_the_noise_that_it_adds():
    assert Chain([]).dequantisation is None
    assert ImagePreprocessing().dequantisation == "uniform"
    assert ImagePreprocessing(dequantisation="variational", channels=1).dequantisation == "variational"
    assert TablePreprocessing([0.0], [1.0]).dequantisation is None
    assert TablePreprocessing([0.0], [1.0], ranges=[(0, 3)]).dequantisation == "uniform"
