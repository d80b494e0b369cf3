from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from latentsync.errors import ShapeError
from latentsync.models.syncnet_v2 import SyncNetV2


def test_golden(golden: Path, synthetic: ModuleType) -> None:
    facts = json.loads((golden / "syncnet_v2.json").read_text())
    judge = SyncNetV2().eval()
    assert {key: list(tensor.shape) for key, tensor in judge.state_dict().items()} == facts["state_dict"]
    judge.load_state_dict(synthetic.synthetic_state_dict(facts["state_dict"], facts["salt"]))
    clips = synthetic.synthetic_input("syncnet_v2/lip", (2, 3, 5, 224, 224), facts["salt"]) * 127 + 127
    cepstra = synthetic.synthetic_input("syncnet_v2/mfcc", (2, 1, 13, 20), facts["salt"]) * 10
    with torch.no_grad():
        visual, audio = judge.embed_clips(clips), judge.embed_speech(cepstra)
    expected = load_file(golden / "syncnet_v2.safetensors")
    for ours, theirs in ((visual, expected["lip_embedding"]), (audio, expected["audio_embedding"])):
        assert (ours - theirs).norm() / theirs.norm() < 1e-4


def test_channels_come_first() -> None:
    with torch.device("meta"), pytest.raises(ShapeError, match=r"axis c .* must be 3, got 5"):
        SyncNetV2().embed_clips(torch.zeros(1, 5, 3, 224, 224))
