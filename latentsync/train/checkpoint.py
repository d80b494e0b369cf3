"""Checkpoints: written whole or not at all, checked when read, and resumed from bit for bit; and the EMA."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import BaseModel, TypeAdapter
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from latentsync.errors import LatentSyncError, RecipeError, WeightsError
from latentsync.files import sha256_of, whole_or_nothing
from latentsync.recipe.loading import differences, dump_recipe, load_recipe
from latentsync.recipe.training import MAY_CHANGE
from latentsync.weights.checkpoints import read_note, save_checkpoint
from latentsync.weights.read import read_metadata, read_tensors, write_tensors

MODEL, EMA_WEIGHTS, STATE = "model.safetensors", "average.safetensors", "state.pt"
POSITION, RECIPE = "position.json", "recipe.toml"
SUMS = "SHA256SUMS"  # of the other files, as `sha256sum --check` takes it
# Parts of a U-Net that its weights file holds under their names.
OWN_NAMES = ("adapter.", "residual.", "warp.")
_STEP_NAME = re.compile(r"step-\d+")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class EMA:
    """Exponential moving average of parameters, kept beside them, sharded as they are.

    Args:
        parameters: those of the wrapped model; the average starts at their present values.
        decay: share of the old average that each step keeps; less at first, so that the start is forgotten.
            With 0 the average is the weights themselves, and nothing is kept.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad and decay]
        self.means: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after optimizer step `step`, 1 first, into the average."""
        # The ramp of diffusers' `EMAModel`: low at first, so that the random start is soon forgotten.
        kept = min(self.decay, (1 + step) / (10 + step))
        for mean, now in zip(self.means, self.parameters, strict=True):
            mean.lerp_(now.detach(), 1 - kept)

    @torch.no_grad()
    def restart(self) -> None:
        """Make the present weights the average."""
        for mean, now in zip(self.means, self.parameters, strict=True):
            mean.copy_(now.detach())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the EMA weights within the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, now in zip(self.means, self.parameters, strict=True):
            kept = now.detach().clone()
            now.copy_(mean)
            mean.copy_(kept)


@dataclass(slots=True)
class Position:
    """How far a training has come.

    samples, steps  seen, and taken by the optimizer
    sums, counted   sums of the losses since the last row of the log, and over how many steps
    best, best_at   the best score so far, and the name of its checkpoint
    data            fingerprint of the clips
    """

    samples: int = 0
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    best: float | None = None
    best_at: str | None = None
    data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Everything that a checkpoint holds.

    network  name of the submodule of `model` that is the weights file, the rest going into state.pt; empty
             for the whole model
    kind, config  of the weights file; see `save_checkpoint`
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    network: str
    kind: str
    config: BaseModel
    recipe: BaseModel


def checkpoint_name(position: Position) -> str:
    """The name of the checkpoint's folder.

    >>> checkpoint_name(Position(steps=123))
    'step-000123'
    """
    return f"step-{position.steps:06d}"


def save(trained: Trained, position: Position, folder: Path, *, keep_last: int) -> Path:
    """Write a checkpoint under `folder`, point `last` (and `best`) at it and remove the oldest.

    Every process must call this; the main one writes. The files and their hashes are on the disk before the
    checkpoint has its name.

    Raises:
        WeightsError: the files cannot be written.
    """
    checkpoint = folder / checkpoint_name(position)
    tensors = {MODEL: _gather(trained.model)}
    with trained.ema.applied():
        tensors[EMA_WEIGHTS] = _gather(trained.model)
    # The optimizer itself, not accelerate's wrapping of it.
    optimizer = get_optimizer_state_dict(trained.model, _bare(trained.optimizer), options=_WHOLE)
    if trained.accelerator.is_main_process:
        part = folder / f"{checkpoint.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        rest = {
            name: _write_network(part / name, state, trained, position) for name, state in tensors.items()
        }
        scaler = trained.accelerator.scaler
        scaling = None if scaler is None else scaler.state_dict()
        torch.save({"optimizer": optimizer, "rest": rest, "scaler": scaling}, part / STATE)
        (part / POSITION).write_text(json.dumps(dataclasses.asdict(position), indent=2), encoding="utf-8")
        (part / RECIPE).write_text(dump_recipe(trained.recipe), encoding="utf-8")
        sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(part.iterdir()))
        (part / SUMS).write_text(sums, encoding="utf-8")
        # A rename may reach the disk before the data it names.
        for path in part.iterdir():
            _flush(path)
        _flush(part)
        shutil.rmtree(checkpoint, ignore_errors=True)
        os.replace(part, checkpoint)
        _point(folder / "last", checkpoint.name)
        if position.best_at is not None and (folder / position.best_at).is_dir():
            _point(folder / "best", position.best_at)
        _flush(folder)
        _remove_old(folder, keep_last=keep_last, kept=position.best_at)
    trained.accelerator.wait_for_everyone()
    return checkpoint


def _gather(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's whole state on the CPU, in the main process."""
    state: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    # Cloned, because on a CPU they may be the parameters themselves, which `applied` exchanges.
    return {key: tensor.clone() for key, tensor in state.items()}


