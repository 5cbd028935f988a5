"""Coupling layers, learned priors, and the flows built of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from contraflow import ARCHITECTURES, Bijection, Chain, Flow
from contraflow.architectures import glow, nice, real_nvp
from contraflow.architectures.glow import GLOWS, LINEARS
from contraflow.architectures.nice import NICES
from contraflow.architectures.real_nvp import REAL_NVPS
from contraflow.bijections import (
    ActNorm,
    ChannelPartition,
    Checkerboard,
    Coupling,
    LearnedPrior,
    MultiScale,
    Partition,
    Squeeze,
    alternate,
    halves,
)
from contraflow.distributions import StandardNormal
from contraflow.errors import ConfigurationError, ShapeError
from contraflow.nets import MLP, ConvNet, ResidualConvNet
from contraflow.testing import check_bijection

CONTEXT = 2
IMAGE = (4, 4, 4)


def stirred(module: nn.Module, size: float = 0.5) -> nn.Module:
    """Conditioners with their zero weights replaced, so that couplings are not the identity."""
    with torch.no_grad():
        for net in module.modules():
            if isinstance(net, (MLP, ConvNet, ResidualConvNet)):
                for parameter in net.parameters():
                    if not parameter.any():
                        parameter.normal_(0, size)
    return module


def dense(parts: Partition, affine: bool = True, context: int = 0) -> Coupling:
    net = MLP(parts.seen, parts.changed * (1 + affine), (7, 7), context_features=context)
    return stirred(Coupling(parts, net, affine=affine))


def conv(parts: Partition, affine: bool = True, context: int = 0) -> Coupling:
    net = ConvNet(parts.seen, parts.changed * (1 + affine), 5, context_features=context)
    return stirred(Coupling(parts, net, affine=affine))


def residual(parts: Partition, context: int = 0) -> Coupling:
    net = ResidualConvNet(parts.seen, 2 * parts.changed, 4, blocks=2, context_features=context)
    return stirred(Coupling(parts, net))


def prior(context: int = 0) -> LearnedPrior:
    return stirred(LearnedPrior(4, ConvNet(2, 4, 5, context_features=context)))


CASES: dict[str, tuple[Callable[[int], Bijection], tuple[int, ...]]] = {
    "halves": (lambda c: dense(halves(5), context=c), (5,)),
    "halves, swapped": (lambda c: dense(halves(5, swap=True), context=c), (5,)),
    "alternate": (lambda c: dense(alternate(5), context=c), (5,)),
    "alternate, swapped, additive": (lambda c: dense(alternate(4, swap=True), affine=False, context=c), (4,)),
    "two features": (lambda c: dense(halves(2), context=c), (2,)),
    "any partition": (lambda c: dense(ChannelPartition([3, 0], [2, 4, 1]), context=c), (5,)),
    "channels": (lambda c: conv(halves(4), context=c), IMAGE),
    "channels, alternate, additive": (lambda c: conv(alternate(4), affine=False, context=c), IMAGE),
    "checkerboard": (lambda c: residual(Checkerboard(IMAGE), context=c), IMAGE),
    "checkerboard, swapped, unequal sides": (lambda c: conv(Checkerboard((1, 3, 4), swap=True), context=c), (1, 3, 4)),
    "learned prior": (prior, IMAGE),
}


@pytest.mark.parametrize("context", [0, CONTEXT])
@pytest.mark.parametrize("name", CASES)
def test_laws(name, context):
    make, shape = CASES[name]
    given = torch.randn(3, context) if context else None
    check_bijection(make(context), torch.randn(3, *shape), given, fresh=lambda: make(context))


FLOWS = {**NICES, **REAL_NVPS, **GLOWS}
SMALL = [(name, shape) for name in ("nice", "real_nvp", "glow", "glow_celebahq256") for shape in ((3,), (2, 4, 4))]


@pytest.mark.parametrize("context", [0, CONTEXT])
@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_laws_of_flows_whose_couplings_are_not_the_identity(name, shape, context):
    def make() -> Bijection:
        return stirred(ARCHITECTURES[name](shape, **FLOWS[name].small[shape], context_features=context).bijection, 0.2)

    given = torch.randn(4, context) if context else None
    check_bijection(make(), torch.randn(4, *shape), given, float32_atol=3e-3, fresh=make)


@pytest.mark.parametrize("name", CASES)
def test_context_changes_the_map(name):
    make, shape = CASES[name]
    bijection, x = make(CONTEXT), torch.randn(8, *shape)
    one, other = (bijection.forward(x, torch.full((8, CONTEXT), value)) for value in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        (halves(5), [0, 1, 2]),
        (halves(5, swap=True), [3, 4]),
        (alternate(5), [0, 2, 4]),
        (alternate(5, swap=True), [1, 3]),
        (ChannelPartition([3, 0], [2, 4, 1]), [0, 3]),
    ],
)
def test_only_kept_features_pass_unchanged(parts, kept):
    x = torch.randn(20, 5)
    z = dense(parts).forward(x)
    changed = [index for index in range(5) if index not in kept]
    assert torch.equal(z[:, kept], x[:, kept])
    assert ((z - x)[:, changed].abs().max(0).values > 1e-2).all()


@pytest.mark.parametrize("swap", [False, True])
def test_a_checkerboard_keeps_one_colour_and_depends_only_on_it(swap):
    x = torch.randn(8, 2, 4, 6)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    black = (rows + columns) % 2 == (0 if swap else 1)
    layer = conv(Checkerboard((2, 4, 6), swap))
    z = layer.forward(x)
    assert torch.equal(z[:, :, black], x[:, :, black])
    assert ((z - x)[:, :, ~black].abs().amax(0) > 1e-3).all()
    other = torch.where(black, x, torch.randn_like(x))
    shift, log_scale = layer._parameters_at(x, None), layer._parameters_at(other, None)
    assert all(torch.equal(a, b) for a, b in zip(shift, log_scale, strict=True))


def test_the_log_scale_is_bounded_and_unchanged_near_zero():
    parts = halves(2)
    net = nn.Linear(1, 2)
    layer = Coupling(parts, net, scale_bound=1.5)
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    for size in (1e6, -1e6):
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[0.0], [size]]))
            net.bias.zero_()
        torch.testing.assert_close(layer.forward_and_logdet(x)[1], torch.full((3,), math.copysign(1.5, size)))
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0], [1e-4]]))
    torch.testing.assert_close(layer.forward_and_logdet(x)[1], 1e-4 * x[:, 0], rtol=1e-7, atol=0)


def test_the_learned_prior_is_a_conditional_gaussian():
    """log N(z) + log|det| of the factored-out half against torch's normal, and samples at a temperature."""
    bijection = prior()
    h, y = torch.randn(6, 2, 4, 4), torch.randn(6, 2, 4, 4)
    z, logdet = bijection.forward_and_logdet(torch.cat([h, y], 1))
    mean, raw = bijection.conditioner(h).chunk(2, 1)
    gaussian = torch.distributions.Normal(mean, (2 * torch.tanh(raw / 2)).exp())
    expected = gaussian.log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(StandardNormal((2, 4, 4)).log_prob(z[:, 2:]) + logdet, expected)
    assert torch.equal(z[:, :2], h)
    noise = torch.randn_like(y)
    for temperature in (0.0, 0.5):
        drawn = bijection.inverse(torch.cat([h, temperature * noise], 1))[:, 2:]
        torch.testing.assert_close(drawn, mean + temperature * gaussian.scale * noise)


