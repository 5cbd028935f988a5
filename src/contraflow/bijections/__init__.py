"""Invertible maps, one a file, under one contract."""

from contraflow.bijections.actnorm import ActNorm
from contraflow.bijections.bijection import Bijection
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.reshape import Flatten, Permutation, Squeeze
from contraflow.bijections.residual import ResidualBlock, with_logdet

__all__ = [
    "ActNorm",
    "Affine",
    "Bijection",
    "Chain",
    "Flatten",
    "Inverse",
    "Logit",
    "MultiScale",
    "Permutation",
    "ResidualBlock",
    "Squeeze",
    "with_logdet",
]
