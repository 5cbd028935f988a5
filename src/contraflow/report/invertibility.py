"""What is proved and what is measured about going back: certificate, bounds by block, series, reconstruction."""

from __future__ import annotations

import math

import numpy as np

from contraflow.bijections import ContractionBlock
from contraflow.evaluation import BlockSeries, Reconstruction, series_decay
from contraflow.lipschitz import Certificate
from contraflow.logdet import AdaptiveRoulette, Geometric, Poisson, RussianRoulette
from contraflow.report.drawing import colour, drawing, power_of_ten
from contraflow.report.page import details, figure, paragraph, table
from contraflow.report.run_data import Subject

_TERMS = 10


def invertibility(subject: Subject) -> list[str]:
    """The section: what is proved block by block where there are residual blocks, and the way back for all."""
    blocks = []
    certificate = subject.certificate
    if certificate.blocks:
        found = series_decay(subject.trained.flow, subject.test[:200], _TERMS, generator=subject.generator())
        blocks = [
            paragraph(
                "A residual block x + g(x) is invertible where Lip(g) < 1. Training estimates Lip(g) from below; the "
                f"bound here is from above, in float64, and so a proof. {verdict(certificate)}"
            ),
            bounds_by_block(subject, found),
            certificate_table(subject, found),
            details("Every layer, as `contraflow certify RUN` prints it", str(certificate)),
            series_terms(found),
        ]
    return [*blocks, reconstruction(subject)]


def verdict(certificate: Certificate) -> str:
    """The certificate's last line as a sentence."""
    words = str(certificate).splitlines()[-1]
    return f"{words[0].upper()}{words[1:]}."


def _short(name: str) -> str:
    return name.removeprefix("bijection.")


