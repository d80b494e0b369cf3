"""Released files, converted: the same network, every key accounted for, and nothing else let through."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.errors import UsageError, WeightsError
from latentsync.models.syncnet import build_syncnet
from latentsync.models.unet import LipUNet, build_unet
from latentsync.recipe.networks import TowerConfig
from latentsync.weights import catalog, convert, judges
from latentsync.weights.checkpoints import read_note
from latentsync.weights.convert import import_file
from latentsync.weights.models import find_model
from latentsync.weights.read import read_tensors
from latentsync.weights.released import load_unet, rename_unet, unet_from_released
from tests.networks import PAPER_SYNCNET, RELEASED_UNET

Tensors = dict[str, Tensor]
SALT = "golden-a"
TOWER = TowerConfig(channels=(32, 32), factors=((2, 1), 2), attention=(False, True))
SYNCNET = PAPER_SYNCNET.replaced(visual=TOWER, audio=TOWER)
SMALL = RELEASED_UNET.replaced(
    block_out_channels=(32,), attention_levels=(True,), motion=False, layers_per_block=1
)


@pytest.fixture(scope="module")
def small() -> Tensors:
    """The smallest network that is taken for a released U-Net."""
    return build_unet(SMALL).state_dict()


@pytest.fixture
def released(small: Tensors, tmp_path: Path) -> Path:
    return write(small, tmp_path / "latentsync_unet.pt")


def write(tensors: Tensors, path: Path, **beside: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 7, "state_dict": tensors, **beside}, path)
    return path


def as_version_1_0(tensors: Tensors) -> Tensors:
    names = ((".norm2.", ".audio_cross_attn.norm."), (".attn2.", ".audio_cross_attn.attn."))
    renamed = {}
    for key, tensor in tensors.items():
        for new, old in names if "transformer_blocks" in key and "motion" not in key else ():
            key = key.replace(new, old)
        renamed[key] = tensor
    return renamed


@pytest.mark.parametrize(
    ("case", "version"), [("unet_motion_small", "1.5 or 1.6"), ("unet_plain_small", "1.0")]
)
def test_an_imported_unet_is_the_released_network(
    case: str,
    version: str,
    golden: Path,
    synthetic: ModuleType,
    golden_tensors: Callable[[str], Tensors],
    tmp_path: Path,
) -> None:
    facts = json.loads((golden / f"{case}.json").read_text())
    theirs = golden_tensors(case) if version != "1.0" else as_version_1_0(golden_tensors(case))
    result = import_file(write(theirs, tmp_path / "latentsync_unet.pt"))
    unet = load_unet(result.output)
    assert (result.kind, result.version, result.output) == (
        "unet",
        version,
        tmp_path / "latentsync_unet-fp32.safetensors",
    )
    predicted = output_of(unet, facts, case, synthetic)
    expected = load_file(golden / f"{case}.safetensors")["output"]
    assert (predicted - expected).norm() / expected.norm() < 1e-4
    assert accounted(result) == set(theirs)
    assert {reason for reason in result.dropped.values()} <= {"equals the first attention's table"}


def output_of(unet: LipUNet, facts: dict[str, Any], case: str, synthetic: ModuleType) -> Tensor:
    sample = synthetic.synthetic_input(f"{case}/sample", facts["sample_shape"], SALT)
    audio = synthetic.synthetic_input(f"{case}/audio", facts["audio_shape"], SALT)
    with torch.no_grad():
        predicted: Tensor = unet(sample, torch.tensor(facts["timesteps"]), audio)
    return predicted


def accounted(result: convert.ImportResult) -> set[str]:
    """The old keys that the result speaks for: dropped, renamed, or written as they were."""
    written = read_tensors(result.output).keys()
    assert result.keys == len(written)
    assert set(result.renamed.values()) <= written
    return {*result.dropped, *result.renamed, *(written - set(result.renamed.values()))}


@pytest.mark.parametrize("variant", ["motion", "plain"])
def test_every_key_of_the_full_size(variant: str, golden: Path) -> None:
    shapes = json.loads((golden / f"keys_unet_{variant}_full.json").read_text())["state_dict"]
    theirs = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    source = convert._Source(Path(__file__), convert.Content(theirs, {}), "", None)
    converted = convert._convert_unet(source)
    assert converted.tensors.keys() == rename_unet(theirs).keys()
    assert len(converted.tensors) + len(converted.dropped) == len(shapes)
    assert len(converted.dropped) == (20 if variant == "motion" else 0)


@pytest.mark.parametrize("key", ["16_pixel", "16_pixel_attn", "16_latent", "25_pixel"])
def test_every_key_of_the_syncnets(key: str, golden: Path) -> None:
    shapes = json.loads((golden / f"keys_syncnet_{key}.json").read_text())["state_dict"]
    theirs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    converted = convert._convert_syncnet(
        convert._Source(Path(__file__), convert.Content(theirs, {}), "", None)
    )
    assert converted.version == key
    assert converted.tensors.keys() == theirs.keys()
    assert not converted.renamed
    assert not converted.dropped


@pytest.mark.parametrize(("dtype", "bytes_each"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_number_formats(
    dtype: Literal["fp32", "fp16", "bf16"], bytes_each: int, released: Path, small: Tensors
) -> None:
    result = import_file(released, dtype=dtype)
    numbers = sum(tensor.numel() for tensor in small.values())
    assert 0 <= result.size_bytes - numbers * bytes_each < 20_000
    for key, tensor in read_tensors(result.output).items():
        torch.testing.assert_close(tensor.float(), small[key], atol=1e-2, rtol=1e-2)


def test_numbers_too_large_for_fp16(small: Tensors, tmp_path: Path) -> None:
    path = write({**small, "conv_in.bias": torch.full_like(small["conv_in.bias"], 1e5)}, tmp_path / "unet.pt")
    with pytest.raises(
        WeightsError, match=r"'conv_in.bias' has a value of 1e\+05, but the limit of fp16 is 65504"
    ) as caught:
        import_file(path, dtype="fp16")
    assert "bf16" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == [path]
    assert import_file(path, dtype="bf16").output.exists()


def test_what_the_file_says_about_itself(released: Path) -> None:
    note = read_note(import_file(released).output)
    digest = hashlib.sha256(released.read_bytes()).hexdigest()
    assert note.kind == "unet"
    assert note.facts == {
        "origin": "released",
        "version": "1.0",
        "resolution": 256,
        "latents": "sd-vae-ft-mse",
        "source": {"file": released.name, "sha256": digest, "size_bytes": released.stat().st_size},
        "global_step": 7,
        "licence": "openrail",
    }


def put_shared(folder: Path) -> None:
    for name in ("sd-vae-ft-mse/diffusion_pytorch_model.safetensors", "whisper/tiny.pt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"weights")


def test_an_imported_unet_is_used_as_a_released_one(released: Path) -> None:
    put_shared(released.parent)
    spec = find_model(str(import_file(released).output))
    assert (spec.is_released, spec.steps, spec.prediction_type, spec.resolution) == (
        True,
        20,
        "epsilon",
        256,
    )


@pytest.fixture
def with_motion(golden_tensors: Callable[[str], Tensors]) -> Tensors:
    return golden_tensors("unet_motion_small")


def test_the_folder_tells_1_5_from_1_6(with_motion: Tensors, tmp_path: Path) -> None:
    put_shared(tmp_path)
    result = import_file(write(with_motion, tmp_path / "latentsync-1.6" / "latentsync_unet.pt"))
    assert result.version == "1.6"
    assert find_model(str(result.output)).resolution == 512
    with pytest.raises(WeightsError, match="trained on crops of 512 px, and 256 px"):
        find_model(str(result.output), resolution=256)


def test_the_hash_tells_1_5_from_1_6(
    with_motion: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(with_motion, tmp_path / "latentsync-1.5" / "renamed.pt")
    entry = catalog.find_entry("latentsync-1.6")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {"latentsync-1.6": dataclasses.replace(entry, sha256=digest)}
    monkeypatch.setattr(convert, "load_catalog", lambda: known)
    assert import_file(path).version == "1.6"


def test_another_version_than_the_folder_says(with_motion: Tensors, tmp_path: Path) -> None:
    path = write(with_motion, tmp_path / "latentsync-1.0" / "latentsync_unet.pt")
    with pytest.raises(
        WeightsError, match=r"LatentSync 1.5 or 1.6 \(with motion modules\), and not that of 1.0"
    ):
        import_file(path)


def test_the_output_is_not_replaced_unasked(released: Path, tmp_path: Path) -> None:
    output = tmp_path / "there.safetensors"
    output.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        import_file(released, output=output)
    assert output.read_text() == "precious"
    import_file(released, output=output, is_forced=True)
    with pytest.raises(UsageError, match="never overwritten"):
        import_file(released, output=released, is_forced=True)
    with pytest.raises(UsageError, match="is a folder"):
        import_file(released, output=tmp_path, is_forced=True)
    with pytest.raises(WeightsError, match="already in the format"):
        import_file(output)


@pytest.mark.parametrize(
    ("changes", "beside", "message"),
    [
        ({"conv_in.bias": None}, {}, r"missing keys: 1 \(conv_in.bias\)"),
        ({"stranger": torch.ones(1)}, {}, r"unexpected keys: 1 \(stranger\)"),
        ({"conv_in.bias": torch.ones(3)}, {}, r"has shape \(3,\), expected \(32,\)"),
        ({}, {"ema": {"conv_in.bias": torch.ones(32)}}, "'ema' with further tensors"),
        ({"conv_in.weight": torch.ones(32)}, {}, "it takes 0 channels"),
        ({"down_blocks.0.resnets.987654321.norm1.bias": torch.ones(32)}, {}, "unexpected keys"),
        (
            {"conv_in.bias": torch.full((32,), torch.nan)},
            {},
            "'conv_in.bias' has NaN or infinite values",
        ),
    ],
)
def test_what_is_refused(
    changes: dict[str, Tensor | None], beside: dict[str, Any], message: str, small: Tensors, tmp_path: Path
) -> None:
    tensors = {key: tensor for key, tensor in {**small, **changes}.items() if tensor is not None}
    path = write(tensors, tmp_path / "unet.pt", **beside)
    with pytest.raises(WeightsError, match=message) as caught:
        import_file(path)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == [path]


def test_entries_that_are_no_weights_are_named(small: Tensors, tmp_path: Path) -> None:
    path = write(small, tmp_path / "unet.pt", train_loss_list=[1.0, 0.5])
    assert import_file(path).dropped == {"train_loss_list": "is not a weight"}


def test_both_names_of_one_tensor(small: Tensors, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is given twice, under the names of two versions"):
        import_file(write({**small, **as_version_1_0(small)}, tmp_path / "unet.pt"))


def test_another_network(tmp_path: Path) -> None:
    path = write({"netcnnaud.0.weight": torch.ones(1)}, tmp_path / "syncnet_v2.model")
    with pytest.raises(WeightsError, match="is not imported: it seems to be the SyncNet v2 judge"):
        import_file(path)


def test_a_disk_without_room(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil_usage(free=1000))
    with pytest.raises(WeightsError, match="0 MB are free there"):
        import_file(released)


def shutil_usage(*, free: int) -> Any:
    return type("Usage", (), {"free": free})()


def test_a_syncnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judges.RELEASED_SYNCNETS, "small", SYNCNET)
    tensors = build_syncnet(SYNCNET).state_dict()
    result = import_file(write(tensors, tmp_path / "stable_syncnet.pt"), dtype="bf16")
    assert (result.kind, result.version, result.keys) == ("syncnet", "small", len(tensors))
    loaded = judges.load_syncnet(result.output, dtype=torch.bfloat16)
    assert loaded.config == SYNCNET
    assert all(torch.equal(tensor, tensors[key].bfloat16()) for key, tensor in loaded.state_dict().items())


@pytest.fixture
def whisper(golden: Path, synthetic: ModuleType, tmp_path: Path) -> Path:
    """The encoder of the golden case in OpenAI's layout, with a decoder's tensor beside it."""
    case = json.loads((golden / "whisper_small.json").read_text())
    shapes = {name: tuple(shape) for name, shape in case["state_dict_encoder"].items()}
    tensors = synthetic.synthetic_state_dict(shapes, case["salt"])
    tensors["decoder.ln.weight"] = torch.ones(64)
    torch.save({"dims": case["dims"], "model_state_dict": tensors}, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_a_whisper(whisper: Path) -> None:
    from latentsync.weights.released import load_whisper

    result = import_file(whisper, dtype="fp16")
    assert (result.kind, result.dropped.keys()) == ("whisper", {"decoder.ln.weight"})
    assert accounted(result) == read_tensors(whisper).keys()
    released, ours = (
        load_whisper(path, device="cpu", dtype=torch.float16) for path in (whisper, result.output)
    )
    assert released.dims == ours.dims
    for key, tensor in released.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor)


def test_dimensions_that_the_tensors_deny(whisper: Path) -> None:
    content = torch.load(whisper, weights_only=True)
    content["dims"]["n_audio_layer"] = 10**9
    torch.save(content, whisper)
    with pytest.raises(WeightsError, match="n_audio_layer is 1000000000, but its tensors say 4"):
        import_file(whisper)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_shape_and_key(small: Tensors, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is done to a U-Net's keys and shapes: it is refused in words, or it is the network still."""
    tensors = dict(small)
    for key in data.draw(st.lists(st.sampled_from(sorted(small)), min_size=1, max_size=4, unique=True)):
        new_key = data.draw(st.sampled_from([key, f"module.{key}", key.replace("0", "7"), "", "…"]))
        shape = data.draw(st.lists(st.integers(0, 40), max_size=5))
        tensor = tensors.pop(key)
        tensors[new_key] = data.draw(st.sampled_from([tensor, torch.zeros(shape[:4]), tensor.half()]))
    save = data.draw(st.sampled_from([save_file, torch.save]))
    path, output = tmp_path / "unet", tmp_path / "output"
    save(tensors, path)
    try:
        import_file(path, output=output, is_forced=True)
    except WeightsError as error:
        assert error.hint
    else:
        unet_from_released(path)
        load_unet(output)
    assert set(tmp_path.iterdir()) <= {path, output}
