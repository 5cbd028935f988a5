"""Learned norm orders."""

from __future__ import annotations

from contraflow.evaluation.figures import svg_figure
from contraflow.evaluation.pictures import draw_norm_orders
from contraflow.lipschitz import norm_orders
from contraflow.report.page import details, figure
from contraflow.report.run_data import RunData


def norms(run: RunData) -> list[str] | None:
    """The section; ``None`` unless the norms of the blocks are learned."""
    settings = run.trained.recipe.architecture.norms
    if not settings.kind.startswith("learned"):
        return None
    orders = norm_orders(run.trained.flow)
    with svg_figure("norm-orders", "norm orders along the flow", height=3.0) as picture:
        draw_norm_orders(picture.figure.subplots(), orders)
    return [
        figure(
            picture.svg,
            f"Norm orders, {settings.kind.replace('_', ' ')}.",
            "The order p of the norm in which each block is a contraction, before its first layer and after each layer."
            " All orders are 2, the spectral norm, at the start of training.",
        ),
        details("Orders of all blocks", str(orders)),
    ]
