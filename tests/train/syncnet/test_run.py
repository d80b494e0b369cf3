"""`train_syncnet.run` on made clips whose mouth opens with the sound."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentsync.errors import MediaError, RecipeError
from latentsync.events import Event, Note, Plan, ignore
from latentsync.files import sha256_of
from latentsync.recipe.loading import dump_recipe, load_recipe
from latentsync.recipe.networks import SyncNetConfig, TowerConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.log import read_log
from latentsync.train.setup import TrainingJob
from latentsync.train.syncnet.run import run
from latentsync.weights.checkpoints import read_note
from latentsync.weights.judges import load_syncnet
from latentsync.weights.named import BUNDLED
from tests.train.made_clips import tiny_recipe, write_clip, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def changed(recipe: SyncNetRecipe, **tables: dict[str, Any]) -> SyncNetRecipe:
    """The recipe with some values of some tables changed."""
    return recipe.model_copy(
        update={name: getattr(recipe, name).model_copy(update=values) for name, values in tables.items()}
    )


def short(recipe: SyncNetRecipe) -> SyncNetRecipe:
    return changed(recipe, run={"samples": 12, "log_every_samples": 6})


def test_it_learns_what_belongs_together(data: Path, tmp_path: Path) -> None:
    job = TrainingJob(data=data, output=tmp_path, device="cpu", workers=0)
    result = run(job, tiny_recipe(), ignore)
    losses = [row["losses"]["bce"] for row in read_log(tmp_path) if "losses" in row]
    assert losses[0] > 0.66
    assert losses[-1] < 0.6
    assert result.measures["balanced_accuracy"] > 0.75
    assert result.weights is not None
    syncnet = load_syncnet(result.weights)
    assert syncnet.config.frames == 5
    for name in ("learning.png", "probabilities.png", "shifts.png"):
        assert (tmp_path / "pictures" / name).stat().st_size > 5000


@pytest.mark.parametrize(
    "tables",
    [
        {"negatives": {"policy": "reference", "min_distance_frames": 1, "pairing": "random_half"}},
        {"loss": {"kind": "contrastive"}, "run": {"precision": "bf16"}},
    ],
    ids=["reference", "contrastive in bf16"],
)
def test_other_ways_of_training_run(data: Path, tmp_path: Path, tables: dict[str, Any]) -> None:
    recipe = changed(short(tiny_recipe()), **tables)
    job = TrainingJob(data=data, output=tmp_path, device="cpu", workers=0)
    result = run(job, SyncNetRecipe.model_validate(recipe.model_dump()), ignore)
    assert (result.reason, result.samples) == ("finished", 12)


@pytest.mark.parametrize("is_by_path", [False, True])
def test_latents_of_any_autoencoder_are_taken_and_named(data: Path, tmp_path: Path, is_by_path: bool) -> None:
    vae, name = BUNDLED / "vae.safetensors", "compact"
    if is_by_path:
        name = str(tmp_path / "other.safetensors")
        shutil.copy(vae, name)
    tower = TowerConfig(channels=(16, 32), factors=(2, 2), attention=())  # of 4x4 latents
    sizes = {"space": "latent", "is_lower_half": False, "visual": tower}
    recipe = changed(short(tiny_recipe()), network=sizes, weights={"vae": name})
    job = TrainingJob(data=data, output=tmp_path / "run", device="cpu", workers=0)
    result = run(job, recipe, ignore)
    assert result.weights is not None
    config = load_syncnet(result.weights).config
    assert isinstance(config, SyncNetConfig) and config.space == "latent"
    assert config.frame_channels == read_note(vae).config["latent_channels"]
    assert read_note(result.weights).facts["networks"] == {"vae": {"name": name, "sha256": sha256_of(vae)}}


def test_how_clips_are_read_and_activations_kept_changes_no_number(data: Path, tmp_path: Path) -> None:
    rows = []
    for choice, is_checkpointing in (("yes", False), ("no", True)):
        recipe = changed(short(tiny_recipe()), run={"gradient_checkpointing": is_checkpointing})
        output = tmp_path / choice
        job = TrainingJob(data=data, output=output, device="cpu", workers=0, decoded_cache=choice)
        run(job, recipe, ignore)
        rows.append([row["losses"]["bce"] for row in read_log(output) if "losses" in row])
    assert rows[0] == pytest.approx(rows[1], abs=1e-5)


def test_useless_clips_are_dropped_with_a_reason(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "clips", 3)
    write_clip(data / "brief.mp4", 7, frames=8)
    whole = bytearray((data / "person_00.mp4").read_bytes())
    middle = slice(len(whole) // 4, len(whole) // 2)
    whole[middle] = bytes(middle.stop - middle.start)
    (data / "broken.mp4").write_bytes(whole)
    events: list[Event] = []
    job = TrainingJob(data=data, output=tmp_path / "run", device="cpu", workers=0)
    recipe = short(tiny_recipe()).model_copy(update={"held_out": ("person_02*",)})
    result = run(job, recipe, events.append)
    lines = (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()
    reasons = {Path(drop["name"]).stem: drop["reason"] for drop in map(json.loads, lines)}
    assert reasons == {"brief": "too_short", "broken": "unreadable"}
    assert result.clips == 2
    assert any(isinstance(event, Note) and "dropped" in event.message for event in events)


def test_nothing_left_says_why(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips" / "brief.mp4", 7, frames=8)
    job = TrainingJob(data=tmp_path / "clips", output=tmp_path / "run", device="cpu", workers=0)
    recipe = short(tiny_recipe()).model_copy(update={"held_out": ("nobody",)})
    with pytest.raises(MediaError, match=r"no clip is left to train on \(1 too_short\)"):
        run(job, recipe, ignore)


def test_it_runs_as_a_program(data: Path, tmp_path: Path) -> None:
    recipe = short(tiny_recipe())
    (tmp_path / "tiny.toml").write_text(dump_recipe(recipe))
    program = [str(Path(sys.executable).with_name("latentsync")), "train-syncnet", "--recipe", "tiny.toml"]
    options = ["--data", str(data), "--device", "cpu", "--workers", "1", "--json"]

    def give(*more: str) -> dict[str, Any]:
        done = subprocess.run(
            [*program, *options, *more], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    stopped = give("--stop-after-s", "0")
    assert (stopped["reason"], stopped["samples"]) == ("time", 6)
    finished = give()
    assert (finished["reason"], finished["samples"]) == ("finished", 12)
    assert (tmp_path / finished["weights"]) == tmp_path / "runs" / "syncnet" / "syncnet.safetensors"


def test_without_data_it_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        run(
            TrainingJob(data=tmp_path / "data", output=tmp_path / "run", device="cpu"),
            tiny_recipe(),
            ignore,
        )
    assert caught.value.hint and "latentsync preprocess" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_sizes_that_do_not_fit_are_a_recipe_s_fault() -> None:
    with pytest.raises(RecipeError, match="cannot be split into 5 groups"):
        load_recipe("syncnet", SyncNetRecipe, overrides=["network.norm_groups=5"])


def test_a_dry_run_counts_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    job = TrainingJob(data=data, output=tmp_path / "run", device="cpu", dry_run=True)
    result = run(job, tiny_recipe(), events.append)
    output = "\n".join(line for event in events if isinstance(event, Plan) for line in event.lines)
    assert "10 clips to train on, 2 to validate on" in output
    assert "parameters: 0.06 million" in output
    assert result.plan["memory_bytes"] > 64_064 * 20
    assert not (tmp_path / "run").exists()
    later = run(replace(job, data=tmp_path / "nowhere"), tiny_recipe(), ignore)
    assert later.clips == 0
