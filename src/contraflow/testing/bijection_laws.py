"""Checks of the properties of a bijection; each raises an `AssertionError` if the property is violated."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from contraflow.bijections import Bijection, with_logdet
from contraflow.logdet import Exact
from contraflow.numerics import batch_jacobian

Context = Tensor | None


def check_bijection(
    bijection: Bijection,
    x: Tensor,
    context: Context = None,
    *,
    atol: float = 1e-9,
    float32_atol: float = 1e-3,
    fresh: Callable[[], Bijection] | None = None,
) -> None:
    """Check all properties of a bijection, on copies of it.

    Args:
        bijection: the map; wherever values are compared, log-determinants are computed by `Exact`.
        x: a few samples of its domain ``(batch >= 2, *event)``, with fewer than about a hundred dimensions, since the
            full Jacobian is computed.
        context: conditioning input ``(batch, …)``.
        atol: largest error in float64; relative for numbers above 1.
        float32_atol: largest error in float32; relative for numbers above 1.
        fresh: constructor of another instance with the same arguments, into which the state is loaded; by default a
            copy with random numbers in place of the state.

    Raises:
        AssertionError: a property is violated; the message names it.
    """
    x = x.detach().double()
    context = None if context is None else context.detach().double()
    bijection = copy.deepcopy(bijection).double()
    exact = with_logdet(bijection, Exact())
    first_z, first_logdet = exact.forward_and_logdet(x, context)  # initialises data-dependent maps
    z, logdet = exact.forward_and_logdet(x, context)
    _close("z of the first call against the second", first_z, z, atol)
    _close("log-determinant of the first call against the second", first_logdet, logdet, atol)
    check_round_trip(exact, x, context, atol=atol)
    check_logdet(exact, x, context, atol=atol)
    check_batches(exact, x, context, atol=atol)
    check_dtypes(exact, x, context, atol=float32_atol)
    check_parameter_gradients(exact, x, context)
    check_purity(bijection, x, context)
    check_randomness(bijection, x, context)
    check_state(exact, x, context, fresh=fresh)


def check_round_trip(bijection: Bijection, x: Tensor, context: Context = None, *, atol: float = 1e-9) -> None:
    """Check that f⁻¹(f(x)) = x and f(f⁻¹(z)) = z, and that log-determinants of the two directions add up to zero.

    `forward` and `inverse` must also agree with `forward_and_logdet` and `inverse_and_logdet`.
    """
    z, logdet = bijection.forward_and_logdet(x, context)
    back, inverse_logdet = bijection.inverse_and_logdet(z, context)
    again = bijection.forward(back, context)
    _shape("forward log-determinant", logdet, (x.shape[0],))
    _shape("inverse log-determinant", inverse_logdet, (x.shape[0],))
    _close("round trip x → z → x", back, x, atol)
    _close("round trip z → x → z", again, z, atol)
    _close("inverse log-determinant against minus the forward one", inverse_logdet, -logdet, atol)
    _close("forward against forward_and_logdet", bijection.forward(x, context), z, atol)
    _close("inverse against inverse_and_logdet", bijection.inverse(z, context), back, atol)


def check_logdet(bijection: Bijection, x: Tensor, context: Context = None, *, atol: float = 1e-9) -> None:
    """Check the log-determinant and its gradient in x.

    The log-determinant is compared with that of the autograd Jacobian of `forward`, and its gradient with central
    differences along a random direction.
    """
    logdet = bijection.forward_and_logdet(x, context)[1]
    jacobian = batch_jacobian(lambda x: bijection.forward(x, context), x)
    _close("log-determinant against the autograd Jacobian", logdet, torch.linalg.slogdet(jacobian)[1], atol)

    start = x.detach().requires_grad_()
    logdet = bijection.forward_and_logdet(start, context)[1]
    direction = torch.randn(x.shape, generator=Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    if logdet.requires_grad:
        (grad,) = torch.autograd.grad(logdet.sum(), start, allow_unused=True)
        slope = torch.zeros_like(logdet) if grad is None else (grad * direction).flatten(1).sum(1)
    else:
        slope = torch.zeros_like(logdet)
    h = 1e-5
    with torch.no_grad():
        ahead = bijection.forward_and_logdet(x + h * direction, context)[1]
        behind = bijection.forward_and_logdet(x - h * direction, context)[1]
    size = slope.abs().max().item() + x[0].numel()
    _close("gradient of the log-determinant in x", slope, (ahead - behind) / (2 * h), 1e-6 * size)


def check_batches(bijection: Bijection, x: Tensor, context: Context = None, *, atol: float = 1e-9) -> None:
    """Check that samples are treated independently, and that a batch of one and an empty batch work."""
    z, logdet = bijection.forward_and_logdet(x, context)
    for rows in (slice(0, 1), slice(0, 0)):
        part_context = None if context is None else context[rows]
        part, part_logdet = bijection.forward_and_logdet(x[rows], part_context)
        what = "batch of one" if rows.stop else "empty batch"
        _close(f"{what}: forward", part, z[rows], atol)
        _close(f"{what}: log-determinant", part_logdet, logdet[rows], atol)
        back, back_logdet = bijection.inverse_and_logdet(part, part_context)
        _close(f"{what}: inverse", back, x[rows], atol)
        _shape(f"{what}: inverse log-determinant", back_logdet, (part.shape[0],))


def check_dtypes(bijection: Bijection, x: Tensor, context: Context = None, *, atol: float = 1e-3) -> None:
    """Check that results have the dtype of the input, and that those in float32 agree with those in float64."""
    z, logdet = bijection.forward_and_logdet(x, context)
    single = copy.deepcopy(bijection).float()
    context32 = None if context is None else context.float()
    z32, logdet32 = single.forward_and_logdet(x.float(), context32)
    back32, back_logdet32 = single.inverse_and_logdet(z32, context32)
    results = {
        "forward": z32,
        "forward log-determinant": logdet32,
        "inverse": back32,
        "inverse log-determinant": back_logdet32,
    }
    for what, result in results.items():
        assert result.dtype == torch.float32, f"the {what} of a float32 batch has dtype {result.dtype}."
    assert z.dtype == logdet.dtype == torch.float64, f"a float64 batch gives {z.dtype} and {logdet.dtype}."
    _close("float32 forward", z32.double(), z, atol)
    _close("float32 log-determinant", logdet32.double(), logdet, atol * x[0].numel() ** 0.5)
    _close("float32 round trip", back32.double(), x, atol)


def check_parameter_gradients(bijection: Bijection, x: Tensor, context: Context = None) -> None:
    """Check that every trainable parameter gets a finite gradient from z and log-determinant, weighted by sample."""
    bijection = copy.deepcopy(bijection)
    z, logdet = bijection.forward_and_logdet(x, context)
    weights = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
    loss = (z.flatten(1).square().sum(1) * weights).sum() + (logdet * weights).sum()
    if loss.requires_grad:
        loss.backward()
    for name, parameter in bijection.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"parameter {name} gets no gradient."
            assert bool(parameter.grad.isfinite().all()), f"the gradient of parameter {name} is not finite."


def check_purity(bijection: Bijection, x: Tensor, context: Context = None) -> None:
    """Check that the caller's tensors are not changed: their values, `requires_grad` and gradient."""
    x, x_before = x.clone(), x.clone()
    z, logdet = bijection.forward_and_logdet(x, context)
    latent, latent_before = z.detach(), z.detach().clone()
    bijection.inverse_and_logdet(latent, context)
    loss = z.sum() + logdet.sum()
    if loss.requires_grad:
        loss.backward()
        bijection.zero_grad()
    for what, tensor, before in (("x", x, x_before), ("z", latent, latent_before)):
        assert torch.equal(tensor, before), f"the caller's {what} was changed in place."
        assert not tensor.requires_grad, f"the caller's {what} was made to require gradients."
        assert tensor.grad is None, f"the caller's {what} got a gradient."


