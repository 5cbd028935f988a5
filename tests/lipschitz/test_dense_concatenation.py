"""g of an i-DenseNet: its constant, its passes, its certificate under attack; what i-ResNet and i-DenseNet are."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_certificate import attack, frozen, largest_quotient
from torch import Tensor, nn

from contraflow import (
    Chain,
    Exact,
    Flow,
    PowerSeries,
    ResidualBlock,
    idensenet,
    iresnet,
    rescale_to_certificate,
    update_lipschitz,
)
from contraflow.bijections import ActNorm, Squeeze
from contraflow.errors import ConfigurationError, ContraflowError, DomainError, ShapeError
from contraflow.lipschitz import (
    CLIPSWISH_LIPSCHITZ,
    ELU,
    DenseConcatenation,
    DenseConcatenationConvNet,
    DenseConcatenationMLP,
    LearnedNorms,
    LipschitzConvNet,
    LipschitzLayer,
    LipschitzMLP,
    MixedNorms,
    largest_estimate,
)
from contraflow.lipschitz.dense_concatenation import Concatenation, clipswish_lipschitz
from contraflow.logdet import GRADIENTS
from contraflow.numerics import batch_jacobian, duality_map
from contraflow.runs import RECIPES, build_flow, with_architecture
from contraflow.runs.recipe import NormSettings

INF = math.inf
ORDERS = (2.0, 1.0, INF)
#: (shape, p) → g.
NETS = {
    "dense": ((3,), lambda p: DenseConcatenationMLP(3, 5, 2, norms=MixedNorms((p,) * 4))),
    "conv": ((2, 4, 4), lambda p: DenseConcatenationConvNet(2, 3, (4, 4), 2, norms=MixedNorms((p,) * 4))),
}
DIVISORS = {1.0: 1.091, 2.0: 1.004, math.inf: 1.0}


def stirred(g: DenseConcatenation, factor: float = 3.0) -> DenseConcatenation:
    """Steep layers, and shares and slopes of every stage apart from one another."""
    with torch.no_grad():
        for name, parameter in g.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(factor)
            elif "raw" in name:
                parameter.copy_(torch.randn_like(parameter))
    return g


def clipswish(z: Tensor, beta: float, p: float = 2.0) -> Tensor:
    """The formula of the paper, plainly."""
    swish = lambda z: z * torch.sigmoid(beta * z) / 1.1  # noqa: E731
    return torch.cat([swish(z), swish(-z)], dim=1) / DIVISORS[p]


@pytest.mark.parametrize("p", ORDERS)
def test_the_constant_of_clipswish_is_attained_and_never_passed(p):
    z = torch.linspace(-20, 20, 400_001)[:, None].requires_grad_()
    for beta in (0.3, 1.0, 4.0):
        columns = [torch.autograd.grad(clipswish(z, beta, p)[:, one].sum(), z)[0] for one in (0, 1)]
        slope = torch.linalg.vector_norm(torch.stack(columns), p, dim=0).max().item()
        assert slope <= clipswish_lipschitz(p) < 1
        assert slope == pytest.approx(clipswish_lipschitz(p), rel=1e-7)
    assert clipswish_lipschitz(2.0) == CLIPSWISH_LIPSCHITZ


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kind", NETS)
def test_the_value_is_the_formula(kind, p):
    shape, make = NETS[kind]
    g = stirred(make(p))
    x = torch.randn(4, *shape)
    h = x
    for layer, one in zip(g.layers[:-1], g.concatenations, strict=True):
        kept, new = nn.functional.softplus(one.raw_shares)
        size = torch.linalg.vector_norm(torch.stack([kept, new]), p)
        pair = clipswish(layer(h), nn.functional.softplus(one.raw_beta), p)
        h = torch.cat([kept / size * h, new / size * pair], dim=1)
    torch.testing.assert_close(g(x), g.layers[-1](h))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kind", NETS)
def test_both_passes_are_products_with_the_autograd_jacobian(kind, p):
    shape, make = NETS[kind]
    g = stirred(make(p))
    x, t, u = torch.randn(4, *shape), torch.randn(2, 4, *shape), torch.randn(2, 3, *shape)
    tensors = g.tensors()
    jacobian = batch_jacobian(g, x)
    gx, products = g.dual(tensors, x, t)
    torch.testing.assert_close(gx, g(x))
    torch.testing.assert_close(products.flatten(2), torch.einsum("bij,pbj->pbi", jacobian, t.flatten(2)))
    with torch.no_grad():
        gx, vjp = g.linearize(tensors, x)
    torch.testing.assert_close(gx, g(x))
    torch.testing.assert_close(vjp(u).flatten(2), torch.einsum("bij,pbi->pbj", jacobian[:3], u.flatten(2)))


@pytest.mark.parametrize("route", [name for name in GRADIENTS if name not in ("series", "neumann")])
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kind", NETS)
def test_gradients_are_those_of_plain_double_backward(kind, p, route):
    """Exact log-determinant under unequal weights, every parameter: shares and β too."""
    shape, make = NETS[kind]
    g, x, weights = stirred(make(p)), torch.randn(3, *shape), torch.tensor([1.0, -2.0, 3.0])

    def gradients(name: str) -> list[Tensor]:
        z, logdet = ResidualBlock(g, Exact(), gradient=name).forward_and_logdet(x)
        loss = (weights * logdet).sum() + (weights[:, None] * z.flatten(1).square()).sum()
        return torch.autograd.grad(loss, list(g.parameters()))

    for (name, _), ours, plain in zip(g.named_parameters(), gradients(route), gradients("series"), strict=True):
        torch.testing.assert_close(ours, plain, msg=lambda text, name=name: f"{name}: {text}")
        assert plain.abs().max() > 1e-6, name


@pytest.mark.parametrize("p", ORDERS)
def test_an_adversary_reaches_the_bound_where_the_last_layer_points_along_the_steepest_direction(p):
    """One feature: g' = c·‖(η̂₁, η̂₂ Lip(Φ) c)‖_p at the steepest point, so the bound is attained and not passed."""
    g = DenseConcatenationMLP(1, 1, 1, bound=0.97, norms=MixedNorms((p,) * 3))
    one = g.concatenations[0]
    with torch.no_grad():
        one.raw_shares.copy_(torch.tensor([0.4, 1.3]))
        g.layers[0].weight.fill_(5.0)
        g.layers[0].bias.fill_(0.0)
        steep = 2.39936 / one.beta()
        up, down = batch_jacobian(lambda z: clipswish(z, one.beta(), p), steep.reshape(1, 1))[0, :, 0]
        kept, new = one.shares()
        slopes = torch.stack([kept, new * up * 0.97, new * down * 0.97])
        g.layers[1].weight.copy_(7 * duality_map(slopes[None], p))  # its row has norm 7 in ‖·‖_{p*}
    update_lipschitz(g)
    bound = g.lipschitz_bound()
    inner = torch.stack([kept, new * clipswish_lipschitz(p) * 0.97])
    if p == 1:  # each column is scaled to c by itself, whatever the others are
        assert torch.equal(g.layers[1].normalised().abs().round(decimals=6), torch.full((1, 3), 0.97))
    assert bound == pytest.approx(0.97 * torch.linalg.vector_norm(inner, p).item(), rel=1e-5)
    assert 0.999 * bound < largest_quotient(frozen(g), (1,), steps=100) <= bound


