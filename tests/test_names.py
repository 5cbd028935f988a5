"""Public names: few at the top level, and no two that are easily confused."""

from __future__ import annotations

import importlib
import itertools
import types

import pytest

import contraflow

PARTS = ["architectures", "bijections", "distributions", "lipschitz", "logdet", "nets", "numerics", "preprocessing"]
LABORATORY = ["data", "evaluation", "report", "runs", "testing", "training"]
#: Two names with the same stem and two of these endings are easily confused.
ENDINGS = {"", "e", "s", "ed", "er", "or", "ing", "ion", "ions", "ive"}


def alike(names: list[str]) -> list[tuple[str, str]]:
    """Two classes or two functions whose names differ by an ending alone; a table may be named after its class."""

    def stems(name: str) -> set[str]:
        return {name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)}

    pairs = itertools.combinations([name for name in names if not name.isupper()], 2)
    return [(one, other) for one, other in pairs if stems(one) & stems(other)]


def test_the_top_level_is_small_and_other_names_belong_to_modules() -> None:
    parts = [name for name in contraflow.__all__ if isinstance(getattr(contraflow, name), types.ModuleType)]
    assert sorted(parts) == PARTS
    assert len(contraflow.__all__) - len(parts) <= 25
    assert contraflow.logdet.Poisson(3.0)
    assert issubclass(contraflow.bijections.Inverse, contraflow.Bijection)
    assert contraflow.glow is contraflow.architectures.glow
    with pytest.raises(AttributeError, match="Poisson"):
        contraflow.Poisson  # noqa: B018


@pytest.mark.parametrize("part", ["", *PARTS, *LABORATORY])
def test_no_two_names_differ_by_an_ending(part: str) -> None:
    module = importlib.import_module(f"contraflow.{part}" if part else "contraflow")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert alike(module.__all__) == []


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["Inverse", "Inversion", "InversionError"], [("Inverse", "Inversion")]),
        (["invert", "inverts"], [("invert", "inverts")]),
        (["Recipe", "RECIPES", "score", "Scores"], []),
        (["Chain", "Flow", "residual_flow", "residual_flow_images"], []),
    ],
)
def test_names_that_are_alike_are_found(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert alike(names) == pairs


def test_probes_have_a_namespace_of_their_own() -> None:
    assert not {"Gaussian", "Rademacher", "PairedRademacher"} & {*contraflow.__all__, *contraflow.logdet.__all__}
    assert contraflow.logdet.probes.Gaussian()
