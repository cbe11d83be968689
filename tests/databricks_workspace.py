"""A workspace's MLflow and Unity Catalog on loopback, as strict as the platform.

MLflow's own clients for ``databricks`` and ``databricks-uc`` talk to it. It hands requests on to an
open-source store, and refuses what the platform is known to refuse: the table `REFUSALS`, which
names the source of each. A new call of the project that the platform refuses fails here too, once
its refusal stands in the table.
"""

import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.server import handlers
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

with warnings.catch_warnings(action="ignore"):  # mlflow 3.17 uses what starlette deprecates
    import mlflow.server.fastapi_app

UC = "/api/2.0/mlflow/unity-catalog/"
NAME = r"[^./\s']+\.[^./\s']+\.[^./\s']+"


@dataclass(frozen=True)
class Call:
    """A request: ``PATCH``, the path without its query, and the query or the body as a mapping."""

    method: str
    path: str
    said: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """What the platform refuses.

    Attributes:
        what: in words.
        source: where that is written.
        applies: whether a call is one of these.
        examples: calls that are.
    """

    what: str
    source: str
    applies: Callable[[Call], bool]
    examples: tuple[Call, ...]


def tags_of(call: Call) -> dict[str, str]:
    """The tags of a version that a call sets."""
    if call.path == UC + "model-versions/create":
        return {tag["key"]: tag.get("value", "") for tag in call.said.get("tags", [])}
    if call.path == UC + "model-versions/set-tag":
        return {call.said["key"]: call.said.get("value", "")}
    return {}


def create(**tags: str) -> Call:
    """A call that makes a version."""
    said = {"name": "main.candles.model", "source": "models:/m-1"}
    given = [{"key": key, "value": value} for key, value in tags.items()]
    return Call("POST", UC + "model-versions/create", {**said, "tags": given})


def search(kind: str, **said: Any) -> Call:
    """A call that searches for logged models or for model versions."""
    if kind == "model-versions":
        return Call("GET", UC + "model-versions/search", said)
    return Call("POST", "/api/2.0/mlflow/logged-models/search", {"experiment_ids": ["1"], **said})


REFUSALS = (
    Refusal(
        "searching logged models by their run",
        "mlflow 3.17.2 tracking/_model_registry/fluent.py:358 (TODO); mlflow pull request 15671",
        lambda call: (
            call.path.endswith("mlflow/logged-models/search")
            and "source_run_id" in call.said.get("filter", "")
        ),
        (search("logged-models", filter="source_run_id = 'abc'"),),
    ),
    Refusal(
        "more than 50 logged models in one answer",
        "Databricks REST reference, Search logged models: max_results, the maximum is 50",
        lambda call: (
            call.path.endswith("mlflow/logged-models/search")
            and int(call.said.get("max_results", 0)) > 50
        ),
        (search("logged-models", max_results=51),),
    ),
    Refusal(
        "searching model versions by anything but name = '<catalog>.<schema>.<model>'",
        "mlflow 3.17.2 store/_unity_catalog/registry/uc_native_rest_store.py:567; mlflow issue "
        "12217",
        lambda call: (
            call.path == UC + "model-versions/search"
            and not re.fullmatch(rf"name\s*=\s*'{NAME}'", call.said.get("filter", ""))
        ),
        (
            search("model-versions", filter="run_id='abc'"),
            search("model-versions", filter="name='main.candles.model' and run_id='abc'"),
            search("model-versions", filter="name LIKE 'main.candles.%'"),
            search("model-versions"),
        ),
    ),
    Refusal(
        "a registered model whose name has not three levels",
        "mlflow 3.17.2 utils/_unity_catalog_utils.py, get_full_name_from_sc; Databricks "
        "documentation, Manage model lifecycle in Unity Catalog",
        lambda call: (
            call.path.startswith((UC + "registered-models/", UC + "model-versions/"))
            and not re.fullmatch(NAME, call.said.get("name", "main.candles.model"))
        ),
        (
            Call("POST", UC + "registered-models/create", {"name": "candlecast"}),
            Call("GET", UC + "registered-models/alias", {"name": "candles.model", "alias": "a"}),
        ),
    ),
    Refusal(
        "stages, and all else of the registry that workspaces had before Unity Catalog",
        "mlflow 3.17.2 store/_unity_catalog/registry/rest_store.py, "
        "transition_model_version_stage; Databricks documentation, as above",
        lambda call: call.path.startswith(
            ("/api/2.0/mlflow/registered-models/", "/api/2.0/mlflow/model-versions/")
        ),
        (
            Call(
                "POST",
                "/api/2.0/mlflow/model-versions/transition-stage",
                {"name": "candlecast", "version": "1", "stage": "Production"},
            ),
        ),
    ),
    Refusal(
        "a tag whose key has one of . , - = / :",
        "Databricks documentation, Apply tags to Unity Catalog securable objects: Constraints",
        lambda call: any(re.search("[.,=/:-]", key) for key in tags_of(call)),
        tuple(create(**{f"a{letter}b": "c"}) for letter in ".,-=/:"),
    ),
    Refusal(
        "a tag whose value is longer than 1,000 characters",
        "the same",
        lambda call: any(len(value) > 1000 for value in tags_of(call).values()),
        (
            create(a="b" * 1001),
            Call(
                "POST",
                UC + "model-versions/set-tag",
                {"name": "main.candles.model", "version": "1", "key": "a", "value": "b" * 1001},
            ),
        ),
    ),
    Refusal(
        "more than 50 tags of one version",
        "the same",
        lambda call: len(tags_of(call)) > 50,
        (create(**{f"tag{number}": "" for number in range(51)}),),
    ),
    Refusal(
        "an experiment whose name is not an absolute path of the workspace",
        "Databricks documentation, Organize training runs with MLflow experiments",
        lambda call: (
            call.path == "/api/2.0/mlflow/experiments/create"
            and not call.said.get("name", "").startswith("/")
        ),
        (Call("POST", "/api/2.0/mlflow/experiments/create", {"name": "candlecast"}),),
    ),
)
"""Two more refusals depend on what was stored before: `Workspace.finalize` demands a signature, and
`Workspace.set_tag` counts the tags that a version has."""


