import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import write_texts

from winnow.data import alert, stage

# A stage as small as they get: it copies its input some times, or fails as it is told to.
STAGE = '''
"""source → copies."""
import logging
import time
from pathlib import Path

from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run

log = logging.getLogger(__name__)


def main(modality: Modality, source: Path, out: Path, *, times: int, fail: str) -> str | None:
    for line in range(20):
        log.info("line %s", line)
    (out / "half.txt").write_text("half-made")
    if fail == "input":
        raise BadInput("the input is rotten")
    if fail == "crash":
        raise ZeroDivisionError("by zero")
    if fail == "hang":
        log.info("hanging")
        time.sleep(60)
    (out / "half.txt").unlink()
    (out / "copies.txt").write_text(source.read_text() * times)
    return f"{times} copies of {modality.grid}" if fail == "headline" else None


if __name__ == "__main__":
    run(main)
'''
SECTION = {
    "modality": {
        "class_path": "winnow.data.text.Text",
        "init_args": {"length": 8, "vocabulary": 64},
    },
    "copy_it": {"times": 2, "fail": "no"},
}
INGEST = {
    "source": {
        "class_path": "winnow.data.sources.tables.Table",
        "init_args": {"text": "text", "label": "label"},
    },
    "splits": {"validation": 0.2, "test": 0.2},
    "min_class_size": 2,
    "max_rejects": 0,
    "label_noise": 0.1,
    "seed": 0,
    "engine": "local",
    "workers": 1,
}


class Room:
    """A project root with one stage in it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.out, self.monkeypatch = root, root / "out/text/copy_it", monkeypatch
        (root / "copy_it.py").write_text(STAGE)
        (root / "in.txt").write_text("ab")
        self.write({"text": SECTION})

    def write(self, params: dict[str, Any]) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def set(self, **changes: Any) -> None:
        self.write({"text": {**SECTION, "copy_it": {**SECTION["copy_it"], **changes}}})

    def start(self, *arguments: str, module: str = "copy_it", urls: str = "") -> "subprocess.Popen[str]":
        arguments = arguments or ("text", "in.txt", "out/text/copy_it")
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={**os.environ, alert.VARIABLE: urls, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *arguments: str, module: str = "copy_it") -> None:
        """Do the same in this process, which need not import all of it first."""
        arguments = arguments or ("text", "in.txt", "out/text/copy_it")
        before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
        with self.monkeypatch.context() as patch:
            patch.chdir(self.root)
            patch.syspath_prepend(self.root)
            patch.delenv(alert.VARIABLE, raising=False)
            patch.setattr(sys, "argv", [module, *arguments])
            try:
                stage.run(importlib.import_module(module).main)
            finally:
                sys.modules.pop("copy_it", None)
                signal.signal(signal.SIGTERM, before)
                torch.set_num_threads(threads)

    def run(self, *arguments: str, **options: str) -> tuple[int, str]:
        with self.start(*arguments, **options) as process:
            said, _ = process.communicate(timeout=120)
        return process.returncode, said


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(tmp_path, monkeypatch)


@pytest.fixture
def refusal(room: Room) -> Callable[..., str]:
    """Run a stage that must refuse its parameters, in this process: what is said at exit."""

    def refuse(*arguments: str, module: str = "copy_it") -> str:
        with pytest.raises(SystemExit) as stop:
            room.call(*arguments, module=module)
        assert not room.out.exists()
        return str(stop.value.code)

    return refuse


class Mailbox(HTTPServer):
    """A real service that takes JSON messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Letterbox)

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}"


class Letterbox(BaseHTTPRequestHandler):
    server: Mailbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_stage_that_succeeds_leaves_its_output_and_nothing_else(room: Room, mailbox: Mailbox):
    code, said = room.run(urls=mailbox.url)
    assert code == 0, said
    assert (room.out / "copies.txt").read_text() == "abab"
    assert [p.name for p in room.out.parent.iterdir()] == ["copy_it"]
    assert "line 19" in said
    assert mailbox.messages == []


def test_a_headline_is_sent(room: Room, mailbox: Mailbox):
    room.set(fail="headline")
    assert room.run(urls=mailbox.url)[0] == 0
    (message,) = mailbox.messages
    assert message["message"] == "2 copies of (8,)"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"times": 2, "fail": "no", "tmies": 3}, ["text.copy_it", "unknown key 'tmies'"]),
        ({"times": 2}, ["text.copy_it", "'fail' is missing"]),
        ({}, ["text.copy_it", "is missing"]),
        ({"times": "two", "fail": "no"}, ["text.copy_it", "times", "two"]),
        ({"times": 2.5, "fail": "no"}, ["text.copy_it", "times", "2.5"]),
    ],
    ids=["unknown", "missing", "empty", "word", "fraction"],
)
def test_a_wrong_parameter_is_named_with_its_place(
    room: Room, refusal: Callable[..., str], section: dict[str, Any], parts: list[str]
):
    room.write({"text": {**SECTION, "copy_it": section}})
    said = refusal()
    for part in ["params.yaml", *parts]:
        assert part in said


