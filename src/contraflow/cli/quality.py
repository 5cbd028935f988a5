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
    """FID and KID of a flow's samples to training images, and of test images, the least to expect.

    With --features FILE, Inception weights, they are the published measures; without, distances in the features of
    EfficientNet-Lite0, which say which of two flows samples better and are not to be set beside published figures.
    Either FID grows as the number of images falls: compare only figures of one number.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        samples: samples to draw, and training and test images to compare; fewer where there are fewer.
        temperature: factor on the standard deviation of the base.
        features: local file pt_inception-2015-12-05-6726825d.pth of Inception weights.
        root: folder of the named data sets.
        batch_size: samples at once.
        seed: of the samples and the images.
        device: cpu, cuda or cuda:N.
        json: print JSON.
    """
    trained = load_run(run, device=device)
    if root is not None:
        trained.recipe.data.root = root
    extract = efficientnet_features() if features is None else inception_features(features)
    with ProgressBar() as bar:
        reports = judge_samples(
            trained, extract, (temperature,), samples=samples, batch_size=batch_size, seed=seed, watcher=bar
        )
    values = {"rows": [one.as_dict() for one in reports], "temperature": temperature, "step": trained.step}
    show("\n".join(map(str, reports)), values, json)
