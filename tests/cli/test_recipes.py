"""Recipes that come with the package, for those who have no checkout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from latentsync.recipe.loading import bundled_names, load_recipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync_cli import app as cli


def give(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentsync", "recipes", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_list_names_every_recipe_and_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [one["name"] for one in listed] == bundled_names()
    sync = next(one for one in listed if one["name"] == "sync")
    assert sync == {"name": "sync", "kind": "sync", "about": "everything that moves a pixel of the result"}
    assert all(one["kind"] and one["about"] for one in listed)


def test_a_copy_means_the_same_from_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "ablations/unet-trepa"
    assert give(monkeypatch, "copy", name) == 0
    assert capsys.readouterr().out == "unet-trepa.toml\n"
    copied = load_recipe(tmp_path / "unet-trepa.toml", UNetTrainingRecipe)
    assert copied == load_recipe(name, UNetTrainingRecipe)
    assert give(monkeypatch, "show", name) == 0
    assert capsys.readouterr().out == Path("unet-trepa.toml").read_text(encoding="utf-8")
    assert give(monkeypatch, "copy", name) == 2
    assert "'unet-trepa.toml': exists already" in capsys.readouterr().err


def test_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert give(monkeypatch, "show", "stage3") == 3
    error = capsys.readouterr().err
    assert "'stage3': no such recipe" in error and "did you mean stage" in error
