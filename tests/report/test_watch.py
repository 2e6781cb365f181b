"""The page of a run under way: points come by themselves, and only this machine is answered."""

import http.client
import io
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("plotly")
pytest.importorskip("typer")
from typer.testing import CliRunner

from hdet.commands import app
from hdet.report.watch import _Handler, serve
from tests.interrupted import started

from .browser import Tab
from .runs import HEADER, climb, sync, write

LAST = "figure.runs.length ? figure.runs[0].x.at(-1) : 0"


@contextmanager
def watching(run: Path, port: int = 0) -> Iterator[int]:
    server = serve(run, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def append(path: Path, *lines: dict) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def answer(port: int, path: str = "/", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_only_this_machine_is_answered(tmp_path: Path) -> None:
    with watching(write(tmp_path / "x.jsonl", HEADER, sync(10))) as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:9", "[::1]:80"):
            assert answer(port, Host=host)[0] == 200
        for host in (f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", ""):
            assert answer(port, Host=host)[0] == 403
            assert answer(port, "/events", Host=host)[0] == 403
        assert answer(port, "/etc/passwd")[0] == 404


def test_a_page_grows_with_its_run(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x.jsonl"
    with watching(path) as port:
        tab.open(f"http://127.0.0.1:{port}/")
        assert f"Waiting for {path}" in tab.evaluate("document.body.innerText")
        write(path, HEADER, climb(1, 1e-4, loss=3.0), climb(2, 2e-4, loss=2.9))
        tab.until(f"({LAST}) === 2 && document.getElementById('picture').data.length")
        assert "The search is going on" in tab.evaluate("document.body.innerText")
        # A control that is in use keeps its focus.
        tab.evaluate("document.querySelector('#toggles input').focus()")
        append(path, sync(12))
        tab.until(f"({LAST}) === 12")
        assert tab.evaluate("document.activeElement.type") == "checkbox"
        # The run is resumed from step 10, and what it had thrown away vanishes.
        append(path, HEADER, sync(11, loss=1.0))
        tab.until(f"({LAST}) === 11")
        assert "resumed once, before step 11" in tab.evaluate("document.body.innerText")
    tab.until("document.getElementById('live').textContent.includes('trying again')")
    complaints = [one for one in tab.complaints if "ERR_CONNECTION" not in one
                  and "ERR_INCOMPLETE" not in one]  # fmt: skip
    append(path, sync(22))
    with watching(path, port):
        tab.until(f"({LAST}) === 22")
    assert complaints == []
    assert {one.split("/")[2] for one in tab.requests} == {f"127.0.0.1:{port}"}


def test_what_another_browser_has_drawn_meanwhile_is_sent_too(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", HEADER, sync(10))
    server = serve(path, 0)
    news, sent = server.watched.news, []

    def slow(whole: bool) -> str:
        sent.append(whole)
        text = news(whole)
        if len(sent) == 1:
            append(path, sync(20))
            server.watched.look()  # by another browser's thread, while this one sends
        else:
            server.closed.set()
        return text

    server.watched.news = slow
    handler = object.__new__(_Handler)
    handler.server, handler.wfile = server, io.BytesIO()
    handler._tell()
    server.server_close()
    assert sent == [True, True]


def test_a_folder_shows_runs_as_they_come(tmp_path: Path) -> None:
    with watching(tmp_path) as port:
        assert "Waiting for" in answer(port)[1]
        write(tmp_path / "x.jsonl", HEADER, sync(10))
        write(tmp_path / "y.jsonl", HEADER, sync(10))
        assert "2 runs" in answer(port)[1]


def test_what_is_no_record_is_said_while_waiting(tmp_path: Path) -> None:
    with watching(write(tmp_path / "x.jsonl", {"epoch": 1})) as port:
        assert "is not the record of a run" in answer(port)[1]


def test_a_port_that_is_taken_is_told_with_a_remedy(tmp_path: Path) -> None:
    with watching(tmp_path) as port:
        result = CliRunner().invoke(app, ["watch", str(tmp_path), "--port", str(port)])
    assert result.exit_code == 2
    assert result.output.startswith(f"hdet watch: --port {port} cannot be used")
    assert result.output.endswith("try --port 0.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a process")
def test_ctrl_c_ends_it_with_one_line(tmp_path: Path) -> None:
    command = ["-m", "hdet", "watch", str(tmp_path), "--port", "0"]
    with started(*command, PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith(f"Watching {tmp_path} at http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0].strip().splitlines()[-1] == "Stopped."
    assert process.returncode == 130
