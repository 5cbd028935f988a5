"""Judges the samples of a trained flow of images: their distance to training images in the features of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from contraflow.data import draw_rows
from contraflow.errors import ConfigurationError
from contraflow.evaluation import ImageFeatures, QualityReport, measure_quality
from contraflow.preprocessing import ImagePreprocessing
from contraflow.runs.build import Run, make_generator
from contraflow.runs.own_data import load_own_data
from contraflow.runs.progress import Silent, Watcher
from contraflow.runs.samples import draw_samples


def judge_samples(
    trained: Run,
    features: ImageFeatures,
    temperatures: Sequence[float] = (1.0,),
    *,
    samples: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> list[QualityReport]:
    """FID and KID to training images, first of test images, then of samples at every temperature.

    All sets have the same number of images: `samples`, or fewer where there are fewer test or training images.

    Args:
        trained: a flow of images.
        features: computes the features in which distances are measured.
        temperatures: factors on the standard deviation of the base distribution.
        samples: number of images of each kind.
        batch_size: samples computed at once.
        seed: seed of the samples and of the choice of images.
        watcher: is told the progress.

    Raises:
        ConfigurationError: the flow is not of images, or there are too few images.
        DataError: the data have changed since the flow was trained on them.
    """
    preprocessing = trained.flow.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise ConfigurationError(
            f"{trained.path}: FID needs a flow of images; this one is of rows of shape {trained.flow.event_shape}."
        )
    watcher = watcher or Silent()
    data = load_own_data(trained, watcher.note).require_train()
    count = min(samples, len(data.test), len(data.train))
    choice = Generator().manual_seed(seed)
    train, test = (preprocessing.reduce(draw_rows(rows, count, choice)) for rows in (data.train, data.test))

    def features_of(name: str, images: Tensor) -> Tensor:
        return features(
            images,
            preprocessing.reduced_levels,
            progress=lambda done, total: watcher.phase(f"features of {name}", done, total),
        )

    reference = features_of("training images", train)

    def measure(name: str, images: Tensor) -> QualityReport:
        return measure_quality(name, features_of(name, images), reference, features.name, features.published, choice)

    reports = [measure("test images", test)]
    for temperature in temperatures:
        generator = make_generator(trained.flow.device, seed)
        drawn = draw_samples(trained.flow, count, batch_size, generator, watcher, temperature)
        reports.append(measure(f"samples at T = {temperature:g}", drawn))
    return reports
