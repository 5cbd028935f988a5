"""The table of two-dimensional distributions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Generator

from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry, Loader
from contraflow.data.sets import toy_curves as curves
from contraflow.data.sets import toy_mixtures as mixtures
from contraflow.data.toy_density import ToyDensity, log_density, sampler

_ROWS = (50_000, 10_000, 10_000)


def _rings(name: str, radii: tuple[float, ...], std: float) -> ToyDensity:
    return ToyDensity(
        name,
        sampler(partial(mixtures.draw_rings, radii=radii, std=std)),
        log_density(partial(mixtures.rings_log_density, radii=radii, std=std)),
    )


_ALL = (
    ToyDensity(
        "checkerboard",
        sampler(mixtures.draw_checkerboard),
        log_density(mixtures.checkerboard_log_density),
        mixtures.CHECKERBOARD_ENTROPY,
    ),
    ToyDensity(
        "eight_gaussians", sampler(mixtures.draw_eight_gaussians), log_density(mixtures.eight_gaussians_log_density)
    ),
    ToyDensity("two_spirals", sampler(curves.draw_two_spirals), log_density(curves.two_spirals_log_density)),
    _rings("rings", *mixtures.RINGS),
    _rings("circles", *mixtures.CIRCLES),
    ToyDensity("moons", sampler(curves.draw_moons), log_density(curves.moons_log_density)),
    ToyDensity("pinwheel", sampler(curves.draw_pinwheel)),
    ToyDensity("swiss_roll", sampler(curves.draw_swiss_roll), log_density(curves.swiss_roll_log_density)),
)

TOY_DENSITIES: dict[str, ToyDensity] = {density.name: density for density in _ALL}
"""Name to distribution; all lie within about ±5."""


def _loader(name: str) -> Loader:
    """Loader of the two-dimensional set `name`: fresh draws for every seed, the density attached."""

    def load(paths: Sequence[Path], seed: int) -> Dataset:
        density = TOY_DENSITIES[name]
        generator = Generator().manual_seed(seed)
        train, validation, test = (density.sample(rows, generator) for rows in _ROWS)
        return Dataset(name, train, validation, test, columns=("x1", "x2"), density=density)

    return load


ENTRIES = {name: Entry(_loader(name), f"{name.replace('_', ' ')}, drawn", "2-D") for name in TOY_DENSITIES}
