"""Where the settings of the paper's recipes come from: the text of the paper, the code of its authors, or neither.

`python -m contraflow.runs.paper_settings` prints docs/generated/paper_settings.md. The text is Chen et al., Residual
flows for invertible generative modeling, 2019 (arXiv:1906.02735). The code is github.com/rtqichen/residual-flows, the
commands of its README with the defaults of its scripts, and for the i-ResNet github.com/jhjacobsen/invertible-resnet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contraflow.runs.build import architecture_options
from contraflow.runs.recipe import Recipe
from contraflow.runs.recipes import RECIPES

Settings = Mapping[str, Any]
"""Path of a setting → its value. A setting that is not stated is absent."""

UNSTATED = "–"

#: What begins or ends the paths of other settings: which data and flow, and how a run is computed, kept and watched.
_OTHERS = (
    *("recipe", "data.", "seed", "device", "dtype", "preprocessing.kind", "preprocessing.mutate"),
    *("architecture.name", "architecture.options", "architecture.gradient", "architecture.classes"),
    *("architecture.norms.orders", "architecture.norms.squash", "series_dtype"),
    *("training.log_every", "training.checkpoint_every", "training.validate_every", "training.validation_size"),
    *("evaluation.batch_size", "evaluation.limit", "evaluation.samples"),
)


@dataclass(frozen=True)
class Row:
    """A setting of a recipe, and its values in the paper's text and in the authors' code.

    Attributes:
        setting: the path of the setting.
        value: its value in the recipe.
        text, code: its values in the text and in the code; `UNSTATED` where these do not state it.
    """

    setting: str
    value: Any
    text: Any
    code: Any

    @property
    def source(self) -> str:
        """Whose value the recipe has: text, code, text and code, or ours."""
        agree = [name for name in ("text", "code") if getattr(self, name) == self.value]
        return " and ".join(agree) or "ours"


_ROULETTE = {"kind": "paper", "law": "geometric", "p": 0.5, "probes": 1}


def _under(path: str, values: Settings) -> dict[str, Any]:
    return {f"{path}.{key}": value for key, value in values.items()}


def _without(settings: Settings, *paths: str) -> Settings:
    return {path: value for path, value in settings.items() if path not in paths}


#: What the text states for all models of images.
_TEXT: Settings = {
    "preprocessing.alpha": 0.05,
    "preprocessing.bits": None,
    "preprocessing.standardise": False,
    "preprocessing.flip": False,
    "preprocessing.crop_padding": 0,
    "architecture.hidden": 512,
    "architecture.kernels": [3, 1, 3],
    "architecture.dense_blocks": 0,
    "architecture.squeeze_first": False,
    "architecture.factor_out": False,
    "architecture.bound": 0.98,
    "architecture.activation": "lipswish",
    "architecture.preactivation": True,
    "architecture.actnorm": True,
    "architecture.norms.kind": "spectral",
    **_under("estimator", {**_ROULETTE, "exact_terms": 2}),
    "evaluation.estimator.kind": "roulette",
    "evaluation.estimator.exact_terms": 20,
    "objective.kind": "likelihood",
    "training.learning_rate": 1e-3,
    "training.weight_decay": 5e-4,
    "training.polyak": 0.999,
    "training.certified": False,
}

#: What the code has for all models of images.
_CODE: Settings = {
    "preprocessing.alpha": 0.05,
    "preprocessing.bits": None,
    "preprocessing.standardise": False,
    "preprocessing.flip": False,
    "preprocessing.crop_padding": 0,
    "preprocessing.dequantisation": "uniform",
    "architecture.blocks": [16, 16, 16],
    "architecture.hidden": 512,
    "architecture.kernels": [3, 1, 3],
    "architecture.dense_blocks": 4,
    "architecture.dense_hidden": 128,
    "architecture.squeeze_first": False,
    "architecture.factor_out": False,
    "architecture.bound": 0.98,
    "architecture.activation": "lipswish",
    "architecture.preactivation": True,
    "architecture.actnorm": True,
    "architecture.zero_start": 1.0,
    "architecture.initialisation": None,  # torch's
    "architecture.norms.kind": "spectral",
    **_under("estimator", {"kind": "paper", "law": "poisson", "exact_terms": 2, "probe": "gaussian", "probes": 1}),
    **_under("evaluation.estimator", {"kind": "paper", "law": "poisson", "exact_terms": 20, "probe": "gaussian"}),
    "evaluation.estimator.probes": 1,
    "evaluation.draws": 1,
    "objective.kind": "likelihood",
    "training.batch_size": 64,
    "training.learning_rate": 1e-3,
    "training.schedule": "constant",
    "training.warmup_steps": 1000,
    "training.weight_decay": 0.0,
    "training.beta1": 0.9,
    "training.beta2": 0.99,
    "training.gradient_clip": 1.0,
    "training.polyak": 0.999,
    "training.certified": False,
}

_THREE = {"architecture.blocks": [16, 16, 16]}
_DENSE = {"architecture.dense_blocks": 4, "architecture.dense_hidden": 128}
_LARGE = {"architecture.squeeze_first": True, "architecture.factor_out": True}
_HYBRID = {
    "objective.kind": "hybrid",
    "objective.likelihood_weight": "1/D",
    "architecture.block": "residual",
    "architecture.classifier": "branches",
    "architecture.branch_features": 256,
}
_STANDARDISED = {"preprocessing.standardise": True, "preprocessing.flip": True, "preprocessing.crop_padding": 4}
_MNIST = {**_THREE, "training.batch_size": 64, "training.steps": 350 * (55_000 // 64)}
_CIFAR10 = {**_THREE, "training.batch_size": 64, "training.steps": 350 * (45_000 // 64)}
_IRESNET = {
    "architecture.bound": 0.9,
    "architecture.activation": "elu",
    "architecture.terms": 5,
    "estimator.kind": "series",
    "estimator.terms": 5,
}

#: Recipe → the settings that the text states for it.
TEXT: dict[str, Settings] = {
    "mnist_paper": {**_TEXT, **_MNIST, **_DENSE, "preprocessing.alpha": 1e-5},
    "mnist_hybrid_paper": {**_TEXT, **_MNIST, **_HYBRID, "preprocessing.alpha": 1e-5},
    "cifar10_paper": {**_TEXT, **_CIFAR10, **_DENSE, "preprocessing.flip": True},
    "cifar10_small_paper": {
        **_TEXT,
        **_CIFAR10,
        **_DENSE,
        "preprocessing.flip": True,
        "architecture.squeeze_first": True,
    },
    "cifar10_iresnet_paper": {**_TEXT, **_CIFAR10, **_IRESNET, "preprocessing.flip": True},
    "cifar10_hybrid_paper": {**_TEXT, **_CIFAR10, **_HYBRID, **_STANDARDISED},
    "svhn_paper": {**_TEXT, **_THREE},
    "svhn_hybrid_paper": {**_TEXT, **_THREE, **_HYBRID, "preprocessing.crop_padding": 4},
    "imagenet32_paper": {**_TEXT, "architecture.blocks": [32, 32, 32]},
    "imagenet64_paper": {**_TEXT, **_LARGE, "architecture.blocks": [32, 32, 32]},
    "celeba64_paper": {**_without(_TEXT, "preprocessing.flip"), **_LARGE, "architecture.blocks": [16] * 4},
    "celebahq256_paper": {
        **_TEXT,
        **_LARGE,
        "architecture.blocks": [16] * 6,
        "preprocessing.bits": 5,
        "preprocessing.flip": True,
        "training.batch_size": 12,
    },
    "toy_paper": {"architecture.blocks": 200, "estimator.kind": "exact", "evaluation.estimator.kind": "exact"},
}


_NO_COMMAND = ("architecture.blocks", "architecture.squeeze_first", "architecture.factor_out", *_DENSE)


#: Recipe → the settings of the authors' code for it. Where the README has no command, what a command would have chosen
#: is absent.
CODE: dict[str, Settings] = {
    "mnist_paper": {**_CODE, "preprocessing.alpha": 1e-6},
    "mnist_hybrid_paper": {**_CODE, **_without(_HYBRID, "objective.likelihood_weight"), "preprocessing.alpha": 1e-6},
    "cifar10_paper": {**_CODE, "preprocessing.flip": True},
    "cifar10_small_paper": {**_without(_CODE, "architecture.squeeze_first"), "preprocessing.flip": True},
    "cifar10_iresnet_paper": {
        **_IRESNET,
        **_THREE,
        "architecture.hidden": 512,
        "architecture.norms.kind": "spectral",
        "preprocessing.bits": None,
        "preprocessing.standardise": False,
        "preprocessing.flip": True,
        "preprocessing.crop_padding": 4,
        "preprocessing.dequantisation": "uniform",
        "estimator.probes": 1,
        "objective.kind": "likelihood",
        "training.batch_size": 128,
        "training.learning_rate": 3e-3,
        "training.schedule": "constant",
        "training.warmup_steps": 390,
        "training.weight_decay": 0.0,
        "training.certified": False,
    },
    "cifar10_hybrid_paper": {**_CODE, **_without(_HYBRID, "objective.likelihood_weight"), **_STANDARDISED},
    "svhn_paper": {**_without(_CODE, *_NO_COMMAND), "preprocessing.crop_padding": 4},
    "svhn_hybrid_paper": {
        **_without(_CODE, *_NO_COMMAND),
        **_without(_HYBRID, "objective.likelihood_weight"),
        "preprocessing.crop_padding": 4,
    },
    "imagenet32_paper": {**_CODE, "architecture.blocks": [32, 32, 32]},
    "imagenet64_paper": {**_CODE, **_LARGE, "architecture.blocks": [32, 32, 32]},
    "celeba64_paper": {**_without(_CODE, *_NO_COMMAND), "preprocessing.flip": True},
    "celebahq256_paper": {
        **_CODE,
        **_LARGE,
        "architecture.blocks": [16] * 6,
        "architecture.dense_blocks": 0,
        "architecture.activation": "elu",
        "estimator.exact_terms": 8,
        "preprocessing.bits": 5,
        "preprocessing.flip": True,
        "training.batch_size": 40,
    },
    "toy_paper": {
        "architecture.blocks": 100,
        "architecture.hidden": [128] * 4,
        "architecture.bound": 0.9,
        "architecture.activation": "lipswish",
        "architecture.actnorm": False,
        "architecture.preactivation": True,
        "architecture.zero_start": 1e-3,
        "architecture.initialisation": None,
        "architecture.norms.kind": "spectral",
        "estimator.kind": "paper",
        "evaluation.estimator.kind": "exact",
        "evaluation.draws": 1,
        "objective.kind": "likelihood",
        "training.steps": 50_000,
        "training.batch_size": 500,
        "training.learning_rate": 1e-3,
        "training.schedule": "constant",
        "training.warmup_steps": 0,
        "training.weight_decay": 1e-5,
        "training.beta1": 0.9,
        "training.beta2": 0.999,
        "training.gradient_clip": math.inf,
        "training.polyak": 0.0,
        "training.certified": False,
    },
}

#: Why a setting is neither the text's nor the code's.
OURS: dict[str, str] = {
    "estimator.kind": "every row has its own number of terms; `estimator.kind=paper` draws one for the whole batch, "
    "and Gaussian probes",
    "estimator.probe": "the same mean as Gaussian probes, with a smaller variance",
    "estimator.stratified": "the same law for every row, and the same cost at every step",
    "evaluation.estimator.law": "the text states the law for training only",
    "evaluation.estimator.p": "as in training",
    "evaluation.estimator.probe": "as in training",
    "evaluation.estimator.probes": "as in training",
    "evaluation.estimator.stratified": "independent numbers of terms, so that the standard error is valid",
    "evaluation.draws": "one estimate a row",
    "training.steps": "a number of epochs is stated for MNIST and CIFAR-10 only",
    "training.warmup_steps": "as in the other recipes",
    "training.beta1": "as in the other recipes",
    "training.beta2": "as in the other recipes",
    "training.gradient_clip": "as in the other recipes",
}


def settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe that decide what is trained and how it is scored: path → value.

    >>> settings(RECIPES["toy_paper"]())["architecture.hidden"]
    [128, 128, 128, 128]
    """
    values = dict(_flat(recipe.as_dict(), ""))
    options = architecture_options(recipe.architecture.name) | recipe.architecture.options
    values |= {f"architecture.{name}": value for name, value in options.items()}
    unused = [path for path in values if any(path.startswith(name) or path.endswith(name) for name in _OTHERS)]
    if recipe.preprocessing.kind == "none":
        unused += [path for path in values if path.startswith("preprocessing.")]
    if recipe.preprocessing.standardise:
        unused.append("preprocessing.alpha")
    if not options.get("dense_blocks"):
        unused.append("architecture.dense_hidden")
    return {
        path: list(value) if isinstance(value, tuple) else value for path, value in values.items() if path not in unused
    }


