"""Invertible maps, one a file, under one contract."""

from contraflow.bijections.actnorm import ActNorm
from contraflow.bijections.bijection import Bijection, with_logdet
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.bijections.inversion import BlockInverse, Inversion, invert, with_inverse
from contraflow.bijections.monotone import MonotoneTransform
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.reshape import Flatten, Permutation, Squeeze
from contraflow.bijections.residual import ResidualBlock
from contraflow.bijections.transform import TransformBijection, from_transform

__all__ = [
    "ActNorm",
    "Affine",
    "Bijection",
    "BlockInverse",
    "Chain",
    "Flatten",
    "Inverse",
    "Inversion",
    "Logit",
    "MonotoneTransform",
    "MultiScale",
    "Permutation",
    "ResidualBlock",
    "Squeeze",
    "TransformBijection",
    "from_transform",
    "invert",
    "with_inverse",
    "with_logdet",
]