def test_norms_that_a_concatenation_does_not_have_are_refused():
    for norms in (LearnedNorms(), MixedNorms((1, INF, INF, 1)), MixedNorms((3,) * 4)):
        with pytest.raises(
            ConfigurationError, match="one fixed order of 1, 2 or inf throughout, 4 times in MixedNorms"
        ):
            DenseConcatenationMLP(3, 5, 2, norms=norms)
    flow = idensenet((2,), blocks=1, growth=3, depth=1, norms=MixedNorms((INF,) * 3))
    (block,) = flow.certify().blocks
    assert block.order == INF
    assert block.within_target
    chosen = with_architecture(RECIPES["checkerboard"](), "idensenet")
    chosen.architecture.norms = NormSettings("mixed", [INF] * 5)
    assert build_flow(chosen, (2,), None).certify().blocks[0].order == INF


def test_no_block_exceeds_its_certificate_along_training_and_after_a_huge_step():
    torch.manual_seed(2)
    flow = idensenet((1, 4, 4), blocks=(1,), growth=4, depth=2, dense_blocks=1)
    data = torch.randn(64, 1, 4, 4) * torch.linspace(0.1, 3, 16).reshape(4, 4)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
    for step in range(16):
        if step == 15:
            optimiser.param_groups[0]["lr"] = 1.0
        update_lipschitz(flow, certified=True)
        if step % 5 == 0:
            assert flow.certify().within_target, str(flow.certify())
        optimiser.zero_grad()
        (-flow.log_prob(data).mean() / 16).backward()
        optimiser.step()
    update_lipschitz(flow, certified=True)
    attack(flow)
    assert max(one.shares()[1].item() for one in concatenations(flow)) > 0.72, "the shares are learned"