@pytest.mark.parametrize("linear", LINEARS)
@pytest.mark.parametrize("shape", [(4,), (2, 8, 8)])
def test_a_glow_at_initialisation_consists_of_actnorms_and_linear_maps(shape, linear):
    """Couplings and priors are the identity at initialisation: removing them does not change the flow."""
    flow = glow(shape, levels=2, steps=2, hidden=4, linear=linear)
    x = torch.randn(16, *shape)
    z, logdet = flow.forward_and_logdet(x)
    plain, plain_logdet = without_couplings(flow.bijection).forward_and_logdet(x)
    torch.testing.assert_close(z, plain)
    torch.testing.assert_close(logdet, plain_logdet)
    scales = [module.log_scale.sum() for module in flow.modules() if isinstance(module, ActNorm)]
    assert len(scales) == 5
    if len(shape) == 1:  # every feature has one position, and orthogonal starts have log-determinant 0
        torch.testing.assert_close(logdet, sum(scales).expand(16))


def without_couplings(bijection: Bijection) -> Bijection:
    if isinstance(bijection, MultiScale):
        return MultiScale([without_couplings(level) for level in bijection.levels], bijection.shapes)
    if isinstance(bijection, Chain):
        return Chain(without_couplings(layer) for layer in bijection if not isinstance(layer, (Coupling, LearnedPrior)))
    return bijection


