"""Invertibility, proved and measured: certificate, Lipschitz bounds of blocks, series terms, reconstruction."""

from __future__ import annotations

import math

import numpy as np

from contraflow.bijections import ContractionBlock
from contraflow.evaluation import BlockSeries, Reconstruction, series_decay
from contraflow.evaluation.figures import colour, depth_colours, integer_ticks, logarithmic, svg_figure
from contraflow.lipschitz import Certificate
from contraflow.logdet import AdaptiveRoulette, Geometric, Poisson, RussianRoulette
from contraflow.report.page import details, figure, paragraph, table
from contraflow.report.run_data import RunData

_TERMS = 10


def invertibility(run: RunData) -> list[str]:
    """The section: the certificate of residual blocks, if there are any, and the reconstruction of test rows."""
    blocks = []
    certificate = run.certificate
    if certificate.blocks:
        series = series_decay(run.trained.flow, run.test[:200], _TERMS, generator=run.generator())
        blocks = [
            paragraph(
                "A residual block x + g(x) is invertible if Lip(g) < 1. Training estimates Lip(g) from below. The "
                "certificate bounds it from above, in float64, which proves invertibility. "
                f"{verdict(certificate)}"
            ),
            bounds_by_block(run, series),
            certificate_table(run, series),
            details("All layers, as printed by `contraflow certify RUN`", str(certificate)),
            series_terms(series),
        ]
    return [*blocks, reconstruction(run)]


def verdict(certificate: Certificate) -> str:
    """The certificate's last line as a sentence."""
    line = str(certificate).splitlines()[-1]
    return f"{line[0].upper()}{line[1:]}."


def _short(name: str) -> str:
    return name.removeprefix("bijection.")


def bounds_by_block(run: RunData, series: tuple[BlockSeries, ...]) -> str:
    """Certified bound, estimate, and decay of the series at the data, block by block."""
    blocks = run.certificate.blocks
    places = np.arange(1, len(blocks) + 1)
    with svg_figure("bounds-by-block", "Lipschitz bound, estimate and decay by block", height=3.0) as picture:
        axes = picture.figure.subplots()
        axes.axhline(1, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)))
        bounds, decay = [block.bound for block in blocks], [block.decay for block in series]
        estimates = [math.nan if block.estimate is None else block.estimate for block in blocks]
        axes.vlines(places, 0, bounds, color=colour("rule"), linewidth=2.5)
        axes.plot(places, bounds, "_", markersize=11, color=colour("data"), label="certified bound L")
        axes.plot(places, estimates, ".", color=colour("held"), label="estimate")
        axes.plot(places, decay, "o", markersize=4, color=colour("model"), label="decay ρ̂ at the data")
        match run.trained.recipe.estimator:
            case RussianRoulette(law=Geometric(p)):
                limit = math.sqrt(1 - p)
                axes.axhline(limit, color=colour("model"), linewidth=0.9, linestyle=(0, (1, 2)))
        integer_ticks(axes.xaxis)
        axes.set(xlabel="residual block, from data to latent", ylim=(0, 1.08), xlim=(0, len(blocks) + 1))
        axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure(
        picture.svg,
        "Lipschitz bound by block.",
        "A block with a bound below 1 (dashed) is proved invertible. The bound holds everywhere in space. The decay ρ̂ "
        "is the factor between consecutive terms of the block's series, measured at the data; it is far smaller in "
        f"blocks that are close to the identity. {_law(run)}",
    )


def _law(run: RunData) -> str:
    match run.trained.recipe.estimator:
        case RussianRoulette(law=Geometric(p)):
            return (
                f"The training estimator, Geometric({p:g}), has infinite variance in blocks with a decay above "
                f"√(1 - p) = {math.sqrt(1 - p):.3f} (dotted)."
            )
        case RussianRoulette(law=Poisson()):
            return (
                "The training estimator's Poisson law has infinite variance for all ρ > 0, which is harmless only for "
                "small ρ."
            )
        case AdaptiveRoulette():
            return "The training estimator adapts its law to the decay of each block: see the last column of the table."
    return ""


