"""Evaluation of flows: scores with error bars, and pictures."""

from contraflow.evaluation.calibration import Reliability, reliability
from contraflow.evaluation.calibration_pictures import calibration_picture
from contraflow.evaluation.classification import (
    ClassificationReport,
    Confusion,
    class_probabilities,
    classification_report,
    confusions,
    evaluate_classification,
    report_classes,
)
from contraflow.evaluation.comparison_pictures import densities_picture, scores_picture
from contraflow.evaluation.detection import Detection, detect
from contraflow.evaluation.detection_report import DetectionReport, report_detection, scores_histograms
from contraflow.evaluation.image_features import ImageFeatures, efficientnet_features, inception_features
from contraflow.evaluation.latent_paths import latent_arc
from contraflow.evaluation.likelihood import (
    EstimatedScore,
    GaussianFit,
    LikelihoodReport,
    Scores,
    compare_scores,
    evaluate_likelihood,
    gaussian_baseline,
    report_scores,
    score,
)
from contraflow.evaluation.neighbours import Neighbours, nearest
from contraflow.evaluation.normality import LatentNormality, latent_normality, latents, probability_integrals
from contraflow.evaluation.out_of_distribution import Evidence, TypicalityTest, gather_evidence
from contraflow.evaluation.pictures import density_picture, image_grid, norm_orders_picture, scatter_picture
from contraflow.evaluation.reconstruction import Reconstruction, reconstruct
from contraflow.evaluation.sample_quality import (
    QualityReport,
    frechet_distance,
    kernel_distance,
    measure_quality,
    with_error,
)
from contraflow.evaluation.series_decay import BlockSeries, series_decay

__all__ = [
    "BlockSeries",
    "ClassificationReport",
    "Confusion",
    "Detection",
    "DetectionReport",
    "EstimatedScore",
    "Evidence",
    "GaussianFit",
    "ImageFeatures",
    "LatentNormality",
    "LikelihoodReport",
    "Neighbours",
    "QualityReport",
    "Reconstruction",
    "Reliability",
    "Scores",
    "TypicalityTest",
    "calibration_picture",
    "class_probabilities",
    "classification_report",
    "compare_scores",
    "confusions",
    "densities_picture",
    "density_picture",
    "detect",
    "efficientnet_features",
    "evaluate_classification",
    "evaluate_likelihood",
    "frechet_distance",
    "gather_evidence",
    "gaussian_baseline",
    "image_grid",
    "inception_features",
    "kernel_distance",
    "latent_arc",
    "latent_normality",
    "latents",
    "measure_quality",
    "nearest",
    "norm_orders_picture",
    "probability_integrals",
    "reconstruct",
    "reliability",
    "report_classes",
    "report_detection",
    "report_scores",
    "scatter_picture",
    "score",
    "scores_histograms",
    "scores_picture",
    "series_decay",
    "with_error",
]
