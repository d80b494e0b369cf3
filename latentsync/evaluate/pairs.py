"""Which clips are evaluated: the pairs of a set or of a list, and which file of a method belongs to which."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentsync.errors import MediaError, UsageError
from latentsync.files import open_regular
from latentsync.media.folder import find_videos
from latentsync.recipe.evaluate import SetRecipe, Setting
from latentsync.recipe.loading import bundled_names, load_recipe
from latentsync.runtime import integer_from

COLUMNS = ("video", "speech", "name", "speaker_video", "generated")
EXACT, PREFIX = 0, 1  # how well the name of a file fits
_NEEDED = COLUMNS[:2]
_MOST_BYTES = 16 << 20  # of a list: hundreds of thousands of pairs
_SHOWN = 80  # characters of a name in a message
_LONGEST_NAME = 200  # characters: with a suffix it must fit into the name of a file
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f]+')


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One video and the speech that its mouth is to follow.

    name       how the files of methods are called; unique within its setting
    video      whose mouth is changed, and the reference for everything but the speech
    sound      the file with the speech of `video` itself
    speech     the file with the speech of the generated video; equals `sound` in reconstruction
    speaker    the video that `speech` comes from; None if only its audio is known
    generated  a finished video that the list names
    length_s   only the first seconds are used; None: all
    """

    name: str
    setting: Setting
    video: Path
    sound: Path
    speech: Path
    speaker: Path | None = None
    generated: Path | None = None
    length_s: float | None = None


def load_set(name: str) -> SetRecipe:
    """Read the bundled set of that name, or the file at that path.

    Raises:
        UsageError: there is neither.
        RecipeError: it is not a set.
    """
    sets = [recipe.removeprefix("sets/") for recipe in bundled_names() if recipe.startswith("sets/")]
    if name not in sets and not Path(name).is_file():
        raise UsageError(
            f"no set is called '{name}'", hint=f"give {', '.join(sets)}, or the path of a set's TOML file"
        )
    return load_recipe(f"sets/{name}" if name in sets else name, SetRecipe)


def pairs_of_set(recipe: SetRecipe, data: Path) -> list[Pair]:
    """Choose the clips of a set and pair them, in the order of their names.

    A clip's rank is the hash of seed and name, so a missing video does not change which others are taken.
    In the cross setting a clip gets the speech of the next one by rank, the last one that of the first.

    Raises:
        MediaError: there is no data.
    """
    if not data.is_dir():
        raise MediaError(f"'{data}': the videos of {recipe.title} are missing", hint=_how_to_get(recipe))
    found = find_videos(data).videos
    matching = {path.relative_to(data).as_posix() for path in data.glob(recipe.files)}
    names = _choose(recipe, [name for name in found if name in matching])
    if not names:
        raise MediaError(
            f"'{data}': contains no video that matches '{recipe.files}'", hint=_how_to_get(recipe)
        )
    flat = {name: _flat(name) for name in names}
    pairs = []
    for index, name in enumerate(names):
        sound = _sound_of(recipe, data, name)
        if "reconstruction" in recipe.settings:
            pairs.append(
                Pair(
                    name=flat[name],
                    setting="reconstruction",
                    video=found[name],
                    sound=sound,
                    speech=sound,
                    speaker=found[name],
                    length_s=recipe.length_s,
                )
            )
        other = names[(index + 1) % len(names)]
        if "cross" in recipe.settings and other != name:
            pairs.append(
                Pair(
                    name=f"{flat[name]}_{flat[other]}",
                    setting="cross",
                    video=found[name],
                    sound=sound,
                    speech=_sound_of(recipe, data, other),
                    speaker=found[other],
                    length_s=recipe.length_s,
                )
            )
    return _in_order(pairs)


def read_pairs(file: Path, *, data: Path | None = None) -> list[Pair]:
    """Read a CSV with the columns video, speech and, if wanted, name, speaker_video and generated.

    A pair whose speech is its own video, or whose speaker is, is reconstruction; every other one is cross.
    Without a name, a pair is called after its video.

    Args:
        file: the list, UTF-8.
        data: the folder that relative paths begin in; None: that of `file`.

    Raises:
        MediaError: it cannot be read.
        UsageError: a column or a value is missing, unknown or given twice.
    """
    folder = data or file.parent
    pairs = [_pair_of_row(row, line, file, folder) for line, row in _rows(file)]
    if not pairs:
        raise UsageError(
            f"'{file}': lists no pair", hint=f"add one line per pair below the header {','.join(COLUMNS)}"
        )
    counts = Counter((pair.setting, pair.name) for pair in pairs)
    twice = [name for (_, name), count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            f"'{file}': the name '{twice[0]}' is given twice", hint="give each pair its own in column 'name'"
        )
    return _in_order(pairs)


@dataclass(frozen=True, slots=True)
class Made:
    """A method's video of a pair, or why there is none."""

    method: str
    path: Path | None
    reason: str = ""


def match_files(pairs: Sequence[Pair], folder: Path, *, method: str) -> dict[tuple[Setting, str], Made]:
    """Find the finished video of every pair in a method's folder, by (setting, name).

    Looked up in `folder/SETTING`, else in `folder`: NAME.mp4 or another suffix of a video, else the only
    file whose name begins with NAME and then one of `_ - + . #`. A file belongs to the longest name that
    fits. It may also be named after the video and the speech: VIDEO_SPEECH.mp4.

    Raises:
        MediaError: the folder cannot be read.
    """
    if not folder.is_dir():
        raise MediaError(f"'{folder}': no such folder", hint="name the folder of finished videos")
    matched: dict[tuple[Setting, str], Made] = {}
    for setting in sorted({pair.setting for pair in pairs}):
        own = folder / setting
        used = own if own.is_dir() else folder
        files = [path for path in find_videos(used).videos.values() if path.parent == used]
        rivals = [pair for pair in pairs if pair.setting == setting or not own.is_dir()]
        claims = _claims(rivals, files)
        for pair in (pair for pair in pairs if pair.setting == setting):
            matched[setting, pair.name] = _choose_file(method, claims[setting, pair.name], used)
    return matched


