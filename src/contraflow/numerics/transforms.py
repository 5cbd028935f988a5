"""What `torch.func` has wrapped around a tensor."""

from __future__ import annotations

from torch import Tensor
from torch._C import _functorch


def transforms_active() -> bool:
    """Whether a transform of `torch.func` is under way."""
    return _functorch.peek_interpreter_stack() is not None


def without_transforms(tensor: Tensor) -> Tensor:
    """The tensor below all levels of `torch.func`; itself outside of them."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def is_batched(tensor: Tensor) -> bool:
    """Whether `torch.func.vmap` runs over the tensor, so that its values cannot be looked at."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False
