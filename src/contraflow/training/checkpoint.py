"""Checkpoints: folders of tensors and plain text, written so that a kill at any moment does no harm.

RUN/checkpoints/00000500/ holds

    config.json           format, schema version, and everything needed to build the flow
    model.safetensors     weights.*, average.* and, with validation, best.*
    training.safetensors  Adam's moments, the order of the data, the state of the random generator
    training.json         step, epoch, position in the epoch, best score
    certificate.json      Lipschitz bounds of the flow with the weights for evaluation, as `Flow.certify` computes them
    manifest.json         SHA-256 of the other files

It is written under a temporary name, flushed to disk, then renamed. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contraflow.errors import CheckpointError, OutputError, first_line
from contraflow.files import write_folder
from contraflow.flow import Flow
from contraflow.training.average import with_weights
from contraflow.training.loop import TrainingState

FORMAT = "contraflow"
SCHEMA = 1
_FOLDER = "checkpoints"
_FILES = ("config.json", "model.safetensors", "training.safetensors", "training.json")
_DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
_CERTIFICATE = "certificate.json"  # checkpoints of early versions have none


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk and verified.

    Attributes:
        path: its folder.
        config: the configuration that `save_checkpoint` was given.
        model: name → tensor, with the prefixes weights., average. and best.
        training: name → tensor.
        progress: step, epoch, position, best_score.
        certificate: that of the weights for evaluation; ``None`` in checkpoints of early versions.
    """

    path: Path
    config: dict[str, Any]
    model: dict[str, Tensor]
    training: dict[str, Tensor]
    progress: dict[str, Any]
    certificate: dict[str, Any] | None = None

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors with a prefix, under their names without it."""
        return _strip(self.model, prefix)

    def check_fits(self, flow: Flow) -> None:
        """Check that all weights, averages included, are those of this architecture; the flow may be on device meta.

        Raises:
            CheckpointError: a name or a shape differs, or a number is not finite.
        """
        parameters = dict(flow.named_parameters())
        expected = {"weights": flow.state_dict(), "average": parameters, "best": parameters}
        for prefix, tensors in expected.items():
            stored = self.group(prefix)
            if prefix == "best" and not stored:
                continue
            for name in sorted(stored.keys() | tensors.keys()):
                shape, stored_shape = (
                    tuple(group[name].shape) if name in group else None for group in (tensors, stored)
                )
                if shape != stored_shape:
                    raise CheckpointError(
                        f"{self.path}: the weights do not fit the configuration: {prefix}.{name} has shape "
                        f"{stored_shape}, not {shape}."
                    )
                if not bool(stored[name].isfinite().all()):
                    raise CheckpointError(f"{self.path}: {prefix}.{name} contains NaN or infinity.")

    def load_weights(self, flow: Flow) -> None:
        """Load the trained weights and buffers into a flow of the same architecture.

        Raises:
            CheckpointError: a name or a shape differs, or a number is not finite.
        """
        self.check_fits(flow)
        flow.load_state_dict(self.group("weights"), strict=True)

    def evaluation_weights(self) -> dict[str, Tensor]:
        """The averaged weights with the best score on validation rows, else the average."""
        return self.group("best") or self.group("average")

    def restore(self, state: TrainingState) -> None:
        """Load everything into a training state, so that training continues exactly as if it had not stopped.

        Raises:
            CheckpointError: the checkpoint does not fit the state, which must then not be used.
        """
        self.load_weights(state.flow)
        try:
            self._restore_progress(state)
            self._restore_optimiser(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: the state of training does not fit the flow: {first_line(error)}."
            ) from error

    def _restore_progress(self, state: TrainingState) -> None:
        state.average.weights = self.group("average")
        best = self.group("best")
        state.best = best or None
        state.best_score = self.progress["best_score"] if best else -float("inf")
        state.step, state.epoch, state.position = (self.progress[key] for key in ("step", "epoch", "position"))
        state.order = self.training["order"]
        if not torch.equal(state.order.sort().values, torch.arange(len(state.order))):
            raise ValueError("the order of the data is not a permutation")
        state.generator.set_state(self.training["random"])

    def _restore_optimiser(self, state: TrainingState) -> None:
        names = [name for name, _ in state.flow.named_parameters()]
        shapes = [parameter.shape for parameter in state.flow.parameters()]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _strip(self.training, "optimiser").items():
            name, moment = key.rsplit(".", 1)
            index = names.index(name)
            if moment != "step" and value.shape != shapes[index]:
                raise ValueError(f"{key} has shape {tuple(value.shape)}, not {tuple(shapes[index])}")
            moments.setdefault(index, {})[moment] = value
        groups = state.optimiser.state_dict()["param_groups"]
        state.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def save_checkpoint(run: Path, state: TrainingState, config: Mapping[str, Any]) -> Path:
    """Write RUN/checkpoints/STEP, then delete older checkpoints.

    Raises:
        OutputError: the checkpoint cannot be written (disk full, no permission); older checkpoints are intact.
    """
    final = run / _FOLDER / f"{state.step:08d}"
    try:
        # A kill between the two renames leaves the old checkpoint, under a name that sorts before every step.
        write_folder(final, _contents(state, config), replaced="0-replaced")
    except OSError as error:
        raise OutputError(
            f"the checkpoint {final} cannot be written: {error.strerror or error}. Earlier checkpoints are intact; "
            "free some space or move the run, then resume."
        ) from error
    for old in final.parent.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _contents(state: TrainingState, config: Mapping[str, Any]) -> dict[str, bytes]:
    """File name → content."""
    from safetensors.torch import save

    model = _prefix("weights", state.flow.state_dict()) | _prefix("average", state.average.weights)
    if state.best is not None:
        model |= _prefix("best", state.best)
    training = {"order": state.order, "random": state.generator.get_state()}
    names = [name for name, _ in state.flow.named_parameters()]
    for index, moments in state.optimiser.state_dict()["state"].items():
        training |= {f"optimiser.{names[index]}.{moment}": value for moment, value in moments.items()}
    best_score = state.best_score if state.best is not None else None
    progress = {"step": state.step, "epoch": state.epoch, "position": state.position, "best_score": best_score}
    header = {"format": FORMAT, "schema": SCHEMA}
    contents = {
        "config.json": _json({**header, **config}),
        "model.safetensors": save(_plain(model)),
        "training.safetensors": save(_plain(training)),
        "training.json": _json(progress),
        _CERTIFICATE: _json(with_weights(state.flow, state.evaluation_weights()).certify().as_dict()),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents["manifest.json"] = _json({**header, "sha256": sums})
    return contents


def latest_checkpoint(run: Path) -> Path:
    """The folder of the newest checkpoint of a run, or the folder itself where it is a checkpoint.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if (run / "manifest.json").is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such folder. Give the folder that `contraflow train … --out` wrote.")
    checkpoints = sorted(path for path in (run / _FOLDER).glob("[0-9]*") if path.is_dir())
    if not checkpoints:
        raise CheckpointError(
            f"{run}: holds no checkpoint; looked for {run / _FOLDER}/STEP/manifest.json. A run that was killed before "
            "its first checkpoint cannot be resumed: start it again with --force."
        )
    return checkpoints[-1]


