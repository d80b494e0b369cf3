"""Feeds damaged and hostile weights files to every reader, and counts what is not refused in one line.

    OMP_NUM_THREADS=1 python benchmarks/reliability/fuzz_weights.py --seconds 300 --seed 1

Each case is a whole file (torch's zip and old format, safetensors, a Whisper of each layout, our own) with
bytes changed, cut, moved or repeated, mostly where the formats keep their tables; or a pickle of random
instructions. A case may be read, or refused with a `WeightsError`; a traceback, over 20 s of processor time
or over 1 GB more memory is a fault, which is written down with its seed.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from latentsync.audio.whisper import WhisperEncoder
from latentsync.errors import WeightsError
from latentsync.recipe.networks import WhisperDims
from latentsync.weights.checkpoints import is_checkpoint, read_note
from latentsync.weights.convert import import_file
from latentsync.weights.named import BUNDLED
from latentsync.weights.read import read_content
from latentsync.weights.released import load_unet, load_whisper, vae_from_released

RESULTS = Path(__file__).parents[1] / "results" / "fuzz_weights.json"
MOST_BYTES = 1 << 30
MOST_S = 20.0
EARLY_BYTES = 3000
GLOBALS = (
    b"collections OrderedDict",
    b"torch._utils _rebuild_tensor_v2",
    b"torch._utils _rebuild_parameter",
    b"torch FloatStorage",
    b"torch Size",
    b"torch FloatTensor",
    b"torch.storage UntypedStorage",
    b"__builtin__ bytearray",
    b"_codecs encode",
    b"posix system",
)
NUMBERS = (0, 1, 7, 255, 2**16, 2**31 - 1, 2**32, 3 << 30, 2**48, 2**63, -1)


def seeds(folder: Path) -> list[Path]:
    """One whole file of each kind that is read."""
    tensors = {"conv_in.weight": torch.arange(200.0), "conv_out.weight": torch.ones(3).half()}
    torch.save({"global_step": 3, "losses": [0.5] * 9, "state_dict": tensors}, folder / "zip.pt")
    torch.save(torch.nn.Linear(4, 3).state_dict(), folder / "module.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, folder / "plain.safetensors", {"a": "b"})
    sizes = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1}
    encoder = WhisperEncoder(WhisperDims(**sizes)).transformer.state_dict()
    save_file(encoder, folder / "hugging_face.safetensors")
    content = {"dims": sizes, "model_state_dict": {f"encoder.{key}": t for key, t in encoder.items()}}
    torch.save(content, folder / "openai.pt")
    note = {"format": "latentsync-1", "kind": "whisper", "config": json.dumps(sizes), "facts": "{}"}
    save_file(encoder, folder / "ours.safetensors", note)
    copy = folder / "landmarks.safetensors"
    copy.write_bytes((BUNDLED / copy.name).read_bytes())
    return sorted(folder.iterdir())


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change `content` in one to six ways."""
    for _ in range(rng.randint(1, 6)):
        span = min(len(content), EARLY_BYTES) if rng.random() < 0.6 else len(content)
        at = max(0, len(content) - span) if rng.random() < 0.3 else 0
        at += rng.randrange(span + 1)
        new = rng.choice(
            [
                rng.randbytes(rng.randint(1, 8)),
                struct.pack("<q", rng.choice(NUMBERS[:-2])),
                struct.pack("<i", rng.choice((0, 1, -1, 2**31 - 1))),
                b'"' if rng.random() < 0.5 else b"[" * rng.randint(1, 2000),
            ]
        )
        match rng.choice(["flip", "flip", "insert", "drop", "repeat", "cut"]):
            case "flip":
                content = content[:at] + new + content[at + len(new) :]
            case "insert":
                content = content[:at] + new + content[at:]
            case "drop":
                content = content[:at] + content[at + len(new) :]
            case "repeat":
                content = content[:at] + content[at : at + 50] * rng.randint(1, 40) + content[at:]
            case _:
                content = content[:at] if rng.random() < 0.3 else content
    return content


def instructions(rng: random.Random) -> bytes:
    """A pickle of random instructions that torch's own writer knows, and some that it does not."""
    written = b"\x80\x02"
    for _ in range(rng.randint(1, 200)):
        number = rng.choice(NUMBERS)
        pieces = [
            *(bytes([code]) for code in b"})](teu.sabR\x85\x86\x87Q\x88\x89N0l2\x81\x8f\x94"),
            b"h" + bytes([rng.randrange(8)]),
            b"q" + bytes([rng.randrange(8)]),
            b"K" + rng.randbytes(1),
            b"\x8a\x09" + number.to_bytes(9, "little", signed=True),
            b"X\x01\0\0\0a",
            b"X\x07\0\0\0storage",
            b"c" + rng.choice(GLOBALS).replace(b" ", b"\n") + b"\n",
        ]
        written += b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 4)))
        if rng.random() < 0.1:  # a call of something by a size
            written += b"c" + rng.choice(GLOBALS).replace(b" ", b"\n") + b"\n"
            written += b"\x8a\x09" + number.to_bytes(9, "little", signed=True) + b"\x85R"
    return written + b"."


def write_pickle(path: Path, rng: random.Random) -> None:
    """A torch file of either format around `instructions`."""
    if rng.random() < 0.3:
        path.write_bytes(instructions(rng))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", instructions(rng))
        archive.writestr("archive/data/a", bytes(64))


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    """Everything that opens a file which somebody gives."""
    cpu = torch.device("cpu")
    return {
        "content": lambda: [tensor.sum() for tensor in read_content(path).tensors.values()],
        "note": lambda: read_note(path) if is_checkpoint(path) else None,
        "import": lambda: import_file(path, output=path.with_suffix(".imported"), is_forced=True),
        "unet": lambda: load_unet(path),
        "vae": lambda: vae_from_released(path),
        "whisper": lambda: load_whisper(path, device=cpu, dtype=torch.float32),
    }


def memory_bytes() -> int:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run cases until the time is over, and write the counts."""
    parser = argparse.ArgumentParser(description="Feed damaged weights files to every reader.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    started, case = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        whole = [(path.name, path.read_bytes()) for path in seeds(Path(folder))]
        path = Path(folder) / "case"
        while time.monotonic() - started < arguments.seconds:
            case += 1
            rng = random.Random(f"{arguments.seed}/{case}")
            name, content = rng.choice([*whole, ("pickle", b""), ("pickle", b"")])
            write_pickle(path, rng) if name == "pickle" else path.write_bytes(damaged(content, rng))
            for reader, read in readers(path).items():
                before_bytes, before_s = memory_bytes(), time.process_time()
                try:
                    read()
                    outcome = "read"
                except WeightsError as error:
                    outcome = "refused" if error.hint and "\n" not in str(error) else "badly worded"
                except Exception:
                    outcome = "traceback"
                    faults.append({"case": case, "reader": reader, "error": traceback.format_exc()[-500:]})
                if time.process_time() - before_s > MOST_S:
                    outcome = "slow"
                if memory_bytes() - before_bytes > MOST_BYTES:
                    outcome = "large"
                counts[outcome] += 1
                if outcome in ("slow", "large", "badly worded"):
                    faults.append({"case": case, "reader": reader, "error": outcome})
    result = {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started),
        "files": case,
        "reads": sum(counts.values()),
        **{word: counts[word] for word in ("read", "refused", "badly worded", "traceback", "slow", "large")},
        "peak_mb": round(memory_bytes() / 1e6),
        "faults": faults[:20],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
