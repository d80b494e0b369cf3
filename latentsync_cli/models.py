"""`latentsync models`: what weights there are, fetching, checking, converting and removing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import Dtype, JsonOption, QuietOption

if TYPE_CHECKING:
    from latentsync.weights.hub import Listed, Verified

app = typer.Typer(
    help="Weights: list, fetch, check, convert and remove them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME", help="See `latentsync models list`.")]
SomeNamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Default: all that are here.", show_default=False),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Copy from this folder; nothing goes to the network."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Nothing goes to the network; also HF_HUB_OFFLINE=1.")
]
ForceFetchOption = Annotated[bool, typer.Option("--force", help="Fetch again what is here.")]
ForceImportOption = Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A released checkpoint.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the result.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The new file.", show_default="beside FILE")
]


@app.command("list")
def list_entries(as_json: JsonOption = False) -> None:
    """List all weights: size, whether they are here, licence, and what they enable."""
    from latentsync.weights.hub import cache_folder, hub_cache_folder, survey, torch_hub_folder

    listed = survey()
    folders = {"cache": cache_folder(), "hub_cache": hub_cache_folder(), "torch_hub": torch_hub_folder()}
    if as_json:
        entries = [_listed_as_dict(entry) for entry in listed]
        console.show_json({**folders, "compact": "bundled", "models": entries})
        return
    _show_table(listed)
    console.say("folders: " + ", ".join(map(str, folders.values())))
    if any(entry.path is None for entry in listed):
        console.say("'latentsync models pull NAME' brings what is missing, and what it needs")


def _show_table(listed: list[Listed]) -> None:
    """A table on stdout as wide as the terminal; in a pipe, one line for each entry."""
    import sys

    from rich.console import Console
    from rich.table import Table

    folds = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, columns in TABLE.items():
        table.add_column(title, no_wrap=columns is None, max_width=columns if folds else None)
    table.add_row("compact", "", "present, bundled", "see its model card", "see its model card", SYNC)
    for entry in listed:
        table.add_row(*_row(entry))
    Console(width=None if folds else PIPE_COLUMNS, highlight=False, markup=False).print(table)


# Titles of the table, and at how many columns a cell is folded on a terminal at the latest.
TABLE = {"NAME": None, "SIZE": None, "STATE": 18, "LICENCE": 14, "COMMERCIAL USE": 10, "ENABLES": 80}
PIPE_COLUMNS = 400
SYNC = "sync without a download, for drafts"


@app.command()
def pull(
    names: NamesArgument,
    source: FromOption = None,
    offline: OfflineOption = False,
    force: ForceFetchOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch weights and all they need; what is here already stays."""
    from latentsync.weights.hub import pull as fetch

    report = console.make_report(quiet)
    try:
        pulled = fetch(names, report, source=source, is_offline=offline, is_forced=force)
    except KeyboardInterrupt:
        console.say("interrupted: files that are whole stay, and the same command fetches the rest")
        raise SystemExit(console.INTERRUPTED) from None
    if as_json:
        files = [
            {"name": file.entry, "path": file.path, "outcome": file.outcome, "sha256": file.sha256}
            for file in pulled
        ]
        console.show_json({"files": files})
        return
    for file in pulled:
        if file.outcome == "present" and not quiet:
            console.say(f"{file.entry}: is here already")
        console.wrote(file.path)


@app.command()
def verify(names: SomeNamesArgument = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Hash weights again and compare; exit code 6 if a file is not what it should be."""
    from latentsync.errors import WeightsError
    from latentsync.weights.hub import verify as check

    checked = check(names or [], console.make_report(quiet))
    if as_json:
        console.show_json({"files": [_verified_as_dict(file) for file in checked]})
    bad = [file for file in checked if file.fault]
    if not as_json:
        console.end_bars()
        for file in checked:
            print(f"{_verdict(file)}  {file.entry}  {file.path}")
    if not checked and not quiet:
        console.say("nothing is here yet: see 'latentsync models list'")
    if bad:
        raise WeightsError(
            "; ".join(f"{file.entry}: '{file.path}' {file.fault}" for file in bad),
            hint="; ".join(dict.fromkeys(file.remedy for file in bad)),
        )


@app.command()
def path(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Print where the files of weights are; exit code 6 if one is missing."""
    from latentsync.weights.hub import need

    found = {name: need(name) for name in names}
    if as_json:
        console.show_json({name: [str(file)] for name, file in found.items()})
        return
    for file in found.values():
        console.wrote(file)


@app.command()
def remove(names: NamesArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Delete the files of weights, also from the hub's cache, which other programs share."""
    from latentsync.weights.hub import remove as delete

    freed_bytes = delete(names, console.make_report(quiet))
    if as_json:
        console.show_json({"removed": list(freed_bytes), "freed_bytes": sum(freed_bytes.values())})
        return
    for gone in freed_bytes:
        console.wrote(gone)
    if not quiet:
        console.say(f"{sum(freed_bytes.values())} bytes freed")


@app.command("import")
def import_checkpoint(
    file: FileArgument,
    output: OutputOption = None,
    dtype: DtypeOption = "fp32",
    force: ForceImportOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a released checkpoint to this package's own format, strictly."""
    from latentsync.weights.convert import import_file

    result = import_file(file, dtype=dtype, output=output, is_forced=force)
    if as_json:
        console.show_json(result.as_dict())
        return
    for reason in dict.fromkeys(result.dropped.values()):
        keys = [key for key, why in result.dropped.items() if why == reason]
        console.say(f"{len(keys)} dropped, {keys[0]} first: {reason}")
    console.say(
        f"{result.kind} {result.version}: {result.keys} tensors, {len(result.renamed)} renamed (--json names"
        f" every key), {result.dtype}, {result.size_bytes / 1e6:.1f} MB; written to:"
    )
    console.wrote(result.output)


def _row(listed: Listed) -> tuple[str, ...]:
    entry = listed.entry
    return (
        entry.name,
        _size(listed),
        listed.state,
        entry.licence,
        entry.commercial_use,
        entry.enables,
    )


def _size(listed: Listed) -> str:
    if listed.size_bytes is None:
        return "unknown"
    in_gb = listed.size_bytes >= 1e9
    words = f"{listed.size_bytes / (1e9 if in_gb else 1e6):.1f} {'GB' if in_gb else 'MB'}"
    return words if listed.is_exact else f"~{words}"


def _listed_as_dict(listed: Listed) -> dict[str, object]:
    from latentsync.weights.hub import path_of

    entry = listed.entry
    return {
        "name": entry.name,
        "kind": entry.kind,
        "title": entry.title,
        "is_present": listed.path is not None,
        "state": listed.state,
        "size_bytes": listed.size_bytes,
        "size_is_exact": listed.is_exact,
        "licence": entry.licence,
        "commercial_use": entry.commercial_use,
        "enables": entry.enables,
        "needs": list(entry.needs),
        "files": [str(path_of(entry))],
    }


def _verified_as_dict(file: Verified) -> dict[str, object]:
    return {
        "name": file.entry,
        "path": str(file.path),
        "verdict": _verdict(file),
        "expected": file.expected,
        "found": file.found,
        "fault": file.fault,
        "remedy": file.remedy if file.fault else None,
    }


def _verdict(file: Verified) -> str:
    if file.found is None:
        return "missing"
    if file.fault:
        return "damaged"
    return "good" if file.expected else "unchecked"
