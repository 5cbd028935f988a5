"""How good a flow is, in numbers with error bars and in pictures."""

from contraflow.evaluation.comparison_pictures import densities_picture, scores_picture
from contraflow.evaluation.likelihood import (
    GaussianFit,
    LikelihoodReport,
    Scores,
    evaluate_likelihood,
    gaussian_baseline,
    score,
)
from contraflow.evaluation.pictures import density_picture, image_grid, norm_orders_picture, scatter_picture

__all__ = [
    "GaussianFit",
    "LikelihoodReport",
    "Scores",
    "densities_picture",
    "density_picture",
    "evaluate_likelihood",
    "gaussian_baseline",
    "image_grid",
    "norm_orders_picture",
    "scatter_picture",
    "score",
    "scores_picture",
]
