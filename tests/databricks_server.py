"""A loopback Databricks workspace, as far as a release needs it; it refuses what the platform does.

::

    with DatabricksServer() as server:
        server.script = [run("RUNNING"), run("TERMINATED", "SUCCESS")]  # what runs/get answers
        server.faults["/jobs/run-now"] = [429]  # what the first request for it gets instead
        ...
        server.started  # job parameters, one entry per run
        server.cancelled  # ids of runs
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from conftest import ROOT

JOBS = {11: "train", 12: "register"}
COMMIT = "0f" * 20
MODEL = "main.candlecast.candlecast"
REPORTING = "/Volumes/main/candlecast/files/reporting"
SUMMARY = {
    "resources": {
        "jobs": {key: {"id": str(number)} for number, key in JOBS.items()},
        "volumes": {"files": {"id": "main.candlecast.files"}},
        "registered_models": {"model": {"id": MODEL}},
    }
}
"""What ``databricks bundle summary -o json`` prints of the deployment, in short."""

LOST, HALF, HOLD, EMPTY = "lost", "half", "hold", "empty"
"""Faults: a request is done, and the connection is lost; or half of the answer comes; or none
until the block ends; or an answer comes that holds nothing."""

Json = dict[str, Any]


def run(life: str, result: str | None = None, message: str = "", **more: Any) -> Json:
    """Return a run, or a task of it, as runs/get does."""
    state = {"life_cycle_state": life, "state_message": message}
    return {"state": state | ({"result_state": result} if result else {}), **more}


class DatabricksServer(ThreadingHTTPServer):
    """Serves until the block ends.

    Attributes:
        script: what runs/get answers, one after the other; the last one for ever.
        faults: what the next requests for a path (its end) get instead of an answer.
        files: contents by path.
        outputs: what runs/get-output answers, by the id of a task's run.
        commit: the tag of every job.
        champion: the candidate whose version has the alias; None: none has.
        tokens: logins that are accepted.
        asked: the path of every request.
        watched: set once a run is asked for, or a request is held.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.script = [run("TERMINATED", "SUCCESS")]
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.files: dict[str, bytes] = {}
        self.outputs: dict[int, Json] = {}
        self.commit = COMMIT
        self.champion: str | None = None
        self.tokens = {"a token"}
        self.asked: list[str] = []
        self.started: list[Json] = []
        self.cancelled: list[int] = []
        self.watched, self.ended = threading.Event(), threading.Event()
        self._tokens: dict[str, int] = {}

    def __enter__(self) -> DatabricksServer:
        """Begin to serve."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, also what is held."""
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away; what else breaks, its test sees."""

    def start(self, body: Json) -> Json | int:
        """Start a run, unless there is one of that token."""
        file = ROOT / f"resources/{JOBS[body['job_id']]}.yml"
        job = yaml.safe_load(file.read_text())["resources"]["jobs"][file.stem]
        given, token = body["job_parameters"], body["idempotency_token"]
        texts = all(isinstance(value, str) and "{{" not in value for value in given.values())
        if not texts or len(token) > 64 or given.keys() - {p["name"] for p in job["parameters"]}:
            return 400
        if token not in self._tokens:
            self.started.append(given)
        return {"run_id": self._tokens.setdefault(token, len(self.started))}

    def answer(  # noqa: PLR0911 # a table
        self, path: str, query: dict[str, str], body: Json
    ) -> Json | bytes | int:
        """Answer a request that is logged in; a number is an HTTP status."""
        run_id = int(query.get("run_id", body.get("run_id", 0)) if "/jobs/" in path else 0)
        match re.sub(r"^/api/2\.\d/(unity-catalog/)?", "", path):
            case "jobs/get" if int(query["job_id"]) in JOBS:
                return {"settings": {"tags": {"commit": self.commit}}}
            case "jobs/run-now" if body["job_id"] in JOBS:
                return self.start(body)
            case "jobs/runs/get" if 0 < run_id <= len(self.started):
                self.watched.set()
                told = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                return {"run_id": run_id, "run_page_url": f"{self.url}/run/{run_id}", **told}
            case "jobs/runs/get-output":  # of a task's run, never of a whole run
                return self.outputs.get(run_id, 400)
            case "jobs/runs/cancel" if 0 < run_id <= len(self.started):
                self.cancelled.append(run_id)
                return {}
            case asked if asked == f"models/{MODEL}/aliases/champion" and self.champion:
                return {"version": 3, "run_id": "abc"}
            case "mlflow/runs/get" if query["run_id"] == "abc":
                tags = [{"key": "candidate", "value": self.champion}]
                return {"run": {"info": {"run_id": "abc"}, "data": {"tags": tags}}}
            case asked if asked.startswith("fs/files/"):
                return self.files.get(asked.removeprefix("fs/files"), 404)
        return 404


class _Handler(BaseHTTPRequestHandler):
    server: DatabricksServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        server, url = self.server, urlsplit(self.path)
        path, query = unquote(url.path), dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.asked.append(path)
        faults = next((left for end, left in server.faults.items() if path.endswith(end)), [])
        fault = faults.pop(0) if faults else None
        if fault == HOLD:
            server.watched.set()
            server.ended.wait(20)
        answer: Json | bytes | int
        if isinstance(fault, int):
            answer = fault
        elif (login := self.login(path, query, body)) is not None:
            answer = login
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") in server.tokens:
            answer = server.answer(path, query, json.loads(body or b"{}"))
        else:
            answer = 401
        answer = {} if fault == EMPTY else answer
        status = answer if isinstance(answer, int) else 200
        if isinstance(answer, int):
            answer = {"error_code": f"CODE_{answer}", "message": f"so it says of {path}"}
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.close_connection = True
        if fault == LOST:
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        self.send_header("Content-Length", str(len(raw)))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if fault == HALF else raw)

    def login(self, path: str, query: dict[str, str], body: bytes) -> Json | int | None:
        """Answer what makes a login of the token that GitHub gives a workflow's job (OIDC)."""
        oidc = f"{self.server.url}/oidc"
        match path:
            case "/.well-known/databricks-config":
                return {"oidc_endpoint": oidc, "workspace_id": "7"}
            case "/oidc/.well-known/oauth-authorization-server":
                endpoints = ("authorization_endpoint", "token_endpoint")
                return {name: f"{oidc}/v1/token" for name in endpoints}
            case "/github/token":
                return {"value": f"for {query['audience']}"}
            case "/oidc/v1/token":
                given = dict(parse_qsl(body.decode()))
                trusted = given["subject_token"] == "for the-audience"
                token = {"access_token": "exchanged", "token_type": "Bearer", "expires_in": 3600}
                return token if trusted else 401
        return None
