"""Preprocessing of images and tables as bijections with log-determinants: dequantisation, scaling, logit transform."""

from contraflow.preprocessing.augmentation import flip_and_crop, mutate_pixels
from contraflow.preprocessing.dequantisation import dequantise, quantise
from contraflow.preprocessing.from_config import preprocessing_from_config
from contraflow.preprocessing.images import ImagePreprocessing, channel_moments
from contraflow.preprocessing.tables import TablePreprocessing
from contraflow.preprocessing.variational_dequantisation import VariationalDequantisation

__all__ = [
    "ImagePreprocessing",
    "TablePreprocessing",
    "VariationalDequantisation",
    "channel_moments",
    "dequantise",
    "flip_and_crop",
    "mutate_pixels",
    "preprocessing_from_config",
    "quantise",
]
