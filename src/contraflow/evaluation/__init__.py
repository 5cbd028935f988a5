"""How good a flow is, in numbers with error bars and in pictures."""

from contraflow.evaluation.calibration import Reliability, reliability
from contraflow.evaluation.classification import ClassificationReport, class_probabilities, evaluate_classification
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
    "ClassificationReport",
    "GaussianFit",
    "LikelihoodReport",
    "Reliability",
    "Scores",
    "class_probabilities",
    "densities_picture",
    "density_picture",
    "evaluate_classification",
    "evaluate_likelihood",
    "gaussian_baseline",
    "image_grid",
    "norm_orders_picture",
    "reliability",
    "scatter_picture",
    "score",
    "scores_picture",
]
