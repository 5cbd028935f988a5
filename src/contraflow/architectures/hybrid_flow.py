"""Flows that classify: log p(x) and p(y|x) of one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from contraflow.bijections import Bijection, Chain
from contraflow.distributions import ClassNormal, StandardNormal
from contraflow.errors import DomainError, ShapeError
from contraflow.flow import Flow
from contraflow.inputs import in_batch, sample_shape
from contraflow.lipschitz import shared_scales

UNKNOWN = -1  # the label of a row without one


class HybridFlow(Flow, ABC):
    r"""A flow that is also a classifier: log p(x, y) = log p(x) + log p(y|x).

    Everything of `Flow` holds, and it takes no context. Labels y are int64 ``(*batch,)`` in 0 … classes - 1, or one
    for all; -1 stands for an unknown one, over which p(x, y) is summed, so that log p(x) remains.

    Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan, Hybrid models with deep and invertible features, 2019
    (arXiv:1902.02767); Chen et al. 2019 (arXiv:1906.02735), section 5.3.

    Attributes:
        classes: number of classes.
    """

    classes: int

    @abstractmethod
    def log_prob_and_logits(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """log p(x) in nats, ``(*batch,)``, and class logits ``(*batch, classes)``, from one pass."""

    @abstractmethod
    def class_logits(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(y|x) up to a constant for every x, ``(*batch, classes)``; without log-determinants, so cheaper.

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels as given.
            generator: source of dequantisation noise.
        """

    def log_prob(self, x: Tensor, y: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """log p(x) in nats, ``(*batch,)``, or log p(x, y) where there are labels; unbiased as in `Flow.log_prob`.

        Raises:
            ShapeError, DomainError: as for `Flow.log_prob`; or y has another shape, dtype or range.
        """
        if y is None:
            return super().log_prob(x, generator=generator)
        rows, _, batch = self._enter(x, None)
        return in_batch(self._log_prob_and_classes(rows, self._rows_given(y, batch), generator)[0], batch)

    def _log_prob_and_classes(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        log_prob, logits = self.log_prob_and_logits(x, generator=generator)
        classes = logits.double().softmax(dim=1)
        return log_prob if context is None else log_prob + label_log_prob(logits, context), classes

    def _rows_given(self, context: Tensor | None, batch: torch.Size) -> Tensor | None:
        """Labels y where there are some, one for every row."""
        if context is None:
            return None
        if not isinstance(context, Tensor) or (context.numel() != 1 and context.shape != batch):
            given = f"shape {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ShapeError(
                f"labels of {given} were given for {batch.numel()} rows; they must be a tensor {tuple(batch)}, or one "
                "label for all."
            )
        return self.check_labels(context.reshape(-1).expand(batch.numel()), batch.numel())

    def check_labels(self, y: Tensor, count: int) -> Tensor:
        """Labels that can be some of `count` rows.

        Raises:
            ShapeError, DomainError: another shape, dtype or range.
        """
        if tuple(y.shape) != (count,):
            raise ShapeError(f"labels of shape {tuple(y.shape)} were given for {count} rows; they must be ({count},).")
        if y.dtype != torch.int64:
            raise DomainError(f"labels of {y.dtype} were given; they must be int64.")
        if count and not (int(y.min()) >= UNKNOWN and int(y.max()) < self.classes):
            raise DomainError(
                f"labels from {int(y.min())} to {int(y.max())} were given; this flow has {self.classes} classes, "
                f"0 … {self.classes - 1}, and -1 for an unknown one."
            )
        return y

    def _wanted(self, y: Tensor, batch: torch.Size) -> Tensor:
        """Labels to draw samples of, one for each: none of them unknown.

        Raises:
            ShapeError, DomainError: another shape, dtype or range.
        """
        rows = cast(Tensor, self._rows_given(y, batch))
        if len(rows) and int(rows.min()) == UNKNOWN:
            raise DomainError("a label of -1, an unknown one, was given to draw samples of; give a class.")
        return rows


def label_log_prob(logits: Tensor, y: Tensor) -> Tensor:
    """log p(y|x) in nats, ``(batch,)``; 0 for an unknown label, whose probability is that of any.

    >>> label_log_prob(torch.zeros(2, 4), torch.tensor([3, -1])).exp().tolist()
    [0.25, 1.0]
    """
    chosen = logits.log_softmax(dim=1).gather(1, y.clamp(min=0)[:, None])[:, 0]
    return torch.where(y == UNKNOWN, torch.zeros_like(chosen), chosen)


class BranchedFlow(HybridFlow):
    r"""p(y|x) = softmax(W h + b), h the features of branches that leave the flow on its way.

    Args:
        event_shape, base, preprocessing: as for `Flow`.
        bijection: a chain; branch i is given what its i-th map gives. Maps beyond the last branch have none.
        branches: modules that give ``(batch, features)`` each.
        features: how many that is.
        classes: number of classes.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        bijection: Chain,
        branches: Sequence[nn.Module],
        features: int,
        classes: int,
        base: StandardNormal | None = None,
        preprocessing: Bijection | None = None,
    ) -> None:
        super().__init__(event_shape, bijection, base, preprocessing)
        self.branches = nn.ModuleList(branches)
        self.classifier = nn.Linear(features * len(branches), classes)
        self.classes = classes

    def log_prob_and_logits(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        rows, _, batch = self._enter(x, None)
        h, first = self._preprocess(rows, None, generator)
        second = h.new_zeros(len(h))
        seen = []
        with shared_scales(self):
            for level in cast(Chain, self.bijection):
                h, logdet = level.forward_and_logdet(h, generator=generator)
                second = second + logdet
                seen.append(h)
        # in the order of `Flow.log_prob`, so that both give the same number to the last bit
        return in_batch(self.base.log_prob(h) + (first + second), batch), in_batch(self._classify(seen), batch)

    def class_logits(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        rows, _, batch = self._enter(x, None)
        h, _ = self._preprocess(rows, None, generator)
        seen = []
        with shared_scales(self):
            for level in cast(Chain, self.bijection):
                h = level(h, generator=generator)
                seen.append(h)
        return in_batch(self._classify(seen), batch)

    def _classify(self, seen: list[Tensor]) -> Tensor:
        features = [branch(h) for branch, h in zip(self.branches, seen, strict=False)]
        return self.classifier(torch.cat(features, dim=1))

    @torch.no_grad()
    def sample(
        self,
        n: int | Sequence[int] = (),
        y: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
        budget: int = 1000,
    ) -> Tensor:
        """n samples as data look, as `Flow.sample`; of the classes y, one each or one for all, where they are given.

        Those are exact, by rejection: a sample x of p(x) draws its label from p(y|x) and is kept where that label is
        still wanted, so what is kept follows p(x|y). It costs 1/p(y) draws a sample.

        Args:
            budget: most draws, as a multiple of n and of the number of classes.

        Raises:
            ShapeError, DomainError: labels of another shape, dtype or range, or unknown ones.
            DomainError: the budget is spent, since the model hardly ever draws such a class.
        """
        batch = sample_shape(n, temperature)
        count = batch.numel()
        if y is None or not count:
            return super().sample(n, temperature=temperature, generator=generator)
        y = self._wanted(y, batch)
        wanted = y.bincount(minlength=self.classes).tolist()
        found: list[list[Tensor]] = [[] for _ in range(self.classes)]
        for _ in range(budget):
            x = super().sample(max(count, self.classes), temperature=temperature, generator=generator)
            probabilities = self.class_logits(x, generator=generator).softmax(dim=1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            for row, label in zip(x, drawn.tolist(), strict=True):
                found[label].append(row)
            if all(len(rows) >= count for rows, count in zip(found, wanted, strict=True)):
                streams = [iter(rows) for rows in found]
                return in_batch(torch.stack([next(streams[label]) for label in y.tolist()]), batch)
        short = [label for label in range(self.classes) if len(found[label]) < wanted[label]]
        raise DomainError(
            f"{budget} rounds of {max(count, self.classes)} draws do not hold the samples wanted of classes {short}: "
            "the model hardly ever draws them. Raise the budget, or train a flow with "
            "architecture.options.classifier=base."
        )


class MixtureFlow(HybridFlow):
    r"""p(z) = Σ_y π_y N(z; μ_y, I), so that p(y|x) = p(z, y) / p(z) by Bayes' rule at z = f(x).

    Izmailov, Kirichenko, Finzi, Wilson, Semi-supervised learning with normalizing flows, 2020 (arXiv:1912.13025).

    Args:
        event_shape, bijection, preprocessing: as for `Flow`.
        base: the mixture, a Gaussian for every class.
    """

    base: ClassNormal

    def __init__(
        self,
        event_shape: Sequence[int],
        bijection: Bijection,
        base: ClassNormal,
        preprocessing: Bijection | None = None,
    ) -> None:
        super().__init__(event_shape, bijection, base, preprocessing)
        self.classes = len(base.prior_logits)

    def log_prob_and_logits(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        rows, _, batch = self._enter(x, None)
        z, logdet = self._encode(rows, None, generator)
        joint = self.base.log_joint(z)
        return in_batch(joint.logsumexp(dim=1) + logdet, batch), in_batch(joint, batch)

    def class_logits(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        rows, _, batch = self._enter(x, None)
        return in_batch(self.base.log_joint(self(rows, generator=generator)), batch)

    def rsample(
        self,
        n: int | Sequence[int] = (),
        y: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """n samples as for `Flow.rsample`; of the classes y, one each or one for all, from their Gaussians."""
        if y is None:
            return super().rsample(n, temperature=temperature, generator=generator)
        batch = sample_shape(n, temperature)
        z = self.base.sample(batch.numel(), self._wanted(y, batch), temperature=temperature, generator=generator)
        return in_batch(self.inverse(z, generator=generator), batch)