def bounds_by_block(subject: Subject, found: tuple[BlockSeries, ...]) -> str:
    """Certified bound, estimate and the decay that data see, block by block."""
    from matplotlib.ticker import MaxNLocator

    blocks = subject.certificate.blocks
    places = np.arange(1, len(blocks) + 1)
    with drawing("bounds-by-block", "Lipschitz bound, estimate and decay by block", height=3.0) as picture:
        axes = picture.figure.subplots()
        axes.axhline(1, color=colour("ink"), linewidth=0.9, linestyle=(0, (4, 3)))
        axes.vlines(places, 0, [one.bound for one in blocks], color=colour("rule"), linewidth=2.5)
        axes.plot(
            places, [one.bound for one in blocks], "_", markersize=11, color=colour("data"), label="certified bound L"
        )
        known = [(place, one.estimate) for place, one in zip(places, blocks, strict=True) if one.estimate is not None]
        axes.plot(*(zip(*known, strict=True) if known else ((), ())), ".", color=colour("held"), label="estimate")
        axes.plot(
            places, [one.decay for one in found], "o", markersize=4, color=colour("model"), label="decay ρ̂ on data"
        )
        match subject.trained.recipe.estimator:
            case RussianRoulette(law=Geometric(p)):
                limit = math.sqrt(1 - p)
                axes.axhline(limit, color=colour("model"), linewidth=0.9, linestyle=(0, (1, 2)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="residual block, from data to latent", ylim=(0, 1.08), xlim=(0, len(blocks) + 1))
        axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure(
        picture.svg,
        "Lipschitz bound by block.",
        "Below the dashed line at 1 a block is proved invertible. The bound holds everywhere in space; the decay ρ̂, by "
        f"which the terms of the block's series shrink, is measured where data pass, and is far smaller where a block "
        f"does little. {_law(subject)}",
    )


def _law(subject: Subject) -> str:
    match subject.trained.recipe.estimator:
        case RussianRoulette(law=Geometric(p)):
            return (
                f"Above the dotted line at √(1 - p) = {math.sqrt(1 - p):.3f} the training estimator, "
                f"Geometric({p:g}), would have infinite variance."
            )
        case RussianRoulette(law=Poisson()):
            return (
                "The training estimator's Poisson law has infinite variance for every ρ > 0, harmless only where ρ is "
                "small."
            )
        case AdaptiveRoulette():
            return "The training estimator learns a law for each block from this decay: the last column of the table."
    return ""


def certificate_table(subject: Subject, found: tuple[BlockSeries, ...]) -> str:
    """A line a block."""
    adaptive = _adaptive_laws(subject)
    head = ("block", "estimate", "certified L", "promised", "1 - L", "1/(1 - L)", "ρ̂")
    rows = [
        (
            f"{place} · {_short(one.name)}",
            _number(one.estimate),
            f"{one.bound:.5f}" if one.certified else f"({one.bound:.5f} vouched)",
            _number(one.promise),
            f"{one.margin:.5f}",
            f"{one.inverse_error:.4g}",
            f"{series.decay:.3f}",
            *((adaptive[one.name],) if adaptive else ()),
        )
        for place, (one, series) in enumerate(zip(subject.certificate.blocks, found, strict=True), 1)
    ]
    return table(
        (*head, "law") if adaptive else head,
        rows,
        "Certificate.",
        "Estimate from below, certified bound from above, and the bound that was asked for. 1/(1 - L) is by how much "
        "an error left by the fixed-point inverse may be magnified.",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _adaptive_laws(subject: Subject) -> dict[str, str]:
    """Of blocks that have learned one: terms that every sample computes (the first always), and q of the others."""
    laws = {}
    for name, one in subject.trained.flow.named_modules():
        if isinstance(one, ContractionBlock) and one.decay is not None:
            q, exact = one.decay.law.tolist()
            laws[name] = f"{max(exact, 1):.0f} exact, q = {q:.2f}"
    return laws


def series_terms(found: tuple[BlockSeries, ...]) -> str:
    """How the terms of every block's series fall."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    # without the ends, which vanish on a dark or on a light page
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.15, 0.8, 256)))
    depth = Normalize(1, max(len(found), 2))
    with drawing("series-terms", "size of the terms of every block's series", height=3.0) as picture:
        axes = picture.figure.subplots()
        for place, one in enumerate(found, 1):
            axes.semilogy(range(1, len(one.sizes) + 1), one.sizes, color=shades(depth(place)), linewidth=1.0)
        axes.set(xlabel="term k of the series", ylabel="nats, root mean square", xticks=range(1, _TERMS + 1))
        axes.yaxis.set_major_formatter(power_of_ten)
        axes.minorticks_off()
        bar = picture.figure.colorbar(
            ScalarMappable(depth, shades), ax=axes, label="block", pad=0.02, ticks=MaxNLocator(integer=True)
        )
        bar.outline.set_visible(False)
    largest = [max(one.sizes[k] for one in found) for k in (0, _TERMS - 1)]
    return figure(
        picture.svg,
        "Truncation, block by block.",
        f"Size of the k-th term of log|det(I + J)|, one line a block. The largest falls from {largest[0]:.2g} nats at "
        f"k = 1 to {largest[1]:.2g} at k = {_TERMS}. Steep lines need few terms; where a line is flat, a series cut "
        "after a fixed number of terms would be biased, which is what the roulette is for.",
    )


def reconstruction(subject: Subject) -> str:
    """Error of going to the latent and back, and work of it."""
    from matplotlib.ticker import MaxNLocator

    found = subject.reconstruction
    error = found.error.numpy()
    shown = error[(error > 0) & np.isfinite(error)]  # what has a place on a logarithmic axis
    solved = bool((found.evaluations > 0).any())
    with drawing("reconstruction", "errors of x after the way to the latent and back", height=2.4) as picture:
        panels = np.ravel(picture.figure.subplots(1, 2 if solved else 1, squeeze=False))
        ends = (
            (math.floor(math.log10(shown.min())), math.ceil(math.log10(shown.max()) + 0.01)) if len(shown) else (-1, 1)
        )
        panels[0].hist(shown, bins=np.logspace(*ends, 40), color=colour("data"), alpha=0.6)
        panels[0].set(xscale="log", title="largest error of a row", yticks=[], xlabel=_unit(subject))
        panels[0].xaxis.set_major_formatter(power_of_ten)
        panels[0].minorticks_off()
        if solved:
            counts, rows = found.evaluations.unique(return_counts=True)
            panels[1].bar(counts.tolist(), rows.tolist(), color=colour("data"), alpha=0.6)
            panels[1].set(title="evaluations of all g together for a row", yticks=[])
            panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure(
        picture.svg,
        "Reconstruction.",
        f"f⁻¹(f(x)) against x for {len(error)} test rows. The largest error is {error.max():.2g} "
        f"{_unit(subject)}{_identical(found.identical)}. {_left_out(error)}{_bound(found)}",
    )


def _left_out(error: np.ndarray) -> str:
    """What a logarithmic axis has no place for."""
    exact, beyond = int((error == 0).sum()), int((~np.isfinite(error)).sum())
    said = f"{exact:,} of the rows come back bit for bit and have no bar. " if exact else ""
    return f"{said}{beyond:,} do not come back to a finite number. " if beyond else said


def _unit(subject: Subject) -> str:
    if subject.images is not None:
        return f"levels, of {subject.images.reduced_levels}"
    return "in the units of the data"


def _identical(share: float | None) -> str:
    if share is None:
        return ""
    if share == 1:
        return "; every image comes back pixel for pixel"
    return f"; {share:.1%} come back pixel for pixel, the others had noise within the error of a level's edge"


def _bound(found: Reconstruction) -> str:
    alone, whole = found.block_bound.max().item(), found.error_bound.max().item()
    if math.isinf(whole):
        return "No bound on it is known for this flow."
    if whole == 0:
        return "The inverse is in closed form: what is left is rounding."
    return (
        f"Proved from the residuals that the solver left: at most {alone:.2g} for each block alone (Euclidean, at its "
        f"own place), and {whole:.2g} for all together, which supposes the worst of every block at once."
    )
