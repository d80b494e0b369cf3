"""Flags that more than one command takes, so that each is spelt and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

# The same choices as in latentsync.runtime, which would load torch: mypy compares them.
Dtype = Literal["fp32", "fp16", "bf16"]
AutoDtype = Literal["auto", "fp32", "fp16", "bf16"]
Engine = Literal["local", "ray"]

DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; auto takes CUDA, then MPS, then the CPU."
    ),
]
DevicesOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps; auto takes CUDA, then MPS, then the CPU. "
        "cuda:0,cuda:1 shares one video between two.",
    ),
]
DtypeOption = Annotated[
    AutoDtype,
    typer.Option(
        help="Number format; auto: fp16 on CUDA and MPS; on the CPU bf16 or fp32, whichever is faster."
    ),
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
    str, typer.Option("--recipe", metavar="NAME|PATH", help="A recipe file, or the name of a bundled one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable."),
]
EngineOption = Annotated[
    Engine,
    typer.Option(help="local: processes on this machine; ray: a Ray cluster, or a new one on this machine."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The Ray cluster.", show_default="a new one on this machine"),
]
LimitOption = Annotated[
    float, typer.Option(metavar="S", min=1.0, help="Give up on a video after this many seconds.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write a report of the run to this JSON file.")
]
