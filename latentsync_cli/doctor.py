"""`latentsync doctor`: what works here, what will run, and how to fix the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from latentsync_cli import console
from latentsync_cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from latentsync.doctor import Ability, Check, DoctorResult

NOT_READY = 1


def doctor(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Check what works on this machine, which commands will run, and how to fix the rest."""
    from latentsync.doctor import DoctorJob, run

    result = run(DoctorJob(), console.make_report(quiet))
    if as_json:
        console.show_json(result.as_dict())
    else:
        _draw(result)
    if not result.is_ready:
        raise typer.Exit(NOT_READY)


def _draw(result: DoctorResult) -> None:
    """A table for each group of checks, and one for the commands."""
    console.end_bars()
    for group in dict.fromkeys(check.group for check in result.checks):
        rows = [row for check in result.checks if check.group == group for row in _check_rows(check)]
        console.table(group, rows)
        print()
    console.table("what will run", [row for ability in result.abilities for row in _ability_rows(ability)])


def _check_rows(check: Check) -> list[tuple[str, str, str]]:
    if check.state == "ok":
        return [(check.state, check.name, check.found)]
    found = f"{check.found}; for {check.enables}" if check.enables else check.found
    return _with_remedy((check.state, check.name, found), check.remedy)


def _ability_rows(ability: Ability) -> list[tuple[str, str, str]]:
    row = ("yes" if ability.will_run else "no", ability.command, ability.reason)
    return _with_remedy(row, "" if ability.will_run else ability.remedy)


def _with_remedy(row: tuple[str, str, str], remedy: str) -> list[tuple[str, str, str]]:
    return [row, ("", "", f"-> {remedy}")] if remedy else [row]