def _claims(
    pairs: Sequence[Pair], files: Iterable[Path]
) -> dict[tuple[Setting, str], list[tuple[int, Path]]]:
    """For each pair the files that belong to it, with EXACT for a name that is its own, else PREFIX."""
    claims: dict[tuple[Setting, str], list[tuple[int, Path]]] = defaultdict(list)
    names: dict[str, tuple[Setting, str]] = {}
    for pair in pairs:
        for name in (f"{pair.video.stem}_{pair.speech.stem}", pair.name):
            names[name] = pair.setting, pair.name
    for path in sorted(files):
        stem = path.stem
        if stem in names:
            claims[names[stem]].append((EXACT, path))
            continue
        cuts = (match.start() for match in re.finditer(r"[-_+.#]", stem))
        fitting = [stem[:cut] for cut in cuts if stem[:cut] in names]
        if fitting:
            claims[names[max(fitting, key=len)]].append((PREFIX, path))
    return claims


def _choose_file(method: str, claims: list[tuple[int, Path]], folder: Path) -> Made:
    if not claims:
        return Made(method, None, f"no video of that name in '{folder}'")
    best = min(rank for rank, _ in claims)
    paths = [path for rank, path in claims if rank == best]
    if len(paths) > 1:
        names = f"{paths[0].name}, {paths[1].name}"
        return Made(method, None, f"several videos of that name in '{folder}': {names}")
    return Made(method, paths[0])


def _choose(recipe: SetRecipe, names: Iterable[str]) -> list[str]:
    """The chosen names, by rank."""
    # By hash: where a video is missing another takes its place, and the rest of the set stays.
    ranked = sorted(names, key=lambda name: integer_from(f"{recipe.seed}/{name}"))
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    for name in ranked:
        person = re.search(recipe.person, name.rsplit(".", 1)[0])
        who = person[1] if person else name
        if recipe.per_person is not None and taken[who] >= recipe.per_person:
            continue
        taken[who] += 1
        chosen.append(name)
        if len(chosen) == recipe.clips:
            break
    return chosen


def _flat(name: str) -> str:
    """A path within the data as one file name without a suffix."""
    parts = name.rsplit(".", 1)[0].split("/")
    return "_".join(parts[1:] if parts[0] == "mp4" and len(parts) > 1 else parts)


def _sound_of(recipe: SetRecipe, data: Path, name: str) -> Path:
    """The file with the audio of a video: the one that `recipe.sound` leads to, else the video itself."""
    path = name
    for part, other in recipe.sound.items():
        path = path.replace(part, other)
    return data / path if (data / path).is_file() else data / name


def _how_to_get(recipe: SetRecipe) -> str:
    parts = [
        recipe.source,
        f"licence: {recipe.licence}" * bool(recipe.licence),
        f"layout: {recipe.layout}" * bool(recipe.layout),
        "or name another folder with --data",
    ]
    return "; ".join(part for part in parts if part)


def _in_order(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (pair.setting != "reconstruction", pair.name))


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows by column, each with the number of its line."""
    try:
        with open_regular(file, most_bytes=_MOST_BYTES) as stream:
            # -sig: spreadsheets write a byte order mark, which would become part of the first column's name.
            text = stream.read(_MOST_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise MediaError(f"'{file}': cannot be read ({error.strerror})", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise MediaError(f"'{file}': is not UTF-8 text", hint="save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"'{file}': is not a CSV ({error})", hint="check its quotes") from error
    columns = [column.strip() for column in reader.fieldnames or ()]
    missing = [column for column in _NEEDED if column not in columns]
    unknown = [column for column in columns if column not in COLUMNS]
    if missing or unknown:
        fault = f"no column '{missing[0]}'" if missing else f"unknown column '{unknown[0][:_SHOWN]}'"
        raise UsageError(
            f"'{file}': {fault}", hint=f"the first line must name columns from {', '.join(COLUMNS)}"
        )
    return [(line, _stripped(row, line, file)) for line, row in rows]


def _stripped(row: Mapping[str | None, str | list[str] | None], line: int, file: Path) -> dict[str, str]:
    if None in row:
        raise UsageError(
            f"'{file}', line {line}: more values than columns", hint='put a value with a comma in "quotes"'
        )
    return {
        key.strip(): (value if isinstance(value, str) else "").strip() for key, value in row.items() if key
    }


def _pair_of_row(row: dict[str, str], line: int, file: Path, folder: Path) -> Pair:
    for column in _NEEDED:
        if not row.get(column):
            raise UsageError(
                f"'{file}', line {line}: '{column}' is empty", hint="fill it in, or drop the line"
            )
    name = row.get("name") or Path(row["video"]).stem
    if _FORBIDDEN.search(name) or name.startswith(".") or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"'{file}', line {line}: '{name[:_SHOWN]}' cannot be used as a file name",
            hint="use letters, digits, - and _",
        )
    video, speech = folder / row["video"], folder / row["speech"]
    speaker = folder / row["speaker_video"] if row.get("speaker_video") else None
    is_own = speech == video or speaker == video
    return Pair(
        name=name,
        setting="reconstruction" if is_own else "cross",
        video=video,
        sound=speech if is_own else video,
        speech=speech,
        speaker=video if is_own else speaker,
        generated=folder / row["generated"] if row.get("generated") else None,
    )
