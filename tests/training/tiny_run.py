"""A run of a few seconds that the tests of kills and resumption share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STEPS = 24
TINY = [
    "architecture.options.blocks=[1,1]",
    "architecture.options.hidden=8",
    "architecture.options.dense_blocks=1",
    "architecture.options.dense_hidden=8",
    f"training.steps={STEPS}",
    "training.warmup_steps=3",
    "training.batch_size=16",
    "training.log_every=1",
    "training.checkpoint_every=5",
    "training.validate_every=8",
    "training.validation_size=20",
    "training.polyak=0.9",
    "data.limit=72",
    "evaluation.limit=30",
    "evaluation.samples=4",
    "evaluation.draws=1",
    "seed=3",
]
EXACT = ("step", "epoch", "loss", "bits_per_dim", "validation bits_per_dim", "gradient_norm", "lipschitz")


def logged(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in (*EXACT, "learning_rate") if key in line} for line in lines]
