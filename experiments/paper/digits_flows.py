"""The flows of digits that the experiments on samples and on out-of-distribution detection share, trained once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from contraflow.logdet import PowerSeries
from contraflow.runs import RECIPES, Recipe, with_architecture

FAMILY = "digits_flows"


def residual_flow() -> Recipe:
    """The recipe `digits`."""
    return RECIPES["digits"]()


def background() -> Recipe:
    """The same on images with a tenth of the pixels replaced, a third of the steps: for the likelihood ratio."""
    recipe = residual_flow()
    recipe.training.steps = 500
    recipe.preprocessing.mutate = 0.1
    return recipe


def iresnet() -> Recipe:
    """An i-ResNet under the biased series of five terms, trained as long."""
    recipe = with_architecture(residual_flow(), "iresnet")
    recipe.estimator = PowerSeries()
    return recipe


def chosen(*recipes: Callable[[], Recipe]) -> Callable[[], Mapping[str, Recipe]]:
    """Label → recipe, made when asked for.

    >>> list(chosen(residual_flow, iresnet)())
    ['residual_flow', 'iresnet']
    """
    return lambda: {make.__name__: make() for make in recipes}
