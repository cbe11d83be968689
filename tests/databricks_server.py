"""A loopback Databricks workspace with what a release needs; it rejects what the platform rejects.

It serves until its ``with`` block ends. For each path in `faults`, the next request gets the first
fault instead of a normal response: an HTTP status, or one of the constants below.
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
"""An extract of what ``databricks bundle summary -o json`` prints for the deployment."""

DROPPED, TRUNCATED, HELD, EMPTY = "dropped", "truncated", "held", "empty"
"""Faults. The request is processed, but the connection drops, half of the response arrives, the
response is held until the block ends, or the response is an empty object."""

Json = dict[str, Any]


def bundle_job(key: str) -> Json:
    """Return a job as the bundle declares it."""
    files = [yaml.safe_load(file.read_text()) for file in (ROOT / "resources").glob("*.yml")]
    jobs = [file["resources"].get("jobs", {}) for file in files]
    return next(found[key] for found in jobs if key in found)


def run(life: str, result: str | None = None, message: str = "", **more: Any) -> Json:
    """Return a run, or a task of it, as runs/get does."""
    state = {"life_cycle_state": life, "state_message": message}
    return {"state": state | ({"result_state": result} if result else {}), **more}


class DatabricksServer(ThreadingHTTPServer):
    """The workspace."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.states = [run("TERMINATED", "SUCCESS")]  # for runs/get, in order; the last one repeats
        self.faults: dict[str, list[int | str]] = defaultdict(list)  # by the end of a path
        self.files: dict[str, bytes] = {}
        self.outputs: dict[int, Json] = {}  # for runs/get-output, by the id of a task's run
        self.commit = COMMIT  # the jobs' tag
        self.champion = ""  # the candidate whose version has the alias
        self.token = "a token"
        self.requested: list[str] = []  # paths
        self.started: list[Json] = []  # job parameters, one entry per run
        self.cancelled: list[int] = []
        self.reached = threading.Event()  # a run was polled, or a response is held
        self.ended = threading.Event()
        self._runs: dict[str, int] = {}  # ids by token

    def __enter__(self) -> DatabricksServer:
        """Start serving."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and release held responses."""
        self.ended.set()
        self.shutdown()
        self.server_close()

    def start(self, body: Json) -> Json | int:
        """Start a run, unless that token has one already."""
        known = {parameter["name"] for parameter in bundle_job(JOBS[body["job_id"]])["parameters"]}
        parameters, token = body["job_parameters"], body["idempotency_token"]
        texts = all(isinstance(text, str) and "{{" not in text for text in parameters.values())
        if not texts or len(token) > 64 or parameters.keys() - known:
            return 400
        if token not in self._runs:
            self.started.append(parameters)
        return {"run_id": self._runs.setdefault(token, len(self.started))}

    def log_in(self, path: str, query: dict[str, str], body: bytes) -> Json | int | None:
        """Handle the requests of a login with a workflow job's token (OIDC); None for others."""
        token = f"{self.url}/oidc/v1/token"
        match path:
            case "/.well-known/databricks-config":
                return {"oidc_endpoint": f"{self.url}/oidc", "workspace_id": "7"}
            case "/oidc/.well-known/oauth-authorization-server":
                return {"authorization_endpoint": token, "token_endpoint": token}
            case "/github/token":
                return {"value": query["audience"]}
            case "/oidc/v1/token" if b"subject_token=the-audience" in body:
                return {"access_token": "exchanged", "token_type": "Bearer", "expires_in": 3600}
        return None

    def respond(  # noqa: PLR0911 # a table
        self, path: str, query: dict[str, str], body: Json
    ) -> Json | bytes | int:
        """Handle an authenticated request; a number is an HTTP status."""
        run_id = int(query.get("run_id", body.get("run_id", 0)) if "/jobs/" in path else 0)
        match re.sub(r"^/api/2\.\d/(unity-catalog/)?", "", path):
            case "jobs/get" if int(query["job_id"]) in JOBS:
                return {"settings": {"tags": {"commit": self.commit}}}
            case "jobs/run-now" if body["job_id"] in JOBS:
                return self.start(body)
            case "jobs/runs/get" if 0 < run_id <= len(self.started):
                self.reached.set()
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                return {"run_id": run_id, "run_page_url": f"{self.url}/run/{run_id}", **state}
            case "jobs/runs/get-output":  # of a task's run, never of a whole run
                return self.outputs.get(run_id, 400)
            case "jobs/runs/cancel" if 0 < run_id <= len(self.started):
                self.cancelled.append(run_id)
                return {}
            case alias if alias == f"models/{MODEL}/aliases/champion":
                return {"version": 3, "run_id": "abc"}
            case "mlflow/runs/get" if query["run_id"] == "abc":
                tags = [{"key": "candidate", "value": self.champion}]
                return {"run": {"info": {"run_id": "abc"}, "data": {"tags": tags}}}
            case file if file.startswith("fs/files/"):
                return self.files.get(file.removeprefix("fs/files"), 404)
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
        server.requested.append(path)
        faults = next((left for end, left in server.faults.items() if path.endswith(end)), [])
        fault = faults.pop(0) if faults else None
        if fault == HELD:
            server.reached.set()
            server.ended.wait(20)
        response: Json | bytes | int | None = fault if isinstance(fault, int) else None
        response = response or server.log_in(path, query, body)
        if response is None and self.headers.get("Authorization") == f"Bearer {server.token}":
            response = server.respond(path, query, json.loads(body or b"{}"))
        status = 401 if response is None else response if isinstance(response, int) else 200
        if fault == EMPTY:
            response = {}
        elif status != 200:
            response = {"error_code": f"CODE_{status}", "message": f"rejected {path}"}
        if fault == DROPPED:
            return
        raw = response if isinstance(response, bytes) else json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        self.send_header("Content-Length", str(len(raw)))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if fault == TRUNCATED else raw)
