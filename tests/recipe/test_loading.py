"""Recipes: what is found, how parents and overrides combine, and what a mistake says."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.errors import RecipeError
from latentsync.recipe.loading import dump_recipe, load_recipe
from latentsync.recipe.schema import Recipe, Seed, Table
from latentsync.recipe.sync import SyncRecipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe


class Layer(Table):
    width: int


class Weights(Table):
    noise: float = 1.0
    sync: float = 0.05


class Net(Recipe):
    seed: Seed = 1247
    steps: int
    name: str = "n"
    sizes: tuple[int, ...] = (1, 2)
    layers: tuple[Layer, ...] = ()
    form: Literal["small", "large"] = "small"
    loss: Weights = Weights()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def failure(path: str | Path, *overrides: str) -> tuple[str, str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, Net, overrides=overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value), caught.value.hint


def test_a_name_finds_a_bundled_recipe_with_or_without_its_suffix() -> None:
    assert load_recipe("sync", SyncRecipe) == load_recipe("sync.toml", SyncRecipe)


def test_a_file_wins_over_a_bundled_name(
    write: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("sync.toml", "seed = 5")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("sync.toml", SyncRecipe).seed == 5


def test_an_unknown_name_suggests_the_nearest() -> None:
    message, hint = failure("snyc")
    assert message == "'snyc': no such recipe, neither a file nor the name of a bundled one"
    assert hint == "did you mean sync?"


def test_a_child_changes_single_keys_of_its_parent(write: Callable[[str, str], Path]) -> None:
    write("parent.toml", "steps = 1\nname = 'p'\n[loss]\nnoise = 2\nsync = 3")
    child = write("child.toml", "extends = 'parent'\nsteps = 7\n[loss]\nsync = 4")
    net = load_recipe(child, Net)
    assert (net.steps, net.name, net.loss) == (7, "p", Weights(noise=2.0, sync=4.0))


def test_a_parent_is_found_beside_its_child(write: Callable[[str, str], Path]) -> None:
    write("a/parent.toml", "steps = 1")
    write("a/child.toml", "extends = 'parent.toml'")
    grandchild = write("b/grandchild.toml", "extends = '../a/child'")
    assert load_recipe(grandchild, Net).steps == 1


def test_a_circle_is_refused(write: Callable[[str, str], Path]) -> None:
    write("a.toml", "extends = 'b'")
    message, _ = failure(write("b.toml", "extends = 'a'"))
    assert message == "b.toml: extends is circular: b.toml -> a.toml -> b.toml"


def test_two_parents_are_refused(write: Callable[[str, str], Path]) -> None:
    message, _ = failure(write("a.toml", "extends = ['b', 'c']"))
    assert message == "a.toml: extends: got ['b', 'c'], expected the name of one recipe"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("steps=9", "steps", 9),
        ("name=bare-word", "name", "bare-word"),
        ("name='quoted # one'", "name", "quoted # one"),
        ("sizes=[3, 4]", "sizes", (3, 4)),
        ("loss.sync=2", "loss", Weights(sync=2.0)),
        ("layers=[{width = 3}]", "layers", (Layer(width=3),)),
    ],
)
def test_overrides_are_toml_or_bare_words(
    write: Callable[[str, str], Path], override: str, key: str, value: object
) -> None:
    assert getattr(load_recipe(write("a.toml", "steps = 1"), Net, overrides=[override]), key) == value


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("steps = 1\n[loss]\nsynk = 1", "a.toml: loss.synk: no such key", "did you mean sync?"),
        ("steps = 1\nlos = 1", "a.toml: los: no such key", "did you mean loss?"),
        ("steps = '1'", "a.toml: steps: got '1', expected a valid integer", "change steps"),
        ("steps = 1.0", "a.toml: steps: got 1.0, expected a valid integer", "change steps"),
        ("steps = true", "a.toml: steps: got True, expected a valid integer", "change steps"),
        ("steps = 1\nloss = 3", "a.toml: loss: got 3, expected a table", "change loss"),
        (
            "steps = 1\nform = 'x'",
            "a.toml: form: got 'x', expected 'small' or 'large'",
            "change form",
        ),
        (
            "steps = 1\nlayers = [{width = 1, hight = 2}]",
            "a.toml: layers.0.hight: no such key",
            "known keys: width",
        ),
        ("name = 'x'", "a.toml: steps: is missing", "add it to the recipe, or --set steps=…"),
        (
            "steps = 1\nseed = -1",
            "a.toml: seed: got -1, expected greater than or equal to 0",
            "change seed",
        ),
    ],
)
def test_a_mistake_names_file_key_and_remedy(
    write: Callable[[str, str], Path], text: str, message: str, hint: str
) -> None:
    assert failure(write("a.toml", text)) == (message, hint)


def test_a_wrong_value_names_the_default(write: Callable[[str, str], Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("mine.toml", "sampling.mode = 'x'"), SyncRecipe)
    assert caught.value.hint == "the default is 'blended'"


def test_a_file_states_what_differs_from_the_bundled_recipe(write: Callable[[str, str], Path]) -> None:
    mine = write("sync.toml", "kind = 'sync'\nseed = 3\n[paste]\nfade_s = 0.5")  # its name means nothing
    usual = load_recipe("sync", SyncRecipe)
    assert load_recipe(mine, SyncRecipe) == usual.replaced(seed=3, paste=usual.paste.replaced(fade_s=0.5))


def test_a_parent_of_the_base_is_not_filled_from_it(write: Callable[[str, str], Path]) -> None:
    mine = load_recipe(write("mine.toml", "extends = 'stage1'"), UNetTrainingRecipe)
    assert mine == load_recipe("stage1", UNetTrainingRecipe) and not mine.network.motion


@pytest.mark.parametrize(
    ("text", "setting", "schema", "key", "value"),
    [
        ("sampling.quality = 'draft'", "", SyncRecipe, "sampling.effort", "draft"),
        ("[quality.few_steps]\nbest = { steps = 5 }", "", SyncRecipe, "effort.few_steps.best.steps", 5),
        ("", "sampling.quality=best", SyncRecipe, "sampling.effort", "best"),
        ("network.motion_place = 'everywhere'", "", UNetTrainingRecipe, "network.motion_modules", "all"),
        ("network.vae = 'mine'", "", SyncNetRecipe, "weights.vae", "mine"),
        ("[network]\nkind = 'framewise'\nframes = 12", "", SyncNetRecipe, "syncnet", "framewise"),
        ("[network]\nkind = 'framewise'\nframes = 12", "", SyncNetRecipe, "framewise.frames", 12),
        ("network.framewise.run_frames = 40", "", SyncNetRecipe, "negatives.run_frames", 40),
        ("network.framewise.width = 64", "", SyncNetRecipe, "framewise.width", 64),
    ],
)
def test_names_before_0_1_are_read(
    write: Callable[[str, str], Path], text: str, setting: str, schema: type[Recipe], key: str, value: object
) -> None:
    recipe = load_recipe(write("mine.toml", text), schema, overrides=[setting] if setting else [])
    assert reduce(getattr, key.split("."), recipe) == value


def test_a_mistake_is_reported_where_it_was_made(write: Callable[[str, str], Path]) -> None:
    write("parent.toml", "steps = 1\n[loss]\nsync = 'x'")
    child = write("child.toml", "extends = 'parent'\n[loss]\nnoise = 1")
    assert failure(child)[0] == "parent.toml: loss.sync: got 'x', expected a valid number"
    assert failure(child, "loss.sync=1", "loss.noice=1")[0] == "--set loss.noice: no such key"


@pytest.mark.parametrize("override", ["steps", "=3", ".a=3", "a..b=3"])
def test_an_override_without_a_key_or_value_is_refused(
    write: Callable[[str, str], Path], override: str
) -> None:
    assert failure(write("a.toml", "steps = 1"), override)[0] == f"--set '{override}': is not key=value"


def test_what_is_not_toml_is_refused(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    assert "is not valid TOML" in failure(write("a.toml", "steps = "))[0]
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not a text file" in failure(binary)[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed = " + "9" * 5000, "a number has too many digits"),
        ("seed = " + "[" * 100_000, "brackets are nested too deeply"),
        ("a." * 50_000 + "a = 1", "a key has more than 32 parts"),
        ('"a b".' * 30_000 + "a = 1", "a key has more than 32 parts"),
    ],
    ids=["digits", "brackets", "dots", "quoted"],
)
def test_what_would_take_too_long_to_parse_is_refused(
    write: Callable[[str, str], Path], text: str, reason: str
) -> None:
    assert failure(write("a.toml", text))[0].endswith(f"is not valid TOML: {reason}")
    assert failure(write("b.toml", "steps = 1"), text.replace(" = ", "=", 1))[0].startswith("--set ")


def test_a_file_that_is_too_large_or_a_name_that_is_too_long_is_refused(
    write: Callable[[str, str], Path],
) -> None:
    assert "at most 262,144" in failure(write("a.toml", "# " + "a" * 300_000))[0]
    assert "no such recipe" in failure("a" * 300)[0]
    assert "no such recipe" in failure("a\0b")[0]


def test_windows_that_overlap_by_more_than_half_are_refused() -> None:
    with pytest.raises(RecipeError, match="overlap_frames = 9 is over half of window_frames = 16"):
        load_recipe("sync", SyncRecipe, overrides=["sampling.overlap_frames=9"])


@given(
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    sizes=st.lists(st.integers(-(2**62), 2**62), max_size=4),
    noise=st.floats(allow_nan=False),
)
def test_a_dumped_recipe_loads_to_itself(
    tmp_path_factory: pytest.TempPathFactory, name: str, sizes: list[int], noise: float
) -> None:
    net = Net(steps=3, name=name, sizes=tuple(sizes), layers=(Layer(width=2),), loss=Weights(noise=noise))
    path = tmp_path_factory.mktemp("dumped") / "net.toml"
    path.write_text(dump_recipe(net), encoding="utf-8", newline="")
    assert load_recipe(path, Net) == net
