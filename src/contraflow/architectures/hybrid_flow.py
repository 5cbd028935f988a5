"""Flows that are also classifiers, with log p(x) and p(y|x) from one network."""

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

UNKNOWN = -1  # the label of unlabelled samples


class HybridFlow(Flow, ABC):
    r"""A flow that is also a classifier: log p(x, y) = log p(x) + log p(y|x).

    It has all methods of `Flow` and takes no context. Labels y are int64, ``(*batch,)`` or a single one for all
    samples, in 0 … classes - 1. The label -1 means unknown: the sum of p(x, y) over all labels, which is p(x), takes
    the place of p(x, y).

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
        """log p(y|x) up to a constant for each x, ``(*batch, classes)``, computed without log-determinants.

        Args:
            x: ``(*batch, *event_shape)``; for images the integer levels as given.
            generator: source of dequantisation noise.
        """

    def log_prob(self, x: Tensor, y: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """log p(x), or log p(x, y) with labels y, in nats, ``(*batch,)``; unbiased as in `Flow.log_prob`.

        Raises:
            ShapeError, DomainError: as for `Flow.log_prob`, or y has the wrong shape, dtype or range.
        """
        if y is None:
            return super().log_prob(x, generator=generator)
        rows, _, batch = self._enter(x, None)
        return in_batch(self._log_prob_and_classes(rows, self._context_rows(y, batch), generator)[0], batch)

    def _log_prob_and_classes(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        log_prob, logits = self.log_prob_and_logits(x, generator=generator)
        classes = logits.double().softmax(dim=1)
        return log_prob if context is None else log_prob + label_log_prob(logits, context), classes

    def _context_rows(self, context: Tensor | None, batch: torch.Size) -> Tensor | None:
        """The labels y, which take the place of a context, one for every row; ``None`` if there are none."""
        if context is None:
            return None
        if not isinstance(context, Tensor) or (context.numel() != 1 and context.shape != batch):
            given = f"shape {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ShapeError(
                f"labels of {given} were given for {batch.numel()} rows; they must be a tensor {tuple(batch)}, or a "
                "single label for all."
            )
        return self.check_labels(context.reshape(-1).expand(batch.numel()), batch.numel())

    def check_labels(self, y: Tensor, count: int) -> Tensor:
        """The labels y, checked to be valid for `count` rows.

        Raises:
            ShapeError, DomainError: y has the wrong shape, dtype or range.
        """
        if tuple(y.shape) != (count,):
            raise ShapeError(f"labels of shape {tuple(y.shape)} were given for {count} rows; they must be ({count},).")
        if y.dtype != torch.int64:
            raise DomainError(f"labels of {y.dtype} were given; they must be int64.")
        if count and not (int(y.min()) >= UNKNOWN and int(y.max()) < self.classes):
            raise DomainError(
                f"labels from {int(y.min())} to {int(y.max())} were given; this flow has {self.classes} classes, "
                f"0 … {self.classes - 1}, and -1 means unknown."
            )
        return y

    def _sample_labels(self, y: Tensor, batch: torch.Size) -> Tensor:
        """The class of each sample to draw, checked to be known.

        Raises:
            ShapeError, DomainError: y has the wrong shape, dtype or range, or a label is unknown.
        """
        labels = cast(Tensor, self._context_rows(y, batch))
        if len(labels) and int(labels.min()) == UNKNOWN:
            raise DomainError("samples of the label -1, which means unknown, cannot be drawn; give a class.")
        return labels


def label_log_prob(logits: Tensor, y: Tensor) -> Tensor:
    """log p(y|x) in nats, ``(batch,)``; 0 for an unknown label, because the probabilities of all labels add up to 1.

    >>> label_log_prob(torch.zeros(2, 4), torch.tensor([3, -1])).exp().tolist()
    [0.25, 1.0]
    """
    log_probs = logits.log_softmax(dim=1).gather(1, y.clamp(min=0)[:, None])[:, 0]
    return torch.where(y == UNKNOWN, torch.zeros_like(log_probs), log_probs)


class BranchedFlow(HybridFlow):
    r"""A hybrid flow with p(y|x) = softmax(W h + b), where h are features of intermediate outputs of the bijection.

    Args:
        event_shape, base, preprocessing: as for `Flow`.
        bijection: a chain; the input of branch i is the output of the chain's i-th map. There may be more maps than
            branches.
        branches: modules that return ``(batch, features)`` each.
        features: number of features of each branch.
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
        h, preprocessing_logdet = self._preprocess(rows, None, generator)
        total = h.new_zeros(len(h))
        outputs = []
        with shared_scales(self):
            for level in cast(Chain, self.bijection):
                h, logdet = level.forward_and_logdet(h, generator=generator)
                total = total + logdet
                outputs.append(h)
        # The sum has the same order as in `Flow.log_prob`, so that the results are equal to the last bit.
        log_prob = self.base.log_prob(h) + (preprocessing_logdet + total)
        return in_batch(log_prob, batch), in_batch(self._classify(outputs), batch)

    def class_logits(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        rows, _, batch = self._enter(x, None)
        h, _ = self._preprocess(rows, None, generator)
        outputs = []
        with shared_scales(self):
            for level in cast(Chain, self.bijection):
                h = level(h, generator=generator)
                outputs.append(h)
        return in_batch(self._classify(outputs), batch)

    def _classify(self, outputs: list[Tensor]) -> Tensor:
        features = [branch(h) for branch, h in zip(self.branches, outputs, strict=False)]
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
        """n samples as by `Flow.sample`, or n samples of given classes y.

        Samples of given classes are drawn exactly, by rejection: a sample x of p(x) is given a label drawn from p(y|x)
        and is accepted if a sample of that label is still needed, so accepted samples follow p(x|y). The cost is 1/p(y)
        draws per sample.

        Args:
            n, temperature, generator: as for `Flow.sample`.
            y: the class of each sample, ``(*batch,)``, or a single class for all.
            budget: largest number of rounds, each of which draws as many samples as n or the number of classes,
                whichever is larger.

        Raises:
            ShapeError, DomainError: y has the wrong shape, dtype or range, or a label is unknown.
            DomainError: the budget is exhausted, because the model hardly ever draws one of the classes.
        """
        batch = sample_shape(n, temperature)
        count = batch.numel()
        if y is None or not count:
            return super().sample(n, temperature=temperature, generator=generator)
        labels = self._sample_labels(y, batch)
        needed = labels.bincount(minlength=self.classes).tolist()
        samples: list[list[Tensor]] = [[] for _ in range(self.classes)]
        for _ in range(budget):
            x = super().sample(max(count, self.classes), temperature=temperature, generator=generator)
            probabilities = self.class_logits(x, generator=generator).softmax(dim=1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            for row, label in zip(x, drawn.tolist(), strict=True):
                samples[label].append(row)
            if all(len(rows) >= number for rows, number in zip(samples, needed, strict=True)):
                streams = [iter(rows) for rows in samples]
                return in_batch(torch.stack([next(streams[label]) for label in labels.tolist()]), batch)
        missing = [label for label in range(self.classes) if len(samples[label]) < needed[label]]
        raise DomainError(
            f"{budget} rounds of {max(count, self.classes)} draws did not yield enough samples of the classes "
            f"{missing}, which the model hardly ever draws. Raise the budget, or train a flow with "
            "architecture.options.classifier=base."
        )


class MixtureFlow(HybridFlow):
    r"""A hybrid flow on a Gaussian mixture p(z) = Σ_y π_y N(z; μ_y, I), with p(y|x) = p(z, y) / p(z) at z = f(x).

    Izmailov, Kirichenko, Finzi, Wilson, Semi-supervised learning with normalizing flows, 2020 (arXiv:1912.13025).

    Args:
        event_shape, bijection, preprocessing: as for `Flow`.
        base: the mixture, with one Gaussian for each class.
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
        """n samples as by `Flow.rsample`; with classes y ``(*batch,)``, or one for all, from their Gaussians."""
        if y is None:
            return super().rsample(n, temperature=temperature, generator=generator)
        batch = sample_shape(n, temperature)
        z = self.base.sample(batch.numel(), self._sample_labels(y, batch), temperature=temperature, generator=generator)
        return in_batch(self.inverse(z, generator=generator), batch)