def check_randomness(bijection: Bijection, x: Tensor, context: Context = None) -> None:
    """Check that results depend only on the seed of a given generator, and torch's global generator is not used."""
    before = torch.get_rng_state()
    first, second = (
        copy.deepcopy(bijection).forward_and_logdet(x, context, generator=Generator(x.device).manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0]), "one seed gives two different z."
    assert torch.equal(first[1], second[1]), "one seed gives two different log-determinants."
    assert torch.equal(before, torch.get_rng_state()), (
        "torch's global generator was used although a generator was given."
    )


def check_state(
    bijection: Bijection, x: Tensor, context: Context = None, *, fresh: Callable[[], Bijection] | None = None
) -> None:
    """Check that another instance gives the same outputs, bit for bit, after loading the state."""
    z, logdet = bijection.forward_and_logdet(x, context)
    twin = _scrambled(bijection) if fresh is None else with_logdet(fresh().to(x), Exact())
    twin.load_state_dict(bijection.state_dict(), strict=True)
    loaded, loaded_logdet = twin.forward_and_logdet(x, context)
    assert torch.equal(loaded, z), f"z after loading is off by {_largest(loaded - z):.3g}."
    assert torch.equal(loaded_logdet, logdet), (
        f"the log-determinant after loading is off by {_largest(loaded_logdet - logdet):.3g}."
    )


@torch.no_grad()
def _scrambled(bijection: Bijection) -> Bijection:
    twin = copy.deepcopy(bijection)
    for tensor in twin.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    return twin


def _largest(difference: Tensor) -> float:
    return difference.detach().abs().max().item() if difference.numel() else 0.0


def _shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    assert tuple(tensor.shape) == shape, f"{what} has shape {tuple(tensor.shape)}, not {shape}."


def _close(what: str, got: Tensor, expected: Tensor, atol: float) -> None:
    _shape(what, got, tuple(expected.shape))
    error = _largest((got - expected) / expected.detach().abs().clamp_min(1))
    assert error <= atol, f"{what}: off by {error:.3g}, more than {atol:.3g}."
