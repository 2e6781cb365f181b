"""`hdet watch`: the page of a run while it goes on, for this machine's own browser.

A server on the loopback device sends the page, and then, as server-sent events, figure and
words anew whenever the record has grown. The browser's EventSource comes back by itself.
Requests under any other name than this machine's own are refused: a page on the web must not
read what a name that it has pointed here answers.
"""

import json
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from . import rendering
from .files import Follower, files_in
from .record import Record, RecordError
from .report import footer, parts
from .words import duration

SECONDS = 0.5  # between two looks at the record
_ALIVE = 5.0  # seconds after which a silent connection is written to, to see that it stands


class Watched:
    """What is known of the runs that are watched; asked by one thread for each browser.

    Args:
        run: a record or a folder with records; neither need be there yet.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._followers: dict[Path, Follower] = {}
        self._lock = threading.Lock()
        self._why = ""
        self._newest = 0.0  # when the newest line was written, in seconds since the epoch
        self.version = 0  # changes with all that is sent
        self.title, self.figure, self.words = self._waiting("")

    def _waiting(self, why: str) -> tuple[str, Mapping[str, Any], Markup]:
        text = rendering.words("waiting.html", run=self._run, why=why)
        return self._run.stem, rendering.EMPTY, text

    def look(self) -> None:
        """Read what is new, and draw it if there is anything."""
        with self._lock:
            paths = files_in(self._run) if self._run.is_dir() else [self._run]
            changed, why = {*paths} != {*self._followers}, ""
            self._followers = {p: self._followers.get(p) or Follower(p) for p in paths}
            for follower in self._followers.values():
                try:
                    changed |= follower.read()
                except (OSError, RecordError) as error:
                    why = str(error)
            if not changed and why == self._why:
                return
            self._why = why
            records: list[Record] = [f.record for f in self._followers.values()]
            records = [record for record in records if len(record)]
            self._newest = max((r.times[-1] / 1000 for r in records), default=0.0)
            made = parts(records) if records else self._waiting(why)
            self.title, self.figure, self.words = made
            self.version += 1

    def page(self) -> str:
        """Return the whole page."""
        self.look()
        return rendering.page(self.title, self.figure, self.words, footer(), live=True)

    def news(self, whole: bool) -> str:
        """Return an event; `whole` if figure and words have changed."""
        said: dict[str, Any] = {"live": "Waiting."}
        if self._newest > 0:
            at = datetime.fromtimestamp(self._newest).strftime("%H:%M:%S")
            ago = duration(max(time.time() - self._newest, 0))
            said["live"] = f"Live. The newest line was written {ago} ago, at {at}."
        if whole:
            said |= {"title": self.title, "figure": self.figure, "words": self.words}
        return f"data: {json.dumps(said, separators=(',', ':'), allow_nan=False)}\n\n"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (
            "127.0.0.1",
            "localhost",
            "::1",
        ):
            self.send_error(403, "Only for this machine: use http://127.0.0.1")
        elif self.path == "/":
            self._send("text/html; charset=utf-8")
            self.wfile.write(self._server.watched.page().encode())
        elif self.path == "/events":
            self._send("text/event-stream")
            self._tell()
        else:
            self.send_error(404)

    @property
    def _server(self) -> "_Server":
        assert isinstance(self.server, _Server)
        return self.server

    def _send(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _tell(self) -> None:
        """Send news until the browser is gone, or the server."""
        watched, version, said = self._server.watched, -1, 0.0
        self.wfile.write(b"retry: 1000\n\n")
        while not self._server.closed.wait(SECONDS if version >= 0 else 0):
            watched.look()
            if watched.version != version or time.monotonic() - said > _ALIVE:
                # Before the news: another browser's look may change it meanwhile.
                newest = watched.version
                text = watched.news(newest != version)
                version, said = newest, time.monotonic()
                self.wfile.write(text.encode())
                self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, run: Path, port: int) -> None:
        self.watched, self.closed = Watched(run), threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_close(self) -> None:
        """End the event streams, too."""
        self.closed.set()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that have gone away."""


def serve(run: Path, port: int) -> _Server:
    """Return a server that has begun to listen; `serve_forever` answers.

    Args:
        run: a record, or a folder.
        port: of the loopback device; 0 for one that is free.

    Raises:
        OSError: if the port is taken.
    """
    return _Server(run, port)
