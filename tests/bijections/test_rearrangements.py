"""Squeeze, flatten, permutation, multi-scale, logit and affine: layouts of the results, and errors for wrong input."""

from __future__ import annotations

import pytest
import torch

from contraflow import Chain
from contraflow.bijections import Affine, Flatten, Logit, MultiScale, Permutation, Squeeze
from contraflow.errors import DomainError, ShapeError


def test_squeeze_turns_every_patch_into_four_channels_row_by_row():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    z = Squeeze()(x)
    assert z[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert z[0, :, 1, 1].tolist() == [10, 11, 14, 15]
    assert torch.equal(Squeeze()(torch.cat([x, x + 100], 1))[0, 4:], z[0] + 100)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (0, 3, 4, 6), (1, 1, 2, 2)])
def test_squeeze_is_pixel_unshuffle_for_every_batch_size(shape):
    x = torch.randn(shape)
    z = Squeeze()(x)
    assert z.shape == (shape[0], 4 * shape[1], shape[2] // 2, shape[3] // 2)
    if len(x):
        assert torch.equal(z, torch.nn.functional.pixel_unshuffle(x, 2))
    assert torch.equal(Squeeze().inverse(z), x)


def test_multiscale_puts_the_second_half_of_each_level_first():
    """z = (y_1, …, y_{L-1}, h_L), each flattened."""
    multiscale = MultiScale([Squeeze(), Squeeze(), Chain([])], [(4, 4, 4), (8, 2, 2), (4, 2, 2)])
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    first = Squeeze()(x)
    second = Squeeze()(first[:, :2])
    expected = torch.cat([first[:, 2:].flatten(1), second[:, 4:].flatten(1), second[:, :4].flatten(1)], dim=1)
    assert torch.equal(multiscale(x), expected)
    assert torch.equal(multiscale.forward_and_logdet(x)[0], expected)
    assert torch.equal(multiscale.inverse(expected), x)


def test_multiscale_refuses_what_it_cannot_split():
    with pytest.raises(ShapeError, match="3 channels, which must be even"):
        MultiScale([Chain([]), Chain([])], [(3, 4, 4), (2, 4, 4)])
    with pytest.raises(ShapeError, match="1 levels and 2 shapes"):
        MultiScale([Chain([])], [(2, 4, 4), (2, 4, 4)])
    with pytest.raises(ShapeError, match=r"\(batch, 64\), not \(2, 63\)"):
        MultiScale([Squeeze(), Chain([])], [(4, 4, 4), (2, 4, 4)]).inverse(torch.zeros(2, 63))


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (1, 1, 4, 3), (1, 4, 4)])
def test_squeeze_refuses_odd_images_and_vectors(shape):
    with pytest.raises(ShapeError, match="even H and W"):
        Squeeze()(torch.zeros(shape))


def test_unsqueeze_refuses_channels_that_do_not_divide_by_four():
    with pytest.raises(ShapeError, match="multiple of 4 channels"):
        Squeeze().inverse(torch.zeros(1, 6, 2, 2))


def test_flatten_refuses_other_events():
    with pytest.raises(ShapeError, match=r"Flatten\(\(2, 3\)\) got events of shape \(3, 2\)"):
        Flatten((2, 3))(torch.zeros(1, 3, 2))


def test_permutation_moves_features_by_its_order():
    x = torch.tensor([[10.0, 20.0, 30.0]])
    assert Permutation([2, 0, 1])(x).tolist() == [[30, 10, 20]]
    assert Permutation([2, 0, 1]).inverse(Permutation([2, 0, 1])(x)).tolist() == x.tolist()


def test_a_loaded_permutation_is_inverted_as_loaded():
    target = Permutation([0, 1, 2])
    target.load_state_dict(Permutation([2, 0, 1]).state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(target.inverse(target(x)), x)


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [[0, 1]]])
def test_an_order_that_is_not_a_permutation_is_refused(order):
    with pytest.raises(DomainError, match="is not a permutation"):
        Permutation(order)


def test_permutation_refuses_other_sizes():
    with pytest.raises(ShapeError, match="2 channels got"):
        Permutation([1, 0])(torch.zeros(1, 3))


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_logit_refuses_values_outside_the_unit_interval(bad):
    with pytest.raises(DomainError, match=r"\[0, 1\]"):
        Logit()(torch.tensor([[0.5, bad]]))


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_logit_refuses_an_alpha_out_of_range(alpha):
    with pytest.raises(DomainError, match="alpha="):
        Logit(alpha)


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logit_is_accurate_at_both_ends_in_float32(alpha):
    """With alpha = 1e-6 in float32, 1 - s loses all digits for s near 1 unless it is computed from 1 - x."""
    x = torch.tensor([[0.0, 1e-7, 0.5, 1 - 1e-7, 1.0]], dtype=torch.float32)
    z, logdet = Logit(alpha).forward_and_logdet(x)
    z64, logdet64 = Logit(alpha).forward_and_logdet(x.double())
    torch.testing.assert_close(z.double(), z64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logdet.double(), logdet64, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 0.0), (0.0, float("nan")), (float("inf"), 1.0)])
def test_affine_refuses_constants_without_an_inverse(shift, scale):
    with pytest.raises(DomainError, match="drop constant columns"):
        Affine(torch.tensor([shift]), torch.tensor([scale]))


def test_affine_normalises():
    affine = Affine(torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0]))
    z, logdet = affine.forward_and_logdet(torch.tensor([[3.0, 6.0]]))
    assert z.tolist() == [[1.0, -1.0]]
    assert logdet.item() == pytest.approx(-torch.tensor(8.0).log().item())
