"""Checkpoints: folders of tensors and plain text that a kill at any moment cannot harm.

RUN/checkpoints/00000500/ holds

    config.json           format, schema version, and all that is needed to build the flow again
    model.safetensors     weights.*, average.* and, with validation, best.*
    training.safetensors  Adam's moments, the order of the data, the random-number state
    training.json         step, epoch, position, best score
    certificate.json      Lipschitz bounds of the flow that evaluation and sampling use, `Flow.certify`
    manifest.json         SHA-256 of the others

and is written under a temporary name, flushed to disk, then renamed. Nothing is ever unpickled.
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
_CERTIFICATE = "certificate.json"  # checkpoints from before it was written have none


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk and verified, not yet put into a flow.

    Attributes:
        path: its folder.
        config: what `save_checkpoint` was given.
        model: name → tensor, with the prefixes weights., average. and best.
        training: name → tensor.
        progress: step, epoch, position, best_score.
        certificate: of the evaluation weights when it was written; ``None`` in old checkpoints.
    """

    path: Path
    config: dict[str, Any]
    model: dict[str, Tensor]
    training: dict[str, Tensor]
    progress: dict[str, Any]
    certificate: dict[str, Any] | None = None

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one prefix, without it; empty where there are none."""
        return _strip(self.model, prefix)

    def check_fits(self, flow: Flow) -> None:
        """Whether all its weights, averages included, are those of this architecture; the flow may be on device meta.

        Raises:
            CheckpointError: names or shapes differ, or a number is not finite.
        """
        parameters = dict(flow.named_parameters())
        wanted = {"weights": flow.state_dict(), "average": parameters, "best": parameters}
        for prefix, tensors in wanted.items():
            found = self.group(prefix)
            if prefix == "best" and not found:
                continue
            for name in sorted(found.keys() | tensors.keys()):
                ours, theirs = (None if name not in one else tuple(one[name].shape) for one in (tensors, found))
                if ours != theirs:
                    raise CheckpointError(
                        f"{self.path}: its weights do not fit its own configuration: {prefix}.{name} is {theirs}, not "
                        f"{ours}."
                    )
                if not bool(found[name].isfinite().all()):
                    raise CheckpointError(f"{self.path}: {prefix}.{name} holds NaN or infinity.")

    def load_weights(self, flow: Flow) -> None:
        """Put the trained weights and buffers into a flow of the same architecture.

        Raises:
            CheckpointError: names or shapes differ, or a number is not finite.
        """
        self.check_fits(flow)
        flow.load_state_dict(self.group("weights"), strict=True)

    def evaluation_weights(self) -> dict[str, Tensor]:
        """The best averaged weights on validation, else the average."""
        return self.group("best") or self.group("average")

    def restore(self, state: TrainingState) -> None:
        """Put everything into a training state, so that it goes on exactly as it would have.

        Raises:
            CheckpointError: something in it does not fit the state; the state is then not to be used.
        """
        self.load_weights(state.flow)
        try:
            self._restore_progress(state)
            self._restore_optimiser(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: its state of training does not fit its flow: {first_line(error)}."
            ) from error

    def _restore_progress(self, state: TrainingState) -> None:
        state.average.weights = self.group("average")
        best = self.group("best")
        state.best = best or None
        state.best_score = self.progress["best_score"] if best else -float("inf")
        state.step, state.epoch, state.position = (self.progress[key] for key in ("step", "epoch", "position"))
        state.order = self.training["order"]
        if not torch.equal(state.order.sort().values, torch.arange(len(state.order))):
            raise ValueError("the order of the data is no permutation")
        state.generator.set_state(self.training["random"])

    def _restore_optimiser(self, state: TrainingState) -> None:
        names = [name for name, _ in state.flow.named_parameters()]
        shapes = [one.shape for one in state.flow.parameters()]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _strip(self.training, "optimiser").items():
            name, what = key.rsplit(".", 1)
            index = names.index(name)
            if what != "step" and value.shape != shapes[index]:
                raise ValueError(f"{key} has shape {tuple(value.shape)}, not {tuple(shapes[index])}")
            moments.setdefault(index, {})[what] = value
        groups = state.optimiser.state_dict()["param_groups"]
        state.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def save_checkpoint(run: Path, state: TrainingState, config: Mapping[str, Any]) -> Path:
    """Write RUN/checkpoints/STEP; older checkpoints go once the new one is safely in place.

    Raises:
        OutputError: it could not be written (disk full, not writable); older checkpoints are intact.
    """
    final = run / _FOLDER / f"{state.step:08d}"
    try:
        # A kill between the two renames still leaves the old one, under a name that sorts before every step.
        write_folder(final, _contents(state, config), replaced="0-replaced")
    except OSError as error:
        raise OutputError(
            f"could not write the checkpoint {final}: {error.strerror or error}. Earlier checkpoints are intact; "
            "make room or choose another place, then resume."
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
        training |= {f"optimiser.{names[index]}.{what}": value for what, value in moments.items()}
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
    """The newest checkpoint of a run folder, or the folder itself where it is a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if (run / "manifest.json").is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such folder. Give the folder that `contraflow train … --out` wrote.")
    found = sorted(path for path in (run / _FOLDER).glob("[0-9]*") if path.is_dir())
    if not found:
        raise CheckpointError(
            f"{run}: no checkpoint inside; looked for {run / _FOLDER}/STEP/manifest.json. A run that was killed before "
            "its first checkpoint has nothing to go on with: start it again with --force."
        )
    return found[-1]


def load_checkpoint(run: Path) -> Checkpoint:
    """Read and verify the newest checkpoint of a run.

    Raises:
        CheckpointError: absent, damaged, from a newer schema, or not one of ours.
    """
    path = latest_checkpoint(Path(run))
    manifest = _read_json(path / "manifest.json", _read(path / "manifest.json"))
    _check_header(path / "manifest.json", manifest)
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or set(sums) - {*_FILES, _CERTIFICATE}:
        raise CheckpointError(f"{path / 'manifest.json'}: damaged, it does not list the checksums of our files.")
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
    # bool is an int, and no count
    if not all(type(one) is int and one >= 0 for one in counts) or not (score is None or type(score) is float):
        raise CheckpointError(f"{path}: damaged, it does not hold step, epoch, position and best_score: {progress!r}.")


def _read_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        # its header may also name a dtype that this torch has not, or sizes that no tensor has
        raise CheckpointError(f"{path}: damaged tensors: {first_line(error)}.") from error
    for name, one in tensors.items():
        if one.dtype not in _DTYPES:
            raise CheckpointError(f"{path}: {name} is of {one.dtype}, which no checkpoint of ours holds.")
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
    # safetensors refuses shared and non-contiguous memory.
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