def certificate_table(run: RunData, series: tuple[BlockSeries, ...]) -> str:
    """One line for each block."""
    adaptive = _adaptive_laws(run)
    head = ("block", "estimate", "certified L", "target", "1 - L", "1/(1 - L)", "ρ̂")
    rows = [
        (
            f"{place} · {_short(block.name)}",
            _number(block.estimate),
            f"{block.bound:.5f}" if block.certified else f"({block.bound:.5f} asserted)",
            _number(block.target),
            f"{block.margin:.5f}",
            f"{block.inverse_error:.4g}",
            f"{terms.decay:.3f}",
            *((adaptive[block.name],) if adaptive else ()),
        )
        for place, (block, terms) in enumerate(zip(run.certificate.blocks, series, strict=True), 1)
    ]
    return table(
        (*head, "law") if adaptive else head,
        rows,
        "Certificate.",
        "The estimate from below, the certified bound from above, and the target set for training. The fixed-point "
        "inverse may multiply its residual by at most 1/(1 - L).",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _adaptive_laws(run: RunData) -> dict[str, str]:
    """Block → the law that its estimator has learned: number of exact terms, and q of the geometric rest."""
    laws = {}
    for name, module in run.trained.flow.named_modules():
        if isinstance(module, ContractionBlock) and module.decay is not None:
            q, exact = module.decay.law.tolist()
            laws[name] = f"{max(exact, 1):.0f} exact, q = {q:.2f}"
    return laws


def series_terms(series: tuple[BlockSeries, ...]) -> str:
    """The sizes of the terms of each block's series."""
    with svg_figure("series-terms", "size of the terms of each block's series", height=3.0) as picture:
        axes = picture.figure.subplots()
        colour_of = depth_colours(picture.figure, axes, len(series), "block")
        for place, block in enumerate(series, 1):
            axes.plot(range(1, len(block.sizes) + 1), block.sizes, color=colour_of(place), linewidth=1.0)
        axes.set(xlabel="term k of the series", ylabel="nats, root mean square", xticks=range(1, _TERMS + 1))
        logarithmic(axes, "y")
    largest = [max(block.sizes[k] for block in series) for k in (0, _TERMS - 1)]
    return figure(
        picture.svg,
        "Truncation, block by block.",
        f"Size of the k-th term of log|det(I + J)|, one line for each block. The largest term decreases from "
        f"{largest[0]:.2g} nats at k = 1 to {largest[1]:.2g} at k = {_TERMS}. Blocks with steep lines need few terms. "
        "For flat lines a series with a fixed number of terms is biased; the Russian roulette estimator is not.",
    )


def reconstruction(run: RunData) -> str:
    """Errors of the reconstruction of test rows, and the number of evaluations of g that it takes."""
    result = run.reconstruction
    error = result.error.numpy()
    shown = error[(error > 0) & np.isfinite(error)]  # the errors that a logarithmic axis can show
    solved = bool((result.evaluations > 0).any())
    with svg_figure("reconstruction", "errors of the reconstruction of test rows", height=2.4) as picture:
        panels = np.ravel(picture.figure.subplots(1, 2 if solved else 1, squeeze=False))
        ends = (
            (math.floor(math.log10(shown.min())), math.ceil(math.log10(shown.max()) + 0.01)) if len(shown) else (-1, 1)
        )
        panels[0].hist(shown, bins=np.logspace(*ends, 40), color=colour("data"), alpha=0.6)
        panels[0].set(title="largest error of a row", yticks=[], xlabel=_unit(run))
        logarithmic(panels[0], "x")
        if solved:
            counts, rows = result.evaluations.unique(return_counts=True)
            panels[1].bar(counts.tolist(), rows.tolist(), color=colour("data"), alpha=0.6)
            panels[1].set(title="evaluations of all g together for a row", yticks=[])
            integer_ticks(panels[1].xaxis)
    return figure(
        picture.svg,
        "Reconstruction.",
        f"f⁻¹(f(x)) compared with x for {len(error)} test rows. The largest error is {error.max():.2g} "
        f"{_unit(run)}{_identical(result.identical)}. {_left_out(error)}{_bound(result)}",
    )


def _left_out(error: np.ndarray) -> str:
    """The numbers of rows that a logarithmic axis cannot show."""
    exact, infinite = int((error == 0).sum()), int((~np.isfinite(error)).sum())
    sentence = f"{exact:,} rows are reconstructed exactly and have no bar. " if exact else ""
    return f"{sentence}The reconstruction of {infinite:,} rows is not finite. " if infinite else sentence


def _unit(run: RunData) -> str:
    if run.images is not None:
        return f"levels (of {run.images.reduced_levels})"
    return "units of the data"


def _identical(share: float | None) -> str:
    if share is None:
        return ""
    if share == 1:
        return "; all images are reconstructed pixel for pixel"
    return (
        f"; {share:.1%} are reconstructed pixel for pixel, and in the others the dequantised value of some pixel is "
        "within the error of the next level"
    )


def _bound(result: Reconstruction) -> str:
    block, whole = result.block_bound.max().item(), result.error_bound.max().item()
    if math.isinf(whole):
        return "No error bound is known for this flow."
    if whole == 0:
        return "The inverse is in closed form, so the errors are due to rounding."
    return (
        f"The residuals of the solver prove a Euclidean error of at most {block:.2g} for each block alone, and of at "
        f"most {whole:.2g} for all blocks together, the worst case of all blocks at once."
    )
