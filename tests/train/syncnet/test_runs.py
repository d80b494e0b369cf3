from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.events import ignore
from latentsync.manifest import read_manifest
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.train.clips import FeatureFiles, find_clips
from latentsync.train.log import read_log
from latentsync.train.setup import TrainingJob
from latentsync.train.syncnet.data import ClipRuns, LipRegion, RunSamples, augment_states
from latentsync.train.syncnet.run import run
from latentsync.weights.judges import load_syncnet
from tests.networks import PAPER_RECIPE
from tests.train.made_clips import write_clips

RECIPE = PAPER_RECIPE.replaced(
    held_out=("person_00", "person_01"),
    seed=42,
    syncnet="framewise",
    framewise=PAPER_RECIPE.framewise.replaced(
        frames=10,
        rows=16,
        columns=16,
        channels=(4, 8),
        speech_width=16,
        width=32,
        dimension=16,
        dropout=0.0,
    ),
    negatives=PAPER_RECIPE.negatives.replaced(
        policy="same_clip", min_distance_frames=1, pairing="in_clip_matrix", run_frames=24
    ),
    loss=PAPER_RECIPE.loss.replaced(kind="contrastive", temperature=0.2),
    optimizer=PAPER_RECIPE.optimizer.replaced(learning_rate=4e-3),
    run=PAPER_RECIPE.run.replaced(
        samples=240,
        batch_samples=6,
        micro_batch_samples=6,
        precision="fp32",
        average_decay=0.5,
        log_every_samples=24,
        save_every_samples=240,
    ),
    validation=PAPER_RECIPE.validation.replaced(every_samples=240, clips=2, windows_per_clip=30),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), count=6)


def samples_of(data: Path, folder: Path) -> RunSamples:
    clips, _ = find_clips(data, held_out=())
    region = LipRegion(PAPER_RECIPE.framewise.replaced(frames=10, rows=16, columns=16))
    return RunSamples(RECIPE, clips, ClipRuns(24, region, FeatureFiles(folder), is_decoded=False))


def test_a_sample_is_a_run_of_frames_and_its_whisper_states(data: Path, tmp_path: Path) -> None:
    samples = samples_of(data, tmp_path)
    first, again = samples[3], samples[3]
    assert first["frames_u8"].shape == (24, 16, 16, 3)  # type: ignore[union-attr]
    assert first["states"].shape == (48, 5, 384)  # type: ignore[union-attr]
    assert torch.equal(first["states"], again["states"])  # type: ignore[arg-type]
    assert len(samples) == 240


def test_states_of_another_whisper_are_refused(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from latentsync.errors import MediaError

    clip = find_clips(data, held_out=())[0][0]
    features = FeatureFiles(tmp_path)
    path = features.path_of(clip, "whisper.safetensors")
    path.parent.mkdir(parents=True)
    save_file({"whisper": torch.zeros(100, 5, 384)}, path, metadata={"whisper": "tiny"})
    with pytest.raises(MediaError, match="another Whisper"):
        features.whisper(clip)


def test_states_are_changed_only_where_the_recipe_says_so() -> None:
    states = torch.randn(40, 5, 8, generator=torch.Generator().manual_seed(0))
    random = np.random.default_rng(0)
    assert torch.equal(augment_states(states, PAPER_RECIPE.speech, random), states)
    masked = augment_states(states, PAPER_RECIPE.speech.replaced(time_mask=20), random)
    gone = (masked == 0).all(dim=(1, 2))
    assert 0 < gone.sum() <= 20
    assert torch.equal(masked[~gone], states[~gone])
    noisy = augment_states(states, PAPER_RECIPE.speech.replaced(noise=0.1), random)
    assert 0.08 < (noisy - states).std() / states.std() < 0.12


def test_framewise_network_learns_when_the_mouth_moves(data: Path, tmp_path: Path) -> None:
    job = TrainingJob(data=data, output=tmp_path / "run", device="cpu", workers=0)
    result = run(job, RECIPE, ignore)
    rows = [row for row in read_log(tmp_path / "run") if "losses" in row]
    last = rows[-1]["losses"]
    assert last["contrastive"] < 0.8 * last["chance"]
    assert result.measures["balanced_accuracy"] > 0.6
    assert result.weights is not None
    assert isinstance(load_syncnet(result.weights), FramewiseSyncNet)
    assert len(read_manifest(data)) == 6
