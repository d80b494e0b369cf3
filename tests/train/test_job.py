"""What a training answers without having trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError
from latentsync.train.job import TrainingJob, count_clips, need_best, planned_result


def test_data_may_still_be_missing_when_a_run_is_planned(tmp_path: Path) -> None:
    job = TrainingJob(data=tmp_path / "none", output=tmp_path)
    assert count_clips(job, held_out=()) == (0, f"data: {tmp_path / 'none'}: not there yet")
    planned = planned_result(job, {"seed": 1}, clips=0)
    assert (planned.reason, planned.weights, planned.plan) == ("planned", None, {"seed": 1})


def test_an_output_without_a_checkpoint_has_no_best_one(tmp_path: Path) -> None:
    with pytest.raises(LatentSyncError, match="there is no checkpoint"):
        need_best(TrainingJob(output=tmp_path))
