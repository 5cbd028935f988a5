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
    """Print what is proved about a trained flow's invertibility: Lipschitz bounds of every block, from above.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        orders: also draw the norm orders of all blocks to this PNG file.
        device: cpu, cuda or cuda:N.
        dtype: precision of the weights; as trained when not given. The bounds are computed in float64.
        json: print JSON.
    """
    if orders is not None:
        check_output(orders, True, (".png",))
    trained = load_run(run, device=device, dtype=dtype)
    certificate = trained.flow.certify()
    if orders is not None:
        norm_orders_picture(norm_orders(trained.flow), orders)
    show(str(certificate), {**certificate.as_dict(), "step": trained.step}, json)
