"""`latentsync doctor`: what works here, what will run, and what mends the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from latentsync_cli import console
from latentsync_cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from latentsync.doctor import Ability, Check, DoctorResult

NOT_READY = 1
COLUMN = 28  # where what was found begins


def doctor(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Say what works on this machine, what will run, and the command that mends each fault."""
    from latentsync.doctor import DoctorJob, run

    result = run(DoctorJob(), console.make_report(quiet))
    if as_json:
        console.show_json(result.as_dict())
    else:
        console.end_bars()
        print("\n".join(_lines(result)))
    if not result.is_ready:
        raise typer.Exit(NOT_READY)


def _lines(result: DoctorResult) -> list[str]:
    lines = []
    for group in dict.fromkeys(check.group for check in result.checks):
        lines += ["", group]
        for check in result.checks:
            lines += _check_lines(check) if check.group == group else []
    lines += ["", "what will run"]
    for ability in result.abilities:
        lines += _ability_lines(ability)
    return lines[1:]


def _check_lines(check: Check) -> list[str]:
    line = f"  {check.state:8} {check.name:{COLUMN}} {check.found}"
    if check.state == "ok":
        return [line]
    lines = [f"{line}; for {check.enables}" if check.enables else line]
    return lines + ([_remedy(check.remedy)] if check.remedy else [])


def _ability_lines(ability: Ability) -> list[str]:
    line = f"  {'yes' if ability.will_run else 'no':8} {ability.command}: {ability.reason}"
    return [line] if ability.will_run or not ability.remedy else [line, _remedy(ability.remedy)]


def _remedy(command: str) -> str:
    return f"{'':{COLUMN + 12}}-> {command}"
