"""Checkpoints that appear whole or not at all, and from which a run goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import BaseModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from latentsync.errors import RecipeError, WeightsError
from latentsync.recipe.loading import dump_recipe, load_recipe
from latentsync.recipe.training import MAY_CHANGE
from latentsync.train.ema import Average
from latentsync.weights.checkpoints import read_note, save_checkpoint
from latentsync.weights.read import read_tensors

MODEL, AVERAGE, STATE = "model.safetensors", "average.safetensors", "state.pt"
POSITION, RECIPE = "position.json", "recipe.toml"
REMOVE_FOLDER = "remove this folder to continue from the checkpoint before it"
_STEP_NAME = re.compile(r"step-\d+")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(slots=True)
class Position:
    """How far a run has come.

    samples, steps  seen, and taken by the optimizer
    sums, counted   losses added up since the last row of the log, over so many steps
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
    """All that a checkpoint is made of.

    network  name of the submodule of `model` that is the weights file, the rest going into state.pt; empty
             for the model as a whole
    kind, config  of the weights file; see `save_checkpoint`
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    network: str
    kind: str
    config: BaseModel
    recipe: BaseModel


ADAPTER = "adapter."  # a U-Net's, which its weights file holds under its own name


def checkpoint_name(position: Position) -> str:
    """The name of the checkpoint's folder.

    >>> checkpoint_name(Position(steps=123))
    'step-000123'
    """
    return f"step-{position.steps:06d}"


def save(trained: Trained, position: Position, folder: Path, *, keep_last: int) -> Path:
    """Write a checkpoint under `folder`, point `last` (and `best`) at it and remove the oldest.

    Every process must call this; the main one writes.

    Raises:
        WeightsError: the files cannot be written.
    """
    place = folder / checkpoint_name(position)
    tensors = {MODEL: _gather(trained.model)}
    with trained.average.applied():
        tensors[AVERAGE] = _gather(trained.model)
    # The optimizer itself, not accelerate's wrapping of it.
    optimizer = get_optimizer_state_dict(trained.model, _bare(trained.optimizer), options=_WHOLE)
    if trained.accelerator.is_main_process:
        part = folder / f"{place.name}.part"
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
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)
        _point(folder / "last", place.name)
        if position.best_at is not None and (folder / position.best_at).is_dir():
            _point(folder / "best", position.best_at)
        _remove_old(folder, keep_last=keep_last, kept=position.best_at)
    trained.accelerator.wait_for_everyone()
    return place


def _gather(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's whole state on the CPU, in the main process."""
    state: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    return {key: tensor.clone() for key, tensor in state.items()}


def _write_network(
    path: Path, state: dict[str, Tensor], trained: Trained, position: Position
) -> dict[str, Tensor]:
    """Write the part of `state` that is the network; what is left of it."""
    prefix = f"{trained.network}." if trained.network else ""
    network = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith((prefix, ADAPTER))
    }
    facts = {"samples": position.samples, "steps": position.steps}
    save_checkpoint(path, network, kind=trained.kind, config=trained.config, facts=facts)
    return {key: value for key, value in state.items() if not key.startswith((prefix, ADAPTER))}


def load(trained: Trained, place: Path) -> Position:
    """Give the model, average, optimizer and scaler what the checkpoint at `place` holds.

    Raises:
        WeightsError: a file is missing, damaged or of another network.
    """
    state = _read_state(place / STATE)
    for name in (AVERAGE, MODEL):
        tensors = read_tensors(place / name)
        note = read_note(place / name)
        prefix = f"{trained.network}." if trained.network else ""
        named = {
            key if key.startswith(ADAPTER) else f"{prefix}{key}": tensor for key, tensor in tensors.items()
        }
        whole = named | state["rest"][name]
        try:
            set_model_state_dict(trained.model, whole, options=StateDictOptions(full_state_dict=True))
        except (RuntimeError, KeyError) as error:
            raise WeightsError(
                f"'{place / name}' ({note.kind}) does not fit the network: {error}", hint=REMOVE_FOLDER
            ) from error
        if name == AVERAGE:
            trained.average.restart()
    set_optimizer_state_dict(
        trained.model,
        _bare(trained.optimizer),
        state["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )
    if trained.accelerator.scaler is not None and state["scaler"] is not None:
        trained.accelerator.scaler.load_state_dict(state["scaler"])
    return read_position(place)


def find_last(folder: Path) -> Path | None:
    """The checkpoint to continue from; None if there is none."""
    return _pointed(folder / "last")


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the best score, else the last one."""
    return _pointed(folder / "best") or find_last(folder)


def read_position(place: Path) -> Position:
    """How far the run had come at the checkpoint.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return Position(**json.loads((place / POSITION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"'{place / POSITION}': cannot be read ({error})", hint=REMOVE_FOLDER) from error


def refuse_other_recipe(place: Path, recipe: BaseModel) -> None:
    """Make sure that the checkpoint was made with `recipe`, but for what may change (`MAY_CHANGE`).

    Raises:
        RecipeError: other keys differ; they are named with both values.
    """
    try:
        old = _flat(load_recipe(place / RECIPE, type(recipe)).model_dump(mode="json"))
    except RecipeError as error:
        raise WeightsError(f"'{place / RECIPE}': cannot be read ({error})", hint=REMOVE_FOLDER) from error
    new = _flat(recipe.model_dump(mode="json"))
    differing = [
        f"{key} = {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _may_change(key)
    ]
    if differing:
        raise RecipeError(
            f"'{place}' was made with another recipe: {'; '.join(differing)}",
            hint="give another --output to start anew, or the recipe that the run began with",
        )


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _flat(table: Mapping[str, Any], *, at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, at=f"{at}{name}.") if isinstance(value, dict) else {f"{at}{name}": value}
    return flat


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    bare: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return bare


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise WeightsError(f"'{path}': cannot be read ({error})", hint=REMOVE_FOLDER) from error
    return state


def _point(pointer: Path, name: str) -> None:
    part = pointer.with_name(f"{pointer.name}.part")
    part.write_text(f"{name}\n", encoding="utf-8")
    os.replace(part, pointer)


def _pointed(pointer: Path) -> Path | None:
    """The checkpoint that a pointer names; without it, or if it is gone, the newest whole one."""
    if pointer.exists() and (place := pointer.parent / pointer.read_text(encoding="utf-8").strip()).is_dir():
        return place
    if pointer.name != "last":
        return None
    return max(_whole_checkpoints(pointer.parent), default=None, key=lambda place: int(place.name[5:]))


def _whole_checkpoints(folder: Path) -> list[Path]:
    return [place for place in folder.glob("step-*") if _STEP_NAME.fullmatch(place.name)]


def _remove_old(folder: Path, *, keep_last: int, kept: str | None) -> None:
    """Remove all but the newest checkpoints and the best. Only folders that `save` named are touched."""
    newest_first = sorted(_whole_checkpoints(folder), key=lambda place: int(place.name[5:]), reverse=True)
    for place in newest_first[keep_last:]:
        if place.name != kept:
            shutil.rmtree(place)
