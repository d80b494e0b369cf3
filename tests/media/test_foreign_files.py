"""Files as other programs leave them: what they state may be missing, wrong or of an unknown kind."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from latentsync.errors import MediaError
from latentsync.media.carry import Carried
from latentsync.media.pixels import HLG, PQ, has_alpha, tone_map
from latentsync.media.probe import describe_doubts, is_cut_short, require_audio, require_video
from latentsync.media.read import measure_video, read_frames, read_frames_backward
from latentsync.media.sound import lead_s, read_audio
from latentsync.media.write import Encoding, VideoWriter, write_video

from .conftest import MakeSound, MakeVideo, moving_picture, number_of

RATE_HZ = 48_000


def tone(duration_s: float, *, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    seconds = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.4 * np.sin(2 * np.pi * 300 * seconds)).astype(np.float32)


def write_float_wav(path: Path, channels: NDArray[np.float32], *, rate_hz: int = 16_000) -> Path:
    """`channels` (c n) as they are, whatever their range."""
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=rate_hz)
        stream.codec_context.layout = layout
        packed = np.ascontiguousarray(channels.T.reshape(1, -1), np.float32)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_with(path: Path, speech: Path, *, frames: int = 25) -> Path:
    """A small video with `speech` beside it."""
    pictures = (moving_picture(number, width=64, height=48) for number in range(frames))
    return write_video(path, pictures, speech=speech, encoding=Encoding(preset="ultrafast"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_photos_are_turned_by_exif(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    picture = Image.fromarray(moving_picture(0, width=64, height=48))
    picture.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), float)
    (frame,) = read_frames(path)
    assert frame.rgb_u8.shape == upright.shape
    assert np.abs(frame.rgb_u8 - upright).max() < 12
    info = require_video(path)
    assert (info.height, info.width) == upright.shape[:2]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_recording_that_states_no_length_is_counted(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "recorder.webm"
    with av.open(str(path), "w", format="webm", container_options={"live": "1"}) as container:
        stream = container.add_stream(codec, rate=25, width=64, height=48)
        for number in range(12):
            picture = moving_picture(number, width=64, height=48)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert require_video(path).duration_s == 0
    info = measure_video(path)
    assert (info.frames, info.fps) == (12, 25)
    assert info.duration_s == pytest.approx(0.48, abs=0.01)


def test_times_that_begin_anew_read_alike_in_both_directions(tmp_path: Path, make_video: MakeVideo) -> None:
    once, twice = make_video("once.mpg", codec="mpeg1video", frames=30), tmp_path / "twice.mpg"
    twice.write_bytes(once.read_bytes() * 2)
    forward = list(read_frames(twice))
    backward = list(read_frames_backward(twice))[::-1]
    assert len(forward) == 60 == measure_video(twice).frames
    assert [frame.time_s for frame in backward] == pytest.approx([frame.time_s for frame in forward])
    assert all(np.array_equal(a.rgb_u8, b.rgb_u8) for a, b in zip(forward, backward, strict=True))
    part = [number_of(frame.rgb_u8) for frame in read_frames(twice, start_s=forward[40].time_s)]
    assert part[0] == number_of(forward[40].rgb_u8)


def test_more_frames_a_second_than_there_can_be(make_video: MakeVideo) -> None:
    path = make_video(fps=100_000)
    with pytest.raises(MediaError, match=r"in\.mp4' has \d+ frames a second"):
        measure_video(path)


def test_a_gap_in_the_speech_is_silence_where_it_is_read_and_where_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "call.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=RATE_HZ)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(2.0)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            if not 0.5 <= float(packet.pts * packet.time_base) < 1.2:  # lost on the way
                container.mux(packet)
    read = read_audio(path).samples
    written = read_audio(write_with(tmp_path / "out.mp4", path, frames=50)).samples
    for samples in (read, written):
        assert len(samples) == pytest.approx(32_000, abs=1500)
        assert np.abs(samples[16_000 * 6 // 10 : 16_000 * 11 // 10]).max() < 0.01
        assert np.abs(samples[21_000:30_000]).max() > 0.3
    assert np.corrcoef(np.abs(read[:30_000]), np.abs(written[:30_000]))[0, 1] > 0.95


def test_channels_that_cancel_out(tmp_path: Path) -> None:
    left = tone(0.5, rate_hz=16_000)
    path = write_float_wav(tmp_path / "phase.wav", np.stack([left, -0.9999 * left]))
    assert np.abs(read_audio(path).samples - left).max() < 0.01


def test_samples_are_finite_and_in_range_before_they_are_encoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tone(1.0, rate_hz=16_000)
    wrong[5000:5003] = np.nan, np.inf, -np.inf
    path = write_float_wav(tmp_path / "wrong.wav", wrong[None])
    for sound in (path, write_with(tmp_path / "wrong.mp4", path), write_with(tmp_path / "wrong.mov", path)):
        samples = read_audio(sound).samples
        assert np.isfinite(samples).all()
        assert np.corrcoef(samples[6000:15_000], wrong[6000:15_000])[0, 1] > 0.98
    assert "wrong.wav" in caplog.text

    huge = write_float_wav(tmp_path / "huge.wav", 2.0**31 * tone(1.0, rate_hz=16_000)[None])
    for sound in (huge, write_with(tmp_path / "huge.mp4", huge)):
        samples = read_audio(sound).samples
        assert 0.9 < np.abs(samples[2000:14_000]).max() < 1.2
    assert "huge.wav" in caplog.text


@pytest.mark.parametrize(("rate_hz", "channels"), [(1, 1), (16_000, 255)])
def test_a_header_that_cannot_be_true(tmp_path: Path, rate_hz: int, channels: int) -> None:
    size = 2 * channels * 100
    header = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += (1).to_bytes(2, "little") + channels.to_bytes(2, "little") + rate_hz.to_bytes(4, "little")
    header += (rate_hz * 2 * channels).to_bytes(4, "little") + (2 * channels).to_bytes(2, "little")
    header += (16).to_bytes(2, "little") + b"data" + size.to_bytes(4, "little")
    path = tmp_path / "odd.wav"
    path.write_bytes(header + bytes(size))
    with pytest.raises(MediaError, match=r"odd\.wav") as caught:
        read_audio(path)
    assert caught.value.hint


def write_two_tracks(path: Path, *, default: int) -> Path:
    """A silent and a spoken track, one of them the default."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("aac", rate=16_000) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.codec_context.layout = "mono"
            stream.disposition = Disposition.default if number == default else Disposition(0)
        container.start_encoding()
        for number, stream in enumerate(streams):
            samples = number * tone(0.5, rate_hz=16_000)
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    return path


