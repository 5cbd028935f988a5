"""Recipes by name. A variant calls its parent and edits it; a test builds every recipe.

Where the settings of the recipes that end in `_paper` come from, the text of the paper or the code of its authors, is
said in `contraflow.runs.paper_settings`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contraflow.architectures import ARCHITECTURES
from contraflow.errors import unknown_name
from contraflow.logdet import TRAINING, Exact, PowerSeries
from contraflow.runs.recipe import ArchitectureSettings, Recipe
from contraflow.training import Hybrid


def digits() -> Recipe:
    """8×8 digits (17 levels) with a small convolutional Residual Flow; five to twelve minutes on two CPU cores."""
    recipe = Recipe(recipe="digits")
    training = recipe.training
    training.steps, training.warmup_steps, training.schedule = 1500, 100, "cosine"
    training.learning_rate, training.validate_every = 2e-2, 200
    recipe.evaluation.draws = 4
    return recipe


def digits_hybrid() -> Recipe:
    """8×8 digits with one small network for p(x) and p(y|x), λ = 1/D."""
    recipe = digits()
    recipe.recipe = "digits_hybrid"
    recipe.architecture.name, recipe.objective = "hybrid", Hybrid()
    recipe.training.learning_rate = 1e-2
    return recipe


def mnist() -> Recipe:
    """MNIST with a small flow for CPUs; `mnist_paper` has the size of the paper's."""
    recipe = mnist_paper()
    recipe.recipe = "mnist"
    recipe.architecture.name = "residual_flow_images"
    training = recipe.training
    training.steps, training.warmup_steps, training.schedule = 2500, 200, "cosine"
    training.learning_rate, training.validate_every = 1e-2, 1000
    return recipe


def mnist_paper() -> Recipe:
    """MNIST as in the paper: 16-16-16 blocks of 512 channels, 16.6 million parameters; for a GPU."""
    recipe = Recipe(recipe="mnist_paper")
    recipe.data.name = "mnist"
    recipe.architecture.name = "residual_flow_mnist"
    recipe.preprocessing.alpha = 1e-6
    recipe.training.steps = _steps(epochs=350, rows=55_000)
    return recipe


