"""`contraflow certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from contraflow.cli.console import show
from contraflow.cli.sample import check_output
from contraflow.evaluation import norm_orders_picture
from contraflow.lipschitz import norm_orders
from contraflow.runs import load_run


def certify(
    run: Path,
    orders: Path | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
    json: bool = False,
) -> None:
    """Print the proof that a trained flow is invertible: an upper bound on the Lipschitz constant of every block.

    A residual block x + g(x) is invertible if the Lipschitz constant of g is below 1. The bounds are proved from the
    weights, in float64.

    Example: contraflow certify run

    Args:
        run: the folder that `contraflow train` wrote, or one checkpoint in it.
        orders: a .png file: also draw the norm orders of all blocks, for a flow with learned or mixed norms.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: precision of the weights, float32 or float64; that of the training by default.
        json: print the result as JSON.
    """
    if orders is not None:
        check_output(orders, True, (".png",))
    trained = load_run(run, device=device, dtype=dtype)
    certificate = trained.flow.certify()
    if orders is not None:
        norm_orders_picture(norm_orders(trained.flow), orders)
    show(str(certificate), {**certificate.as_dict(), "step": trained.step}, json)
