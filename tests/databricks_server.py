"""A loopback Databricks workspace, as far as a release needs it, and GitHub's part too.

::

    with DatabricksServer() as server:
        server.script(RUNNING, ended("SUCCESS"))  # what runs/get tells, one after the other
        server.fault("/jobs/run-now", 429)  # what the first request for it gets instead
        ...
        server.started  # the bodies of run-now, one a request
        server.cancelled  # ids of runs
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

JOBS = {"train": 11, "register": 12, "forecast": 13}
COMMIT = "0f" * 20
VOLUME = "/Volumes/main/candlecast/files"
MODEL = "main.candlecast.candlecast"
PAGE = "http://127.0.0.1/jobs/run/1"

RESET = "reset"
"""The connection is closed by a TCP reset, and nothing is done."""
LOST = "lost"
"""What was asked for is done, and the connection is reset instead of the answer."""
HALF = "half"
"""What was asked for is done, and half of the answer is sent."""
HOLD = "hold"
"""No answer until the block ends, or `held` is set."""

Json = dict[str, Any]


def run(life: str, result: str | None = None, code: str | None = None, **more: Any) -> Json:
    """A run as runs/get tells it, in the older words and, given a code, in the newer ones too."""
    words: Json = {"state": {"life_cycle_state": life}}
    if result:
        words["state"]["result_state"] = result
    if message := more.pop("message", None):
        words["state"]["state_message"] = message
    if code:
        words |= newer("TERMINATED", code)
    return words | more


def newer(state: str, code: str | None = None, message: str = "") -> Json:
    """The newer words for it."""
    details = {"termination_details": {"code": code, "message": message}} if code else {}
    return {"status": {"state": state, **details}}


def ended(result: str, **more: Any) -> Json:
    """A run that terminated."""
    return run("TERMINATED", result, **more)


def task(key: str, life: str, result: str | None = None, attempt: int = 0, **more: Any) -> Json:
    """A task of a run; its output is asked for by a number made of its key's length."""
    named = {"task_key": key, "run_id": 100 + len(key), "attempt_number": attempt}
    return named | run(life, result, **more)


