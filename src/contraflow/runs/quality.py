"""A trained flow's samples beside training and test images, in the features of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from contraflow.data import draw_rows
from contraflow.preprocessing import ImagePreprocessing
from contraflow.errors import ConfigurationError
from contraflow.evaluation import ImageFeatures, QualityReport, measure_quality
from contraflow.runs.build import Run, make_generator
from contraflow.runs.own_data import load_own_data
from contraflow.runs.run import Silent, Watcher, draw_samples


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
    """FID and KID to training images: of test images first, then of samples at every temperature.

    All sets have as many images, the smallest of `samples`, the test images and the training images.

    Args:
        trained: a flow of images.
        features: what the distances are in.
        temperatures: factors on the standard deviation of the base.
        samples: images of each kind.
        batch_size: samples at once.
        seed: of the samples and the images.
        watcher: told about progress.

    Raises:
        ConfigurationError: a flow of something else, or too few images.
        DataError: the flow's own data have changed since it was trained.
    """
    preprocessing = trained.flow.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise ConfigurationError(
            f"{trained.path}: a flow of rows of shape {trained.flow.event_shape}; FID is of images."
        )
    told = watcher or Silent()
    data = load_own_data(trained, told.note).require_train()
    count = min(samples, len(data.test), len(data.train))
    drawn = Generator().manual_seed(seed)
    train, test = (preprocessing.reduce(draw_rows(rows, count, drawn)) for rows in (data.train, data.test))

    def of(name: str, images: Tensor) -> Tensor:
        return features(
            images,
            preprocessing.reduced_levels,
            progress=lambda done, total: told.phase(f"features of {name}", done, total),
        )

    reference = of("training images", train)

    def measure(name: str, images: Tensor) -> QualityReport:
        return measure_quality(name, of(name, images), reference, features.name, features.published, drawn)

    reports = [measure("test images", test)]
    for temperature in temperatures:
        generator = make_generator(trained.flow.device, seed)
        made = draw_samples(trained.flow, count, batch_size, generator, told, temperature)
        reports.append(measure(f"samples at T = {temperature:g}", made))
    return reports
