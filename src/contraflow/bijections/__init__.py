"""Invertible maps, one a file, under one contract."""

from contraflow.bijections.actnorm import ActNorm
from contraflow.bijections.bent_identity import BentIdentity
from contraflow.bijections.bijection import Bijection, with_logdet
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.bijections.inversion import BlockInverse, Inversion, invert, with_inverse
from contraflow.bijections.linear import LinearMap, MatrixLinear, OrthogonalLinear, PLULinear, QRLinear
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.planar import Planar
from contraflow.bijections.reshape import Flatten, Permutation, Squeeze
from contraflow.bijections.residual import ResidualBlock
from contraflow.bijections.sylvester import Sylvester

__all__ = [
    "ActNorm",
    "Affine",
    "BentIdentity",
    "Bijection",
    "BlockInverse",
    "Chain",
    "Flatten",
    "Inverse",
    "Inversion",
    "LinearMap",
    "Logit",
    "MatrixLinear",
    "MultiScale",
    "OrthogonalLinear",
    "PLULinear",
    "Permutation",
    "Planar",
    "QRLinear",
    "ResidualBlock",
    "Squeeze",
    "Sylvester",
    "invert",
    "with_inverse",
    "with_logdet",
]