@pytest.mark.parametrize(
    ("modality", "part"),
    [
        ({"class_path": "winnow.data.text.Text", "init_args": {"length": 8}}, "vocabulary"),
        (
            {
                "class_path": "winnow.data.text.Text",
                "init_args": {"length": 8, "vocabulary": 64, "lenght": 9},
            },
            "lenght",
        ),
        ({"class_path": "winnow.data.text.Txet"}, "Txet"),
        (
            {"class_path": "winnow.data.text.Text", "init_args": {"length": 8, "vocabulary": 1}},
            "vocabulary",
        ),
    ],
    ids=["missing", "unknown", "class", "value"],
)
def test_a_wrong_modality_is_named(
    room: Room, refusal: Callable[..., str], modality: dict[str, Any], part: str
):
    room.write({"text": {**SECTION, "modality": modality}})
    said = refusal()
    assert "params.yaml" in said and part in said


def test_a_modality_or_an_input_that_is_not_there_is_named(room: Room, refusal: Callable[..., str]):
    said = refusal("touch", "in.txt", "out/x")
    assert "no section 'touch'" in said and "text" in said
    assert "source nowhere.txt does not exist" in refusal("text", "nowhere.txt", "out/x")
    (room.root / "params.yaml").unlink()
    assert "no params.yaml" in refusal()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"splits": {"validation": 0.2, "tset": 0.2}}, ["text.ingest", "tset"]),
        ({"splits": {"validation": 0.9, "test": 0.9}}, ["text.ingest", "sum to less than 1"]),
        ({"source": {"class_path": "winnow.data.sources.tables.Table"}}, ["text.ingest", "text and path"]),
        ({"seed": None}, ["text.ingest", "seed"]),
    ],
    ids=["key", "value", "source", "none"],
)
def test_a_wrong_key_inside_an_object_is_named(
    room: Room, refusal: Callable[..., str], changes: dict[str, Any], parts: list[str]
):
    room.write({"text": {**SECTION, "ingest": {**INGEST, **changes}}})
    said = refusal("text", "in.txt", "out/x", module="winnow.data.ingest")
    for part in parts:
        assert part in said


def test_a_wrong_parameter_ends_in_one_line_without_a_traceback(room: Room):
    room.set(tmies=3)
    code, said = room.run()
    assert code == 1 and "Traceback" not in said and "unknown key 'tmies'" in said


def test_help_names_what_stands_in_params(room: Room):
    code, said = room.run("--help")
    assert code == 0 and "times" in said and "fail" in said and "source → copies" in said


@pytest.mark.parametrize("failure", ["input", "crash"])
def test_a_failed_stage_leaves_the_old_output_as_it_was(room: Room, failure: str):
    room.call()
    room.set(fail=failure)
    code, said = room.run()
    assert code == 1
    assert ("Traceback" in said) == (failure == "crash")
    assert [p.name for p in room.out.iterdir()] == ["copies.txt"]
    room.set(times=3)
    room.call()
    assert (room.out / "copies.txt").read_text() == "ababab"
    assert [p.name for p in room.out.parent.iterdir()] == ["copy_it"]


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_stage_leaves_the_old_output_as_it_was(room: Room, mailbox: Mailbox, blow: signal.Signals):
    room.call()
    room.set(fail="hang")
    with room.start(urls=mailbox.url) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "hanging" in line:
                break
        process.send_signal(blow)
        process.communicate(timeout=60)
    assert process.returncode == (128 + blow if blow == signal.SIGTERM else -blow)
    assert [p.name for p in room.out.iterdir()] == ["copies.txt"]
    assert len(mailbox.messages) == (blow == signal.SIGTERM)


@pytest.mark.parametrize(
    ("failure", "error"), [("input", "the input is rotten"), ("crash", "ZeroDivisionError")]
)
def test_the_news_of_a_failure_says_what_happened(room: Room, mailbox: Mailbox, failure: str, error: str):
    room.set(fail=failure)
    room.run(urls=mailbox.url)
    (message,) = mailbox.messages
    assert "copy_it text" in message["title"] and "failed" in message["title"]
    lines = message["message"].splitlines()
    assert error in message["message"]
    assert lines[-1] == "line 19" and "line 6" in lines and "line 0" not in lines


def test_no_url_is_ever_printed(room: Room):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    room.set(fail="input")
    urls = f"json://user:s3cret@127.0.0.1:{port} nonsense://s3cret"
    code, said = room.run(urls=urls)
    assert code == 1 and "s3cret" not in said and "nonsense" not in said
    assert "URL number 1 refused" in said.replace("\n", " ")
    assert "URL number 2 is not one" in said.replace("\n", " ")


def test_a_service_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch):
    assert alert.PATIENCE_SECONDS <= 10
    monkeypatch.setattr(alert, "PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv(alert.VARIABLE, f"json://127.0.0.1:{deaf.getsockname()[1]}")
        start = time.monotonic()
        alert.send("title", "body")
        assert time.monotonic() - start < 3


def test_without_urls_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(alert.VARIABLE, raising=False)
    threads = threading.active_count()
    alert.send("title", "body")
    assert threading.active_count() == threads


def test_ingest_is_a_stage(room: Room):
    write_texts(room.root)
    room.write({"text": {**SECTION, "ingest": INGEST}})
    code, said = room.run("text", "texts.jsonl", "out/text/ingest", module="winnow.data.ingest")
    assert code == 0, said
    metrics = json.loads((room.root / "out/text/ingest/metrics.json").read_text())
    assert metrics["samples"] == 72 and metrics["planted"] == 6
