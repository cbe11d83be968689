"""A loopback Yahoo for the real yfinance client, with scripted answers and counted requests.

In one process, before the client is used::

    with YahooServer() as server, redirected(server.url):
        server.script("AAPL", TOO_MANY, TOO_MANY, prices([("2022-01-03", 1, 2, 1, 2, 100)]))

For a command in another process, started with `env=server.environment(folder)`: the folder gets a
`sitecustomize.py` that does the same there. As a script it prints its address and serves twenty
years of made-up prices for every ticker: `python tests/yahoo_server.py [port]`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

CHART = "/v8/finance/chart/"
NEW_YORK, TOKYO, CRYPTO = "America/New_York", "Asia/Tokyo", "UTC"
CONSENT = (
    "<html><form><input name='csrfToken' value='t'><input name='sessionId' value='s'></form></html>"
)


@dataclass(frozen=True)
class Reply:
    """One scripted answer: what is sent, and how the connection is treated."""

    body: Callable[[int, int], bytes] | bytes = b""
    """The bytes, or a function of the requested period (Unix seconds, end excluded)."""
    status: int = 200
    kind: str = "application/json"
    delay: float = 0.0
    """Seconds before anything is sent."""
    sent: float = 1.0
    """The share of the announced bytes that is sent before the connection closes."""
    reset: bool = False
    """Close with a TCP reset instead of an answer."""


def failed(status: int, code: str, description: str) -> Reply:
    """An answer of Yahoo's own error form."""
    error = {"result": None, "error": {"code": code, "description": description}}
    return Reply(json.dumps({"chart": error}).encode(), status)


UNKNOWN = failed(404, "Not Found", "No data found, symbol may be delisted")
OUT_OF_RANGE = failed(400, "Bad Request", "Data doesn't exist for startDate = 1, endDate = 2")
EMPTY = Reply(b'{"chart": {"result": [], "error": null}}')
TOO_MANY = Reply(b"Edge: Too Many Requests", 429, "text/plain")
BROKEN = failed(500, "Internal Server Error", "oops")
HTML = Reply(b"<!doctype html><html><body>Please wait</body></html>", kind="text/html")
RESET = Reply(reset=True)


def cut(reply: Reply, *, share: float = 0.5) -> Reply:
    """The same answer, whole as HTTP, but with its JSON cut off."""
    body = reply.body
    assert callable(body)
    return replace(reply, body=lambda *period: body(*period)[: int(len(body(*period)) * share)])


