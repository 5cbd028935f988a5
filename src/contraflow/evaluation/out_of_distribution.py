r"""Is this sample out of distribution? Scores based on log p(x); a higher score means more out of distribution.

Likelihood alone is misleading: a flow may assign images of another kind a higher likelihood than its own data
(E. Nalisnick et al., "Do deep generative models know what they don't know?", 2019, arXiv:1810.09136). This module also
provides four corrections.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from contraflow.errors import ConfigurationError, ShapeError
from contraflow.evaluation.likelihood import Progress, score
from contraflow.flow import Flow
from contraflow.logdet import EVALUATION, LogDetEstimator
from contraflow.preprocessing import ImagePreprocessing


@dataclass(frozen=True)
class Evidence:
    """The quantities that out-of-distribution scores of n rows are computed from.

    Attributes:
        log_prob: log p(x) in nats, ``(n,)``.
        background: log p(x) of a background flow in nats, ``(n,)``, or ``None``.
        complexity: length of the compressed image in bits, ``(n,)``; ``None`` for other data.
        class_probabilities: p(y|x) of a hybrid flow, ``(n, classes)``, or ``None``.
    """

    log_prob: Tensor
    background: Tensor | None = None
    complexity: Tensor | None = None
    class_probabilities: Tensor | None = None


def gather_evidence(
    flow: Flow,
    x: Tensor,
    *,
    background: Flow | None = None,
    estimator: LogDetEstimator = EVALUATION,
    draws: int = 1,
    batch_size: int = 200,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Compute the evidence for out-of-distribution scores of rows x.

    Args:
        flow: any flow.
        x: ``(n, *event_shape)``, images as integer levels.
        background: a flow of the same kind, trained on perturbed data (`preprocessing.mutate`).
        estimator, draws, batch_size, generator, progress: as for `score`; progress counts the rows of `flow`.
    """
    options = {"estimator": estimator, "draws": draws, "batch_size": batch_size, "generator": generator}
    own = score(flow, x, progress=progress, **options)  # type: ignore[arg-type]
    other = None if background is None else score(background, x, **options).log_prob  # type: ignore[arg-type]
    complexity = None
    if isinstance(flow.preprocessing, ImagePreprocessing):
        complexity = image_complexity(flow.preprocessing.reduce(x).to(torch.uint8))
    return Evidence(own.log_prob, other, complexity, own.class_probabilities)


@dataclass(frozen=True)
class TypicalityTest:
    r"""Test whether a batch of M rows is typical: |mean log p(x) + H| <= threshold, H the entropy.

    The statistic is small for a flow's own samples and large for rows of both higher and lower likelihood.
    E. Nalisnick, A. Matsukawa, Y. W. Teh, B. Lakshminarayanan, "Detecting out-of-distribution inputs to deep
    generative models using typicality", 2019 (arXiv:1906.02994). They estimate H on training rows; give `fit` rows
    that the flow has not been trained on, since an overfitted flow assigns its training rows too high a likelihood.

    Attributes:
        typical: −H, mean log p(x) of in-distribution rows, in nats.
        batch: M.
        threshold: the (1 − level) quantile of the statistic over batches of in-distribution rows.
    """

    typical: float
    batch: int
    threshold: float

    @classmethod
    def fit(
        cls,
        log_prob: Tensor,
        batch: int = 1,
        level: float = 0.05,
        resamples: int = 2000,
        generator: Generator | None = None,
    ) -> TypicalityTest:
        """Fit the threshold so that a share `level` of bootstrap batches of in-distribution rows exceeds it.

        Args:
            log_prob: log p(x) of in-distribution rows, ``(n,)``, in nats.
            batch: M.
            level: false-alarm rate.
            resamples: number of bootstrap batches, each of M rows drawn with replacement.
            generator: of the bootstrap.

        Raises:
            ConfigurationError: M or level out of range.

        >>> test = TypicalityTest.fit(torch.randn(1000), batch=25, generator=torch.Generator().manual_seed(0))
        >>> test.rejects(torch.full((25,), 3.0)).tolist()
        [True]
        """
        if batch < 1 or not 0 < level < 1:
            raise ConfigurationError(f"batch={batch}, level={level}: batch must be at least 1 and level in (0, 1).")
        rows = torch.randint(len(log_prob), (resamples, batch), generator=generator)
        typical = log_prob.double().mean().item()
        statistic = (log_prob.double()[rows].mean(dim=1) - typical).abs()
        return cls(typical, batch, torch.quantile(statistic, 1 - level).item())

    def statistic(self, log_prob: Tensor) -> Tensor:
        """|mean log p(x) + H| of consecutive batches of M rows, ``(n // M,)``; remaining rows are dropped.

        Raises:
            ShapeError: fewer than M rows.
        """
        whole = len(log_prob) // self.batch * self.batch
        if whole == 0:
            raise ShapeError(f"{len(log_prob)} rows are too few for a batch of {self.batch}.")
        return (log_prob[:whole].double().reshape(-1, self.batch).mean(dim=1) - self.typical).abs()

    def __str__(self) -> str:
        return "typicality" if self.batch == 1 else f"typicality of {self.batch} rows"

    def rejects(self, log_prob: Tensor) -> Tensor:
        """Whether each batch is rejected as out of distribution."""
        return self.statistic(log_prob) > self.threshold