def _flat(values: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def rows(name: str) -> list[Row]:
    """The settings of a recipe of the paper with their sources.

    >>> [(row.text, row.code, row.source) for row in rows("mnist_paper") if row.setting == "preprocessing.alpha"]
    [(1e-05, 1e-06, 'code')]
    """
    text, code = TEXT[name], CODE[name]
    return [
        Row(path, value, text.get(path, UNSTATED), code.get(path, UNSTATED))
        for path, value in settings(RECIPES[name]()).items()
    ]


def page() -> str:
    """The page of all sources, as Markdown: what most recipes share first, then what is peculiar to each."""
    tables = {name: rows(name) for name in TEXT}
    shared = [
        row for row in tables["cifar10_paper"] if sum(row in table for table in tables.values()) > len(tables) / 2
    ]
    parts = [
        "# Settings of the paper's recipes, and their sources",
        "Written by `python -m contraflow.runs.paper_settings`; a test compares it with the recipes.",
        "*Text* is Chen et al., Residual flows for invertible generative modeling, 2019 (arXiv:1906.02735). *Code* is "
        "the authors' repository (github.com/rtqichen/residual-flows): the commands of its README with the defaults of "
        "its scripts; for the i-ResNet, the command of its own authors (github.com/jhjacobsen/invertible-resnet). "
        f"*{UNSTATED}* is not stated. *From* says whose value the recipe has.",
        "The steps of MNIST and CIFAR-10 are 350 epochs, where the text has 300 to 350; λ = 1/D is one of the text's "
        "three weights. These differences are no settings:",
        "- The average of the weights starts with a smaller decay here, so that the initial weights count little.\n"
        "- The code passes its weight decay to an optimiser that computes the decayed weights and does not store them; "
        "here the weights decay.\n"
        "- For 2-D data the script draws new rows at every step; here 50,000 rows are drawn once.\n"
        "- Of the training rows, 5,000 of MNIST, CIFAR-10, SVHN and ImageNet and 1,000 of CelebA and CelebA-HQ are "
        "kept for validation here.",
        "## Most recipes",
        _table(shared),
    ]
    for name, table in tables.items():
        parts += [f"## `{name}`", (RECIPES[name].__doc__ or "").split("\n")[0]]
        parts.append(_table([row for row in table if row not in shared]) or "As most recipes.")
    reasons = [f"- `{path}`: {reason}." for path, reason in OURS.items()]
    return "\n\n".join([*parts, "## Why a setting is ours", "\n".join(reasons)]) + "\n"


def _table(table: list[Row]) -> str:
    lines = ["| setting | recipe | text | code | from |", "|---|---|---|---|---|"]
    for row in table:
        values = " | ".join(map(_shown, (row.value, row.text, row.code)))
        lines.append(f"| `{row.setting}` | {values} | {row.source} |")
    return "\n".join(lines) if table else ""


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else "default" if value is None else str(value)


if __name__ == "__main__":
    print(page(), end="")
