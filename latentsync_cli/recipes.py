"""`latentsync recipes`: the recipes that come with the package: listed, shown, copied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import JsonOption

app = typer.Typer(
    help="Recipes that come with the package: list, show and copy them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="See `latentsync recipes list`.")]
TargetArgument = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="The new file.", show_default="NAME.toml in this folder")
]
ForceCopyOption = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]


@app.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List all recipes, the kind that each is of, and what it is for."""
    from latentsync.recipe.loading import bundled_names, bundled_text, stated_kind

    rows = [(name, stated_kind(name) or "", _purpose(bundled_text(name))) for name in bundled_names()]
    if as_json:
        names = ("name", "kind", "about")
        console.show_json({"recipes": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    console.table("recipes", rows, columns=("name", "kind", "about"))


@app.command()
def show(name: NameArgument) -> None:
    """Print a recipe, with its comments."""
    from latentsync.recipe.loading import bundled_text

    print(bundled_text(name), end="")


@app.command()
def copy(name: NameArgument, target: TargetArgument = None, force: ForceCopyOption = False) -> None:
    """Copy a recipe to a file of your own, for `--recipe FILE`."""
    from latentsync.files import whole_or_nothing
    from latentsync.recipe.loading import bundled_text

    text = bundled_text(name)
    path = target or Path(f"{Path(name).name}.toml")
    if path.is_dir():
        path = path / f"{Path(name).name}.toml"
    if path.exists() and not force:
        raise UsageError(f"'{path}': exists already", hint="add --force to replace it, or name another file")
    if not path.parent.is_dir():
        raise UsageError(f"'{path}': its folder does not exist", hint="create it first")
    with whole_or_nothing(path) as part:
        part.write_text(text, encoding="utf-8")
    console.wrote(path)


def _purpose(text: str) -> str:
    """The first sentence of the comment that a recipe begins with."""
    comment: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sentence = " ".join(comment).partition(". ")[0].rstrip(".")
    return re.sub(r"^`latentsync [a-z -]+`[,:] ", "", sentence)
