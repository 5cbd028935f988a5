"""Invertible maps, one a file, under one contract."""

from contraflow.bijections.actnorm import ActNorm
from contraflow.bijections.bijection import Bijection, with_logdet
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.continuous import ContinuousFlow, ContinuousSolve, watch_solves
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.bijections.inversion import BlockInverse, Inversion, invert, with_inverse
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.reshape import Flatten, Permutation, Squeeze
from contraflow.bijections.residual import ResidualBlock

__all__ = [
    "ActNorm",
    "Affine",
    "Bijection",
    "BlockInverse",
    "Chain",
    "ContinuousFlow",
    "ContinuousSolve",
    "Flatten",
    "Inverse",
    "Inversion",
    "Logit",
    "MultiScale",
    "Permutation",
    "ResidualBlock",
    "Squeeze",
    "invert",
    "watch_solves",
    "with_inverse",
    "with_logdet",
]
