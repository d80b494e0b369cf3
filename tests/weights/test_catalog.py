"""The catalogue of the package: that it is well-formed, and how entries are looked up."""

from __future__ import annotations

import re

import pytest

from latentsync.errors import WeightsError
from latentsync.weights.catalog import find_entry, load_catalog, with_needs


def test_every_entry_can_be_fetched_and_checked() -> None:
    entries = load_catalog()
    assert {"latentsync-1.0", "latentsync-1.5", "latentsync-1.6", "whisper-tiny"} <= entries.keys()
    assert len({entry.path for entry in entries.values()}) == len(entries)
    for entry in entries.values():
        assert set(entry.needs) <= entries.keys()
        assert (entry.hub is None) == (entry.hub_file is None) == (entry.commit is None)
        assert entry.hub or entry.url
        assert entry.hub or entry.sha256, "what comes from a plain address is checked by its hash alone"


def test_what_is_needed_comes_along_once() -> None:
    names = [entry.name for entry in with_needs(["latentsync-1.6", "latentsync-1.5", "whisper-tiny"])]
    assert names == ["latentsync-1.6", "whisper-tiny", "sd-vae-ft-mse", "latentsync-1.5"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("latentsync-15", "did you mean latentsync-1.5"), ("?", "known names: "), ("compact", "use it")],
)
def test_an_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(f"'{name}'")) as failure:
        find_entry(name)
    assert (failure.value.hint or "").startswith(hint)
