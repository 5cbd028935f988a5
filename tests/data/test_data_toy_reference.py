"""The two-dimensional sets against numpy recipes of the same distributions, written apart from ours (two-sample χ²)."""

import math

import numpy as np
import pytest
import torch

from contraflow.data import TOY_DENSITIES

N = 40_000


def checkerboard(random):
    x1 = random.uniform(-2, 2, N)
    x2 = random.uniform(0, 1, N) - 2 * random.integers(0, 2, N) + np.floor(x1) % 2
    return 2 * np.stack([x1, x2], 1)


def eight_gaussians(random):
    half = math.sqrt(0.5)
    places = [(1, 0), (-1, 0), (0, 1), (0, -1), (half, half), (half, -half), (-half, half), (-half, -half)]
    return (4 * np.array(places)[random.integers(0, 8, N)] + 0.5 * random.standard_normal((N, 2))) / 1.414


def on_circles(random, radii):
    angle = random.uniform(0, 2 * np.pi, N)
    return np.array(radii)[random.integers(0, len(radii), N), None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def rings(random):
    return 3 * on_circles(random, [0.25, 0.5, 0.75, 1]) + 0.08 * random.standard_normal((N, 2))


def circles(random):
    return 3 * (on_circles(random, [1, 0.5]) + 0.08 * random.standard_normal((N, 2)))


def moons(random):
    from sklearn.datasets import make_moons

    return 2 * make_moons(N, noise=0.1, random_state=0)[0] + np.array([-1, -0.2])


def pinwheel(random):
    features = random.standard_normal((N, 2)) * [0.3, 0.1] + [1, 0]
    angle = 2 * np.pi * random.integers(0, 5, N) / 5 + 0.25 * np.exp(features[:, 0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return 2 * np.einsum("ti,ijt->tj", features, rotation)


def two_spirals(random):
    n = np.sqrt(random.uniform(size=N // 2)) * 540 * 2 * np.pi / 360
    one = np.stack([-np.cos(n) * n, np.sin(n) * n], 1) + 0.5 * random.uniform(size=(N // 2, 2))
    return np.concatenate([one, -one]) / 3 + 0.1 * random.standard_normal((N, 2))


def swiss_roll(random):
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(N, noise=1.0, random_state=0)[0][:, [0, 2]] / 5


RECIPES = [checkerboard, eight_gaussians, rings, circles, moons, pinwheel, two_spirals, swiss_roll]


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_distribution(recipe):
    ours = TOY_DENSITIES[recipe.__name__].sample(N, torch.Generator().manual_seed(0)).numpy()
    edges = np.linspace(-6, 6, 41)
    first, second = (np.histogram2d(*rows.T, bins=edges)[0] for rows in (ours, recipe(np.random.default_rng(1))))
    total = first + second
    full = total > 10
    chi_squared = float(((first - second)[full] ** 2 / total[full]).sum())
    freedom = int(full.sum()) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


def test_every_set_has_a_recipe():
    assert {recipe.__name__ for recipe in RECIPES} == set(TOY_DENSITIES)