def out_of_distribution_scores(evidence: Evidence, tests: Sequence[TypicalityTest] = ()) -> dict[str, Tensor]:
    """Name → score of each row, or of each batch of rows, for all scores that the evidence suffices for.

    Args:
        evidence: from `gather_evidence`.
        tests: typicality tests whose statistics are added.
    """
    log_prob = evidence.log_prob
    scores = {"log p(x)": -log_prob}
    scores |= {str(test): test.statistic(log_prob) for test in tests}
    if evidence.background is not None:
        scores["likelihood ratio"] = likelihood_ratio(log_prob, evidence.background)
    if evidence.complexity is not None:
        scores["input complexity"] = complexity_corrected(log_prob, evidence.complexity)
    if evidence.class_probabilities is not None:
        scores["class confidence"] = class_confidence(evidence.class_probabilities)
    return scores


def likelihood_ratio(log_prob: Tensor, background: Tensor) -> Tensor:
    """log p_background(x) − log p(x) in nats.

    The likelihood of features that both flows have learned, such as the background of images, cancels. J. Ren et al.,
    "Likelihood ratios for out-of-distribution detection", 2019 (arXiv:1906.02845); they train the background flow on
    images in which a share µ of 0.1 to 0.3 of the pixels is replaced by uniform noise: `preprocessing.mutate`.
    """
    return background - log_prob


def complexity_corrected(log_prob: Tensor, complexity: Tensor) -> Tensor:
    """−log₂ p(x) − L(x) in bits, L(x) the length of the compressed image.

    The code length under the flow less that of a generic compressor, which knows nothing of the data. J. Serrà et al.,
    "Input complexity and out-of-distribution detection with likelihood-based generative models", 2020
    (arXiv:1909.11480).
    """
    return -log_prob / math.log(2) - complexity


def class_confidence(class_probabilities: Tensor) -> Tensor:
    """−max_k log p(k|x) in nats, of a hybrid model's probabilities ``(n, classes)``.

    D. Hendrycks, K. Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural
    networks", 2017 (arXiv:1610.02136); an increasing function of the score separates equally well.

    >>> class_confidence(torch.full((1, 4), 0.25)).exp().tolist()
    [4.0]
    """
    return -class_probabilities.double().amax(dim=1).log()


def image_complexity(images: Tensor) -> Tensor:
    """Length in bits of each image as a PNG file, ``(n,)``.

    Args:
        images: uint8 ``(n, C, H, W)``, C = 1 or 3.

    Raises:
        ShapeError: another number of channels.

    >>> constant, noise = torch.zeros(1, 1, 28, 28), torch.randint(256, (1, 1, 28, 28))
    >>> bool(image_complexity(torch.cat([constant, noise]).to(torch.uint8)).diff() > 5000)
    True
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"expected images (n, 1 or 3, H, W), not {tuple(images.shape)}.")
    from PIL import Image

    lengths = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, format="PNG", optimize=True)
        lengths.append(8.0 * stream.tell())
    return torch.tensor(lengths, dtype=torch.float64)
