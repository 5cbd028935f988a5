"""How good a flow is, in numbers with error bars and in pictures."""

from contraflow.evaluation.comparison_pictures import densities_picture, scores_picture
from contraflow.evaluation.detection import Detection, detect
from contraflow.evaluation.detection_report import DetectionReport, report_detection, scores_histograms
from contraflow.evaluation.likelihood import (
    GaussianFit,
    LikelihoodReport,
    Scores,
    evaluate_likelihood,
    gaussian_baseline,
    score,
)
from contraflow.evaluation.out_of_distribution import Evidence, TypicalityTest, gather_evidence
from contraflow.evaluation.pictures import density_picture, image_grid, norm_orders_picture, scatter_picture

__all__ = [
    "Detection",
    "DetectionReport",
    "Evidence",
    "GaussianFit",
    "LikelihoodReport",
    "Scores",
    "TypicalityTest",
    "densities_picture",
    "density_picture",
    "detect",
    "evaluate_likelihood",
    "gather_evidence",
    "gaussian_baseline",
    "image_grid",
    "norm_orders_picture",
    "report_detection",
    "scatter_picture",
    "score",
    "scores_histograms",
    "scores_picture",
]
