"""The conformance tests detect violations: for each property there is a bijection or estimator that violates it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from contraflow import Bijection, RussianRoulette
from contraflow.logdet import Geometric
from contraflow.testing import check_bijection, check_estimator, check_probe_variance


class Scale(Bijection):
    """z = x·exp(s): a correct map for the faults to start from."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward_and_logdet(self, x, context=None, *, generator=None):
        return x * self.s.exp(), self.s.sum().expand(x.shape[0])

    def inverse_and_logdet(self, z, context=None, *, generator=None):
        return z * (-self.s).exp(), -self.s.sum().expand(z.shape[0])


class WrongLogdet(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        z, logdet = super().forward_and_logdet(x)
        return z, 2 * logdet

    def inverse_and_logdet(self, z, context=None, *, generator=None):
        x, logdet = super().inverse_and_logdet(z)
        return x, 2 * logdet


class SignlessInverse(Scale):
    def inverse_and_logdet(self, z, context=None, *, generator=None):
        x, logdet = super().inverse_and_logdet(z)
        return x, -logdet


class ColumnLogdet(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        z, logdet = super().forward_and_logdet(x)
        return z, logdet[:, None]


class RoughInverse(Scale):
    def inverse_and_logdet(self, z, context=None, *, generator=None):
        x, logdet = super().inverse_and_logdet(z)
        return x + 1e-6, logdet


class Mutates(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        z, logdet = super().forward_and_logdet(x)
        x.data.add_(1e-15)  # unseen by autograd, as from C++ or numpy
        return z, logdet


class AsksForGradients(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        if x.is_leaf:
            x.requires_grad_()
        return super().forward_and_logdet(x)


class DetachedParameter(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        return x * self.s.detach().exp(), self.s.detach().sum().expand(x.shape[0])


class HiddenState(Scale):
    def __init__(self) -> None:
        super().__init__()
        self.secret = torch.randn(())

    def forward_and_logdet(self, x, context=None, *, generator=None):
        return (x + self.secret) * self.s.exp(), self.s.sum().expand(x.shape[0])

    def inverse_and_logdet(self, z, context=None, *, generator=None):
        x, logdet = super().inverse_and_logdet(z)
        return x - self.secret, logdet


class BatchStatistics(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        z, logdet = super().forward_and_logdet(x)
        return z, logdet + 1e-6 * x.detach().sum()


class GlobalNoise(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        torch.rand(())
        return super().forward_and_logdet(x)


class Promotes(Scale):
    def forward_and_logdet(self, x, context=None, *, generator=None):
        z, logdet = super().forward_and_logdet(x)
        return z, logdet.double()


def test_a_correct_map_passes():
    check_bijection(Scale(), torch.randn(4, 2), fresh=Scale)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (WrongLogdet, "autograd Jacobian"),
        (SignlessInverse, "minus the forward"),
        (ColumnLogdet, "shape"),
        (RoughInverse, "round trip"),
        (Mutates, "changed in place"),
        (AsksForGradients, "require gradients"),
        (DetachedParameter, "no gradient"),
        (HiddenState, "after loading"),
        (BatchStatistics, "batch of one|gradient of the log-determinant|Jacobian|minus the forward"),
        (GlobalNoise, "global generator"),
        (Promotes, "dtype"),
    ],
)
def test_the_violated_property_is_named(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_bijection(broken(), torch.randn(4, 2), fresh=broken)


@dataclass(frozen=True)
class WrongCoefficient(RussianRoulette):
    def coefficient(self, k):
        return super().coefficient(k) * (1.5 if k == 4 else 1)


@dataclass(frozen=True)
class HalvedAdjoint(RussianRoulette):
    def estimate(self, linearize, x, generator=None):
        estimate = super().estimate(linearize, x, generator)
        return estimate._replace(adjoints=estimate.adjoints * 0.97)


@dataclass(frozen=True)
class OneProbe(RussianRoulette):
    def estimate(self, linearize, x, generator=None):
        one = RussianRoulette(self.law, self.exact_terms)
        return replace(one, probes=1).estimate(linearize, x, generator)


def test_a_biased_value_is_found():
    with pytest.raises(AssertionError, match="standard errors"):
        check_estimator(WrongCoefficient(Geometric(0.5), 2))


def test_a_biased_gradient_is_found():
    with pytest.raises(AssertionError, match="gradient"):
        check_estimator(HalvedAdjoint(Geometric(0.5), 2))


def test_probes_that_are_not_used_are_found():
    with pytest.raises(AssertionError, match="variance"):
        check_probe_variance(OneProbe(Geometric(0.5), 2))
