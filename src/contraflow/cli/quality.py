"""`contraflow quality`."""

from __future__ import annotations

from pathlib import Path

from contraflow.cli.console import ProgressBar, show
from contraflow.evaluation import efficientnet_features, inception_features
from contraflow.runs import load_run
from contraflow.runs.quality import judge_samples


def quality(
    run: Path,
    samples: int = 1000,
    temperature: float = 1.0,
    features: Path | None = None,
    root: str | None = None,
    batch_size: int = 100,
    seed: int = 0,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Judge the samples of a flow of images: FID and KID to training images, lower is better.

    The first line compares test images with training images; samples can hardly do better. With --features, the
    Inception weights, FID and KID are the published measures. Without, they are distances in the features of
    EfficientNet-Lite0: these rank flows, but cannot be compared with published figures. FID grows as the number of
    images falls: compare only figures with the same number.

    Example: contraflow quality run --samples 1000

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        samples: number of samples, and of training and test images; fewer where the data have fewer.
        temperature: factor on the standard deviation of the base distribution.
        features: the file pt_inception-2015-12-05-6726825d.pth with the Inception weights.
        root: the folder that holds the named data sets.
        batch_size: samples computed at once.
        seed: seed of the samples and of the choice of images.
        device: where to compute: cpu, cuda or cuda:N.
        json: print the result as JSON.
    """
    trained = load_run(run, device=device)
    if root is not None:
        trained.recipe.data.root = root
    extract = efficientnet_features() if features is None else inception_features(features)
    with ProgressBar() as bar:
        reports = judge_samples(
            trained, extract, (temperature,), samples=samples, batch_size=batch_size, seed=seed, watcher=bar
        )
    values = {"rows": [report.as_dict() for report in reports], "temperature": temperature, "step": trained.step}
    show("\n".join(map(str, reports)), values, json)
