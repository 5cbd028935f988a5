"""Detection of active `torch.func` transforms and of the tensors that they wrap."""

from __future__ import annotations

from torch import Tensor
from torch._C import _functorch


def transforms_active() -> bool:
    """Whether a transform of `torch.func` is active."""
    return _functorch.peek_interpreter_stack() is not None


def without_transforms(tensor: Tensor) -> Tensor:
    """The innermost tensor below all transforms of `torch.func`; the tensor itself outside of them."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def is_batched(tensor: Tensor) -> bool:
    """Whether `torch.func.vmap` has batched the tensor, so that its values cannot be read."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False
