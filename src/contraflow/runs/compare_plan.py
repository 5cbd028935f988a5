"""What a comparison of architectures consists of: recipes, architectures, the budget of a run, learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from contraflow.architectures import ARCHITECTURES
from contraflow.errors import ConfigurationError, unknown_name
from contraflow.runs.recipes import RECIPES


@dataclass(frozen=True)
class Budget:
    """What the training steps of one run may cost.

    Args:
        seconds: processor time. Twenty steps, or as many as the budget pays for, are timed first; their mean gives the
            number of steps.
        steps: a number of steps instead.

    Raises:
        ConfigurationError: not exactly one of the two, or not positive.

    >>> print(Budget(seconds=60))
    60 seconds of processor time
    """

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None) or not (self.seconds or self.steps or 0) > 0:
            raise ConfigurationError(
                f"seconds={self.seconds}, steps={self.steps}: give one budget for a run, a positive number."
            )

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} seconds of processor time"

    def steps_at(self, seconds_a_step: float) -> int:
        """The number of training steps that the budget pays for, at least one."""
        return self.steps if self.seconds is None else max(1, int(self.seconds / seconds_a_step))  # type: ignore[return-value]


@dataclass(frozen=True)
class RateSearch:
    """How the learning rate of an architecture is chosen.

    Args:
        multiples: factors on the architecture's own rate. With several, each is tried in a short training run with
            seed 0, and the one with the best score on validation rows is taken. The trials come on top of the budget.
        trial: steps of a trial, as a share of the steps of a run. Short trials are cheap, but favour small rates.
        recipe: the recipe whose trials choose for all recipes; by default each recipe has its own trials.

    Raises:
        ConfigurationError: a multiple that is not positive, a share outside (0, 1], or an unknown recipe.
    """

    multiples: tuple[float, ...] = (1.0,)
    trial: float = 0.1
    recipe: str | None = None

    def __post_init__(self) -> None:
        if not self.multiples or not min(self.multiples) > 0:
            raise ConfigurationError(f"rates={self.multiples}: expected positive multiples of the learning rate.")
        if not 0 < self.trial <= 1:
            raise ConfigurationError(f"trial={self.trial}: expected a share of the steps, above 0 and at most 1.")
        if self.recipe is not None and self.recipe not in RECIPES:
            raise unknown_name("recipe", self.recipe, RECIPES)

    def __str__(self) -> str:
        multiples = ", ".join(f"{multiple:g}" for multiple in self.multiples)
        where = "validation rows" if self.recipe is None else f"validation rows of {self.recipe}"
        return f"the best of {multiples} times its own rate on {where} after {self.trial:.0%} of the steps"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        recipes: names of `contraflow recipes`.
        architectures: names of `contraflow architectures`, each trained with its own defaults.
        budget: of every run.
        seeds: number of runs of each architecture, with seeds 0, 1, …, which draw data split, weights, batches, noise.
        limit: number of test rows to score; that of the recipe by default.
        validation: number of validation rows; that of the recipe by default.
        rates: how the learning rate of each architecture is chosen; its own rate by default.

    Raises:
        ConfigurationError: an unknown name, no name, or a number below 1.
    """

    recipes: tuple[str, ...]
    architectures: tuple[str, ...]
    budget: Budget
    seeds: int = 2
    limit: int | None = None
    validation: int | None = None
    rates: RateSearch = RateSearch()

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("recipe", self.recipes, RECIPES),
            ("architecture", self.architectures, ARCHITECTURES),
        ):
            if not names:
                raise ConfigurationError(f"no {kind} to compare: `contraflow {kind}s` lists them.")
            for name in names:
                if name not in known:
                    raise unknown_name(kind, name, known)
        for name, value in (("seeds", self.seeds), ("limit", self.limit), ("validation", self.validation)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}={value}: it must be at least 1.")
