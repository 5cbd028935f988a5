"""Semi-supervised data: labels of which only some are kept."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError


def keep_labels(labels: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """A copy with -1 in place of all but `count` labels, balanced between the classes up to one label.

    Args:
        labels: int64 ``(n,)``, all known.
        count: how many labels to keep; at least one for each class.
        generator: of the choice, on the CPU.

    Raises:
        ConfigurationError: fewer than the classes, or more than there are.

    >>> keep_labels(torch.tensor([0, 0, 0, 1, 1, 1]), 4).unique(return_counts=True)
    (tensor([-1,  0,  1]), tensor([2, 2, 2]))
    """
    classes = labels.unique()
    if not len(classes) <= count <= len(labels):
        raise ConfigurationError(
            f"labels={count}: it must be between {len(classes)}, one of each class, and {len(labels)}, all of them."
        )
    order = torch.randperm(len(labels), generator=generator)
    turn = torch.zeros_like(order)  # of a row among those of its class
    for label in classes:
        mine = labels[order] == label
        turn[mine] = torch.arange(int(mine.sum()))
    chosen = order[turn.argsort(stable=True)[:count]]
    kept = torch.full_like(labels, -1)
    kept[chosen] = labels[chosen]
    return kept
