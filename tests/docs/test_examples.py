"""The ComfyUI node and the notebook run, as far as they can without ComfyUI and Jupyter."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from latentsync.media.read import read_frames

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMES = 5


def test_the_node_takes_and_gives_what_comfyui_has() -> None:
    path = EXAMPLES / "comfyui" / "__init__.py"
    spec = importlib.util.spec_from_file_location("comfyui_latentsync", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (node,) = module.NODE_CLASS_MAPPINGS.values()
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    frames = [frame.rgb_u8 for frame in read_frames(EXAMPLES / "portrait.mp4", end_s=FRAMES / 25)]
    images = torch.from_numpy(np.stack(frames)).float() / 255
    rate_hz, samples = scipy.io.wavfile.read(EXAMPLES / "speech.wav")
    waveform = torch.from_numpy(samples[: FRAMES * rate_hz // 25].astype(np.float32) / 32768)[None, None]
    inputs = node.INPUT_TYPES()["required"]
    given: dict[str, Any] = {"images": images, "audio": {"waveform": waveform, "sample_rate": rate_hz}}
    given |= {"model": inputs["model"][0][0]}
    given |= {name: inputs[name][1]["default"] for name in ("fps", "face", "seed")}
    assert set(given) == set(inputs)
    (made,) = getattr(node(), node.FUNCTION)(**given)
    assert made.shape == images.shape and made.dtype == torch.float32
    assert 0.1 < float((made - images).abs().max()) <= 1


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (
        4,
        len(notebook["cells"]),
    )
    for name in ("portrait.mp4", "speech.wav"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        source = "".join(cell["source"]).replace("end=1.0", "end=0.4")
        if cell["cell_type"] == "code" and "IPython" not in source:
            exec(compile(source, f"notebook, {cell['id']}", "exec"), names)
    assert len(names["frames"]) == 10
    assert Path("notebook.mp4").exists()
