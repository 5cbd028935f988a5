"""The classifier of a hybrid flow: scores, reliability, confused classes, and samples of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.architectures import BranchedFlow, HybridFlow
from contraflow.errors import DomainError
from contraflow.evaluation import ClassificationReport, confusions, reliability
from contraflow.evaluation.calibration_pictures import draw_reliability
from contraflow.evaluation.figures import colour, png_image, svg_figure, svg_panels
from contraflow.evaluation.pictures import image_grid
from contraflow.report.page import figure, gallery, paragraph, table
from contraflow.report.run_data import RunData

#: Largest numbers of classes shown, of samples of a class (images, other rows), and of confused pairs in the table.
_CLASSES, _IMAGES, _ROWS, _PAIRS = 12, 8, 100, 10
#: Budget of draws for samples of a class, as a multiple of their number, which keeps a report fast.
_BUDGET = 20


def classifier(run: RunData) -> list[str] | None:
    """The section; ``None`` unless the flow is a hybrid one and the data have labels."""
    flow, scores = run.trained.flow, run.classification
    probabilities, labels = run.test_score.scores.class_probabilities, run.test_labels
    if not isinstance(flow, HybridFlow) or scores is None or probabilities is None or labels is None:
        return None
    known = labels >= 0
    return [
        paragraph(
            f"p(y|x) of {scores.rows:,} labelled test rows, computed in the same passes as log p(x) and averaged over "
            f"{scores.draws} draw{'s' if scores.draws != 1 else ''} of the noise."
        ),
        score_table(scores),
        reliability_diagram(probabilities[known], labels[known]),
        *confused_pairs(probabilities[known], labels[known]),
        *samples_by_class(run, flow),
    ]


def score_table(scores: ClassificationReport) -> str:
    """Accuracy, negative log-likelihood and calibration error."""
    low, high = 100 * scores.accuracy_low, 100 * scores.accuracy_high
    rows = [
        ("accuracy", f"{100 * scores.accuracy:.2f} %", f"95 %: {low:.2f} to {high:.2f}"),
        ("negative log-likelihood, nats", f"{scores.cross_entropy:.4f}", f"± {scores.cross_entropy_error:.4f}"),
        ("expected calibration error", f"{scores.calibration_error:.4f}", f"± {scores.calibration_error_error:.4f}"),
    ]
    return table(
        ("measure", "value", "error"),
        rows,
        "Scores.",
        "Errors: Wilson's 95 % interval, the standard error over rows, and the bootstrap error over rows. The "
        "calibration error is the mean distance between accuracy and confidence in 15 bins. It is above 0 even for "
        "exact probabilities.",
    )


def reliability_diagram(probabilities: Tensor, labels: Tensor) -> str:
    """Accuracy against confidence."""
    with svg_figure("reliability", "accuracy against the confidence of the classifier", height=3.2) as picture:
        axes = picture.figure.subplots()
        draw_reliability(axes, reliability(probabilities, labels))
        axes.set_aspect("equal")
    return figure(
        picture.svg,
        "Reliability.",
        "One dot for each bin of confidence, the largest p(y|x) of a row; its area is the share of rows. On the "
        "diagonal a confidence of 0.8 is correct for eight rows in ten. Dots below the diagonal are overconfident.",
    )


def confused_pairs(probabilities: Tensor, labels: Tensor) -> list[str]:
    """The pairs of classes that are confused most often; a sentence if there are none."""
    pairs = confusions(probabilities, labels)
    if not pairs:
        return [paragraph("All rows are classified correctly.")]
    rows = [
        (
            f"{pair.label} classified as {pair.prediction}",
            f"{pair.count:,} of {pair.of:,}",
            f"{pair.count / pair.of:.1%}",
        )
        for pair in pairs[:_PAIRS]
    ]
    others = sum(pair.count for pair in pairs[_PAIRS:])
    rest = f" {others:,} other errors are not listed." if others else ""
    caption = f"The true class, and the most probable class by p(y|x).{rest}"
    return [table(("classes", "rows", "share of the class"), rows, "Most confused classes.", caption)]


def samples_by_class(run: RunData, flow: HybridFlow) -> list[str]:
    """Samples of p(x|y) for each class, or the reason why there are none; nothing for data of one column."""
    if flow.event_shape == (1,):
        return []
    shown = min(flow.classes, _CLASSES)
    each = _ROWS if run.images is None else _IMAGES
    labels = torch.arange(shown, device=flow.device).repeat_interleave(each)
    options = {"budget": _BUDGET} if isinstance(flow, BranchedFlow) else {}
    try:
        drawn = flow.sample(len(labels), labels, generator=run.generator(), **options).cpu()
    except DomainError as error:
        return [paragraph(f"Samples of each class are not shown: {error}")]
    by_class = drawn.unflatten(0, (shown, each))
    picture = columns_by_class(run, by_class) if run.images is None else images_by_class(run, by_class)
    rest = flow.classes - shown
    left_out = f" The other {rest} classes are not shown." if rest else ""
    over = "" if run.images is not None else " The first two columns are shown: samples (orange) on test rows (blue)."
    return [
        figure(
            picture,
            "Samples of each class.",
            "Samples of p(x|y), as drawn by `contraflow sample --label`. Look for samples of another class, "
            f"and for less variety than in the data.{over}{left_out}",
        )
    ]


def images_by_class(run: RunData, drawn: Tensor) -> str:
    """A row of images for each class."""
    assert run.images is not None
    levels = run.images.reduced_levels
    rows = [
        (f"{label}", png_image(image_grid(images, levels, columns=len(images)), f"samples of class {label}", 400))
        for label, images in enumerate(drawn)
    ]
    return gallery(rows)


def columns_by_class(run: RunData, drawn: Tensor) -> str:
    """For each class a scatter plot of the first two columns, with samples on test rows."""
    labels, count = run.test_labels, len(drawn)
    assert labels is not None
    alt = "test rows and samples of each class"
    with svg_panels("samples-by-class", alt, count, 1.9, 0.4, sharex=True, sharey=True) as (picture, grid):
        for label, (axes, samples) in enumerate(zip(grid, drawn, strict=True)):
            data = run.test[labels == label][:_ROWS]
            for cloud, paint in ((data, "data"), (samples, "model")):
                axes.scatter(*cloud[:, :2].T.tolist(), s=4, color=colour(paint), alpha=0.6, linewidths=0)
            axes.set_title(f"class {label}")
    return picture.svg
