"""Long, large and lopsided inputs, and several runs in one folder: peak memory, and whether the lengths fit.

    python -m benchmarks.reliability.sizes CLIP SPEECH [--cases NAME ...] [--json FILE]

minute, ten    1 and 10 minutes of 720p, 5 frames a second
large          2 s of 3840x2160
half_an_hour   30 minutes of speech over a clip of 2 s, 240 px wide
lopsided       speech ten times as long as its video
together       six runs of the command at once, all into one folder

All but `together` leave U-Net and autoencoder out (`stub` of `benchmarks.sync`): decoding, tracking, pasting,
encoding and the speech network run as ever; what the networks take does not depend on the length. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.material import repeat_speech
from benchmarks.processes import circumstances, latentsync_command, memory_mb
from latentsync.media.probe import probe, require_video
from latentsync.media.read import measure_video
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter
from latentsync.sync.timeline import play

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "sizes.json"
FPS = Fraction(5)  # few frames, so that the whole length is affordable; --keep-fps leaves it so
BASE_S = 10.0
# width, height, seconds of video, seconds of speech
STUB_CASES = {
    "minute": (1280, 720, 60.0, 60.0),
    "ten": (1280, 720, 600.0, 600.0),
    "large": (3840, 2160, 2.0, 2.0),
    "half_an_hour": (240, 240, 2.0, 1800.0),
    "lopsided": (480, 480, 2.0, 20.0),
}
RUNS = 6


def make_video(source: Path, target: Path, *, size: tuple[int, int], duration_s: float) -> None:
    """A clip, enlarged and cut to a size, back and forth: at most `BASE_S` are encoded and then repeated."""
    info, (width, height) = require_video(source), size
    zoom = max(width / info.width, height / info.height)
    whole = (round(info.width * zoom), round(info.height * zoom))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    base_s = min(BASE_S, duration_s)
    base = target.with_name("base.mp4")
    frames = play(source, info, policy="ping-pong", duration_s=2 * base_s * float(FPS / info.fps) + 1)
    with VideoWriter(
        base, width=width, height=height, fps=FPS, encoding=Encoding(preset="veryfast")
    ) as writer:
        for frame in islice(frames, round(base_s * FPS)):
            picture = cv2.resize(frame.rgb_u8, whole, interpolation=cv2.INTER_CUBIC)
            writer.write(np.asarray(picture[top : top + height, left : left + width], np.uint8))
    repeat_packets(base, target, times=round(duration_s / base_s))


def repeat_packets(source: Path, target: Path, *, times: int) -> None:
    """Write the packets of a video several times, one after another."""
    with av.open(str(target), "w") as written:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as read:
                video = read.streams.video[0]
                stream = stream or written.add_stream_from_template(video)
                shift = turn * round(video.frames / FPS / video.time_base)
                for packet in read.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    written.mux(packet)


def run_stub(video: Path, speech: Path, folder: Path) -> dict[str, Any]:
    """One run without U-Net and autoencoder, in a process of its own."""
    config, noted, out = folder / "config.json", folder / "noted.json", folder / "out.mp4"
    asked = {
        "networks": "stub",
        "model": "compact",
        "model_size": "compact",
        "resolution": 128,
        "stub_fps": 0.0,
        "device": "cpu",
        "dtype": "auto",
        "set": ["encoding.preset=ultrafast"],
        "keep_fps": True,
        "profile": None,
        "video": str(video),
        "speech": str(speech),
        "output": str(out),
    }
    config.write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.sync_run", str(config), str(noted)]
    subprocess.run(command, check=True, cwd=ROOT)
    found = json.loads(noted.read_text(encoding="utf-8"))
    return {"peak_mb": found["peak_mb"], "processor_s": found["run_processor_s"], **lengths(out, speech)}


def lengths(out: Path, speech: Path) -> dict[str, Any]:
    """Of the pictures and sound of a result, and of the speech that it should last as long as."""
    info, sound = measure_video(out), probe(out).audio
    speech_s = read_audio(speech).duration_s
    sound_s = 0.0 if sound is None else read_audio(out).duration_s
    frame_s = float(1 / info.fps)
    return {
        "frames": info.frames,
        "pictures_s": round(info.duration_s, 3),
        "sound_s": round(sound_s, 3),
        "speech_s": round(speech_s, 3),
        "fits": abs(info.duration_s - speech_s) <= frame_s and abs(sound_s - speech_s) <= 2 * frame_s,
    }


def run_together(clip: Path, speech: Path, folder: Path) -> dict[str, Any]:
    """Several runs of the command at once into one folder: all must make the same file, and leave no part."""
    span = ["--duration", "video", "--end", "0.4", "--effort", "draft", "--device", "cpu", "--quiet"]
    outputs = [folder / f"{number}.mp4" for number in range(RUNS)]
    lines = [[latentsync_command(), "sync", str(clip), str(speech), "-o", str(out), *span] for out in outputs]
    runs = [subprocess.Popen(line) for line in lines]
    peak_mb = 0.0
    while any(run.poll() is None for run in runs):
        peak_mb = max([peak_mb, *(memory_mb(run.pid)[1] for run in runs)])
        time.sleep(0.2)
    files = {hashlib.sha256(out.read_bytes()).hexdigest()[:12] for out in outputs if out.exists()}
    return {
        "runs": RUNS,
        "codes": [run.returncode for run in runs],
        "distinct": len(files),
        "left": sorted(path.name for path in folder.iterdir() if path not in outputs),
        "peak_mb": round(peak_mb, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    names = [*STUB_CASES, "together"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"circumstances": circumstances(), "fps": float(FPS), "cases": {}}
    if arguments.json.exists():  # further cases are added
        result["cases"] = json.loads(arguments.json.read_text(encoding="utf-8"))["cases"]
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            if name == "together":
                row = run_together(arguments.clip.absolute(), arguments.speech.absolute(), folder)
            else:
                width, height, video_s, speech_s = STUB_CASES[name]
                video, speech = folder / "video.mp4", folder / "speech.wav"
                make_video(arguments.clip, video, size=(width, height), duration_s=video_s)
                repeat_speech(arguments.speech, speech, duration_s=speech_s)
                row = run_stub(video, speech, folder)
        result["cases"][name] = row
        print(name, json.dumps(row), flush=True)
        cases = result["cases"]
        if "minute" in cases and "ten" in cases:
            result["ten_over_one"] = round(cases["ten"]["peak_mb"] / cases["minute"]["peak_mb"], 3)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
