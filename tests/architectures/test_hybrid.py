"""Hybrid models: density and classifier from one pass, labels, branches, three kinds of blocks, samples of a class."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from contraflow import EVALUATION, TRAINING, Chain, Exact, ResidualBlock, hybrid, residual_flow
from contraflow.architectures import BranchedFlow, HybridFlow, MixtureFlow
from contraflow.architectures.hybrid import BLOCKS, CLASSIFIERS
from contraflow.architectures.hybrid_flow import label_log_prob
from contraflow.bijections import ActNorm, ChannelPartition, Checkerboard, Coupling, PLULinear
from contraflow.distributions import ClassNormal, StandardNormal
from contraflow.errors import ConfigurationError, DomainError, ShapeError
from contraflow.lipschitz import LipschitzLayer
from contraflow.nets import MLP, ConvNet
from contraflow.preprocessing import ImagePreprocessing

SMALL = {"blocks": (1, 1), "hidden": 6, "dense_blocks": 1, "dense_hidden": 6, "branch_features": 5, "classes": 4}
SHAPES = ((3,), (2, 4, 4))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def small(shape: tuple[int, ...], **changes: object) -> HybridFlow:
    return hybrid(shape, **{**SMALL, **changes}).with_logdet(Exact())


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_pass_gives_the_same_results_as_two(shape, block, classifier):
    flow, x = small(shape, block=block, classifier=classifier), torch.randn(6, *shape)
    log_prob, logits = flow.log_prob_and_logits(x)
    torch.testing.assert_close(log_prob, flow.log_prob(x))
    torch.testing.assert_close(logits, flow.class_logits(x))
    assert logits.shape == (6, 4)
    y = torch.tensor([0, 1, 2, 3, -1, 0])
    expected = log_prob + torch.stack(
        [logits[i].log_softmax(0)[y[i]] if y[i] >= 0 else torch.zeros(()) for i in range(6)]
    )
    torch.testing.assert_close(flow.log_prob(x, y), expected)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_one_pass_counts_the_preprocessing(classifier):
    flow = small((1, 4, 4), block="coupling", classifier=classifier, preprocessing=ImagePreprocessing(17))
    x = torch.randint(0, 17, (50, 1, 4, 4), generator=seeded())
    log_prob, logits = flow.log_prob_and_logits(x, generator=seeded(1))
    assert torch.equal(log_prob, flow.log_prob(x, generator=seeded(1))), "to the last bit: evaluations of a seed agree"
    torch.testing.assert_close(logits, flow.class_logits(x, generator=seeded(1)))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_joint_density_sums_to_that_of_x(classifier):
    flow, x = small((3,), classifier=classifier), torch.randn(5, 3)
    joint = torch.stack([flow.log_prob(x, torch.full((5,), y)) for y in range(4)])
    torch.testing.assert_close(joint.logsumexp(0), flow.log_prob(x))


def test_a_mixture_flow_follows_bayes():
    flow, x = small((3,), classifier="base"), torch.randn(5, 3)
    with torch.no_grad():
        flow.base.prior_logits.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    z, logdet = flow.forward_and_logdet(x)
    prior = flow.base.prior_logits.softmax(0)
    within = torch.stack(
        [torch.distributions.MultivariateNormal(mean, torch.eye(3)).log_prob(z) for mean in flow.base.means], dim=1
    )
    joint = prior * within.exp()
    torch.testing.assert_close(flow.log_prob(x), joint.sum(1).log() + logdet)
    torch.testing.assert_close(flow.class_logits(x).softmax(1), joint / joint.sum(1, keepdim=True))


def test_class_normal_is_a_mixture_of_normals():
    base = ClassNormal((2, 2), classes=3)
    with torch.no_grad():
        base.prior_logits.copy_(torch.tensor([0.5, -1.0, 0.0]))
    parts = torch.distributions.Independent(torch.distributions.Normal(base.means.flatten(1), 1.0), 1)
    prior = torch.distributions.Categorical(logits=base.prior_logits)
    oracle = torch.distributions.MixtureSameFamily(prior, parts)
    z = torch.randn(7, 2, 2)
    torch.testing.assert_close(base.log_prob(z), oracle.log_prob(z.flatten(1)))
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    expected = prior.log_prob(y) + torch.distributions.Normal(base.means[y], 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(base.log_prob(z, y), expected)
    with pytest.raises(ConfigurationError, match="classes=0"):
        ClassNormal((2,), classes=0)


def test_samples_of_class_normal():
    """Means and shares by z-tests, 7 of them at 4.5 standard deviations: a false alarm in 20,000."""
    base, n = ClassNormal((2,), classes=3), 20_000
    with torch.no_grad():
        base.means.copy_(torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]]))
        base.prior_logits.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
        z = base.sample(n, generator=seeded())
        drawn = base.log_joint(z).argmax(1)
        for label, share in enumerate((0.5, 0.25, 0.25)):
            frequency = (drawn == label).double().mean().item()
            assert abs(frequency - share) < 4.5 * math.sqrt(share * (1 - share) / n)
        y = torch.arange(3).repeat(1000)
        cold = base.sample(3000, y, temperature=0.5, generator=seeded()) - base.means[y]
    assert cold.std().item() == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(2 * cold.numel()))
    assert cold.mean(0).abs().max().item() < 4.5 * 0.5 / math.sqrt(3000)
    assert base.sample(0).shape == (0, 2)


def line(weight: float) -> BranchedFlow:
    """x ~ N(0, 1), p(y=1|x) = σ(weight x): everything in closed form."""
    flow = BranchedFlow((1,), Chain([Chain([])]), [nn.Flatten()], 1, 2)
    with torch.no_grad():
        flow.classifier.weight.copy_(torch.tensor([[0.0], [weight]]))
        flow.classifier.bias.zero_()
    return flow


def test_samples_of_a_class_follow_p_of_x_given_y():
    """Mean of x given y against quadrature; two z-tests at 4.5 standard deviations."""
    flow, n = line(3.0), 6000
    grid = torch.linspace(-9, 9, 4001)
    weight = torch.exp(-(grid**2) / 2) * torch.sigmoid(3 * grid)
    mean = (weight * grid).sum() / weight.sum()
    second = (weight * grid**2).sum() / weight.sum()
    for label, sign in ((1, 1), (0, -1)):
        x = flow.sample(n, torch.full((n,), label), generator=seeded(label))
        assert x.shape == (n, 1)
        error = math.sqrt((second - mean**2).item() / n)
        assert abs(x.mean().item() - sign * mean.item()) < 4.5 * error


def test_each_sample_has_the_requested_class():
    flow = line(1e6)
    y = torch.tensor([1, 0, 0, 1, 1, 0, 1])
    x = flow.sample(7, y, generator=seeded())
    assert torch.equal((x[:, 0] > 0).long(), y)
    assert flow.sample(0, y[:0]).shape == (0, 1)
    mixture = small((3,), classifier="base")
    mixture(torch.randn(20, 3))  # sets ActNorm
    with torch.no_grad():
        mixture.base.means.mul_(1000)
    wanted = torch.tensor([2, 0, 3, 1])
    assert torch.equal(mixture.class_logits(mixture.sample(4, wanted)).argmax(1), wanted)
    cold = mixture.rsample(4, wanted, temperature=0.0)
    torch.testing.assert_close(mixture(cold), mixture.base.means[wanted], atol=1e-4, rtol=1e-6)


def test_a_class_that_is_never_drawn_is_named():
    flow = line(0.0)
    with torch.no_grad():
        flow.classifier.bias.copy_(torch.tensor([0.0, -1e6]))
    with pytest.raises(DomainError, match=r"3 rounds of 5 draws did not yield enough samples of the classes \[1\]"):
        flow.sample(5, torch.ones(5, dtype=torch.long), budget=3)


def test_samples_of_images_are_integer_levels():
    for classifier in CLASSIFIERS:
        flow = hybrid((1, 4, 4), **SMALL, classifier=classifier, preprocessing=ImagePreprocessing(17)).float()
        flow.log_prob(torch.randint(0, 17, (20, 1, 4, 4)))  # sets ActNorm
        x = flow.sample(3, torch.tensor([0, 1, 1]), generator=seeded())
        assert (x.shape, x.dtype) == ((3, 1, 4, 4), torch.uint8)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_learns_from_the_joint_density(shape, block, classifier):
    flow = small(shape, block=block, classifier=classifier)
    x, y = torch.randn(16, *shape), torch.arange(16) % 4
    flow.log_prob(x, y).mean().backward()
    silent = [name for name, parameter in flow.named_parameters() if parameter.grad is None]
    assert not silent
    if classifier == "branches":
        assert all(parameter.grad.abs().max() > 0 for parameter in flow.branches.parameters())


def test_the_gradient_of_an_unknown_label_is_that_of_the_density_alone():
    flow, x = small((3,)), torch.randn(4, 3)
    flow.log_prob(x)  # sets ActNorm
    flow.class_logits(x)
    parameters = list(flow.bijection.parameters())
    alone = torch.autograd.grad(flow.log_prob(x).sum(), parameters)
    unknown = torch.autograd.grad(flow.log_prob(x, torch.full((4,), -1)).sum(), parameters)
    for one, other in zip(alone, unknown, strict=True):
        torch.testing.assert_close(one, other)


def test_branches_leave_after_every_squeeze_and_at_the_end():
    flow = hybrid((1, 16, 16), blocks=(1, 1, 1), hidden=4, dense_blocks=1, dense_hidden=4)
    assert [branch[0].weight.shape for branch in flow.branches] == [(256, 4, 3, 3), (256, 16, 3, 3), (256, 16, 3, 3)]
    assert flow.classifier.weight.shape == (10, 3 * 256)
    kinds = [type(layer) for layer in flow.branches[0]]
    assert kinds == [nn.Conv2d, ActNorm, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten]
    shapes: list[torch.Size] = []
    for branch in flow.branches:
        branch.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape[1:]))
    flow.class_logits(torch.randn(2, 1, 16, 16))
    assert shapes == [(4, 8, 8), (16, 4, 4), (16, 4, 4)]


def test_features_of_a_branch_are_means_over_pixels():
    flow, x = small((2, 4, 4)), torch.randn(3, 8, 2, 2)
    branch = flow.branches[0]
    convolution, actnorm = branch[0], branch[1]
    expected = actnorm(convolution(x)).relu().mean((2, 3))
    torch.testing.assert_close(branch(x), expected)


def test_one_option_changes_the_blocks():
    blocks = {name: small((2, 4, 4), block=name) for name in BLOCKS}
    residual = [module for module in blocks["residual"].modules() if isinstance(module, ResidualBlock)]
    assert len(residual) == 3
    for name in ("coupling", "coupling_conv1x1"):
        couplings = [module for module in blocks[name].modules() if isinstance(module, Coupling)]
        assert [type(coupling.partition) for coupling in couplings] == [
            Checkerboard,
            ChannelPartition,
            ChannelPartition,
        ]
        assert [type(coupling.conditioner) for coupling in couplings] == [ConvNet, ConvNet, MLP]
        assert all(coupling.affine for coupling in couplings)
        assert not any(isinstance(module, (ResidualBlock, LipschitzLayer)) for module in blocks[name].modules())
        linear = sum(isinstance(module, PLULinear) for module in blocks[name].modules())
        assert linear == (3 if name == "coupling_conv1x1" else 0)
    # the same networks: kernels and widths of g and of the conditioners
    g = residual[0].g
    conditioner = next(module for module in blocks["coupling"].modules() if isinstance(module, ConvNet))
    kernels = [module.weight.shape[2:] for module in conditioner.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [layer.weight.shape[2:] for layer in g.layers]


def test_couplings_swap_their_parts_in_turn():
    flow = small((2, 8, 8), block="coupling", blocks=(2, 2), dense_blocks=2)
    parts = [module.partition for module in flow.modules() if isinstance(module, Coupling)]
    boards = [part.mask for part in parts if isinstance(part, Checkerboard)]
    assert torch.equal(boards[0], ~boards[1])
    halves = [part.kept_index.tolist() for part in parts if isinstance(part, ChannelPartition)]
    assert not set(halves[0]) & set(halves[1])
    assert not set(halves[2]) & set(halves[3])


def test_a_coupling_flow_with_one_channel_has_no_1x1_convolution_of_one():
    flow = small((1, 4, 4), block="coupling_conv1x1")
    assert [module.features for module in flow.modules() if isinstance(module, PLULinear)] == [4, 16]
    assert all(parameter.numel() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (torch.tensor([0, 1]), ShapeError, r"labels of shape \(2,\) were given for 3 rows"),
        (torch.tensor([0.0, 1.0, 2.0]), DomainError, "int64"),
        (torch.tensor([0, 1, 4]), DomainError, "labels from 0 to 4 were given; this flow has 4 classes"),
        (torch.tensor([0, 1, -2]), DomainError, "labels from -2 to 1"),
    ],
)
def test_invalid_labels_are_refused(y: Tensor, error: type[Exception], match: str):
    flow = small((3,))
    with pytest.raises(error, match=match):
        flow.log_prob(torch.randn(3, 3), y)
    with pytest.raises(error, match=match):
        flow.sample(3, y)


def test_an_unknown_label_cannot_be_sampled():
    for classifier in CLASSIFIERS:
        with pytest.raises(DomainError, match="label -1, which means unknown"):
            small((3,), classifier=classifier).sample(2, torch.tensor([0, -1]))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"block": "residuals"}, "Did you mean 'residual'"),
        ({"classifier": "branch"}, "Did you mean 'branches'"),
        ({"classes": 1}, "classes=1"),
        ({"blocks": ()}, "at least two classes and one level"),
    ],
)
def test_invalid_options_are_refused(changes, match):
    with pytest.raises(ConfigurationError, match=match):
        small((3,), **changes)


def test_log_prob_estimate_takes_labels():
    flow, x, y = hybrid((3,), **SMALL), torch.randn(3, 3), torch.tensor([0, -1, 3])
    exact = flow.with_logdet(Exact()).log_prob(x, y)
    estimate = flow.log_prob_estimate(x, y, probes=64, generator=seeded())
    assert ((estimate.value - exact).abs() < 5 * estimate.standard_error + 1e-9).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_log_prob_estimate_returns_class_probabilities_of_its_own_passes(classifier, monkeypatch):
    flow = hybrid((1, 4, 4), **SMALL, classifier=classifier, preprocessing=ImagePreprocessing(17))
    x = torch.randint(0, 17, (5, 1, 4, 4), generator=seeded())
    flow.log_prob(x)  # sets ActNorm
    generator, drawn, same = seeded(1), [], flow.with_logdet(replace(EVALUATION, stratified=False))
    for _ in range(3):
        drawn += [same.log_prob_and_logits(part, generator=generator) for part in x.split(5)]
    passes: list[int] = []
    original = type(flow).log_prob_and_logits
    monkeypatch.setattr(
        type(flow),
        "log_prob_and_logits",
        lambda self, x, **options: passes.append(len(x)) or original(self, x, **options),
    )
    estimate = flow.log_prob_estimate(x, probes=3, batch_size=5, estimator=EVALUATION, generator=seeded(1))
    assert passes == [5, 5, 5]
    torch.testing.assert_close(estimate.value, torch.stack([one for one, _ in drawn]).mean(0))
    torch.testing.assert_close(estimate.class_probabilities, torch.stack([one.softmax(1) for _, one in drawn]).mean(0))
    parts = flow.log_prob_estimate(x, probes=3, batch_size=2, generator=seeded(1))
    assert parts.class_probabilities.sum(1).sub(1).abs().max() < 1e-12, "chunks that straddle two draws of a row"


def test_class_probabilities_under_a_target_error_belong_to_their_rows():
    """Rows leave the batch one after the other; without noise every draw of p(y|x) is the same."""
    flow, x = hybrid((3,), **SMALL), torch.randn(6, 3, generator=seeded()) * 3
    flow.log_prob(x)
    estimate = flow.log_prob_estimate(
        x, target_error=0.001, budget=200, estimator=TRAINING, generator=seeded(), batch_size=4
    )
    assert len(set(estimate.probes.tolist())) > 1
    torch.testing.assert_close(estimate.class_probabilities, flow.class_logits(x).softmax(1).detach())
    assert residual_flow((3,), blocks=1, hidden=(4,)).log_prob_estimate(x).class_probabilities is None


def test_a_hybrid_flow_is_a_flow():
    flow = small((3,))
    x = torch.randn(5, 3)
    z = flow(x)
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-5, rtol=1e-5)
    assert flow.certify().invertible
    assert isinstance(flow.base, StandardNormal)
    assert isinstance(small((3,), classifier="base"), MixtureFlow)
    assert label_log_prob(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)
