"""What a flow accepts to compute with: shape, precision, finite numbers. Checked once, where a tensor enters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contraflow.errors import DomainError, ShapeError

FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def accept(
    x: Tensor,
    shape: tuple[int, ...],
    dtypes: Sequence[torch.dtype],
    computed_in: torch.dtype,
    *,
    in_float64: bool = False,
) -> Tensor:
    """x in the dtype that the flow computes in.

    Args:
        x: ``(batch, *shape)``; the batch may be empty.
        shape: of one event.
        dtypes: those allowed for x.
        computed_in: dtype of the flow's weights.
        in_float64: leave float64 as it is, and bring integers to it: what comes next needs all their digits.

    Raises:
        ShapeError: no tensor, or another shape.
        DomainError: a dtype not allowed; weights or autocast in half precision; NaN, infinity, or a number that is
            infinite in `computed_in` (the samples are named).
    """
    if not isinstance(x, Tensor) or not x.ndim or tuple(x.shape[1:]) != shape:
        given = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ShapeError(f"this flow takes a tensor of shape (batch, {', '.join(map(str, shape))}), not {given}.")
    refuse_half(computed_in, x.device)
    if x.dtype not in dtypes:
        known = ", ".join(str(one).removeprefix("torch.") for one in dtypes)
        raise DomainError(f"dtype {x.dtype}: give {known}; promote half precision by x.float().")
    accepted = x.to(torch.float64 if in_float64 and x.dtype != torch.float32 else computed_in)
    if x.is_floating_point() and not _all_finite(accepted):
        raise _not_finite(x, accepted)
    return accepted


def narrow(x: Tensor, computed_in: torch.dtype) -> Tensor:
    """x in the dtype that the flow computes in, where preprocessing gave it in another.

    Raises:
        DomainError: a number is infinite in that dtype (the samples are named).
    """
    narrowed = x.to(computed_in)
    if narrowed is not x and not _all_finite(narrowed):
        raise _not_finite(x, narrowed)
    return narrowed


def refuse_half(computed_in: torch.dtype, device: torch.device) -> None:
    """Nothing in float32 or float64.

    Raises:
        DomainError: weights of another dtype, or autocast is on for their device.
    """
    if computed_in not in FLOATS:
        raise DomainError(
            f"the weights of this flow are {computed_in}, too coarse for log-determinants and inverses: call "
            "flow.float() or flow.double()."
        )
    if torch.is_autocast_enabled(device.type):
        raise DomainError(
            "autocast would round log-determinants and norms to half precision: leave the flow out of it with "
            f"torch.autocast({device.type!r}, enabled=False)."
        )


def named(bad: Tensor, most: int = 5) -> str:
    """The samples marked, in words.

    >>> named(torch.tensor([True, False, True])), named(torch.ones(7), most=2)
    ('samples 0, 2', 'samples 0, 1 and 5 more')
    """
    rows = bad.nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, rows[:most]))
    return f"sample{'s' if len(rows) > 1 else ''} {listed}" + (f" and {len(rows) - most} more" if rows[most:] else "")


def _not_finite(given: Tensor, accepted: Tensor) -> DomainError:
    bad = ~given.isfinite().flatten(1).all(dim=1)
    if bool(bad.any()):
        return DomainError(f"NaN or infinity in {named(bad)}. Drop or fill such rows.")
    bad = ~accepted.isfinite().flatten(1).all(dim=1)
    return DomainError(
        f"numbers beyond the range of {accepted.dtype} in {named(bad)}. Rescale them, or compute with flow.double()."
    )


def _all_finite(x: Tensor) -> bool:
    try:
        return bool(x.isfinite().all())
    except RuntimeError:  # under torch.func.vmap values cannot be looked at
        return True