def test_the_default_track_is_taken_and_another_can_be_asked_for(tmp_path: Path) -> None:
    path = write_two_tracks(tmp_path / "two.mka", default=1)
    assert np.abs(read_audio(path).samples).max() > 0.3
    assert np.abs(read_audio(path, track=0).samples).max() < 0.01
    doubt = describe_doubts(path, AudioStream)
    assert doubt is not None and "number 1 is used" in doubt and "--audio-track" in doubt
    with pytest.raises(MediaError, match="no audio track 2, only 2"):
        require_audio(path, track=2)


def test_what_is_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(MediaError, match="is not a regular file") as caught:
            read_audio(path)
        assert caught.value.hint
    with pytest.raises(MediaError, match=r"'https://example\.com/a\.mp4' is a URL"):
        require_video(Path("https://example.com/a.mp4"))
    with pytest.raises(MediaError, match=r"'file:///nosuch/a\.mp4' is a URL") as caught:
        require_video(Path("file:///nosuch/a.mp4"))
    assert caught.value.hint == "give the path alone: '/nosuch/a.mp4'"


def test_sound_with_an_unknown_codec(make_sound: MakeSound) -> None:
    path = make_sound()
    content = bytearray(path.read_bytes())
    content[20:22] = b"\xee\xee"  # the format tag
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"the audio of '.*speech\.wav' cannot be decoded"):
        read_audio(path)


def test_interlaced_pictures_lose_their_comb(tmp_path: Path) -> None:
    path = tmp_path / "tv.ts"
    with av.open(str(path), "w") as container:
        options = {"flags": "+ildct+ilme", "b": "8000000"}
        stream = container.add_stream("mpeg2video", rate=25, width=96, height=96, options=options)
        for number in range(8):
            picture = np.full((96, 96, 3), 40, np.uint8)
            for field in (0, 1):  # a bar that moves between the fields of one frame
                left = 8 + 8 * number + 4 * field
                picture[field::2, left : left + 12] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = list(read_frames(path))
    assert len(frames) == 8
    rows = frames[4].rgb_u8[16:80, :, 1].astype(float)
    comb = np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).max(1)
    assert np.median(comb) < 40  # 160 where the fields are woven


