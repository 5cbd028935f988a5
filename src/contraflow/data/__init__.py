"""Data: named sets, the user's own files, two-dimensional densities, and preprocessing with its log-determinant."""

from contraflow.data.augmentation import flip_and_crop, mutate_pixels
from contraflow.data.columns import columns_of, indices_of, refuse_columns_without_density, remarks
from contraflow.data.dataset import Dataset
from contraflow.data.dequantisation import dequantise, quantise
from contraflow.data.fingerprint import Fingerprint
from contraflow.data.image_folder import read_image_folder
from contraflow.data.image_preprocessing import ImagePreprocessing, channel_moments
from contraflow.data.matching import load_matching
from contraflow.data.other_rows import DRAWN_IMAGES, OtherRows, draw_rows, fit_images, load_other_rows
from contraflow.data.path_dataset import has_own_splits, read_rows
from contraflow.data.preprocessing import preprocessing_from_config
from contraflow.data.registry import DATASETS, Entry, check, fetch, load_dataset
from contraflow.data.root import data_root
from contraflow.data.semi_supervised import keep_labels
from contraflow.data.table_preprocessing import TablePreprocessing
from contraflow.data.toy_densities import TOY_DENSITIES
from contraflow.data.toy_density import ToyDensity
from contraflow.data.variational_dequantisation import VariationalDequantisation

__all__ = [
    "DATASETS",
    "DRAWN_IMAGES",
    "TOY_DENSITIES",
    "Dataset",
    "Entry",
    "Fingerprint",
    "ImagePreprocessing",
    "OtherRows",
    "TablePreprocessing",
    "ToyDensity",
    "VariationalDequantisation",
    "channel_moments",
    "check",
    "columns_of",
    "data_root",
    "dequantise",
    "draw_rows",
    "fetch",
    "fit_images",
    "flip_and_crop",
    "has_own_splits",
    "indices_of",
    "keep_labels",
    "load_dataset",
    "load_matching",
    "load_other_rows",
    "mutate_pixels",
    "preprocessing_from_config",
    "quantise",
    "read_image_folder",
    "read_rows",
    "refuse_columns_without_density",
    "remarks",
]
