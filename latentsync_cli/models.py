"""`latentsync models`: list, download, verify, convert and remove weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import Dtype, JsonOption, QuietOption

if TYPE_CHECKING:
    from latentsync.weights.hub import Listed, Pulled, Verified

app = typer.Typer(
    help="List, download, verify, convert and remove weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME", help="See `latentsync models list`.")]
SomeNamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Default: all that are present.", show_default=False),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Copy from this folder instead of downloading."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Do not use the network, as with HF_HUB_OFFLINE=1.")
]
ForceFetchOption = Annotated[bool, typer.Option("--force", help="Download files that are present again.")]
ForceImportOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A released checkpoint.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the result.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="next to FILE")
]


@app.command("list")
def list_entries(as_json: JsonOption = False) -> None:
    """List all weights: size, state, licence, and what they are for."""
    from latentsync.weights.hub import cache_folder, hub_cache_folder, survey, torch_hub_folder

    listed = survey()
    folders = {"cache": cache_folder(), "hub_cache": hub_cache_folder(), "torch_hub": torch_hub_folder()}
    if as_json:
        entries = [_listed_as_dict(entry) for entry in listed]
        console.show_json({**folders, "compact": "bundled", "models": entries})
        return
    rows = [
        ("compact", "", "present, bundled", "see its model card", "see its model card", SYNC),
        *map(_row, listed),
    ]
    console.table("weights", rows, columns=COLUMNS)
    console.print_message("folders: " + ", ".join(map(str, folders.values())))
    if any(entry.path is None for entry in listed):
        console.print_message("'latentsync models pull NAME' downloads what is missing and what it needs")


COLUMNS = ("name", "size", "state", "licence", "commercial use", "enables")
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
    """Download weights and all they need. Files that are present are kept."""
    from latentsync.weights.hub import pull as fetch

    report = console.make_report(quiet)
    try:
        pulled = fetch(names, report, source=source, is_offline=offline, is_forced=force)
    except KeyboardInterrupt:
        console.print_message("interrupted: finished files are kept; run the same command to get the rest")
        raise SystemExit(console.INTERRUPTED) from None
    console.show(
        {"files": [_pulled_as_dict(file) for file in pulled]},
        as_json=as_json,
        quiet=quiet,
        words=[f"{file.entry}: already present" for file in pulled if file.outcome == "present"],
        paths=[file.path for file in pulled],
    )


@app.command()
def verify(names: SomeNamesArgument = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Check files by their SHA-256. Exit code 6 if one is missing or wrong."""
    from latentsync.errors import WeightsError
    from latentsync.weights.hub import verify as check

    checked = check(names or [], console.make_report(quiet))
    bad = [file for file in checked if file.fault]
    console.show(
        {"files": [_verified_as_dict(file) for file in checked]},
        as_json=as_json,
        quiet=quiet,
        words=[] if checked else ["no weights are present: see 'latentsync models list'"],
        text=[f"{_verdict(file)}  {file.entry}  {file.path}" for file in checked],
    )
    if bad:
        raise WeightsError(
            "; ".join(f"{file.entry}: '{file.path}' {file.fault}" for file in bad),
            hint="; ".join(dict.fromkeys(file.remedy for file in bad)),
        )


@app.command()
def path(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Print the paths of weights. Exit code 6 if one is missing."""
    from latentsync.weights.hub import need

    found = {name: need(name) for name in names}
    console.show(
        {name: [str(file)] for name, file in found.items()}, as_json=as_json, paths=list(found.values())
    )


@app.command()
def remove(names: NamesArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Delete weights. Files in the Hugging Face cache are gone for other programs, too."""
    from latentsync.weights.hub import remove as delete

    freed_bytes = delete(names, console.make_report(quiet))
    total_bytes = sum(freed_bytes.values())
    console.show(
        {"removed": list(freed_bytes), "freed_bytes": total_bytes},
        as_json=as_json,
        quiet=quiet,
        words=[f"{total_bytes} bytes freed"],
        paths=list(freed_bytes),
    )


@app.command("import")
def import_checkpoint(
    file: FileArgument,
    output: OutputOption = None,
    dtype: DtypeOption = "fp32",
    force: ForceImportOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a released checkpoint to this package's format. An unknown or missing key is an error."""
    from latentsync.weights.convert import import_file

    result = import_file(file, dtype=dtype, output=output, is_forced=force)
    reasons: dict[str, list[str]] = {}
    for key, reason in result.dropped.items():
        reasons.setdefault(reason, []).append(key)
    console.show(
        result.as_dict(),
        as_json=as_json,
        words=[
            *(f"{len(keys)} dropped, {keys[0]} first: {reason}" for reason, keys in reasons.items()),
            f"{result.kind} {result.version}: {result.keys} tensors, {len(result.renamed)} renamed (--json"
            f" names every key), {result.dtype}, {result.size_bytes / 1e6:.1f} MB; written to:",
        ],
        paths=[result.output],
    )


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


def _pulled_as_dict(file: Pulled) -> dict[str, object]:
    return {"name": file.entry, "path": file.path, "outcome": file.outcome, "sha256": file.sha256}


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
