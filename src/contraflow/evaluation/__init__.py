"""How good a flow is, in numbers with error bars and in pictures."""

from contraflow.evaluation.calibration import Reliability, reliability
from contraflow.evaluation.calibration_pictures import calibration_picture
from contraflow.evaluation.classification import (
    ClassificationReport,
    class_probabilities,
    classification_report,
    evaluate_classification,
)
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
from contraflow.evaluation.normality import LatentNormality, latent_normality, latents, probability_integrals
from contraflow.evaluation.pictures import density_picture, image_grid, norm_orders_picture, scatter_picture
from contraflow.evaluation.reconstruction import Reconstruction, reconstruct
from contraflow.evaluation.series_decay import BlockSeries, series_decay

__all__ = [
    "BlockSeries",
    "ClassificationReport",
    "GaussianFit",
    "LatentNormality",
    "LikelihoodReport",
    "Neighbours",
    "Reconstruction",
    "Reliability",
    "Scores",
    "calibration_picture",
    "class_probabilities",
    "classification_report",
    "densities_picture",
    "density_picture",
    "evaluate_classification",
    "evaluate_likelihood",
    "gaussian_baseline",
    "image_grid",
    "latent_arc",
    "latent_normality",
    "latents",
    "nearest",
    "norm_orders_picture",
    "probability_integrals",
    "reconstruct",
    "reliability",
    "report_scores",
    "scatter_picture",
    "score",
    "scores_picture",
    "series_decay",
]