class RefusedError(Exception):
    """The platform refuses a call.

    Attributes:
        code: MLflow's error code.
    """

    def __init__(self, message: str, code: str = "INVALID_PARAMETER_VALUE"):
        super().__init__(message)
        self.code = code


class Workspace:
    """The store behind the server.

    Args:
        database: the SQLite file of an open-source MLflow store.
        files: the folder for files of the workspace that are not there yet.
        absent: the code for what is not there. That of Unity Catalog is documented nowhere.
    """

    def __init__(self, database: Path, files: Path, absent: str = "RESOURCE_DOES_NOT_EXIST"):
        uri = f"sqlite:///{database}"
        self.files, self.absent = files, absent
        self.tracking = TrackingStore(uri, "dbfs:/databricks/mlflow-tracking")
        self.registry = RegistryStore(uri)
        self.pending: set[tuple[str, str]] = set()
        self.calls: list[Call] = []
        self.denied: set[str] = set()  # paths that nobody has a permission for
        self.roots = {
            experiment.experiment_id: experiment.artifact_location
            for experiment in self.tracking.search_experiments()
            if not experiment.artifact_location.startswith("dbfs:")
        }

    # --- Tracking ---------------------------------------------------------------------------------

    def track(self, call: Call, query: str, body: bytes) -> tuple[int, bytes]:
        """Hand a call on to MLflow's own server."""
        handlers._tracking_store = self.tracking
        answer = mlflow.server.app.test_client().open(
            call.path, method=call.method, query_string=query, data=body or None,
            content_type="application/json",
        )  # fmt: skip
        text = answer.get_data(as_text=True)
        for number, root in self.roots.items():  # of a store that was made elsewhere
            text = text.replace(root, f"dbfs:/databricks/mlflow-tracking/{number}")
        text = re.sub(r"(mlflow-tracking/\d+)/models/", r"\1/logged_models/", text)
        return answer.status_code, text.encode()

    def local(self, path: str) -> Path:
        """Where a file of the workspace lies."""
        inside = re.match(
            r"/WorkspaceInternal/Mlflow/Artifacts/(\d+)/(Runs|LoggedModels)/(.+)", path
        )
        if inside and (root := self.roots.get(inside[1])):
            return Path(
                root.removeprefix("file://"),
                "models" if inside[2] == "LoggedModels" else "",
                inside[3],
            )
        return self.files / path.lstrip("/")

    # --- Unity Catalog ----------------------------------------------------------------------------

    def catalog(self, call: Call) -> dict[str, Any]:  # noqa: PLR0911, PLR0912 # a case per call
        """Carry out a call to the registry.

        Raises:
            RefusedError: there is no such thing.
            KeyError: this server does not know the call.
        """
        said, name = call.said, call.said.get("name", "")
        if call.path.endswith("is-databricks-sdk-models-artifact-repository-enabled"):
            return {"is_databricks_sdk_models_artifact_repository_enabled": True}
        match call.method, call.path.removeprefix(UC):
            case "POST", "registered-models/create":
                return {"registered_model": _model(self.registry.create_registered_model(name))}
            case "GET", "registered-models/get":
                found = self._found(self.registry.get_registered_model, name)
                return {"registered_model": _model(found)}
            case "GET", "registered-models/alias":
                alias = said["alias"]
                version = self._found(self.registry.get_model_version_by_alias, name, alias)
                return {"model_version": self._version(version)}
            case "POST", "registered-models/alias":
                self.registry.set_registered_model_alias(name, said["alias"], said["version"])
                return {}
            case "POST", "model-versions/create":
                made = self.registry.create_model_version(
                    name,
                    said["source"],
                    said.get("run_id"),
                    [ModelVersionTag(key, value) for key, value in tags_of(call).items()],
                    description=said.get("description"),
                    model_id=said.get("model_id"),
                )
                self.pending.add((name, str(made.version)))
                return {"model_version": self._version(made)}
            case "POST", "model-versions/finalize":
                self.finalize(name, said["version"])
                return {"model_version": self._version(self._get(said))}
            case "GET", "model-versions/get":
                return {"model_version": self._version(self._get(said))}
            case "PATCH", "model-versions/update":
                self.registry.update_model_version(
                    name, said["version"], said.get("description", "")
                )
                return {"model_version": self._version(self._get(said))}
            case "POST", "model-versions/set-tag":
                self.set_tag(name, said["version"], said["key"], said["value"])
                return {}
            case "DELETE", "model-versions/delete-tag":
                self.registry.delete_model_version_tag(name, said["version"], said["key"])
                return {}
            case "GET", "model-versions/search":
                # Two a page, so that who reads the first page only is found out.
                page = self.registry.search_model_versions(
                    said["filter"], 2, page_token=said.get("page_token")
                )
                found = [self._version(version, found=True) for version in page]
                return {"model_versions": found, "next_page_token": page.token or ""}
            case "POST", "model-versions/emit-lineage":
                return {}
        raise KeyError(call.path)

    def finalize(self, name: str, version: str) -> None:
        """Make a version ready, if its model has a signature of inputs and outputs."""
        folder = self.local(f"/Models/{name.replace('.', '/')}/{version}")
        signature = yaml.safe_load((folder / "MLmodel").read_text()).get("signature") or {}
        if not (signature.get("inputs") and signature.get("outputs")):
            raise RefusedError("Models in the Unity Catalog must have a signature")
        self.pending.discard((name, version))

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag, the 50th at most."""
        if len({*self._get({"name": name, "version": version}).tags, key}) > 50:
            raise RefusedError("A version has 50 tags at most")
        self.registry.set_model_version_tag(name, version, ModelVersionTag(key, value))

    def _get(self, said: dict[str, Any]) -> ModelVersion:
        found: ModelVersion = self._found(
            self.registry.get_model_version, said["name"], said["version"]
        )
        return found

    def _found(self, ask: Callable[..., Any], *what: str) -> Any:
        try:
            return ask(*what)
        except MlflowException as error:
            raise RefusedError(f"{' '.join(what)} does not exist", self.absent) from error

    def _version(self, version: ModelVersion, found: bool = False) -> dict[str, Any]:
        """A version as Unity Catalog gives it; one that was found has neither tags nor aliases."""
        pending = (version.name, str(version.version)) in self.pending
        return {
            "name": version.name,
            "version": str(version.version),
            "creation_timestamp": version.creation_timestamp,
            "last_updated_timestamp": version.last_updated_timestamp,
            "description": version.description or "",
            "source": version.source,
            "run_id": version.run_id or "",
            "status": "PENDING_REGISTRATION" if pending else "READY",
        } | (
            {}
            if found
            else {
                "model_id": version.model_id or "",
                "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
                "aliases": [{"alias": alias} for alias in version.aliases],
            }
        )


def _model(model: RegisteredModel) -> dict[str, Any]:
    aliases = [{"alias": alias, "version": str(v)} for alias, v in model.aliases.items()]
    return {"name": model.name, "description": model.description or "", "aliases": aliases}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Refuse it, or hand it on."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if path == "/.well-known/databricks-config":
            self.send(200, json.dumps({"oidc_endpoint": f"{self.server.url}/oidc"}).encode())
        elif self.headers.get("Authorization") != "Bearer a-token":
            self.fail(401, "UNAUTHENTICATED", "no login")
        elif path.startswith("/api/2.0/fs/"):
            self.files(path, parts.query, body)
        else:
            said = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            if body and "json" in self.headers.get("Content-Type", "json"):
                said |= json.loads(body)
            self.api(Call(self.command, path, said), parts.query, body)

    def api(self, call: Call, query: str, body: bytes) -> None:
        """Answer a call of MLflow."""
        workspace = self.server.workspace
        workspace.calls.append(call)
        try:
            if call.path in workspace.denied:
                raise RefusedError("Grant EXECUTE on the model", "PERMISSION_DENIED")
            for refusal in REFUSALS:
                if refusal.applies(call):
                    raise RefusedError(f"Refused: {refusal.what}")
            if call.path.startswith(UC.rstrip("/")):
                self.send(200, json.dumps(workspace.catalog(call)).encode())
            elif call.path.startswith("/api/2.0/mlflow/"):
                self.send(*workspace.track(call, query, body))
            else:
                self.fail(404, "ENDPOINT_NOT_FOUND", call.path)
        except RefusedError as error:
            status = {workspace.absent: 404, "PERMISSION_DENIED": 403}.get(error.code, 400)
            self.fail(status, error.code, str(error))
        except MlflowException as error:
            self.fail(error.get_http_status_code(), error.error_code, str(error))

    def files(self, path: str, query: str, body: bytes) -> None:
        """Answer a call of the Files API: a file put, read or looked at, a folder listed."""
        kind, _, name = path.removeprefix("/api/2.0/fs/").partition("/")
        local = self.server.workspace.local(f"/{name}")
        match self.command, kind:
            case "POST", "create-download-url":
                asked = parse_qs(query)["path"][0]
                url = f"{self.server.url}/api/2.0/fs/files{asked}"
                login = {"name": "Authorization", "value": "Bearer a-token"}
                self.send(200, json.dumps({"url": url, "headers": [login]}).encode())
            case "PUT", "files":
                local.parent.mkdir(parents=True, exist_ok=True)
                local.write_bytes(body)
                self.send(204, b"")
            case "GET" | "HEAD", "files" if local.is_file():
                self.send(200, local.read_bytes(), "application/octet-stream")
            case "HEAD", "directories" if local.is_dir():
                self.send(200, b"")
            case "GET", "directories" if local.is_dir():
                contents = [
                    {
                        "path": f"/{name}/{item.name}",
                        "name": item.name,
                        "is_directory": item.is_dir(),
                        "file_size": item.stat().st_size,
                    }
                    for item in local.iterdir()
                ]
                self.send(200, json.dumps({"contents": contents}).encode())
            case _:
                self.fail(404, "NOT_FOUND", path)

    def fail(self, status: int, code: str, message: str) -> None:
        """Answer with an error."""
        self.send(status, json.dumps({"error_code": code, "message": message}).encode())

    def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        """Answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")
        self.send_header("x-databricks-org-id", "1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = answer

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Serves a workspace on loopback."""

    daemon_threads = True

    def __init__(self, workspace: Workspace):
        super().__init__(("127.0.0.1", 0), Handler)
        self.workspace = workspace
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(workspace: Workspace, login: Path) -> Iterator[Server]:
    """Serve a workspace until the block ends.

    Args:
        workspace: what is served.
        login: the file to write a login into; DATABRICKS_CONFIG_FILE is to name it. (With
            DATABRICKS_HOST and DATABRICKS_TOKEN, kedro-datasets would look for a Spark there.)
    """
    with Server(workspace) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        login.write_text(f"[DEFAULT]\nhost = {server.url}\ntoken = a-token\n")
        yield server
        server.shutdown()
        thread.join()
