"""The classifier of a hybrid flow: its score, what it confuses, whether it is sure with reason, samples of a class."""

from __future__ import annotations

import torch
from torch import Tensor

from contraflow.architectures import BranchedFlow, HybridFlow
from contraflow.errors import DomainError
from contraflow.evaluation import ClassificationReport, confusions, reliability
from contraflow.evaluation.calibration_pictures import draw_reliability
from contraflow.evaluation.pictures import image_grid
from contraflow.report.drawing import colour, drawing, panels, pixels
from contraflow.report.page import figure, gallery, paragraph, table
from contraflow.report.run_data import Subject

#: Classes whose samples are shown, samples of each image class and of each other, pairs of classes in the table.
_CLASSES, _IMAGES, _ROWS, _PAIRS = 12, 8, 100, 10
#: Draws that samples of a class may cost, as a multiple of their number; a report is to be ready soon.
_BUDGET = 20


def classifier(subject: Subject) -> list[str] | None:
    """The section of a hybrid flow on data with labels."""
    flow, found = subject.trained.flow, subject.classification
    probabilities, labels = subject.test_score.scores.class_probabilities, subject.test_labels
    if not isinstance(flow, HybridFlow) or found is None or probabilities is None or labels is None:
        return None
    known = labels >= 0
    return [
        paragraph(
            f"p(y|x) of {found.rows:,} labelled test rows, by the passes that gave log p(x): the mean over "
            f"{found.draws} draw{'s' if found.draws != 1 else ''} of noise each."
        ),
        score_table(found),
        reliability_diagram(probabilities[known], labels[known]),
        *confused_pairs(probabilities[known], labels[known]),
        *samples_by_class(subject, flow),
    ]


def score_table(found: ClassificationReport) -> str:
    """A line for each measure."""
    low, high = (100 * one for one in (found.accuracy_low, found.accuracy_high))
    rows = [
        ("accuracy", f"{100 * found.accuracy:.2f} %", f"95 %: {low:.2f} to {high:.2f}"),
        ("negative log-likelihood, nats", f"{found.cross_entropy:.4f}", f"± {found.cross_entropy_error:.4f}"),
        ("expected calibration error", f"{found.calibration_error:.4f}", f"± {found.calibration_error_error:.4f}"),
    ]
    return table(
        ("measure", "value", "error"),
        rows,
        "Scores.",
        "Wilson's interval; the standard error over rows; the bootstrap's over rows. The calibration error is the mean "
        "distance of accuracy from confidence in 15 bins: it is never quite 0, even of exact probabilities.",
    )


def reliability_diagram(probabilities: Tensor, labels: Tensor) -> str:
    """Accuracy over confidence."""
    with drawing("reliability", "accuracy of rows over the confidence of the classifier", height=3.2) as picture:
        axes = picture.figure.subplots()
        draw_reliability(axes, reliability(probabilities, labels), (colour("data"), colour("quiet")))
        axes.set_aspect("equal")
    return figure(
        picture.svg,
        "Reliability.",
        "A dot for each bin of confidence, the largest p(y|x) of a row; its area is the share of rows. On the diagonal "
        "a confidence of 0.8 is right eight times in ten. Dots below it are overconfident.",
    )


def confused_pairs(probabilities: Tensor, labels: Tensor) -> list[str]:
    """The classes most often taken for another; nothing where every guess is right."""
    pairs = confusions(probabilities, labels)
    if not pairs:
        return [paragraph("No class is taken for another.")]
    rows = [
        (f"{one.label} taken for {one.guess}", f"{one.count:,} of {one.of:,}", f"{one.count / one.of:.1%}")
        for one in pairs[:_PAIRS]
    ]
    rest = sum(one.count for one in pairs[_PAIRS:])
    return [
        table(
            ("classes", "rows", "share of the class"),
            rows,
            "Most confused.",
            f"Likeliest class against the true one.{f' {rest:,} wrong guesses are of other pairs.' if rest else ''}",
        )
    ]


def samples_by_class(subject: Subject, flow: HybridFlow) -> list[str]:
    """Samples of p(x|y), class by class, or why there are none; a single column has no picture."""
    if flow.event_shape == (1,):
        return []
    shown = min(flow.classes, _CLASSES)
    each = _ROWS if subject.images is None else _IMAGES
    wanted = torch.arange(shown, device=flow.device).repeat_interleave(each)
    options = {"budget": _BUDGET} if isinstance(flow, BranchedFlow) else {}
    try:
        drawn = flow.sample(len(wanted), wanted, generator=subject.generator(), **options).cpu()
    except DomainError as error:
        return [paragraph(f"Samples of each class are not shown: {error}")]
    by_class = drawn.unflatten(0, (shown, each))
    picture = columns_by_class(subject, by_class) if subject.images is None else images_by_class(subject, by_class)
    rest = flow.classes - shown
    left_out = f" The other {rest} classes are left out." if rest else ""
    over = "" if subject.images is not None else " The first two columns, samples (orange) over test rows (blue)."
    return [
        figure(
            picture,
            "Samples of each class.",
            "Draws of p(x|y), as `contraflow sample --label` gives them. Look for samples that are of another class, "
            f"and for less variety than the data have.{over}{left_out}",
        )
    ]


def images_by_class(subject: Subject, drawn: Tensor) -> str:
    """A row of images for each class."""
    assert subject.images is not None
    levels = subject.images.reduced_levels
    rows = [
        (f"{label}", pixels(image_grid(images, levels, columns=len(images)), f"samples of class {label}", 400))
        for label, images in enumerate(drawn)
    ]
    return gallery(rows)


def columns_by_class(subject: Subject, drawn: Tensor) -> str:
    """For each class a scatter plot of the first two columns: test rows, and samples over them."""
    labels, count = subject.test_labels, len(drawn)
    assert labels is not None
    alt = "test rows and samples of each class"
    with panels("samples-by-class", alt, count, 1.9, 0.4, sharex=True, sharey=True) as (picture, grid):
        for label, (axes, samples) in enumerate(zip(grid, drawn, strict=True)):
            data = subject.test[labels == label][:_ROWS]
            for cloud, paint in ((data, "data"), (samples, "model")):
                axes.scatter(*cloud[:, :2].T.tolist(), s=4, color=colour(paint), alpha=0.6, linewidths=0)
            axes.set_title(f"class {label}")
    return picture.svg
