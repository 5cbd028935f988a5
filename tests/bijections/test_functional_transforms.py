"""`torch.func` transforms of log p(x) give the same results as a loop."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

import contraflow as cf
from contraflow.errors import ConfigurationError


class Score(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, row):
        return self.flow.log_prob(row[None])[0]


FLOWS = {
    "residual": lambda: cf.residual_flow((2,), blocks=2, hidden=(8, 8)),
    "concatenated sine": lambda: cf.residual_flow((2,), blocks=2, hidden=(8, 8), activation="concatenated_sine"),
    "clipswish": lambda: cf.residual_flow((2,), blocks=1, hidden=(8, 8), activation="clipswish"),
    "cpila": lambda: cf.residual_flow((2,), blocks=1, hidden=(8, 8), activation="cpila"),
    "learned norms": lambda: cf.residual_flow((2,), blocks=1, hidden=(8, 8), norms=cf.lipschitz.LearnedNorms()),
    "iresnet": lambda: cf.iresnet((2,), blocks=2),
    "idensenet": lambda: cf.idensenet((2,), blocks=1, growth=4),
    "ffjord": lambda: cf.architectures.ffjord((2,), hidden=(8,), tolerance=1e-8),
    "naf": lambda: cf.architectures.naf((2,)),
}


def score_of(name):
    flow = FLOWS[name]()
    flow.log_prob(torch.randn(50, 2))
    return Score(flow.with_logdet(cf.Exact()))


@pytest.mark.parametrize("name", FLOWS)
def test_gradients_sample_by_sample(name):
    """To the weights (Fisher information) and to x."""
    score = score_of(name)
    x = torch.randn(4, 2)
    parameters = {key: parameter.detach() for key, parameter in score.named_parameters()}
    to_weights, to_x = vmap(grad(lambda p, row: functional_call(score, p, (row,)), argnums=(0, 1)), (None, 0))(
        parameters, x
    )
    for index, row in enumerate(x):
        row = row.clone().requires_grad_()
        expected = torch.autograd.grad(
            score(row), [*score.parameters(), row], allow_unused=True, materialize_grads=True
        )
        for (key, mine), one in zip([*to_weights.items(), ("x", to_x)], expected, strict=True):
            torch.testing.assert_close(
                mine[index], one, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize("name", ["residual", "concatenated sine", "clipswish", "cpila", "idensenet", "naf"])
def test_hessians_sample_by_sample(name):
    score = score_of(name)
    x = torch.randn(3, 2)
    expected = torch.stack([torch.autograd.functional.hessian(score, row) for row in x])
    torch.testing.assert_close(vmap(jacrev(jacrev(score)))(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "concatenated sine"])
def test_jacobians_of_the_map(name):
    flow = FLOWS[name]()
    flow.log_prob(torch.randn(50, 2))
    x = torch.randn(3, 2)
    _, logdet = flow.with_logdet(cf.Exact()).forward_and_logdet(x)
    jacobians = vmap(jacrev(lambda row: flow(row[None])[0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobians).logabsdet, logdet)


@pytest.mark.parametrize("logdet", [cf.RussianRoulette(), cf.PowerSeries(3)], ids=str)
def test_estimates_with_the_same_draws_for_all(logdet):
    """One number of terms and one probe for all samples of a vmap, as a loop with one seed has."""
    flow = FLOWS["residual"]().with_logdet(logdet)
    flow.log_prob(torch.randn(50, 2))
    x = torch.randn(4, 2)
    torch.manual_seed(5)
    log_prob = vmap(lambda row: flow.log_prob(row[None])[0], randomness="same")(x)
    expected = []
    for row in x:
        torch.manual_seed(5)
        expected.append(flow.log_prob(row[None])[0])
    torch.testing.assert_close(log_prob, torch.stack(expected))


def test_estimators_that_need_the_values_of_draws_are_refused():
    flow = FLOWS["residual"]()
    flow.log_prob(torch.randn(50, 2))
    with pytest.raises(ConfigurationError, match="randomness"):
        vmap(lambda row: flow.log_prob(row[None])[0], randomness="different")(torch.randn(4, 2))


def test_transforms_of_a_fixed_point_inverse_are_refused():
    flow = FLOWS["residual"]()
    flow.log_prob(torch.randn(50, 2))
    with pytest.raises(ConfigurationError, match="fixed-point inverse"):
        vmap(lambda row: flow.inverse(row[None])[0])(torch.randn(4, 2))


def test_an_ensemble_is_evaluated_at_the_weights_of_each_member():
    """vmap over stacked weights, where nobody can look whether v belongs to them: it is mapped anew for each."""
    flows = [Score(FLOWS["residual"]().with_logdet(cf.Exact())) for _ in range(3)]
    x = torch.randn(2)
    for flow in flows:
        flow.flow.log_prob(torch.randn(50, 2))
        for name, parameter in flow.named_parameters():
            if name.endswith("weight"):
                parameter.data.mul_(4)
    parameters, buffers = stack_module_state(flows)
    mapped = vmap(lambda p, b: functional_call(flows[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(mapped, torch.stack([flow(x) for flow in flows]), rtol=1e-3, atol=1e-3)


def test_functional_call_with_other_weights_uses_their_norms():
    score = score_of("residual")
    x = torch.randn(2)
    own = score(x).detach()
    others = {
        key: 5 * torch.randn_like(parameter) if key.endswith("weight") else parameter
        for key, parameter in score.named_parameters()
    }
    mapped = functional_call(score, others, (x,))
    twin = Score(FLOWS["residual"]().with_logdet(cf.Exact()))
    twin.load_state_dict(score.state_dict() | {key: parameter.detach() for key, parameter in others.items()})
    torch.testing.assert_close(mapped, twin(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(score(x).detach(), own, rtol=1e-4, atol=1e-4)
