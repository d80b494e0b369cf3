"""The page, as somebody uses it in a browser: upload, click, wait, look at the result."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import scipy.io.wavfile

pytest.importorskip("gradio", reason="the extra `ui` is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = (sys.executable, "-m", "latentsync", "ui", "--device", "cpu", "--max-upload", "3")
PATIENCE_MS = 180_000  # other work may share the processor


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(temporary: Path) -> Iterator[str]:
    """A running page, stopped as by Ctrl-C: then nothing of it is left."""
    port = free_port()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary), "HOME": str(temporary)}
    served = subprocess.Popen(
        [*COMMAND, "--port", str(port)], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert served.stderr is not None
    for line in served.stderr:
        if line.startswith("open "):
            break
    else:
        raise AssertionError(f"the page ended with {served.wait()}")
    yield line.split()[1]
    served.terminate()
    served.communicate(timeout=60)
    assert not list(temporary.glob("latentsync-*"))


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_a_video_is_made_in_the_browser(address: str, browser: Any, tmp_path: Path) -> None:
    rate_hz, samples = scipy.io.wavfile.read(EXAMPLES / "speech.wav")
    scipy.io.wavfile.write(tmp_path / "speech.wav", rate_hz, samples[: rate_hz // 5])
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#video input[type=file]").set_input_files(str(EXAMPLES / "portrait.mp4"))
    page.locator("#speech input[type=file]").set_input_files(str(tmp_path / "speech.wav"))
    page.locator("#speech [data-testid*=waveform]").wait_for()
    page.locator("#frame img").click()
    page.wait_for_function("document.querySelector('#face textarea, #face input').value.startsWith('@0:')")
    page.get_by_label("draft").click()
    page.locator("#make").click()
    page.locator("#result video").wait_for()
    # Its size moves what is below: a click in that moment would hit nothing.
    page.wait_for_function("document.querySelector('#result video').readyState >= 1")
    assert "portrait.mp4: done" in page.locator("#words").inner_text()
    assert "5/5" in page.locator("#jobs").inner_text()
    page.locator("#remove").click()
    page.wait_for_function("!document.querySelector('#jobs').innerText.includes('5/5')")
    away = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert away == []  # fonts and scripts come from this machine


@pytest.mark.parametrize("headers", [{"Host": "example.com"}, {"Origin": "http://example.com"}])
def test_other_names_and_pages_are_refused(address: str, headers: dict[str, str]) -> None:
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(address, headers=headers))


def test_a_large_upload_is_refused_before_it_is_kept(address: str, temporary: Path) -> None:
    head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    body = head + bytes(4_000_000) + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    with pytest.raises(OSError) as refused:  # the answer, or a connection that closed while sending
        urlopen(Request(f"{address}/gradio_api/upload", data=body, headers=headers))
    assert not isinstance(refused.value, HTTPError) or refused.value.code == 413
    kept = [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size > 3_000_000]
    assert kept == []


def test_a_port_in_use_is_one_line(address: str) -> None:
    port = address.rsplit(":", 1)[1]
    ended = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"'127.0.0.1' port {port}: cannot be used" in ended.stderr
