"""How good a flow is, in numbers with error bars and in pictures."""

from contraflow.evaluation.comparison_pictures import densities_picture, scores_picture
from contraflow.evaluation.latent_paths import latent_arc
from contraflow.evaluation.likelihood import (
    GaussianFit,
    LikelihoodReport,
    Scores,
    evaluate_likelihood,
    gaussian_baseline,
    report_scores,
    score,
)
from contraflow.evaluation.neighbours import Neighbours, nearest
from contraflow.evaluation.pictures import density_picture, image_grid, norm_orders_picture, scatter_picture
from contraflow.evaluation.reconstruction import Reconstruction, reconstruct
from contraflow.evaluation.series_decay import BlockSeries, series_decay

__all__ = [
    "BlockSeries",
    "GaussianFit",
    "LikelihoodReport",
    "Neighbours",
    "Reconstruction",
    "Scores",
    "densities_picture",
    "density_picture",
    "evaluate_likelihood",
    "gaussian_baseline",
    "image_grid",
    "latent_arc",
    "nearest",
    "norm_orders_picture",
    "reconstruct",
    "report_scores",
    "scatter_picture",
    "score",
    "scores_picture",
    "series_decay",
]
