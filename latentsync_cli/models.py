"""`latentsync models`: what weights there are, fetching, checking, converting and removing them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from latentsync.weights.catalog import WeightsEntry
    from latentsync.weights.inventory import Listed, Verified

INTERRUPTED = 130

app = typer.Typer(
    help="Weights: list, fetch, check, convert and remove them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class ImportDtype(StrEnum):
    """The number format of an imported file."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


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
ForceFetchOption = Annotated[
    bool, typer.Option("--force", help="Fetch again, and forget hashes that were only recorded here.")
]
ForceImportOption = Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A released checkpoint.")]
DtypeOption = Annotated[ImportDtype, typer.Option(help="Number format of the result.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The new file.", show_default="beside FILE")
]


@app.command("list")
def list_entries(as_json: JsonOption = False) -> None:
    """List all weights: size, whether they are here, licence, and what they enable."""
    from latentsync.weights.cache import cache_folder, torch_hub_folder
    from latentsync.weights.inventory import survey

    listed = survey()
    if as_json:
        entries = [_listed_as_dict(entry) for entry in listed]
        console.show_json(
            {
                "cache": cache_folder(),
                "torch_hub": torch_hub_folder(),
                "compact": "bundled",
                "models": entries,
            }
        )
        return
    rows = [
        ("NAME", "SIZE", "STATE", "LICENCE", "COMMERCIAL USE", "ENABLES"),
        ("compact", "", "present, inside the package", "see its model card", "see its model card", SYNC),
        *(_row(entry) for entry in listed),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    console.say(f"cache: {cache_folder()}; for other packages: {torch_hub_folder()}")
    if any(not entry.is_present for entry in listed):
        console.say("'latentsync models pull NAME' brings what is missing, and what it needs")


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
    """Fetch weights and all they need; continues what was interrupted, and leaves alone what is here."""
    from latentsync.weights.hub import Pull
    from latentsync.weights.hub import pull as fetch

    how = Pull(source=source, is_offline=offline, is_forced=force)
    try:
        pulled = fetch(names, how, console.make_report(quiet))
    except KeyboardInterrupt:
        console.say("interrupted: what came so far stays, and the same command continues it")
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        files = [
            {"name": file.entry, "path": file.path, "outcome": file.outcome, "sha256": file.sha256}
            for file in pulled
        ]
        console.show_json({"files": files})
        return
    for file in pulled:
        if file.outcome == "present" and not quiet:
            console.say(f"{file.entry}: is here already, and verified")
        console.wrote(file.path)


@app.command()
def verify(names: SomeNamesArgument = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Hash weights again and compare; exit code 6 if a file is not what it should be."""
    from latentsync.errors import WeightsError
    from latentsync.weights.inventory import verify as check

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
    from latentsync.weights.cache import need, path_of
    from latentsync.weights.catalog import find_entry

    entries = [find_entry(name) for name in names]
    for entry in entries:
        need(entry.name)
    found = {entry.name: [path_of(file) for file in entry.files] for entry in entries}
    if as_json:
        console.show_json({name: [str(file) for file in files] for name, files in found.items()})
        return
    for file in (file for files in found.values() for file in files):
        console.wrote(file)


@app.command()
def remove(names: NamesArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Delete the files of weights, but for those that others which are here use too."""
    from latentsync.weights.inventory import remove as delete

    done = delete(names, console.make_report(quiet))
    if as_json:
        console.show_json({"removed": done.removed, "kept": done.kept, "freed_bytes": done.freed_bytes})
        return
    for kept in done.kept:
        console.say(f"kept, other weights use it: {kept}")
    for gone in done.removed:
        console.wrote(gone)
    if not quiet:
        console.say(f"{done.freed_bytes} bytes freed")


@app.command("import")
def import_checkpoint(
    file: FileArgument,
    output: OutputOption = None,
    dtype: DtypeOption = ImportDtype.fp32,
    force: ForceImportOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a released checkpoint to this package's own format, strictly."""
    from latentsync.weights.convert import import_file

    result = import_file(file, dtype=dtype.value, output=output, is_forced=force)
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
    entry = listed.entry
    return {
        "name": entry.name,
        "kind": entry.kind,
        "title": entry.title,
        "is_present": listed.is_present,
        "state": listed.state,
        "size_bytes": listed.size_bytes,
        "size_is_exact": listed.is_exact,
        "licence": entry.licence,
        "commercial_use": entry.commercial_use,
        "enables": entry.enables,
        "needs": list(entry.needs),
        "files": _paths(entry),
    }


def _paths(entry: WeightsEntry) -> list[str]:
    from latentsync.weights.cache import path_of

    return [str(path_of(file)) for file in entry.files]


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
    return "good" if file.expected else "recorded"