def load_checkpoint(run: Path) -> Checkpoint:
    """Read and verify the newest checkpoint of a run.

    Raises:
        CheckpointError: there is none, or it is damaged, of a newer schema, or not one of contraflow.
    """
    path = latest_checkpoint(Path(run))
    manifest = _read_json(path / "manifest.json", _read(path / "manifest.json"))
    _check_header(path / "manifest.json", manifest)
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or set(sums) - {*_FILES, _CERTIFICATE}:
        raise CheckpointError(f"{path / 'manifest.json'}: damaged, it does not list the checksums of the files.")
    contents = {}
    for name in (*_FILES, *(name for name in (_CERTIFICATE,) if name in sums)):
        contents[name] = _read(path / name)
        if hashlib.sha256(contents[name]).hexdigest() != sums.get(name):
            raise CheckpointError(f"{path / name}: damaged, its SHA-256 is not the one in manifest.json.")
    config = _read_json(path / "config.json", contents["config.json"])
    _check_header(path / "config.json", config)
    progress = _read_json(path / "training.json", contents["training.json"])
    _check_progress(path / "training.json", progress)
    model, training = (
        _read_tensors(path / name, contents[name]) for name in ("model.safetensors", "training.safetensors")
    )
    certified = contents.get(_CERTIFICATE)
    certificate = None if certified is None else _read_json(path / _CERTIFICATE, certified)
    return Checkpoint(path, config, model, training, progress, certificate)


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a contraflow checkpoint (format {header.get('format')!r}).")
    if header.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path}: written with schema {header.get('schema')!r}; this version reads schema {SCHEMA}. "
            "Install a newer contraflow."
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error


def _check_progress(path: Path, progress: Mapping[str, Any]) -> None:
    counts = [progress.get(name) for name in ("step", "epoch", "position")]
    score = progress.get("best_score", "absent")
    # isinstance would accept bool
    if not all(type(count) is int and count >= 0 for count in counts) or not (score is None or type(score) is float):
        raise CheckpointError(f"{path}: damaged, it does not hold step, epoch, position and best_score: {progress!r}.")


def _read_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        # the header may also name a dtype that this torch lacks, or impossible sizes
        raise CheckpointError(f"{path}: damaged tensors: {first_line(error)}.") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{path}: {name} has dtype {tensor.dtype}, which contraflow does not write.")
    return tensors


def _read_json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: damaged, not a JSON object.")
    return value


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors accepts neither shared nor non-contiguous memory.
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
