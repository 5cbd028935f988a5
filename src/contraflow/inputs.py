"""Checks of the tensors that a flow receives: shape, dtype, finite numbers.

A flow receives tensors ``(*batch, *event)`` with any number of batch dimensions and computes with rows ``(n, *event)``;
`in_batch` restores the batch dimensions of the results.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from contraflow.errors import ConfigurationError, DomainError, ShapeError

FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def as_rows(x: Tensor, shape: tuple[int, ...], kind: str = "tensor") -> tuple[Tensor, torch.Size]:
    """x ``(*batch, *shape)`` as rows ``(n, *shape)``, and its batch shape.

    Args:
        x: a batch, which may be empty, or a single event.
        shape: shape of one event.
        kind: name of x in error messages.

    Raises:
        ShapeError: x is not a tensor, or has another shape.

    >>> rows, batch = as_rows(torch.zeros(4, 5, 2), (2,))
    >>> rows.shape, batch
    (torch.Size([20, 2]), torch.Size([4, 5]))
    """
    leading = x.ndim - len(shape) if isinstance(x, Tensor) else -1
    if leading < 0 or tuple(x.shape[leading:]) != shape:
        given = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ShapeError(
            f"this flow takes a {kind} of shape ({', '.join(map(str, ('batch', *shape)))}), not {given}; the batch may "
            "have any number of dimensions."
        )
    batch = x.shape[:leading]
    return x if leading == 1 else x.reshape((batch.numel(), *shape)), batch


def in_batch(rows: Tensor, batch: torch.Size) -> Tensor:
    """Rows ``(n, …)`` reshaped to ``(*batch, …)``.

    >>> in_batch(torch.zeros(20), torch.Size([4, 5])).shape
    torch.Size([4, 5])
    """
    return rows if len(batch) == 1 else rows.reshape((*batch, *rows.shape[1:]))


def sample_shape(n: int | Sequence[int], temperature: float = 1.0) -> torch.Size:
    """The batch shape for a number of samples, or for a shape as in `torch.distributions`.

    Raises:
        ConfigurationError: n is negative, or neither a whole number nor a sequence of whole numbers; or the
            temperature, which is a factor on a standard deviation, is negative or not finite.

    >>> sample_shape(5), sample_shape((2, 3)), sample_shape(())
    (torch.Size([5]), torch.Size([2, 3]), torch.Size([]))
    """
    try:
        sizes = [operator.index(size) for size in (n if isinstance(n, Sequence) else [n])]
    except TypeError:
        raise ConfigurationError(
            f"n={n!r}: give a whole number of samples, as in sample(5), or a shape, as in sample((2, 3))."
        ) from None
    if any(size < 0 for size in sizes) or not 0 <= temperature < math.inf:
        raise ConfigurationError(f"n={n}, temperature={temperature}: neither can be negative or infinite.")
    return torch.Size(sizes)


def accept_context(
    context: Tensor | None, shape: tuple[int, ...] | None, batch: torch.Size, computed_in: torch.dtype
) -> Tensor | None:
    """The context of every row of a batch, ``(n, *shape)``; ``None`` for a flow that takes no context.

    Args:
        context: ``(*batch, *shape)``, or one row for all: ``shape`` or ``(1, *shape)``.
        shape: shape of the context of one event; ``None`` for a flow that takes no context.
        batch: batch shape of the samples.
        computed_in: dtype of the flow's weights.

    Raises:
        ConfigurationError: a context was given to a flow that takes none.
        ShapeError: the context is missing, or has the wrong shape or number of rows.
        DomainError: as for `accept`.
    """
    if shape is None:
        if context is None:
            return None
        given = f"of shape {tuple(context.shape)}" if isinstance(context, Tensor) else f"a {type(context).__name__},"
        raise ConfigurationError(
            f"a context {given} was given to a flow that takes none, so the result would be log p(x) in place of "
            "log p(x|context). Build the flow with context_features=…, which real_nvp, glow and nice accept, or a flow "
            "of your own with context_shape=…."
        )
    if context is None:
        expected = ", ".join(map(str, ("batch", *shape)))
        raise ShapeError(f"this flow needs a context of shape ({expected}), and none was given.")
    rows = accept(context, shape, (*FLOATS, *INTEGERS), computed_in, "context")
    context_batch = context.shape[: context.ndim - len(shape)]
    if context_batch != batch and context_batch.numel() != 1:
        raise ShapeError(
            f"the context has batch shape {tuple(context_batch)} and the samples have batch shape {tuple(batch)}: give "
            "one row for each sample, or one row for all."
        )
    return rows if context_batch == batch else rows.expand((batch.numel(), *shape))


def accept(
    x: Tensor,
    shape: tuple[int, ...],
    dtypes: Sequence[torch.dtype],
    computed_in: torch.dtype,
    kind: str = "tensor",
    *,
    in_float64: bool = False,
) -> Tensor:
    """x as rows ``(n, *shape)``, in the dtype that the flow computes in.

    Args:
        x: ``(*batch, *shape)``; the batch may be empty.
        shape: shape of one event.
        dtypes: allowed dtypes of x.
        computed_in: dtype of the flow's weights.
        in_float64: return float64 and integer tensors in float64, for preprocessing that needs all digits.
        kind: name of x in error messages.

    Raises:
        ShapeError: x is not a tensor, or has another shape.
        DomainError: the dtype is not allowed, weights or autocast are in half precision, or a number is NaN, infinite,
            or infinite in `computed_in`; the message names the samples by their index among the rows.
    """
    x, _ = as_rows(x, shape, kind)
    refuse_half(computed_in, x.device)
    if x.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise DomainError(
            f"a {kind} of dtype {x.dtype} was given: give {allowed}; convert half precision with x.float()."
        )
    accepted = x.to(torch.float64 if in_float64 and x.dtype != torch.float32 else computed_in)
    if x.is_floating_point() and not _all_finite(accepted):
        raise _not_finite(x, accepted, kind)
    return accepted


def narrow(x: Tensor, computed_in: torch.dtype) -> Tensor:
    """The output x of preprocessing in the dtype that the flow computes in.

    Raises:
        DomainError: a number is infinite in that dtype; the message names the samples.
    """
    narrowed = x.to(computed_in)
    if narrowed is not x and not _all_finite(narrowed):
        raise _not_finite(x, narrowed, "tensor")
    return narrowed


def refuse_half(computed_in: torch.dtype, device: torch.device) -> None:
    """Check that a flow computes in float32 or float64.

    Raises:
        DomainError: the weights have another dtype, or autocast is enabled for their device.
    """
    if computed_in not in FLOATS:
        raise DomainError(
            f"the weights of this flow are {computed_in}, which is too imprecise for log-determinants and inverses: "
            "call flow.float() or flow.double()."
        )
    if torch.is_autocast_enabled(device.type):
        raise DomainError(
            "autocast would round log-determinants and norms to half precision: disable it for the flow with "
            f"torch.autocast({device.type!r}, enabled=False)."
        )


def named(bad: Tensor, most: int = 5) -> str:
    """The indices at which `bad` is true, in words.

    >>> named(torch.tensor([True, False, True])), named(torch.ones(7), most=2)
    ('samples 0, 2', 'samples 0, 1 and 5 more')
    """
    rows = bad.nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, rows[:most]))
    return f"sample{'s' if len(rows) > 1 else ''} {listed}" + (f" and {len(rows) - most} more" if rows[most:] else "")


def _not_finite(given: Tensor, accepted: Tensor, kind: str) -> DomainError:
    where = "" if kind == "tensor" else f" of the {kind}"
    bad = ~given.isfinite().reshape(len(given), -1).all(dim=1)
    if bool(bad.any()):
        return DomainError(f"NaN or infinity in {named(bad)}{where}. Drop or impute such rows.")
    bad = ~accepted.isfinite().reshape(len(given), -1).all(dim=1)
    return DomainError(
        f"numbers beyond the range of {accepted.dtype} in {named(bad)}{where}. Rescale them, or compute with "
        "flow.double()."
    )


def _all_finite(x: Tensor) -> bool:
    try:
        return bool(x.isfinite().all())
    except RuntimeError:  # torch.func.vmap does not show values
        return True
