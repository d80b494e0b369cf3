"""Flags that more than one command takes, so that each is spelt and explained once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(StrEnum):
    """The number format of the networks."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


DeviceOption = Annotated[
    Device, typer.Option(help="Where networks run; auto takes CUDA, then MPS, then the CPU.")
]
DtypeOption = Annotated[
    Dtype, typer.Option(help="Number format; auto is fp16 on CUDA and MPS, fp32 on the CPU.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        envvar="LATENTSYNC_MODEL",
        metavar="NAME|PATH",
        help="The model: a name such as compact, or a file or folder of weights.",
        show_default="compact",
    ),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", metavar="NAME|PATH", help="A recipe file, or the name of a shipped one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No plan, no progress bar; warnings and errors stay.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write what was done, with its numbers, to this JSON file.")
]
