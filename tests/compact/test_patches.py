"""Patches for the autoencoder, who is kept out of them, and the reader of the teacher's files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.compact.frames import held_out, square
from recipes.compact.patches import SIDE_PX, Patches
from recipes.compact.sort_people import people_clips
from recipes.compact.teacher import DECODER_BLOCKS, ENCODER_BLOCKS, Teacher


def test_patches_repeat_with_the_seed_and_leave_out_frames_without_weight() -> None:
    frames = np.stack([np.full((256, 256, 3), level, np.uint8) for level in (0, 120)])
    still = np.zeros((140, 150, 3), np.uint8)
    patches = Patches(frames, np.array([1.0, 0.0]), [still])
    first, again = (
        [patches.draw(random) for _ in range(40)] for random in map(np.random.default_rng, (3, 3))
    )
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(patch.shape == (SIDE_PX, SIDE_PX, 3) and patch.dtype == np.uint8 for patch in first)
    assert len({patch.tobytes() for patch in first}) > 5
    dark = Patches(frames, np.array([0.0, 1.0]), [still])
    random = np.random.default_rng(3)
    assert np.mean([dark.draw(random).mean() for _ in range(40)]) > 60


@pytest.mark.parametrize("size", [(256, 256), (300, 500), (100, 180)])
def test_every_frame_gives_a_square(size: tuple[int, int]) -> None:
    assert square(np.zeros((*size, 3), np.uint8), np.random.default_rng(0)).shape == (256, 256, 3)


def test_who_looks_like_an_older_person_is_that_person(tmp_path: Path) -> None:
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "person", "looks_like_in_train"])
        writer.writerows(
            [["a.mp4", "p010", "old.mp4"], ["b.mp4", "p010", ""], ["c.mp4", "p303(by file)", ""]]
        )
    found = people_clips(tmp_path, {"old.mp4": "p38"})
    assert {path.name: person for path, person in found.items()} == {
        "a.mp4": "p38",
        "b.mp4": "p38",
        "c.mp4": "q303",
    }
    assert {"p38", "q303"} <= held_out()


def test_the_teacher_is_read_from_its_two_files(tmp_path: Path) -> None:
    torch.manual_seed(1)

    def conv(
        key: str, channels_in: int, channels: int, side: int = 3, *, bias: bool = True
    ) -> dict[str, torch.Tensor]:
        weights = {f"{key}.weight": torch.randn(channels, channels_in, side, side) * 0.05}
        return weights | ({f"{key}.bias": torch.zeros(channels)} if bias else {})

    def block(key: str, *, pools: bool) -> dict[str, torch.Tensor]:
        weights = {}
        for position in (0, 2, 4):
            weights |= conv(f"{key}.conv.{position}", 64, 64)
        if pools:
            weights |= conv(f"{key}.pool.0", 64, 256, 1, bias=False) | conv(
                f"{key}.pool.3", 256, 64, 1, bias=False
            )
            weights |= {f"{key}.pool.1.weight": torch.ones(256), f"{key}.pool.1.bias": torch.zeros(256)}
        return weights

    encoder, decoder = conv("0", 3, 64) | conv("14", 64, 32), conv("1", 32, 64) | conv("19", 64, 3)
    for blocks in ENCODER_BLOCKS[1:]:
        encoder |= conv(f"{blocks[0] - 1}", 64, 64, bias=False)
    for blocks in DECODER_BLOCKS[1:]:
        decoder |= conv(f"{blocks[0] - 1}", 64, 64, bias=False)
    for number, blocks in enumerate(ENCODER_BLOCKS):
        for each in blocks:
            encoder |= block(str(each), pools=number == 3)
    for number, blocks in enumerate(DECODER_BLOCKS):
        for each in blocks:
            decoder |= block(str(each), pools=number == 0)
    torch.save({key: value.half() for key, value in encoder.items()}, tmp_path / "taef2_encoder.pth")
    torch.save({key: value.half() for key, value in decoder.items()}, tmp_path / "taef2_decoder.pth")
    teacher = Teacher(tmp_path)
    latents = teacher.encode(torch.zeros(1, 3, 32, 48))
    assert latents.shape == (1, 32, 4, 6)
    assert teacher.decode(latents).shape == (1, 3, 32, 48)
    assert [each.shape[-1] for each in teacher.features(latents)] == [6, 12, 24]
