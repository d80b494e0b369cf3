"""The catalogue of weights: the shipped one is sound, and a damaged one is refused by file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.errors import WeightsError
from latentsync.weights import catalog
from latentsync.weights.catalog import find_entry, load_catalog, with_needs

NAMES = (
    "latentsync-1.0 latentsync-1.5 latentsync-1.6 stable-syncnet latentsync-syncnet-1.0 whisper-tiny "
    "sd-vae-ft-mse syncnet-v2 fan s3fd i3d inception vgg-lpips hyperiqa videomae-v2 sd-1.5-unet"
)


def one_entry(**changes: Any) -> dict[str, Any]:
    """A catalogue of one entry; None leaves a key out, `files__` is a key of its file."""
    file: dict[str, Any] = {"path": "a/b.pt", "url": "https://example.org/b.pt"}
    entry: dict[str, Any] = {
        "kind": "unet",
        "title": "A",
        "licence": "MIT",
        "commercial_use": "yes",
        "enables": "something",
        "files": [file],
    }
    for key, value in changes.items():
        table = file if key.startswith("files__") else entry
        table[key.removeprefix("files__")] = value
    for table in (file, entry):
        for key in [key for key, value in table.items() if value is None]:
            del table[key]
    return {"one": entry}


def load(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return load_catalog(path)


def test_the_shipped_catalogue() -> None:
    entries = load_catalog()
    assert sorted(entries) == sorted(NAMES.split())
    assert all(entry.name == name and entry.licence and entry.enables for name, entry in entries.items())
    newest = entries["latentsync-1.6"].files[0]
    assert (newest.hub, newest.revision) == (
        "ByteDance/LatentSync-1.6",
        "c42c7e6c8e9c213626389fa7d9a3c444b8536353",
    )
    assert newest.size_bytes == 5_072_222_488


def test_where_face_alignment_looks() -> None:
    from face_alignment.api import models_urls
    from face_alignment.detection.sfd.sfd_detector import models_urls as detector_urls

    for name, url in (("fan", models_urls["2DFAN-4"]), ("s3fd", detector_urls["s3fd"])):
        file = find_entry(name).files[0]
        assert (file.url, file.place) == (url, "torch-hub")
        assert file.path == f"checkpoints/{url.rsplit('/', 1)[-1]}"


def test_where_the_measures_look() -> None:
    from pytorch_fid.inception import FID_WEIGHTS_URL
    from torchvision.models import VGG16_Weights

    urls = {"inception": FID_WEIGHTS_URL, "vgg-lpips": VGG16_Weights.IMAGENET1K_V1.url}
    for name, url in urls.items():
        file = find_entry(name).files[0]
        assert (file.url, file.path) == (url, f"checkpoints/{url.rsplit('/', 1)[-1]}")


def test_a_model_brings_all_that_sync_needs() -> None:
    for name in ("latentsync-1.0", "latentsync-1.5", "latentsync-1.6"):
        assert [entry.kind for entry in with_needs([name])] == ["unet", "whisper", "vae"]
    both = [entry.name for entry in with_needs(["whisper-tiny", "latentsync-1.5", "latentsync-1.6"])]
    assert both == ["whisper-tiny", "latentsync-1.5", "sd-vae-ft-mse", "latentsync-1.6"]


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(WeightsError, match=r"no weights called 'latentsync1\.5'") as failure:
        find_entry("latentsync1.5")
    assert failure.value.hint == "did you mean latentsync-1.5?"
    with pytest.raises(WeightsError) as failure:
        find_entry("qqqqqq")
    assert "whisper-tiny" in (failure.value.hint or "")
    with pytest.raises(WeightsError, match="'compact' is inside the package") as failure:
        find_entry("compact")
    assert failure.value.hint == "use it as it is"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"licence": None}, "one.licence: "),
        ({"title": ""}, "one.title: "),
        ({"title": 3}, "one.title: "),
        ({"commercial_use": "maybe"}, "one.commercial_use: "),
        ({"licens": "MIT"}, "one.licens: "),
        ({"name": "two"}, "one.name: "),
        ({"files": []}, "one.files: "),
        ({"needs": ["nobody"]}, "one.needs: no entry called 'nobody'"),
        ({"files__url": None}, "one.files.0: neither url nor hub"),
        ({"files__url": "file:///etc/passwd"}, "one.files.0.url: "),
        ({"files__hub": "a/b"}, "one.files.0: hub, hub_file and revision belong together"),
        ({"files__sha256": "ABCDEF0123"}, "one.files.0.sha256: "),
        ({"files__size_bytes": 0}, "one.files.0.size_bytes: "),
        ({"files__size_bytes": 1.5}, "one.files.0.size_bytes: "),
        ({"files__size_bytes": True}, "one.files.0.size_bytes: "),
        ({"files__place": "home"}, "one.files.0.place: "),
    ],
)
def test_a_fault_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert list(load(one_entry(), tmp_path)) == ["one"]
    with pytest.raises(WeightsError) as failure:
        load(one_entry(**changes), tmp_path)
    assert str(failure.value).startswith(f"'mine.toml': {said}")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "..",
        ".",
        "C:/x",
        "a\\..\\x",
        "a//b",
        "./a",
        "a/",
        "a\nb",
        "~:x",
    ],
)
def test_a_path_out_of_the_cache(path: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"one\.files\.0\.path: .* does not stay inside its folder"):
        load(one_entry(files__path=path), tmp_path)


def test_one_file_with_two_meanings(tmp_path: Path) -> None:
    again = {**one_entry()["one"], "files": [{"path": "A/b.pt", "url": "https://example.org/c.pt"}]}
    with pytest.raises(WeightsError, match=r"two\.files\.0: 'A/b\.pt' is described twice"):
        load({**one_entry(), "two": again}, tmp_path)


def test_needs_may_go_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(one_entry(needs=["one"]), tmp_path)
    monkeypatch.setattr(catalog, "CATALOG", tmp_path / "mine.toml")
    assert [entry.name for entry in with_needs(["one"])] == ["one"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.just("../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *("kind", "title", "files", "needs", "licence", "name", "commercial_use", "one"),
        *(f"files__{key}" for key in ("path", "url", "hub", "sha256", "size_bytes", "revision", "place")),
    ]
)


def is_usable_or_refused(content: bytes, folder: Path) -> None:
    path = folder / "fuzzed.toml"
    path.write_bytes(content)
    try:
        entries = load_catalog(path)
    except WeightsError as error:
        assert error.exit_code == 6 and error.hint
        return
    for entry in entries.values():
        for file in entry.files:
            assert (folder / file.path).resolve().is_relative_to(folder.resolve())


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_any_bytes_are_refused_in_words(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    is_usable_or_refused(content, tmp_path_factory.getbasetemp())


@settings(max_examples=150, deadline=None)
@given(key=KEYS, value=VALUES, path=st.text(min_size=1, max_size=20))
def test_any_values_are_refused_in_words(
    key: str, value: object, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changes = {"files__path": path, key: value}
    try:
        content = tomli_w.dumps(one_entry(**changes)).encode()
    except (TypeError, ValueError):  # TOML itself cannot say it
        return
    is_usable_or_refused(content, tmp_path_factory.getbasetemp())
