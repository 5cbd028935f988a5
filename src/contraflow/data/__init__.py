"""Data: named sets, the user's own files, two-dimensional densities."""

from contraflow.data.columns import columns_of, indices_of, refuse_columns_without_density, remarks
from contraflow.data.dataset import Dataset
from contraflow.data.entry import Entry
from contraflow.data.fingerprint import Fingerprint
from contraflow.data.formats.image_folder import read_image_folder
from contraflow.data.matching import load_matching
from contraflow.data.ood_rows import DRAWN_IMAGES, OtherRows, draw_rows, fit_images, load_other_rows
from contraflow.data.path_dataset import has_own_splits, read_rows
from contraflow.data.registry import DATASETS, check, data_root, fetch, load_dataset
from contraflow.data.semi_supervised import keep_labels
from contraflow.data.sets.toy_densities import TOY_DENSITIES
from contraflow.data.toy_density import ToyDensity

__all__ = [
    "DATASETS",
    "DRAWN_IMAGES",
    "TOY_DENSITIES",
    "Dataset",
    "Entry",
    "Fingerprint",
    "OtherRows",
    "ToyDensity",
    "check",
    "columns_of",
    "data_root",
    "draw_rows",
    "fetch",
    "fit_images",
    "has_own_splits",
    "indices_of",
    "keep_labels",
    "load_dataset",
    "load_matching",
    "load_other_rows",
    "read_image_folder",
    "read_rows",
    "refuse_columns_without_density",
    "remarks",
]
