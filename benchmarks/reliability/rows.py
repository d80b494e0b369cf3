"""Runs the installed command on a folder of inputs that went wrong once, and compares what it makes and says.

    python benchmarks/reliability/rows.py CASES --work DIR [--rows NAME ...] [--json FILE]

CASES holds the files that `ROWS` names; a row is right if the exit code, the words and the result's facts are
those that are listed. The last frame of each result is saved as a picture in DIR, to be looked at. Linux.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances, latentsync_command, measure

from latentsync.media.probe import probe
from latentsync.media.read import measure_video, read_frames
from latentsync.media.sound import read_audio

RESULTS = Path(__file__).parents[1] / "results" / "rows.json"
LIMIT_S, MOST_MB = 900.0, 1500.0
USAGE, MEDIA, WEIGHTS = 2, 4, 6


@dataclass(frozen=True, slots=True)
class Row:
    """What is run, with {cases} and {work} in its words, and what is right.

    code    exit code
    says    must be in what it prints
    frames  of the result, at least and at most; None: there is no result
    facts   of the result's video stream
    """

    line: str
    code: int = 0
    says: tuple[str, ...] = ()
    frames: tuple[int, int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def synced(video: str, speech: str, frames: int, *says: str, more: str = "", **facts: Any) -> Row:
    line = f"sync {{cases}}/{video} {{cases}}/{speech} -o {{work}}/out.mp4 --force --effort draft {more}"
    return Row(line, says=says, frames=(frames, frames + 2), facts={"pix_fmt": "yuv420p", **facts})


def refused(line: str, code: int, *says: str) -> Row:
    return Row(line, code, says)


VIDEO, SPEECH = "video.mp4", "speech.wav"
SPOKEN = "sync {cases}/video.mp4 {cases}/faults/"
ROWS = {
    "A1": synced(VIDEO, "A1_browser_voice.webm", 63),
    "A2": synced("A2_browser_video.webm", SPEECH, 63),
    "A2 video": synced("A2_browser_video.webm", SPEECH, 50, more="--duration video"),
    "A6": synced(VIDEO, "A6_piped_vbr_short.mp3", 63),
    "A7": synced("A7_animated.png", SPEECH, 32, fps=12.5),
    "A8": synced("A8_raw.h264", SPEECH, 63),
    "A8 video": synced("A8_raw.h264", SPEECH, 50, more="--duration video"),
    "B1": synced("B1_phone.jpg", SPEECH, 63),
    "B2": synced("B2_phone_turned.jpg", SPEECH, 63),
    "C1": synced(VIDEO, "C1_second_track_is_default.mka", 63, "number 1 is used", "--audio-track"),
    "D1": synced(VIDEO, "D1_voice_with_gaps.webm", 92),
    "D2": synced(VIDEO, "D2_out_of_phase.wav", 63, "cancel out"),
    "D3": synced("D3_one_fps.mp4", SPEECH, 63, "--keep-fps", fps=25),
    "D4": synced("D4_frozen_screen_recording.mp4", SPEECH, 63, "--keep-fps", fps=25),
    "E2": synced("E2_anamorphic_4_3.mp4", SPEECH, 63, pixel_aspect=4 / 3),
    "E3": synced("E3_odd.png", SPEECH, 63),
    "E4": synced("E4_cut_out.png", SPEECH, 63, "on white"),
    "E6": synced("E6_interlaced.ts", SPEECH, 63),
    "E7": synced("E7_caption_over_mouth.mp4", SPEECH, 63),
    "E8": synced("E8_hdr10.mp4", SPEECH, 63, "tone-mapped", color_trc=1),
    "G1": synced("G1_dim.mp4", SPEECH, 63),
    "F01": synced("faults/F01_exif.jpg", SPEECH, 63),
    "F02": refused(f"{SPOKEN}F02_unknown_audio_tag.wav -o {{work}}/out.mp4", MEDIA, "cannot be decoded"),
    "F03": synced(VIDEO, "faults/F03_int32_scaled_float.wav", 25, "scaled down"),
    "F04": synced(VIDEO, "faults/F04_one_nan.wav", 25, "NaN"),
    "F05": refused(f"{SPOKEN}F05_255_channels.wav -o {{work}}/out.mp4", MEDIA, "F05_255_channels.wav"),
    "F06": refused(f"{SPOKEN}F06_rate_1hz.wav -o {{work}}/out.mp4", MEDIA, "1 Hz"),
    "F07": synced(VIDEO, "faults/F07_late_audio.flv", 350),
    "F08": synced("faults/F08_twice.mpg", SPEECH, 63),
    "F09": refused(
        "sync {cases}/faults/F09_fps_4194303.mp4 {cases}/speech.wav --dry-run", MEDIA, "frames a second"
    ),
    "F10": refused(
        "sync {cases}/video.mp4 {cases}/speech.wav -o {work}/out.mp4 "
        "--model {cases}/faults/F10_bytearray_3GiB.pt",
        WEIGHTS,
        "F10_bytearray_3GiB.pt",
    ),
    "F11": refused(
        "sync {cases}/video.mp4 {cases}/speech.wav -o {work}/out.mp4 "
        "--model {cases}/faults/F11_whisper_pickle_named.safetensors",
        WEIGHTS,
        "F11_whisper_pickle_named.safetensors",
    ),
    "F12 path": refused(
        "train-syncnet --data {cases}/faults/F12_manifest_types/clip_type.parquet -o {work}/run --dry-run",
        MEDIA,
        "clip_type.parquet",
    ),
    "F12 sha256": refused(
        "train-syncnet --data {cases}/faults/F12_manifest_types/sha256_int.parquet -o {work}/run --dry-run",
        MEDIA,
        "sha256_int.parquet",
    ),
    "F13 key": refused("preprocess --summary {work}/F13_log_no_key", MEDIA, "line 1"),
    "F13 decisions": refused("preprocess --summary {work}/F13_log_no_decisions", MEDIA, "line 1"),
    "F14": refused(
        "evaluate --pairs {cases}/faults/F14_pairs_long_field.csv", USAGE, "F14_pairs_long_field.csv"
    ),
    **{
        f"toml {kind}": refused(
            f"sync {{cases}}/video.mp4 {{cases}}/speech.wav -o {{work}}/out.mp4 "
            f"--recipe {{cases}}/faults/toml_{kind}.toml",
            3,
            f"toml_{kind}.toml",
        )
        for kind in ("bigint", "deep", "dots")
    },
}


def lay_out_logs(cases: Path, work: Path) -> None:
    """The logs of `preprocess` lie in folders of their own, where it looks for them."""
    for name in ("F13_log_no_key", "F13_log_no_decisions"):
        folder = work / name / "log"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(cases / "faults" / f"{name}.jsonl", folder / "shard-1-of-1.jsonl")


def facts_of(out: Path) -> dict[str, Any]:
    """What the stream of pictures and the sound of a result are."""
    info, sound = measure_video(out), probe(out).audio
    return {
        "frames": info.frames,
        "fps": float(info.fps),
        "size": [info.width, info.height],
        "pix_fmt": info.pix_fmt,
        "pixel_aspect": float(info.pixel_aspect),
        "color_trc": info.color_trc,
        "pictures_s": round(info.duration_s, 3),
        "sound_s": None if sound is None else round(read_audio(out).duration_s, 3),
    }


def wrongs(row: Row, code: int, text: str, facts: dict[str, Any]) -> list[str]:
    """What is not as the row says."""
    found = [] if code == row.code else [f"exit code {code}, not {row.code}"]
    joined = " ".join(text.split())
    found += [f"does not say '{words}'" for words in row.says if words not in joined]
    found += ["has a traceback"] * ("Traceback" in text)
    if row.frames is None:
        return found + ["makes a file"] * bool(facts)
    if not facts:
        return [*found, "makes no file"]
    if not row.frames[0] <= facts["frames"] <= row.frames[1]:
        found.append(f"{facts['frames']} frames, not {row.frames[0]} to {row.frames[1]}")
    if facts["sound_s"] is None or abs(facts["sound_s"] - facts["pictures_s"]) > 2 / facts["fps"]:
        found.append(f"sound of {facts['sound_s']} s beside {facts['pictures_s']} s")
    is_near = {
        name: abs(facts[name] - value) < 0.01 for name, value in row.facts.items() if name != "pix_fmt"
    }
    is_near["pix_fmt"] = facts["pix_fmt"] == row.facts["pix_fmt"]
    return found + [f"{name} is {facts[name]}" for name, is_right in is_near.items() if not is_right]


def run_row(name: str, row: Row, cases: Path, work: Path) -> dict[str, Any]:
    """Run one row and keep its last frame as a picture."""
    out = work / "out.mp4"
    out.unlink(missing_ok=True)
    words = row.line.format(cases=cases, work=work).split()
    ran = measure([latentsync_command(), *words], limit_s=LIMIT_S)
    facts = facts_of(out) if out.exists() else {}
    if facts:
        *_, last = read_frames(out)
        cv2.imwrite(str(work / f"{name.replace(' ', '_')}.png"), cv2.cvtColor(last.rgb_u8, cv2.COLOR_RGB2BGR))
    found = wrongs(row, ran.exit_code, ran.stdout + ran.stderr, facts)
    if ran.peak_mb > MOST_MB:
        found.append(f"{ran.peak_mb:.0f} MB")
    return {
        "wrong": found,
        "code": ran.exit_code,
        "processor_s": round(ran.processor_s, 1),
        "peak_mb": round(ran.peak_mb),
        **facts,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    lay_out_logs(arguments.cases, arguments.work)
    result: dict[str, Any] = {"circumstances": circumstances(), "rows": {}}
    if arguments.json.exists():  # further rows are added
        result["rows"] = json.loads(arguments.json.read_text(encoding="utf-8"))["rows"]
    for name in arguments.rows:
        result["rows"][name] = row = run_row(name, ROWS[name], arguments.cases, arguments.work)
        print(f"{name}: {row['wrong'] or 'right'}", flush=True)
        result["right"] = sum(not one["wrong"] for one in result["rows"].values())
        result["tried"] = len(result["rows"])
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(result["right"] < result["tried"])


if __name__ == "__main__":
    sys.exit(main())
