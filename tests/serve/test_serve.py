"""The HTTP service: a job from upload to result, and what it refuses."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import scipy.io.wavfile

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient

from latentsync import load
from latentsync.serve.app import Limits, make_app
from latentsync.serve.jobs import JobQueue

EXAMPLES = Path(__file__).parents[2] / "examples"
LOCAL = "http://127.0.0.1"
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rate_hz, samples = scipy.io.wavfile.read(EXAMPLES / "speech.wav")
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    scipy.io.wavfile.write(path, rate_hz, samples[: rate_hz // 5])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "served"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    jobs = JobQueue(folder, load("compact", device="cpu").networks, most_waiting=2, keep_s=60)
    with TestClient(make_app(jobs, Limits(MOST_BYTES)), base_url=LOCAL) as client:
        yield client


def post(client: TestClient, video: Path, speech: Path, **fields: str) -> Any:
    with video.open("rb") as pictures, speech.open("rb") as sound:
        files = {"video": (video.name, pictures), "speech": (speech.name, sound)}
        return client.post("/jobs", files=files, data=fields)


def ended(client: TestClient, identity: str) -> dict[str, Any]:
    """The job when it ended, by its stream of events."""
    with client.stream("GET", f"/jobs/{identity}/events") as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_a_job_from_upload_to_result(client: TestClient, speech: Path, folder: Path, tmp_path: Path) -> None:
    posted = post(client, EXAMPLES / "portrait.mp4", speech, effort="draft")
    assert posted.status_code == 202, posted.text
    identity = posted.json()["id"]
    job = ended(client, identity)
    assert (job["status"], job["done"], job["total"]) == ("done", 5, 5)
    assert job["result"]["frames"] == 5 and str(tmp_path) not in json.dumps(job)
    made = client.get(f"/jobs/{identity}/result")
    (tmp_path / "made.mp4").write_bytes(made.content)
    with av.open(str(tmp_path / "made.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5
    assert [path.name for path in (folder / identity).iterdir()] == ["result.mp4"]  # uploads are gone
    assert client.delete(f"/jobs/{identity}").status_code == 204
    assert list(folder.iterdir()) == []
    assert client.get(f"/jobs/{identity}").status_code == 404


def test_a_job_that_fails_says_why_and_names_no_path(
    client: TestClient, speech: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    job = ended(client, post(client, text, speech).json()["id"])
    assert job["status"] == "failed" and job["error"].startswith("'video.mp4'") and job["hint"]
    assert client.get(f"/jobs/{job['id']}/result").status_code == 409


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"face": "nose"}, "--face 'nose'"),
        ({"face": "/etc/face.jpg"}, "a picture cannot be named here"),
        ({"start": "soon"}, "--start 'soon'"),
        ({"effort": "ultra"}, "draft"),
        ({"keep_audio": "loud"}, "--keep-audio 'loud'"),
    ],
)
def test_wrong_fields_are_refused_and_leave_nothing(
    fields: dict[str, str], words: str, client: TestClient, speech: Path, folder: Path
) -> None:
    refused = post(client, EXAMPLES / "portrait.mp4", speech, **fields)
    assert refused.status_code == 422 and words in refused.text
    assert not folder.exists() or list(folder.iterdir()) == []


def test_large_uploads_are_refused_whatever_they_state(
    client: TestClient, speech: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(MOST_BYTES + 1))
    assert post(client, large, speech).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(5):
            yield bytes(MOST_BYTES // 4)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/jobs", content=pieces(), headers=headers).status_code == 413


def test_only_this_machine_and_no_other_page_is_answered(client: TestClient) -> None:
    assert client.get("/jobs").json() == []
    assert client.get("/jobs", headers={"host": "evil.example:8000"}).status_code == 403
    assert client.get("/jobs", headers={"origin": "https://evil.example"}).status_code == 403


def test_a_token_is_needed_where_there_is_one(folder: Path) -> None:
    jobs = JobQueue(folder, load("compact", device="cpu").networks, most_waiting=1, keep_s=60)
    with TestClient(make_app(jobs, Limits(MOST_BYTES, token="secret"))) as client:
        assert client.get("/jobs").status_code == 401
        assert client.get("/jobs", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/jobs", headers={"authorization": "Bearer secret"}).json() == []
        assert client.get("/openapi.json").status_code == 401


def test_a_port_in_use_is_one_line() -> None:
    executable = Path(sys.executable).parent / "latentsync"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [executable, "serve", "--port", port], capture_output=True, text=True, check=False, timeout=300
        )
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: '127.0.0.1' port {port}: cannot be used") and "--port" in hint
