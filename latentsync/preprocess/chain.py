"""Takes one source through the steps and tells what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from latentsync.errors import FaceError, MediaError
from latentsync.manifest import Decision, clip_folder
from latentsync.preprocess.step import CLIP_FPS, Clip, Drop, Source, Step


def process(source: Source, steps: Sequence[Step], out_dir: Path) -> list[Decision]:
    """Take one source through all steps and write its clips.

    What is there of this source from a run that was interrupted is removed first. The answer and the files
    depend on the source, the steps and their recipe only, never on other sources.

    Args:
        source: the file; it is only read.
        steps: as `build_steps` gives them, started.
        out_dir: a folder that is there.

    Returns:
        At least one decision, in the order of the source's time.

    Raises:
        OSError: the disk is full or gone; a fault of the source is no exception but a decision.
        MemoryError: as it comes, like everything else that no media file should cause.
    """
    remove_clips(source, out_dir)
    decisions = [_decision(clip, drop) for clip, drop in _flow(Clip(source=source), steps, out_dir)]
    return decisions or [Decision(source=source.name, outcome="dropped", reason="too_short")]


def remove_clips(source: Source, out_dir: Path) -> None:
    """Remove the clips of a source, and parts of clips."""
    for path in sorted(clip_folder(out_dir, source.name).glob("*.mp4")):
        path.unlink()


def _flow(clip: Clip, steps: Sequence[Step], out_dir: Path) -> Iterator[tuple[Clip, Drop | None]]:
    """What the steps make of a clip, depth first: a clip runs to its end before the next one is begun."""
    if not steps:
        yield clip, None
        return
    answers = steps[0].run(clip, out_dir)
    while True:
        try:
            answer = next(answers, None)
        except (MediaError, FaceError) as error:
            reason = "unreadable" if isinstance(error, MediaError) else "no_face"
            yield clip, Drop(reason, _without_place(error, clip.source))
            return
        if answer is None:
            return
        if isinstance(answer, Drop):
            yield answer.clip or clip, answer
        else:
            yield from _flow(answer, steps[1:], out_dir)


def _without_place(error: MediaError | FaceError, source: Source) -> str:
    """The message without the folder that the source happens to lie in."""
    return str(error).replace(str(source.path.absolute()), source.name).replace(str(source.path), source.name)


def _decision(clip: Clip, drop: Drop | None) -> Decision:
    face, sync, quality, written = clip.face, clip.sync, clip.quality, clip.written
    is_whole = clip.frames is None
    return Decision(
        source=clip.source.name,
        outcome="dropped" if drop else "kept",
        reason=drop.reason if drop else "",
        detail=drop.detail if drop else "",
        clip=written.name if written else None,
        start_s=None if is_whole else clip.start_frame / CLIP_FPS,
        end_s=None if clip.frames is None else (clip.start_frame + clip.frames) / CLIP_FPS,
        frames=clip.frames,
        resolution=clip.resolution,
        fps=None if is_whole else CLIP_FPS,
        face_px=_rounded(face.px if face else None, 1),
        face_yaw=_rounded(face.yaw if face else None, 3),
        other_faces=_rounded(face.others if face else None, 3),
        offset_frames=sync.offset_frames if sync else None,
        offset_applied=sync.is_applied if sync else False,
        confidence=_rounded(sync.confidence if sync else None, 4),
        judge=sync.judge if sync else None,
        quality=_rounded(quality.value if quality else None, 4),
        quality_measure=quality.measure if quality else None,
        blockiness=_rounded(quality.blockiness if quality else None, 3),
        person=written.person if written else None,
        split=written.split if written else None,
        sha256=written.sha256 if written else None,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