@pytest.mark.parametrize("make", [nice, real_nvp])
def test_nice_and_real_nvp_are_the_identity_up_to_actnorm_at_initialisation(make):
    x = torch.randn(50, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 1
    z, logdet = make((4,)).forward_and_logdet(x)
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(z, standard)
    torch.testing.assert_close(logdet, -x.std(0, correction=0).log().sum().expand(50))


def test_every_feature_depends_on_every_other():
    for flow in (nice((6,), couplings=4), real_nvp((6,), levels=1), glow((6,), levels=1, steps=3)):
        bijection = stirred(flow.bijection)
        bijection.forward(torch.randn(50, 6))
        jacobian = torch.autograd.functional.jacobian(lambda x, f=bijection: f(x[None])[0], torch.randn(6))
        assert (jacobian.abs() > 0).all()


def parameters(flow: Flow) -> int:
    return sum(parameter.numel() for parameter in flow.parameters())


def test_glow_has_the_sizes_of_the_paper():
    """Three levels of 32 steps, 1×1 convolutions of 12, 24 and 48 channels, priors of one 3×3 convolution."""
    with torch.device("meta"):
        flow = ARCHITECTURES["glow_cifar10"]()
    couplings = [module for module in flow.modules() if isinstance(module, Coupling)]
    assert [coupling.partition.seen for coupling in couplings] == [6] * 32 + [12] * 32 + [24] * 32
    assert sum(isinstance(module, LearnedPrior) for module in flow.modules()) == 2

    def net(inputs: int, outputs: int) -> int:
        return 9 * inputs * 512 + 512 + 512 * 512 + 512 + 9 * 512 * outputs + outputs

    steps = sum(32 * (net(c // 2, c) + c * c + 2 * c) for c in (12, 24, 48))
    priors = sum(9 * inputs * 2 * inputs + 2 * inputs for inputs in (6, 12))
    assert parameters(flow) == steps + priors + 2 * 48


def test_real_nvp_has_the_levels_of_the_paper():
    with torch.device("meta"):
        flow = ARCHITECTURES["real_nvp_cifar10"]()
    kinds = [
        (type(module.partition), module.partition.seen) for module in flow.modules() if isinstance(module, Coupling)
    ]
    assert kinds == [(Checkerboard, 3)] * 3 + [(ChannelPartition, 6)] * 3 + [(Checkerboard, 6)] * 4
    nets = [module for module in flow.modules() if isinstance(module, ResidualConvNet)]
    assert [len(net.blocks) for net in nets] == [8] * 10
    assert [net.first.out_channels for net in nets] == [64] * 3 + [128] * 7
    assert sum(isinstance(module, Squeeze) for module in flow.modules()) == 1


def test_successive_couplings_of_real_nvp_keep_different_elements():
    for flow in (real_nvp((5,), hidden=4), real_nvp((2, 8, 8), blocks=1, hidden=4)):
        changed = []
        for part in (module for module in flow.modules() if isinstance(module, Partition)):
            sides = part.mask.shape if isinstance(part, Checkerboard) else ()
            changed.append(part.spread(torch.ones(1, part.changed, *sides)))
        assert len(changed) >= 10
        assert not any(torch.equal(one, other) for one, other in pairwise(changed))


def test_at_temperature_zero_all_samples_are_the_mode_of_the_base():
    flow = stirred(glow((1, 8, 8), steps=1, hidden=4))
    flow.log_prob(torch.randn(10, 1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    samples = flow.sample(3, temperature=0.0, generator=generator)
    torch.testing.assert_close(samples, flow.inverse(torch.zeros(3, 64)))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: halves(1), ShapeError, "neither of them empty"),
        (lambda: ChannelPartition([0, 2], [2]), ShapeError, r"changed=\[2\]"),
        (lambda: Checkerboard((3, 1, 1)), ShapeError, "two pixels"),
        (lambda: Coupling(halves(2), nn.Identity(), scale_bound=0.0), ConfigurationError, "scale_bound=0.0"),
        (lambda: LearnedPrior(3, nn.Identity()), ShapeError, r"LearnedPrior\(3\): the number of channels must be even"),
        (lambda: Coupling(halves(4), nn.Identity()).forward(torch.zeros(2, 4)), ShapeError, r"needs \(2, 4\)"),
        (lambda: dense(halves(4)).forward(torch.zeros(2, 5)), ShapeError, r"\(2, 5\)"),
        (lambda: conv(Checkerboard(IMAGE)).forward(torch.zeros(2, 4, 4, 5)), ShapeError, r"\(2, 4, 4, 5\)"),
        (lambda: prior().forward(torch.zeros(2, 6, 4, 4)), ShapeError, r"\(2, 6, 4, 4\)"),
        (lambda: dense(halves(4), context=2).forward(torch.zeros(3, 4)), ShapeError, r"\(3, 2\), and none was given"),
        (
            lambda: dense(halves(4), context=2).forward(torch.zeros(3, 4), torch.zeros(3, 5)),
            ShapeError,
            r"one of shape \(3, 5\)",
        ),
        (lambda: glow((4,), linear="plo"), ConfigurationError, "Did you mean 'plu'"),
        (lambda: glow((1, 6, 6), levels=2), ShapeError, "6×6 cannot be halved 2 times; use fewer levels than 2"),
        (lambda: real_nvp((1, 7, 6)), ShapeError, "7×6 cannot be halved 1 times; use fewer levels than 2"),
    ],
)
def test_invalid_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


@pytest.mark.parametrize("affine", [True, False])
def test_nflows_coupling_with_the_same_weights_is_the_same_map(affine):
    transforms = pytest.importorskip("nflows.transforms", reason="nflows is not here: the extra `benchmarks` has it")

    class Bounded(transforms.AffineCouplingTransform):
        """nflows' coupling with our scale; the partition, the map and its log-determinant are theirs."""

        def _scale_and_shift(self, parameters):
            shift, raw = parameters[:, :2], parameters[:, 2:]
            return (2 * torch.tanh(raw / 2)).exp(), shift

    ours = dense(alternate(5), affine=affine, context=CONTEXT)
    kind = Bounded if affine else transforms.AdditiveCouplingTransform
    theirs = kind(torch.tensor([0, 1, 0, 1, 0]), lambda inputs, outputs: ours.conditioner)
    x, context = torch.randn(6, 5), torch.randn(6, CONTEXT)
    agree(ours.forward_and_logdet(x, context), theirs(x, context))
    agree(ours.inverse_and_logdet(x, context), theirs.inverse(x, context))


@pytest.mark.parametrize("swap", [False, True])
def test_normflows_masked_coupling_with_the_same_weights_is_the_same_map(swap):
    flows = pytest.importorskip("normflows.flows", reason="normflows is not here: the extra `benchmarks` has it")
    ours = residual(Checkerboard(IMAGE, swap))
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(2, 2)
    board = (1 - board if swap else board).expand(IMAGE).contiguous()
    shift = Part(lambda x: ours.conditioner(x)[:, :4])
    scale = Part(lambda x: 2 * torch.tanh(ours.conditioner(x)[:, 4:] / 2))
    theirs = flows.MaskedAffineFlow(board, shift, scale)
    x = torch.randn(6, *IMAGE)
    agree(ours.forward_and_logdet(x), theirs(x))
    agree(ours.inverse_and_logdet(x), theirs.inverse(x))


class Part(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)
