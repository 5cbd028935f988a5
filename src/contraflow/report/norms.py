"""Learned norms."""

from __future__ import annotations

from contraflow.evaluation.pictures import draw_norm_orders
from contraflow.lipschitz import norm_orders
from contraflow.report.drawing import drawing
from contraflow.report.page import details, figure
from contraflow.report.run_data import Subject


def norms(subject: Subject) -> list[str] | None:
    """The section of a flow whose blocks have learned the norms in which they contract."""
    settings = subject.trained.recipe.architecture.norms
    if not settings.kind.startswith("learned"):
        return None
    orders = norm_orders(subject.trained.flow)
    with drawing("norm-orders", "norm orders along the flow", height=3.0) as picture:
        axes = picture.figure.subplots()
        draw_norm_orders(axes, orders)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return [
        figure(
            picture.svg,
            f"Norm orders, {settings.kind.replace('_', ' ')}.",
            "The order p of the norm in which each block contracts, before its first layer and after every one. All "
            "start at 2, the spectral norm; an order that has moved away found another norm more useful there.",
        ),
        details("Orders of every block", str(orders)),
    ]