@pytest.mark.parametrize("trc", [PQ, HLG])
def test_hdr_becomes_sdr(trc: int) -> None:
    """Grey stays grey, brighter stays brighter, and reference white is near the top."""
    codes = np.linspace(0, 65535, 256).astype(np.uint16)
    greys = tone_map(np.repeat(codes[None, :, None], 3, 2), trc)[0].astype(int)
    assert np.abs(greys - greys[:, :1]).max() <= 1
    assert (np.diff(greys[:, 0]) >= 0).all() and greys[0, 0] == 0 and greys[-1, 0] == 255
    white = {PQ: 0.5807, HLG: 0.75}[trc]  # signal of reference white: ITU-R BT.2408
    assert 225 < greys[round(white * 255), 0] < 250


@pytest.mark.parametrize(
    ("codec", "suffix", "rates_hz"),
    [
        ("libopus", "opus", (48_000, 48_000)),
        ("flac", "flac", (16_000, 16_000)),
        ("aac", "aac", (44_100, 22_050)),
    ],
)
def test_joined_sounds_are_read_and_written_alike(
    tmp_path: Path, make_sound: MakeSound, codec: str, suffix: str, rates_hz: tuple[int, int]
) -> None:
    parts = [make_sound(f"{n}.{suffix}", codec=codec, rate_hz=rate) for n, rate in enumerate(rates_hz)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    read = read_audio(joined).samples
    assert len(read) == pytest.approx(sum(len(read_audio(part).samples) for part in parts), abs=1600)
    for name in ("out.mp4", "out.mkv"):
        written = read_audio(write_with(tmp_path / name, joined)).samples
        assert len(written) == pytest.approx(len(read), abs=1600)


def test_sound_that_begins_late_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, width=64, height=48)
        audio = container.add_stream("aac", rate=16_000)
        audio.codec_context.layout = "mono"
        container.start_encoding()
        sound = av.AudioFrame.from_ndarray(tone(0.5, rate_hz=16_000)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16_000, 8000  # half a second after the first picture
        for number in range(25):
            picture = moving_picture(number, width=64, height=48)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux([*video.encode(None), *audio.encode(sound), *audio.encode(None)])
    late_s = lead_s(path)
    assert late_s == pytest.approx(0.5, abs=0.07)  # AAC begins with a block of its own
    read = read_audio(path, start_s=-late_s).samples
    written = read_audio(write_with(tmp_path / "out.mp4", path)).samples
    assert len(written) == pytest.approx(len(read), abs=1600)
    for samples in (read, written):
        assert np.abs(samples[:6500]).max() < 0.01
        assert np.abs(samples[9000:15_000]).max() > 0.3


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_video_with_transparency_shows_white_behind_it(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "cut_out.webm"
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "0"}  # libvpx refuses hidden frames beside transparency
        stream = container.add_stream(codec, options=options, rate=25, width=64, height=48)
        stream.pix_fmt = "yuva420p"
        for number in range(3):
            picture = np.dstack(
                [moving_picture(number, width=64, height=48), np.full((48, 64), 255, np.uint8)]
            )
            picture[:, :32, 3] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode(None))
    assert has_alpha(require_video(path).pix_fmt)
    for frame in (*read_frames(path), *read_frames_backward(path)):
        assert frame.rgb_u8[:, :24].min() > 240
        assert frame.rgb_u8[:, 40:].mean() < 200


def test_tags_of_a_film_are_kept_unless_they_are_huge(tmp_path: Path, make_sound: MakeSound) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "Zoë's talk", "artist": "Zoë", "comment": "x" * 1_000_000})
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}]
        )
        stream = container.add_stream("libx264", rate=25, width=64, height=48)
        for number in range(10):
            picture = moving_picture(number, width=64, height=48)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    out = tmp_path / "out.mp4"
    with VideoWriter(
        out,
        width=64,
        height=48,
        fps=Fraction(25),
        like=require_video(path),
        speech=make_sound(),
        carried=Carried(path, 0.0, 1.0),
    ) as writer:
        writer.write(moving_picture(0, width=64, height=48))
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "Zoë's talk"
        assert container.metadata["artist"] == "Zoë"
        assert "comment" not in container.metadata  # too long to be one