class DatabricksServer:
    """Serves until the block ends.

    Attributes:
        url: its address.
        files: contents, by path.
        outputs: what the tasks' runs/get-output tells, by the task's key.
        tags: of every job.
        champion: the version that has the alias, and the tags of the MLflow run that made it.
        reviews: what GitHub tells of the approvals of a workflow's run.
        tokens: logins that are accepted.
        asked: method and path of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.outputs: dict[str, Json] = {}
        self.tags = {"commit": COMMIT}
        self.champion: tuple[int, dict[str, str]] | None = None
        self.reviews: list[Json] = []
        self.tokens = {"a token"}
        self.asked: list[tuple[str, str]] = []
        self.started: list[Json] = []
        self.cancelled: list[int] = []
        self.exchanged: list[dict[str, str]] = []
        self.watched = threading.Event()
        self.held = threading.Event()
        self._runs: dict[str, int] = {}
        self._script = [ended("SUCCESS")]
        self._faults: dict[str, list[int | str]] = defaultdict(list)
        handler = type("Handler", (_Handler,), {"workspace": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> DatabricksServer:
        """Begin to serve."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, also what is held."""
        self.held.set()
        self._server.shutdown()
        self._server.server_close()

    def script(self, *told: Json) -> None:
        """What runs/get tells, one after the other; the last one for ever."""
        self._script = list(told)

    def fault(self, path: str, *faults: int | str) -> None:
        """What the next requests for a path (its end) get instead of an answer."""
        self._faults[path] += faults

    def requests(self, path: str) -> int:
        """How many requests there were for a path (its end)."""
        return sum(asked.endswith(path) for _, asked in self.asked)

    def summary(self) -> Json:
        """What ``databricks bundle summary -o json`` prints of the deployment, in short."""
        return {
            "bundle": {"name": "candlecast", "target": "prod"},
            "resources": {
                "jobs": {
                    key: {"id": str(number), "name": f"candlecast {key}"}
                    for key, number in JOBS.items()
                },
                "volumes": {"files": {"id": "main.candlecast.files", "name": "files"}},
                "registered_models": {"model": {"id": MODEL, "name": "candlecast"}},
                "schemas": {"tables": {"id": "main.candlecast", "name": "candlecast"}},
            },
        }

    def next_fault(self, path: str) -> int | str | None:
        """Take what a request gets instead of an answer."""
        for end, faults in self._faults.items():
            if path.endswith(end) and faults:
                return faults.pop(0)
        return None

    def start(self, body: Json) -> Json:
        """Start a run, unless there is one of that token."""
        self.started.append(body)
        token = body["idempotency_token"]
        assert 0 < len(token) <= 64
        return {"run_id": self._runs.setdefault(token, 1 + len(self._runs))}

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    def tell(self, run_id: int) -> Json:
        """Tell of a run what comes next in the script."""
        told = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        self.watched.set()
        return {"run_id": run_id, "run_page_url": PAGE, **told}

    def output(self, run_id: int) -> Json | None:
        """Tell what a task's run put out."""
        named = [output for key, output in self.outputs.items() if 100 + len(key) == run_id]
        return named[0] if named else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away; what else breaks, its test sees."""


class _Handler(BaseHTTPRequestHandler):
    workspace: DatabricksServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.workspace.asked.append((self.command, path))
        fault = self.workspace.next_fault(path)
        if fault == RESET:
            return self._reset()
        if fault == HOLD:
            self.workspace.watched.set()
            self.workspace.held.wait(20)
        if isinstance(fault, int):
            reason = {403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST"}.get(fault, "")
            said = {"error_code": reason or f"CODE_{fault}", "message": f"so it says: {fault}"}
            if path.endswith("/v1/token"):
                said = {"error": "access_denied", "error_description": f"so it says: {fault}"}
            return self._send(fault, said)
        answer = self._answer(path, body)
        if fault == LOST:
            return self._reset()
        if answer is None:
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{path} is not there"}
            return self._send(404, missing)
        self._send(200, answer, half=fault == HALF)

    def _answer(self, path: str, body: bytes) -> Any:
        """Answer; None is what is not there."""
        server, query = self.workspace, dict(parse_qsl(urlsplit(self.path).query))
        login = self.headers.get("Authorization", "").removeprefix("Bearer ")
        oidc = f"{server.url}/oidc"
        match path:
            case "/.well-known/databricks-config":
                answer: Any = {"oidc_endpoint": oidc, "workspace_id": "7"}
            case "/oidc/.well-known/oauth-authorization-server":
                answer = {
                    "authorization_endpoint": f"{oidc}/v1/authorize",
                    "token_endpoint": f"{oidc}/v1/token",
                }
            case "/oidc/v1/token":
                server.exchanged.append(dict(parse_qsl(body.decode())))
                answer = {"access_token": "exchanged", "token_type": "Bearer", "expires_in": 3600}
            case "/github/token":
                answer = {"value": _jwt(aud=query["audience"])} if login == "of the job" else None
            case "/github/repos/ada/candlecast/actions/runs/17/approvals":
                answer = server.reviews if login == "github's" else None
            case _ if login in server.tokens:
                answer = self._of_workspace(path, query, json.loads(body or b"{}"))
            case _:
                answer = None
        return answer

    def _of_workspace(self, path: str, query: dict[str, str], body: Json) -> Any:
        server, answer = self.workspace, None
        number = int(query.get("run_id", body.get("run_id", 0))) if "/jobs/runs/" in path else 0
        job_id = int(query.get("job_id", body.get("job_id", 0)))
        match re.sub(r"^/api/2\.\d/", "", path).removeprefix("unity-catalog/"):
            case "jobs/get" if job_id in JOBS.values():
                answer = {"job_id": job_id, "settings": {"tags": server.tags}}
            case "jobs/run-now" if job_id in JOBS.values():
                answer = server.start(body)
            case "jobs/runs/get":
                answer = server.tell(number)
            case "jobs/runs/get-output":
                answer = server.output(number)
            case "jobs/runs/cancel":
                server.cancelled.append(number)
                answer = {}
            case asked if asked == f"models/{MODEL}/aliases/champion" and server.champion:
                answer = {"version": server.champion[0], "run_id": "abc"}
            case "mlflow/runs/get" if server.champion:
                tags = [{"key": key, "value": value} for key, value in server.champion[1].items()]
                answer = {"run": {"info": {"run_id": "abc"}, "data": {"tags": tags}}}
            case asked if asked.startswith("fs/files/"):
                answer = server.files.get(asked.removeprefix("fs/files"))
        return answer

    def _send(self, status: int, answer: Any, half: bool = False) -> None:
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if half else raw)
        self.close_connection = True

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True


def _jwt(**claims: object) -> str:
    """A token of GitHub's form, signed by nobody."""

    def part(content: Json) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(dict(claims))}."


def approved(*people: str, environment: str = "production", comment: str = "") -> Iterable[Json]:
    """Reviews that let a workflow's run go on."""
    return [
        {
            "state": "approved",
            "comment": comment,
            "environments": [{"name": environment}],
            "user": {"login": person},
        }
        for person in people
    ]
