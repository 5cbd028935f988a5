"""`contraflow certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from contraflow.cli.console import show
from contraflow.recipes import load_run


def certify(
    run: Path, device: str = "cpu", dtype: Literal["float32", "float64"] | None = None, json: bool = False
) -> None:
    """Print what is proved about a trained flow's invertibility: Lipschitz bounds of every block, from above.

    Args:
        run: folder that `contraflow train` wrote, or one checkpoint in it.
        device: cpu, cuda or cuda:N.
        dtype: precision of the weights; as trained when not given. The bounds are computed in float64.
        json: print JSON.
    """
    trained = load_run(run, device=device, dtype=dtype)
    certificate = trained.flow.certify()
    show(str(certificate), {**certificate.as_dict(), "step": trained.step}, json)
