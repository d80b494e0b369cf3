"""What an evaluation set and the recipe of `latentsync evaluate` hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from latentsync.recipe.schema import Count, Duration, PatternOfOneGroup, Recipe, Seed, Table

Setting = Literal["reconstruction", "cross"]
SETTINGS: tuple[Setting, ...] = ("reconstruction", "cross")


class Preparing(Table):
    """How videos become what the metrics see: aligned crops at 25 fps.

    min_s      shorter clips are excluded
    longest_s  longer clips are cut, so that memory is bounded; a set may cut earlier
    silent_db  speech that is never louder than this, relative to full scale, counts as silent
    min_share  of the frames that must show a face; where fewer do, the clip is excluded
    """

    resolution: Annotated[int, Field(ge=64, le=1024, multiple_of=8)]
    min_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    longest_s: Annotated[float, Field(gt=0, le=600)]
    detect_every_frames: Count
    smoothing_s: Duration
    max_gap_frames: Annotated[int, Field(ge=0, le=12)]
    silent_db: Annotated[float, Field(le=0, allow_inf_nan=False)]
    min_share: Annotated[float, Field(gt=0, le=1)]


class Intervals(Table):
    """Confidence intervals by bootstrap over clips.

    set_resamples  for metrics of a whole set, such as FVD; 0 leaves their intervals out
    widest         features with more numbers than this get no interval: one of FID takes hours
    """

    set_resamples: Annotated[int, Field(ge=0, le=10_000)]
    widest: Count


class JudgingSyncNet(Table):
    """`--syncnet`: how many pairs are drawn, and above which cosine frames and speech count as a match."""

    pairs: Count
    threshold: Annotated[float, Field(ge=-1, le=1)]
    max_shift_frames: Annotated[int, Field(ge=1, le=31)]


class EvaluateRecipe(Recipe):
    """`latentsync evaluate`."""

    kind: ClassVar[str] = "evaluate"
    base: ClassVar[str | None] = "evaluate"

    prepare: Preparing
    intervals: Intervals
    syncnet: JudgingSyncNet


class PaperRow(Table):
    """What a paper states for a method on this set; `values` by the name of the number in our table."""

    method: str
    values: dict[str, float]


class SetRecipe(Recipe):
    """A set of test clips: which ones, where they are from, and which speech they get.

    title         for people
    data          folder of the videos, under `data/` unless `--data` names another
    files         pattern of the videos within that folder
    clips         how many are chosen; None: all
    per_person    the most clips of one person; None: no limit
    person        a regular expression with one group, searched for in the path without its suffix
    length_s      only the first seconds of each clip are used; None: all
    settings      reconstruction: its own speech; cross: the speech of the next chosen clip
    sound         what to replace in a video's path to find its audio, if that is in another file
    layout        how the folder looks
    source        where to get the videos
    licence       under what
    paper_source  where the paper's numbers are from
    paper_settings  which settings each of the paper's numbers is shown beside
    """

    kind: ClassVar[str] = "set"

    seed: Seed = 1247
    title: str
    data: str
    files: str = "**/*.mp4"
    clips: Count | None = None
    per_person: Count | None = None
    person: PatternOfOneGroup = "^(.*)$"
    length_s: Annotated[float, Field(gt=0, le=600)] | None = None
    settings: tuple[Setting, ...] = Field(SETTINGS, strict=False, min_length=1)
    sound: dict[str, str] = Field(default_factory=dict)
    layout: str = ""
    source: str = ""
    licence: str = ""
    paper_source: str = ""
    paper_settings: dict[str, tuple[Setting, ...]] = Field(default_factory=dict, strict=False)
    paper: tuple[PaperRow, ...] = Field((), strict=False)
