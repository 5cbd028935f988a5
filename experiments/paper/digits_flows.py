"""Flows of digits that several experiments share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from contraflow.runs import RECIPES, Recipe
from experiments.paper.ablation import I_RESNET

FAMILY = "digits_flows"


def residual_flow() -> Recipe:
    """The recipe `digits`."""
    return RECIPES["digits"]()


def background() -> Recipe:
    """The recipe `digits` with 500 steps on images with a tenth of the pixels replaced, for the likelihood ratio."""
    recipe = residual_flow()
    recipe.training.steps = 500
    recipe.preprocessing.mutate = 0.1
    return recipe


def iresnet() -> Recipe:
    """The recipe `digits` as an i-ResNet: the same network with ELU and c = 0.9, trained on five biased terms."""
    return I_RESNET.recipe(residual_flow())


def chosen(*recipes: Callable[[], Recipe]) -> Callable[[], Mapping[str, Recipe]]:
    """A function that returns label → recipe.

    >>> list(chosen(residual_flow, iresnet)())
    ['residual_flow', 'iresnet']
    """
    return lambda: {make.__name__: make() for make in recipes}