def test_one_frame_has_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "still.gif"
    Image.fromarray(moving_picture(0, width=64, height=48)).save(path)  # FFmpeg: 100 frames a second
    assert measure_video(path).fps == 25


def test_an_icon_of_many_sizes_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "face.ico"
    Image.fromarray(moving_picture(0, width=64, height=64)).save(path)
    assert measure_video(path).is_picture


def test_frames_that_a_cut_leaves_out_are_not_missed(
    make_video: MakeVideo, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_video(frames=20, times=[40 * number - 400 for number in range(20)])  # .mp4 begins at 0
    assert len(list(read_frames(path))) == 10
    assert not caplog.text


def test_damage_is_said_in_one_line(
    tmp_path: Path, make_sound: MakeSound, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_sound("a.mp3", codec="libmp3lame", rate_hz=44_100)
    content = bytearray(path.read_bytes())
    for at in range(4000, len(content), 500):
        content[at : at + 100] = b"\xff" * 100
    path.write_bytes(content)
    read_audio(path)
    (record,) = caplog.records
    assert "a.mp3' is damaged" in record.getMessage()


def test_text_with_times_has_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "words.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n", encoding="utf-8")
    with pytest.raises(MediaError, match=r"words\.srt' has no video stream$"):
        require_video(path)


def test_sound_that_begins_after_a_long_silence_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tape.mpg"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25, width=64, height=48)
        sound = container.add_stream("mp2", rate=44_100)
        sound.codec_context.layout = "mono"
        pcm = (tone(1.0, rate_hz=44_100) * 32767).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        samples.sample_rate, samples.pts = 44_100, 12 * 44_100
        resampler = av.AudioResampler(sound.codec_context.format, "mono", 44_100)
        packets = []
        for number in range(13 * 25):
            picture = moving_picture(number, width=64, height=48)
            packets += video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += video.encode(None)
        for piece in [*resampler.resample(samples), None]:
            packets += sound.encode(piece)
        for packet in sorted(packets, key=lambda one: float(one.dts * one.time_base)):
            container.mux(packet)
    with av.open(str(path)) as container:
        assert not any(stream.codec_context.sample_rate for stream in container.streams.audio)
    assert read_audio(path).duration_s == pytest.approx(1.0, abs=0.15)
    assert lead_s(path) == pytest.approx(12.0, abs=0.2)


def test_a_step_in_time_that_cannot_be_true(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video("hour.mkv", frames=20, times=[40 * n + (3_600_000 if n > 9 else 0) for n in range(20)])
    info = measure_video(path)
    assert "leave out 3600 s" in caplog.text
    assert (info.frames, info.fps) == (20, 25)
    assert info.duration_s == pytest.approx(0.8, abs=0.01)
    forward, backward = list(read_frames(path)), list(read_frames_backward(path))[::-1]
    assert [frame.time_s for frame in forward] == pytest.approx([n / 25 for n in range(20)], abs=0.002)
    assert [frame.time_s for frame in backward] == pytest.approx([frame.time_s for frame in forward])


@pytest.mark.parametrize(
    ("suffix", "options"), [("jpg", {}), ("jpg", {"progressive": True}), ("gif", {})], ids=str
)
def test_a_picture_that_is_cut_short_is_seen(tmp_path: Path, suffix: str, options: dict[str, bool]) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(moving_picture(0, width=256, height=192)).save(whole, **options)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    assert require_video(cut).width == 256  # FFmpeg finds nothing wrong with it
    assert (is_cut_short(whole), is_cut_short(cut)) == (False, True)


def test_transparency_that_avif_keeps_beside_the_colours_shows_white(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / "cut_out.avif"
    picture = np.full((48, 64, 4), 60, np.uint8)
    picture[:24, :, 3], picture[24:, :, 3] = 0, 255
    Image.fromarray(picture).save(path)
    assert require_video(path).is_transparent
    (frame,) = read_frames(path)
    assert frame.rgb_u8[:20].min() > 250
    assert frame.rgb_u8[30:].max() < 70


def test_a_picture_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(moving_picture(0, width=64, height=48)).save(path)
    (first,) = read_frames(path)
    monkeypatch.setattr(av, "open", None)
    assert require_video(path).is_picture
    assert next(read_frames_backward(path)).rgb_u8 is first.rgb_u8