def prices(
    rows: list[tuple[Any, ...]],
    *,
    zone: str = NEW_YORK,
    opens: str = "09:30",
    kind: str = "EQUITY",
    period: tuple[datetime, datetime] | None = None,
    traded: datetime | None = None,
    since: datetime | None = None,
    dividends: dict[str, float] | None = None,
    splits: dict[str, tuple[int, int]] | None = None,
    edit: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Reply:
    """A good answer with those of the rows that lie in the requested period.

    Args:
        rows: (session or exact time, open, high, low, close, volume[, adjusted close]), in the
            order in which they are sent; None is sent as null.
        zone: the exchange's time zone.
        opens: the time of day that stamps a session.
        kind: Yahoo's instrumentType.
        period: the regular trading period of the exchange; none is sent if None.
        traded: the time of the latest trade.
        since: the time of the first trade ever.
        dividends: amounts by session.
        splits: (new, old) shares by session.
        edit: changes the result in place before it is sent.
    """

    def stamp(moment: str | datetime) -> int:
        if isinstance(moment, datetime):
            return int(moment.timestamp())
        local = datetime.fromisoformat(f"{moment}T{opens}").replace(tzinfo=ZoneInfo(zone))
        return int(local.timestamp())

    stamped = [(stamp(row[0]), *row[1:6], *(row[6:] or row[4:5])) for row in rows]
    meta: dict[str, Any] = {
        "currency": "USD",
        "instrumentType": kind,
        "exchangeTimezoneName": zone,
        "priceHint": 2,
        "validRanges": ["1d", "5d", "max"],
    }
    if period:
        meta["currentTradingPeriod"] = {
            name: {
                "timezone": "X",
                "gmtoffset": 0,
                "start": stamp(period[0]),
                "end": stamp(period[1]),
            }
            for name in ("pre", "regular", "post")
        }
    if traded:
        meta["regularMarketTime"] = stamp(traded)
    if since:
        meta["firstTradeDate"] = stamp(since)
    events = {
        "dividends": {
            str(stamp(day)): {"amount": amount, "date": stamp(day)}
            for day, amount in (dividends or {}).items()
        },
        "splits": {
            str(stamp(day)): {"date": stamp(day), "numerator": new, "denominator": old}
            for day, (new, old) in (splits or {}).items()
        },
    }

    @functools.lru_cache(maxsize=2)
    def body(first: int, end: int) -> bytes:
        """Rows of the period; without any, Yahoo leaves the time stamps out."""
        requested = [row for row in stamped if first <= row[0] < end]
        names = ("open", "high", "low", "close", "volume", "adjclose")
        columns = {name: [row[i] for row in requested] for i, name in enumerate(names, start=1)}
        adjusted = {"adjclose": columns.pop("adjclose")}
        result: dict[str, Any] = {
            "meta": dict(meta),
            "indicators": {"quote": [{}], "adjclose": [{}]},
        }
        if requested:
            result["timestamp"] = [row[0] for row in requested]
            result["indicators"] = {"quote": [columns], "adjclose": [adjusted]}
            result["events"] = {
                name: {key: event for key, event in found.items() if first <= int(key) < end}
                for name, found in events.items()
            }
        edit(result)
        return json.dumps({"chart": {"result": [result], "error": None}}).encode()

    return Reply(body)


def walk(start: date, end: date, *, weekends: bool = False) -> list[tuple[Any, ...]]:
    """Made-up prices of every weekday, or every day, the same at every call."""
    days = (start + timedelta(days=n) for n in range((end - start).days + 1))
    sessions = [day.isoformat() for day in days if weekends or day.weekday() < 5]
    levels = [100 + 20 * math.sin(n / 50) + math.sin(n * n) for n in range(len(sessions) + 1)]
    return [
        (day, a, max(a, b) + 0.5, min(a, b) - 0.5, b, 1000 + n)
        for n, (day, a, b) in enumerate(zip(sessions, levels, levels[1:], strict=False))
    ]


@dataclass
class YahooServer:
    """The server, in a thread of its own while used as a context.

    `requests` counts those for prices, by ticker. `others` counts all other paths (the
    cookies and the crumb). Both count before the answer goes out.
    """

    port: int = 0
    default: Reply = UNKNOWN
    """The answer for tickers without a script."""
    requests: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    scripts: dict[str, list[Reply]] = field(default_factory=dict)

    def script(self, ticker: str, *replies: Reply) -> None:
        """Answer a ticker with these, one a request, the last one for ever; counts from 0."""
        self.scripts[ticker] = list(replies)
        self.requests[ticker] = 0

    def next_reply(self, ticker: str) -> Reply:
        """Count a request and take its answer."""
        self.requests[ticker] += 1
        replies = self.scripts.get(ticker, [self.default])
        return replies.pop(0) if len(replies) > 1 else replies[0]

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> YahooServer:
        """Start serving."""
        handler = type("Handler", (_Handler,), {"yahoo": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, folder: Path, *, pace: float = 0.01) -> dict[str, str]:
        """The environment in which a Python command reaches this server instead of Yahoo.

        Args:
            folder: an empty folder, which gets a `sitecustomize.py`.
            pace: the factor on the pauses between two tries.
        """
        hook = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("yahoo_server", {str(Path(__file__).resolve())!r})
sys.modules["yahoo_server"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.hook = module.redirected({self.url!r}, pace={pace!r})
module.hook.__enter__()
"""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(hook)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path}


class _Handler(BaseHTTPRequestHandler):
    yahoo: YahooServer

    def do_GET(self) -> None:
        """Answer about prices by script, and about cookies and the crumb as Yahoo does."""
        address = urlsplit(self.path)
        if address.path.startswith(CHART):
            query = dict(parse_qsl(address.query))  # with "range" instead: all rows
            period = (int(query.get("period1", 0)), int(query.get("period2", sys.maxsize)))
            reply = self.yahoo.next_reply(unquote(address.path.removeprefix(CHART)))
            self._send(reply, reply.body(*period) if callable(reply.body) else reply.body)
            return
        self.yahoo.others[address.path] += 1
        texts = {"/v1/test/getcrumb": "crumb", "/consent": CONSENT, "/copyConsent": ""}
        status = 200 if address.path in texts else 404
        self._send(Reply(status=status, kind="text/html"), texts.get(address.path, "none").encode())

    do_POST = do_GET

    def _send(self, reply: Reply, body: bytes) -> None:
        time.sleep(reply.delay)
        if reply.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        with contextlib.suppress(ConnectionError):  # a slow answer finds nobody waiting
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: int(len(body) * reply.sent)])

    def finish(self) -> None:
        """Nothing is left to flush after a reset."""
        with contextlib.suppress(ConnectionError, OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def redirected(url: str, *, pace: float = 1.0) -> Iterator[None]:
    """Send this process's requests for yahoo.com to the server; refuse other hosts.

    The one place every request of yfinance goes through is curl_cffi's session, cookies and crumb
    included, whose addresses yfinance 1.7 writes out in full; so it is not enough to change
    `yfinance.const`, and the order of imports does not matter.

    Args:
        url: the server's address.
        pace: the factor on tenacity's pauses.
    """
    import tenacity.nap
    from curl_cffi import requests

    send, clock = requests.Session.request, tenacity.nap.time

    def request(self: Any, method: Any, address: str = "", **options: Any) -> Any:
        address = options.pop("url", address)
        parts = urlsplit(address)
        if not (parts.hostname or "").endswith("yahoo.com"):
            raise AssertionError(f"a test requested {address}")
        here = urlsplit(url)
        to_loopback = parts._replace(scheme=here.scheme, netloc=here.netloc).geturl()
        return send(self, method, to_loopback, **{**options, "proxies": {"all": ""}})

    requests.Session.request = request  # type: ignore[method-assign]
    tenacity.nap.time = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds * pace))  # type: ignore[assignment]
    try:
        yield
    finally:
        requests.Session.request = send  # type: ignore[method-assign]
        tenacity.nap.time = clock


def main() -> None:
    """Serve twenty years of made-up prices for every ticker until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    today = datetime.now(UTC).date()
    rows = walk(today - timedelta(days=20 * 365), today)
    with YahooServer(port=port, default=prices(rows)) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