def concatenations(flow: Flow) -> list[Concatenation]:
    return [one for one in flow.modules() if isinstance(one, Concatenation)]


def test_the_certificate_of_a_dense_concatenation():
    flow = Flow((3,), Chain([ResidualBlock(stirred(DenseConcatenationMLP(3, 5, 2, bound=0.9), 30.0)), ActNorm(3)]))
    (block,) = flow.certify().blocks
    g = flow.bijection.bijections[0].g
    assert block.certified
    assert block.estimate == pytest.approx(g.lipschitz_estimate())
    assert block.estimate == pytest.approx(largest_estimate(flow))
    assert block.bound == g.lipschitz_bound() >= block.estimate
    total = 0.9
    for one in g.concatenations:
        kept, new = one.shares().tolist()
        total *= math.hypot(kept, new * CLIPSWISH_LIPSCHITZ * 0.9)
    assert block.target == pytest.approx(total)
    assert [one.name for one in block.layers] == [f"bijection.bijections.0.g.layers.{index}" for index in range(3)]
    rescale_to_certificate(flow)
    certificate = flow.certify()
    assert certificate.within_target
    assert certificate.invertible
    assert certificate.blocks[0].bound <= total
    assert json.loads(json.dumps(certificate.as_dict()))["blocks"][0]["target"] == pytest.approx(total)
    assert "proved invertible" in str(certificate)


class Doubled(DenseConcatenationMLP):
    def value(self, tensors, x):
        return 2 * super().value(tensors, x)


class Boasting(DenseConcatenationMLP):
    def compose(self, norms):
        return 0.01


@pytest.mark.parametrize("kind", [Doubled, Boasting])
def test_a_subclass_with_another_map_or_formula_is_uncertified(kind):
    certificate = Flow((2,), Chain([ResidualBlock(kind(2, 4))])).certify()
    assert certificate.uncertified == ("bijection.bijections.0",)
    assert "computes another map than DenseConcatenation" in str(certificate)


def test_sizes_that_cannot_be():
    for growth, depth in ((0, 3), (4, 0)):
        with pytest.raises(DomainError, match=f"growth={growth}, depth={depth}"):
            DenseConcatenationMLP(2, growth, depth)
    with pytest.raises(ShapeError, match="3×3 cannot be halved"):
        idensenet((1, 3, 3))
    for make in (idensenet, iresnet):
        with pytest.raises(ShapeError, match="takes vectors"):
            make((2, 2))


def test_an_iresnet_is_what_the_paper_says():
    flow = iresnet((1, 8, 8), terms=7)
    blocks = [one for one in flow.modules() if isinstance(one, ResidualBlock)]
    assert len(blocks) == 8
    assert all(isinstance(one.g, LipschitzConvNet) and one.logdet == PowerSeries(7) for one in blocks)
    assert {layer.bound for layer in flow.modules() if isinstance(layer, LipschitzLayer)} == {0.9}
    assert all(isinstance(one, ELU) for block in blocks for one in block.g.activations)
    assert isinstance(flow.bijection.bijections[0].bijections[0], Squeeze)
    dense = iresnet((3,), blocks=2, hidden=(4,))
    assert {type(one.g) for one in dense.modules() if isinstance(one, ResidualBlock)} == {LipschitzMLP}


@pytest.mark.parametrize(("recipe", "shape"), [("digits", (1, 8, 8)), ("table", (5,)), ("checkerboard", (2,))])
def test_a_recipe_does_not_replace_the_truncation_of_an_iresnet(recipe, shape):
    """Neither the roulette of digits nor the exact estimator of the 2-D recipes; evaluation does replace it."""
    chosen = with_architecture(RECIPES[recipe](), "iresnet")
    flow = build_flow(chosen, shape, None)
    assert flow.estimator_name == "5 terms (biased), 1 probe"
    evaluated = flow.with_logdet(chosen.evaluation.estimator).estimator_name
    assert "biased" not in evaluated
    chosen.architecture.options = {"logdet": "exact"}
    with pytest.raises(ContraflowError, match="unknown architecture option 'logdet'"):
        build_flow(chosen, shape, None)


def test_a_recipe_gives_an_idensenet_its_estimator():
    flow = build_flow(with_architecture(RECIPES["checkerboard"](), "idensenet"), (2,), None)
    assert flow.estimator_name == "exact log-determinant"
