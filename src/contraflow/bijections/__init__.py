"""Invertible maps with log-determinants, one in each file; `Bijection` is their common interface."""

from contraflow.bijections.actnorm import ActNorm
from contraflow.bijections.bent_identity import BentIdentity
from contraflow.bijections.bijection import Bijection, with_logdet
from contraflow.bijections.chain import Chain, Inverse
from contraflow.bijections.continuous import ContinuousFlow, ContinuousSolve, training_solves
from contraflow.bijections.coupling import Coupling
from contraflow.bijections.elementwise import Affine, Logit
from contraflow.bijections.implicit_block import ImplicitBlock
from contraflow.bijections.inversion import BlockInverse, InverseSolution, invert, with_inverse
from contraflow.bijections.learned_prior import LearnedPrior
from contraflow.bijections.linear import LinearMap, MatrixLinear, OrthogonalLinear, PLULinear, QRLinear
from contraflow.bijections.monotone import MonotoneTransform
from contraflow.bijections.monotone_block import MonotoneBlock
from contraflow.bijections.multiscale import MultiScale
from contraflow.bijections.partition import ChannelPartition, Checkerboard, Partition, alternate, halves
from contraflow.bijections.planar import Planar
from contraflow.bijections.reshape import Flatten, Permutation, Squeeze
from contraflow.bijections.residual import ContractionBlock, ResidualBlock
from contraflow.bijections.sylvester import Sylvester
from contraflow.bijections.transform import TransformBijection, from_transform

__all__ = [
    "ActNorm",
    "Affine",
    "BentIdentity",
    "Bijection",
    "BlockInverse",
    "Chain",
    "ChannelPartition",
    "Checkerboard",
    "ContinuousFlow",
    "ContinuousSolve",
    "ContractionBlock",
    "Coupling",
    "Flatten",
    "ImplicitBlock",
    "Inverse",
    "InverseSolution",
    "LearnedPrior",
    "LinearMap",
    "Logit",
    "MatrixLinear",
    "MonotoneBlock",
    "MonotoneTransform",
    "MultiScale",
    "OrthogonalLinear",
    "PLULinear",
    "Partition",
    "Permutation",
    "Planar",
    "QRLinear",
    "ResidualBlock",
    "Squeeze",
    "Sylvester",
    "TransformBijection",
    "alternate",
    "from_transform",
    "halves",
    "invert",
    "training_solves",
    "with_inverse",
    "with_logdet",
]
