"""Estimators and objectives as keys: every kind, every refusal, and a new one by one entry."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contraflow.cli import main
from contraflow.cli.train import parse_training
from contraflow.errors import ConfigurationError, DomainError
from contraflow.flow import Flow
from contraflow.logdet import (
    EVALUATION,
    TRAINING,
    AdaptiveRoulette,
    Exact,
    Geometric,
    LogDetEstimator,
    Poisson,
    PowerSeries,
    RussianRoulette,
    TruncationLaw,
)
from contraflow.logdet.probes import Gaussian, PairedRademacher
from contraflow.runs import Recipe
from contraflow.runs.choices import CHOICES, ESTIMATOR, LAWS, OBJECTIVE, OBJECTIVES, Choice
from contraflow.training import Hybrid, Likelihood
from contraflow.training.objective import Batch, Terms

VALUES: list[LogDetEstimator] = [
    TRAINING,
    EVALUATION,
    RussianRoulette(Poisson(3.0), 4, Gaussian(), 2),
    RussianRoulette(Geometric(0.3), series_dtype=torch.bfloat16),
    AdaptiveRoulette(PairedRademacher(), 2),
    PowerSeries(),
    PowerSeries(7, Gaussian(), 3),
    Exact(),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_keys_give_the_value_back(value: LogDetEstimator) -> None:
    keys = json.loads(json.dumps(ESTIMATOR.as_keys(value)))
    for base in VALUES:
        assert ESTIMATOR.changed(base, keys, "estimator") == value


@pytest.mark.parametrize(("value", "base"), list(itertools.product(VALUES, VALUES)), ids=str)
def test_changes_lead_from_one_to_the_other(value: LogDetEstimator, base: LogDetEstimator) -> None:
    changes = ESTIMATOR.changes(value, base)
    assert ESTIMATOR.changed(base, changes, "estimator") == value
    assert bool(changes) == (value != base)


def test_what_both_kinds_take_is_kept() -> None:
    """The probe, and that draws of evaluation are independent, outlive a change of kind or law."""
    kept = ESTIMATOR.changed(EVALUATION, {"kind": "adaptive", "probe": "gaussian"}, "estimator")
    assert kept == AdaptiveRoulette(Gaussian(), stratified=False)
    poisson = ESTIMATOR.changed(EVALUATION, {"law": "poisson"}, "estimator")
    assert poisson == RussianRoulette(Poisson(2.0), 20, stratified=False)


@pytest.mark.parametrize(
    ("base", "keys", "message"),
    [
        (Exact(), {"terms": 3}, "estimator.terms=3: kind=exact does not accept it, kind=series does."),
        (TRAINING, {"rate": 3.0}, "estimator.rate=3.0: law=geometric does not accept it, law=poisson does."),
        (
            TRAINING,
            {"law": "poisson", "p": 0.5},
            "estimator.p=0.5: law=poisson does not accept it, law=geometric does.",
        ),
        (
            PowerSeries(),
            {"stratified": False},
            "estimator.stratified=False: kind=series does not accept it, kind=roulette and kind=adaptive do.",
        ),
        (
            AdaptiveRoulette(),
            {"series_dtype": "bfloat16"},
            "estimator.series_dtype=bfloat16: kind=adaptive does not accept it, kind=roulette does.",
        ),
        (TRAINING, {"kind": "exact", "law": "poisson"}, "estimator.law=poisson: kind=exact does not accept it, "),
        (TRAINING, {"trems": 3}, "unknown key 'estimator.trems'. Did you mean 'estimator.terms'?"),
        (TRAINING, {"law": "zeta"}, "unknown estimator.law 'zeta'. Known: geometric, poisson."),
        (TRAINING, {"p": "much"}, "estimator.p='much' has the wrong type."),
    ],
)
def test_a_key_that_would_be_ignored_is_refused(base: LogDetEstimator, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ESTIMATOR.changed(base, keys, "estimator")
    assert str(raised.value).startswith(message)


def test_numbers_are_checked_by_the_classes() -> None:
    with pytest.raises(DomainError, match=r"Geometric\(p=1.5\)"):
        ESTIMATOR.changed(TRAINING, {"p": 1.5}, "estimator")


def test_what_has_no_name_cannot_be_written_down() -> None:
    for value, match in (
        (RussianRoulette(Zeta()), "Zeta: no law that a recipe can name. Known: geometric, poisson. Add yours"),
        (RussianRoulette(series_dtype=torch.float64), r"torch.float64: no series_dtype .* Known: same, bfloat16"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            Recipe(estimator=value).as_dict()


@pytest.mark.parametrize("choice", CHOICES.values(), ids=["estimator", "objective"])
def test_keys_are_said_and_belong_to_one_place(choice: Choice) -> None:
    """Every key has help, and no two choices that stand beside each other share a key."""
    assert all(one.help for uses in choice.keys().values() for one in uses)
    own = Choice(choice.tag, choice.classes, names=choice.names).keys().keys()
    for tag, part in choice.parts.items():
        assert own & part.keys().keys() == {tag} == {part.tag}
    for one, other in itertools.combinations(choice.parts.values(), 2):
        assert not one.keys().keys() & other.keys().keys()


@dataclass(frozen=True)
class Zeta(TruncationLaw):
    """P(N >= k) = k^-a.

    Args:
        a: how fast it falls.
    """

    a: float = 2.5

    def survival(self, k: int) -> float:
        return max(1, k) ** -self.a

    def quantile(self, u: Tensor) -> Tensor:
        return (1 - u.double()).pow(-1 / self.a).floor().long()

    @property
    def mean(self) -> float:
        return math.fsum(self.survival(k) for k in range(1, 10_000))


def test_a_new_law_reaches_the_command_by_one_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits", "--out", "run", "estimator.law=zeta", "estimator.a=3"]
    with pytest.raises(ConfigurationError):
        parse_training(words)
    monkeypatch.setitem(LAWS, "zeta", Zeta)
    recipe, _ = parse_training(words)
    assert recipe.estimator == RussianRoulette(Zeta(3.0))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    with pytest.raises(ConfigurationError, match=r"a=2\.0: law=geometric does not accept it, law=zeta does"):
        parse_training(["digits", "--out", "run", "estimator.a=2"])
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "with law=zeta: how fast it falls." in capsys.readouterr().out


@dataclass(frozen=True)
class Tempered(Likelihood):
    """-log p(x) / t.

    Args:
        t: the temperature.
    """

    t: float = 1.0

    def terms(self, flow: Flow, batch: Batch, generator: torch.Generator) -> Terms:
        found = super().terms(flow, batch, generator)
        return Terms(found.loss / self.t, found.values)


def test_a_new_objective_reaches_the_command_by_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(OBJECTIVES, "tempered", Tempered)
    small = ['architecture.options={"blocks":1,"hidden":[4]}', "training.steps=3", "training.log_every=1"]
    small += ["data.limit=50", "evaluation.limit=5", "evaluation.samples=2", "training.validate_every=3"]
    losses = []
    for name, words in (("plain", []), ("half", ["objective.kind=tempered", "objective.t=2"])):
        assert main(["train", "moons", "--out", str(tmp_path / name), *small, *words]) == 0
        first = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])
        losses.append(first["loss"])
    assert losses[1] == pytest.approx(losses[0] / 2)
    assert OBJECTIVE.as_keys(Hybrid(0.5)) == {"kind": "hybrid", "likelihood_weight": 0.5}
