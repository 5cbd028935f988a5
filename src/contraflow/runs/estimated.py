"""The score of a flow with norms by estimate, as trained, beside that with certified norms."""

from __future__ import annotations

from torch import Generator, Tensor

from contraflow.evaluation import EstimatedScore, Scores, compare_scores, score
from contraflow.evaluation.likelihood import Progress
from contraflow.flow import Flow
from contraflow.lipschitz import largest_rescaling
from contraflow.logdet import LogDetEstimator

#: Share of a layer's norm from which its rescaling is worth a second score.
_MATTERS = 1e-3


def score_by_estimates(
    certified: Flow,
    estimated: Flow,
    scores: Scores,
    rows: Tensor,
    *,
    estimator: LogDetEstimator,
    draws: int,
    batch_size: int,
    generator: Generator,
    progress: Progress | None = None,
) -> EstimatedScore | None:
    """Score the rows again with norms by estimate; ``None`` where rescaling took less than 0.1 % off every layer.

    Spectral norms and norms by rows or columns hardly move; mixed and learned norms are bounded more loosely.

    Args:
        certified: the flow after `rescale_to_certificate`.
        estimated: the flow before it.
        scores: of the rows under the certified flow.
        rows, estimator, draws, batch_size: as those scores were made.
        generator: in the state that those scores began with, so that the noise is the same.
        progress: called with rows done and rows in all.
    """
    if largest_rescaling(certified, estimated) < _MATTERS:
        return None
    again = score(
        estimated, rows, estimator=estimator, draws=draws, batch_size=batch_size, generator=generator, progress=progress
    )
    return compare_scores(certified, scores, again)