def _write_network(
    path: Path, state: dict[str, Tensor], trained: Trained, position: Position
) -> dict[str, Tensor]:
    """Write the part of `state` that is the network; returns the rest."""
    prefix = f"{trained.network}." if trained.network else ""
    network = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith((prefix, *OWN_NAMES))
    }
    facts = {"samples": position.samples, "steps": position.steps}
    save_checkpoint(path, network, kind=trained.kind, config=trained.config, facts=facts)
    return {key: value for key, value in state.items() if not key.startswith((prefix, *OWN_NAMES))}


def load(trained: Trained, checkpoint: Path) -> Position:
    """Restore the model, EMA, optimizer and scaler from `checkpoint`, whose files were checked.

    Raises:
        WeightsError: a file is missing, damaged or of another network.
    """
    state = _read_state(checkpoint)
    # The average first: both pass through the model, which must end with the weights themselves.
    for name in (EMA_WEIGHTS, MODEL):
        tensors = read_tensors(checkpoint / name)
        prefix = f"{trained.network}." if trained.network else ""
        named = {
            key if key.startswith(OWN_NAMES) else f"{prefix}{key}": tensor for key, tensor in tensors.items()
        }
        try:
            whole = named | state["rest"][name]
            set_model_state_dict(trained.model, whole, options=StateDictOptions(full_state_dict=True))
        except (RuntimeError, KeyError, TypeError) as error:
            kind = read_note(checkpoint / name).kind
            raise _damage(checkpoint, f"{name} ({kind}) does not fit the network: {error}") from error
        if name == EMA_WEIGHTS:
            trained.ema.restart()
    set_optimizer_state_dict(
        trained.model,
        _bare(trained.optimizer),
        state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
    if trained.accelerator.scaler is not None and state["scaler"] is not None:
        trained.accelerator.scaler.load_state_dict(state["scaler"])
    return read_position(checkpoint)


def check_files(checkpoint: Path) -> None:
    """Compare the files of a checkpoint with the hashes that were written with them.

    Checkpoints from before there were hashes are not checked.

    Raises:
        WeightsError: a file is missing or has changed.
    """
    sums = checkpoint / SUMS
    if not sums.exists():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        try:
            found = sha256_of(checkpoint / Path(name).name)
        except (OSError, LatentSyncError) as error:
            raise _damage(checkpoint, f"{name!r} cannot be read ({error})") from error
        if found != wanted:
            raise _damage(checkpoint, f"{name!r} is not what was written")


def find_last(folder: Path) -> Path | None:
    """The checkpoint to resume from: what `last` names, else the newest; None if there is none."""
    return _pointed(folder / "last") or max(_checkpoints(folder), default=None, key=_steps_of)


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the best score, else the last one."""
    return _pointed(folder / "best") or find_last(folder)


def export_best(
    folder: Path, path: Path, *, facts: Mapping[str, Any] | None = None, is_main: bool = True
) -> Path:
    """Write the EMA weights of the best checkpoint to `path`; only the main process does.

    Args:
        facts: added to what the weights file says about itself.

    Raises:
        LatentSyncError: there is no checkpoint.
        WeightsError: the weights cannot be read or written.
    """
    best = find_best(folder)
    if best is None:
        raise LatentSyncError(f"'{folder}': no checkpoint is there", hint="run the same command again")
    if is_main:
        metadata = read_metadata(best / EMA_WEIGHTS)
        metadata["facts"] = json.dumps(json.loads(metadata["facts"]) | dict(facts or {}))
        write_tensors(path, read_tensors(best / EMA_WEIGHTS), metadata)
    return path


def read_position(checkpoint: Path) -> Position:
    """Read how far the run had come at the checkpoint.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return TypeAdapter(Position).validate_json((checkpoint / POSITION).read_bytes(), strict=True)
    except (OSError, ValueError) as error:
        raise _damage(checkpoint, f"{POSITION} cannot be read ({_first_line(error)})") from error


def refuse_other_recipe(checkpoint: Path, recipe: BaseModel) -> None:
    """Refuse a checkpoint that was made with another recipe, except for what may change (`MAY_CHANGE`).

    Raises:
        RecipeError: other keys differ; they are named with both values.
        WeightsError: the checkpoint's recipe is missing or damaged.
    """
    try:
        old = load_recipe(checkpoint / RECIPE, type(recipe))
    except RecipeError as error:
        raise _damage(checkpoint, f"{RECIPE} cannot be read ({error})") from error
    found = differences(old.model_dump(mode="json"), recipe.model_dump(mode="json"))
    differing = [phrase for key, phrase in found.items() if not _may_change(key)]
    if differing:
        raise RecipeError(
            f"'{checkpoint}' was made with another recipe: {'; '.join(differing)}",
            hint="give another --output to start again, or the recipe that the run started with",
        )


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    bare: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return bare


def _read_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise _damage(checkpoint, f"{STATE} cannot be read ({_first_line(error)})") from error
    return state


def _damage(checkpoint: Path, what: str) -> WeightsError:
    """The error about a damaged checkpoint, whose hint offers the one before it."""
    earlier = [other for other in _checkpoints(checkpoint.parent) if _steps_of(other) < _steps_of(checkpoint)]
    before = max(earlier, default=None, key=_steps_of)
    resume = "start again" if before is None else f"resume from {before.name}"
    return WeightsError(
        f"the checkpoint '{checkpoint}' is damaged: {what}",
        hint=f"remove the folder {checkpoint.name}, and nothing else, to {resume}",
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _point(pointer: Path, name: str) -> None:
    with whole_or_nothing(pointer) as part:
        part.write_text(f"{name}\n", encoding="utf-8")


def _pointed(pointer: Path) -> Path | None:
    """The checkpoint that a pointer names; None if it names none, as a file that a power cut left empty."""
    try:
        name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    checkpoint = pointer.parent / name
    return checkpoint if _STEP_NAME.fullmatch(name) and checkpoint.is_dir() else None


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _STEP_NAME.fullmatch(path.name)]


def _steps_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _remove_old(folder: Path, *, keep_last: int, kept: str | None) -> None:
    """Remove all but the newest checkpoints and the best. Only folders that `save` names are touched."""
    newest_first = sorted(_checkpoints(folder), key=_steps_of, reverse=True)
    for checkpoint in newest_first[keep_last:]:
        if checkpoint.name != kept:
            shutil.rmtree(checkpoint)


def _flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder, where the system can flush folders."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with suppress(PermissionError):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