def _steps(epochs: int, rows: int) -> int:
    """Steps of 64 rows; the incomplete last batch of an epoch is dropped."""
    return epochs * (rows // 64)


def mnist_hybrid() -> Recipe:
    """MNIST with one small network for p(x) and p(y|x), for CPUs; `mnist_hybrid_paper` has the paper's size."""
    recipe = mnist()
    recipe.recipe = "mnist_hybrid"
    recipe.architecture.name, recipe.objective = "hybrid", Hybrid()
    return recipe


def mnist_hybrid_paper() -> Recipe:
    """MNIST hybrid model as in the paper: 16-16-16 blocks of 512, branches of 256 features; for a GPU."""
    recipe = mnist_paper()
    recipe.recipe = "mnist_hybrid_paper"
    recipe.architecture.name, recipe.objective = "hybrid_mnist", Hybrid()
    return recipe


def cifar10() -> Recipe:
    """CIFAR-10 with a small flow for CPUs; `cifar10_paper` has the size of the paper's."""
    recipe = cifar10_paper()
    recipe.recipe = "cifar10"
    recipe.architecture.name = "residual_flow_images"
    training = recipe.training
    training.steps, training.warmup_steps, training.schedule = 2500, 200, "cosine"
    training.learning_rate, training.validate_every = 1e-2, 1000
    recipe.evaluation.limit = 1000
    return recipe


def cifar10_paper() -> Recipe:
    """CIFAR-10 as in the paper: 16-16-16 blocks of 512 channels, 25.2 million parameters; for a GPU."""
    recipe = Recipe(recipe="cifar10_paper")
    recipe.data.name = "cifar10"
    recipe.architecture.name = "residual_flow_cifar10"
    recipe.preprocessing.flip = True
    recipe.training.steps = _steps(epochs=350, rows=45_000)
    return recipe


def cifar10_small_paper() -> Recipe:
    """CIFAR-10 downsampled before the first block, the other CIFAR-10 column of the paper's Table 3; for a GPU."""
    recipe = cifar10_paper()
    recipe.recipe = "cifar10_small_paper"
    recipe.architecture.name = "residual_flow_cifar10_small"
    return recipe


def cifar10_iresnet_paper() -> Recipe:
    """CIFAR-10 with a full-size i-ResNet, the baseline of the paper's Table 3: c = 0.9, ELU, 5 terms; for a GPU."""
    recipe = cifar10_small_paper()
    recipe.recipe = "cifar10_iresnet_paper"
    recipe.architecture.name, recipe.estimator = "iresnet_cifar10", PowerSeries()
    return recipe


def cifar10_hybrid() -> Recipe:
    """CIFAR-10 with one small network for p(x) and p(y|x), for CPUs; `cifar10_hybrid_paper` has the paper's size."""
    recipe = _standardised_crops(cifar10())
    recipe.recipe = "cifar10_hybrid"
    recipe.architecture.name, recipe.objective = "hybrid", Hybrid()
    return recipe


def cifar10_hybrid_paper() -> Recipe:
    """CIFAR-10 hybrid model as in the paper: 16-16-16 blocks of 512, branches of 256 features; for a GPU."""
    recipe = _standardised_crops(cifar10_paper())
    recipe.recipe = "cifar10_hybrid_paper"
    recipe.architecture.name, recipe.objective = "hybrid_cifar10", Hybrid()
    return recipe


def _standardised_crops(recipe: Recipe) -> Recipe:
    """Standardised channels instead of the logit transform, random flips, and crops after reflection padding by 4."""
    preprocessing = recipe.preprocessing
    preprocessing.standardise, preprocessing.flip, preprocessing.crop_padding = True, True, 4
    return recipe


def svhn_paper() -> Recipe:
    """SVHN as in the paper: 16-16-16 blocks of 512 channels; for a GPU."""
    recipe = Recipe(recipe="svhn_paper")
    recipe.data.name = "svhn"
    recipe.architecture.name = "residual_flow_svhn"
    recipe.training.steps = 300_000
    return recipe


def svhn_hybrid_paper() -> Recipe:
    """SVHN hybrid model as in the paper: 16-16-16 blocks of 512, branches of 256 features, crops; for a GPU."""
    recipe = svhn_paper()
    recipe.recipe = "svhn_hybrid_paper"
    recipe.architecture.name, recipe.objective = "hybrid_svhn", Hybrid()
    recipe.preprocessing.crop_padding = 4
    return recipe


def imagenet32_paper() -> Recipe:
    """ImageNet 32×32 as in the paper: 32-32-32 blocks of 512 channels, 43.8 million parameters; for a GPU."""
    recipe = Recipe(recipe="imagenet32_paper")
    recipe.data.name = "imagenet32"
    recipe.architecture.name = "residual_flow_imagenet32"
    recipe.training.steps = 300_000
    return recipe


def imagenet64_paper() -> Recipe:
    """ImageNet 64×64 as in the paper: 32-32-32 blocks of 512 channels, halves factored out; for a GPU."""
    recipe = imagenet32_paper()
    recipe.recipe = "imagenet64_paper"
    recipe.data.name = "imagenet64"
    recipe.architecture.name = "residual_flow_imagenet64"
    recipe.evaluation.batch_size = 50
    return recipe


def celeba64_paper() -> Recipe:
    """CelebA 64×64, 5 bits, as in the paper: 16-16-16-16 blocks of 512 channels, halves factored out; for a GPU."""
    recipe = Recipe(recipe="celeba64_paper")
    recipe.data.name = "celeba64"  # published with 5 bits, so there are none to remove
    recipe.preprocessing.flip = True
    recipe.architecture.name = "residual_flow_celeba64"
    recipe.training.steps = 300_000
    recipe.evaluation.batch_size = 50
    return recipe


def celebahq256_paper() -> Recipe:
    """CelebA-HQ 256×256, 5 bits, as in the command of the paper's authors: ELU, 8 exact terms; for a GPU."""
    recipe = Recipe(recipe="celebahq256_paper")
    recipe.data.name = "celebahq256"
    recipe.preprocessing.bits, recipe.preprocessing.flip = 5, True
    recipe.architecture.name = "residual_flow_celebahq256"
    recipe.estimator = replace(TRAINING, exact_terms=8)
    recipe.training.steps, recipe.training.batch_size = 300_000, 40  # the authors sum over 5 batches of 8 images
    recipe.evaluation.batch_size = 8
    return recipe


def images() -> Recipe:
    """Your own images: data.name=FOLDER (with data.size=32, for instance), or an .npy or .npz array of integers."""
    recipe = cifar10()
    recipe.recipe = "images"
    recipe.data.name = "images.npz"
    return recipe


def table() -> Recipe:
    """Your own table: data.name=FILE.csv, .parquet, .npy or .npz; the columns are standardised."""
    recipe = Recipe(recipe="table")
    recipe.data.name = "table.csv"
    recipe.preprocessing.kind = "standardise"
    recipe.architecture.name = "residual_flow_table"
    training = recipe.training
    training.steps, training.warmup_steps, training.schedule = 5000, 200, "cosine"
    training.learning_rate = 5e-3
    training.batch_size, training.validate_every, training.weight_decay = 500, 500, 1e-5
    recipe.evaluation.batch_size = 2000
    recipe.evaluation.samples = 5000
    return recipe


def power() -> Recipe:
    """UCI household power consumption: six columns in the standard splits, scored with exact log-determinants."""
    recipe = table()
    recipe.recipe = "power"
    recipe.data.name = "power"
    recipe.preprocessing.kind = "none"
    recipe.evaluation.estimator = Exact()
    recipe.architecture.options = {"hidden": [64, 64, 64]}
    training = recipe.training
    training.steps, training.batch_size, training.learning_rate = 10_000, 1000, 2e-2
    training.validate_every, training.validation_size = 1000, 5000
    return recipe


def power_ffjord() -> Recipe:
    """UCI household power with a continuous flow, trained with Runge-Kutta steps of one size; an hour of one core."""
    recipe = with_architecture(power(), "ffjord")
    recipe.recipe = "power_ffjord"
    recipe.architecture.options = {
        "hidden": [96, 96, 96],
        "activation": "tanh",
        "training_solver": "rk4",
        "training_steps": 6,
        "adjoint": False,
        "start_at_identity": True,
        "kinetic_weight": 1e-3,
        "jacobian_weight": 1e-4,
    }
    training = recipe.training
    training.steps, training.batch_size, training.learning_rate = 36_000, 300, 2e-3
    training.validate_every, training.validation_size = 2000, 2000
    return recipe


def _published_table(name: str, hidden: int) -> Recipe:
    """A table of Papamakarios et al. 2017 in its published splits, with the settings of `power` and other widths."""
    recipe = power()
    recipe.recipe = recipe.data.name = name
    recipe.architecture.options = {"hidden": [hidden] * 3}
    recipe.evaluation.batch_size = 500
    return recipe


def gas() -> Recipe:
    """GAS, eight sensors: the settings of `power`, not tuned for it."""
    return _published_table("gas", 64)


def hepmass() -> Recipe:
    """HEPMASS, 21 columns: the settings of `power` and wider blocks, not tuned for it."""
    return _published_table("hepmass", 128)


def miniboone() -> Recipe:
    """MINIBOONE, 43 columns and 30,000 rows: the settings of `power` and wider blocks, not tuned for it."""
    return _published_table("miniboone", 128)


def bsds300() -> Recipe:
    """BSDS300, 63 pixels: the settings of `power` and wider blocks, not tuned for it; standardised before the flow."""
    recipe = _published_table("bsds300", 256)
    recipe.preprocessing.kind = "standardise"
    return recipe


def toy(name: str) -> Recipe:
    """2-D density with 8 blocks and exact log-determinants; `toy_paper` has 100 blocks."""
    recipe = table()
    recipe.recipe, recipe.data.name = name, name
    recipe.preprocessing.kind = "none"
    recipe.architecture.name = "residual_flow_2d_small"
    recipe.estimator = recipe.evaluation.estimator = Exact()
    recipe.training.learning_rate = 2e-2
    return recipe


def checkerboard_norms() -> Recipe:
    """Checkerboard with learned norm orders, bounds proved at every step: the paper's Appendix D, small for CPUs."""
    recipe = toy("checkerboard")
    recipe.recipe = "checkerboard_norms"
    recipe.architecture.options = {"activation": "lipswish", "preactivation": True}
    recipe.architecture.norms.kind = "learned"
    recipe.training.certified = True
    recipe.training.steps, recipe.training.learning_rate = 1500, 1e-2
    return recipe


def toy_paper() -> Recipe:
    """Checkerboard as in the script of the paper's authors: 100 blocks of 4 layers of width 128, 50,000 steps."""
    recipe = toy("checkerboard")
    recipe.recipe = "toy_paper"
    recipe.architecture.name, recipe.architecture.options = "residual_flow_2d", {}
    training = recipe.training
    training.steps, training.learning_rate, training.schedule, training.warmup_steps = 50_000, 1e-3, "constant", 0
    # Adam as it comes: no clipping, no average of the weights
    training.beta2, training.gradient_clip, training.polyak = 0.999, math.inf, 0.0
    return recipe


def with_architecture(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another architecture, which has its own default options and learning rate.

    Raises:
        ConfigurationError: an unknown architecture.

    >>> with_architecture(table(), "residual_flow_2d").architecture.name
    'residual_flow_2d'
    """
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    changed = copy.deepcopy(recipe)
    if name != recipe.architecture.name:
        changed.architecture = ArchitectureSettings(name)
        changed.training.learning_rate = ARCHITECTURES[name].learning_rate or recipe.training.learning_rate
    return changed


_TOYS = ("checkerboard", "eight_gaussians", "two_spirals", "rings", "circles", "moons", "pinwheel", "swiss_roll")

#: Name → function without arguments that returns a new recipe.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits,
    "digits_hybrid": digits_hybrid,
    "mnist": mnist,
    "mnist_paper": mnist_paper,
    "mnist_hybrid": mnist_hybrid,
    "mnist_hybrid_paper": mnist_hybrid_paper,
    "cifar10": cifar10,
    "cifar10_paper": cifar10_paper,
    "cifar10_small_paper": cifar10_small_paper,
    "cifar10_iresnet_paper": cifar10_iresnet_paper,
    "cifar10_hybrid": cifar10_hybrid,
    "cifar10_hybrid_paper": cifar10_hybrid_paper,
    "svhn_paper": svhn_paper,
    "svhn_hybrid_paper": svhn_hybrid_paper,
    "imagenet32_paper": imagenet32_paper,
    "imagenet64_paper": imagenet64_paper,
    "celeba64_paper": celeba64_paper,
    "celebahq256_paper": celebahq256_paper,
    "images": images,
    "table": table,
    "power": power,
    "power_ffjord": power_ffjord,
    "gas": gas,
    "hepmass": hepmass,
    "miniboone": miniboone,
    "bsds300": bsds300,
    **{name: partial(toy, name) for name in _TOYS},
    "checkerboard_norms": checkerboard_norms,
    "toy_paper": toy_paper,
}
