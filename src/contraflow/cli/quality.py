"""`contraflow quality`."""

from __future__ import annotations

from pathlib import Path

from torch import Generator, Tensor

from contraflow.cli.console import ProgressBar, show
from contraflow.data import ImagePreprocessing, draw_rows
from contraflow.errors import ConfigurationError
from contraflow.evaluation import efficientnet_features, inception_features, measure_quality
from contraflow.recipes import load_run
from contraflow.recipes.build import load_data, make_generator
from contraflow.recipes.run import draw_samples


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
    """FID and KID of a flow's samples against training images, and of test images as the least to expect.

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
    preprocessing = trained.flow.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        raise ConfigurationError(f"{run} was trained on rows of shape {trained.flow.event_shape}: FID is for images.")
    extract = efficientnet_features() if features is None else inception_features(features)
    if root is not None:
        trained.recipe.data.root = root
    data = load_data(trained.recipe.data, trained.recipe.seed).require_train()
    drawn = Generator().manual_seed(seed)
    train, test = (preprocessing.reduce(draw_rows(rows, samples, drawn)) for rows in (data.train, data.test))
    with ProgressBar() as bar:

        def of(name: str, images: Tensor) -> Tensor:
            def phase(done: int, total: int) -> None:
                bar.phase(f"features of {name}", done, total)

            return extract(images, preprocessing.reduced_levels, progress=phase)

        generator = make_generator(trained.flow.device, seed)
        made = draw_samples(trained.flow, len(test), batch_size, generator, bar, temperature)
        reference = of("training images", train[: len(test)])
        reports = [
            measure_quality(name, of(name, images), reference, extract.name, extract.published, drawn)
            for name, images in ((f"samples at temperature {temperature:g}", made), ("test images", test))
        ]
    values = {"rows": [one.as_dict() for one in reports], "temperature": temperature, "step": trained.step}
    show("\n".join(map(str, reports)), values, json)
