"""A loopback workspace with MLflow and Unity Catalog, as strict as the platform.

MLflow's own clients for ``databricks`` and ``databricks-uc`` connect to it. It forwards requests to
an open-source store and rejects what the platform is known to reject: see `REFUSALS`, where each
entry names its source. To cover another call that the platform rejects, add an entry.
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
    """A request: its method, its path without the query, and its query or JSON body."""

    method: str
    path: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A kind of call that the platform rejects.

    Attributes:
        what: a description.
        source: where this is documented.
        applies: whether a call is of this kind.
        examples: calls of this kind.
    """

    what: str
    source: str
    applies: Callable[[Call], bool]
    examples: tuple[Call, ...]


def tags_of(call: Call) -> dict[str, str]:
    """The tags of a model version that a call sets."""
    if call.path == UC + "model-versions/create":
        return {tag["key"]: tag.get("value", "") for tag in call.arguments.get("tags", [])}
    if call.path == UC + "model-versions/set-tag":
        return {call.arguments["key"]: call.arguments.get("value", "")}
    return {}


def create(**tags: str) -> Call:
    """A call that creates a model version with these tags."""
    pairs = [{"key": key, "value": value} for key, value in tags.items()]
    version = {"name": "main.candles.model", "source": "models:/m-1", "tags": pairs}
    return Call("POST", UC + "model-versions/create", version)


def search(kind: str, **query: Any) -> Call:
    """A call that searches for logged models or model versions."""
    if kind == "model-versions":
        return Call("GET", UC + "model-versions/search", query)
    return Call("POST", "/api/2.0/mlflow/logged-models/search", {"experiment_ids": ["1"], **query})


REFUSALS = (
    Refusal(
        "searching for logged models by run",
        "mlflow 3.17.2 tracking/_model_registry/fluent.py:358 (TODO); mlflow pull request 15671",
        lambda call: (
            call.path.endswith("mlflow/logged-models/search")
            and "source_run_id" in call.arguments.get("filter", "")
        ),
        (search("logged-models", filter="source_run_id = 'abc'"),),
    ),
    Refusal(
        "requesting more than 50 logged models at once",
        "Databricks REST reference, Search logged models: max_results, the maximum is 50",
        lambda call: (
            call.path.endswith("mlflow/logged-models/search")
            and int(call.arguments.get("max_results", 0)) > 50
        ),
        (search("logged-models", max_results=51),),
    ),
    Refusal(
        "searching for model versions by anything but name = '<catalog>.<schema>.<model>'",
        "mlflow 3.17.2 store/_unity_catalog/registry/uc_native_rest_store.py:567; mlflow issue "
        "12217",
        lambda call: (
            call.path == UC + "model-versions/search"
            and not re.fullmatch(rf"name\s*=\s*'{NAME}'", call.arguments.get("filter", ""))
        ),
        (
            search("model-versions", filter="run_id='abc'"),
            search("model-versions", filter="name='main.candles.model' and run_id='abc'"),
            search("model-versions", filter="name LIKE 'main.candles.%'"),
            search("model-versions"),
        ),
    ),
    Refusal(
        "a registered model whose name does not have three levels",
        "mlflow 3.17.2 utils/_unity_catalog_utils.py, get_full_name_from_sc; Databricks "
        "documentation, Manage model lifecycle in Unity Catalog",
        lambda call: (
            call.path.startswith((UC + "registered-models/", UC + "model-versions/"))
            and not re.fullmatch(NAME, call.arguments.get("name", "main.candles.model"))
        ),
        (
            Call("POST", UC + "registered-models/create", {"name": "candlecast"}),
            Call("GET", UC + "registered-models/alias", {"name": "candles.model", "alias": "a"}),
        ),
    ),
    Refusal(
        "stages and all other calls of the workspace registry, Unity Catalog's predecessor",
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
        "a tag whose key contains one of . , - = / :",
        "Databricks documentation, Apply tags to Unity Catalog securable objects: Constraints",
        lambda call: any(re.search("[.,=/:-]", key) for key in tags_of(call)),
        tuple(create(**{f"a{letter}b": "c"}) for letter in ".,-=/:"),
    ),
    Refusal(
        "a tag whose value is longer than 1,000 characters",
        "as above",
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
        "more than 50 tags on one version",
        "as above",
        lambda call: len(tags_of(call)) > 50,
        (create(**{f"tag{number}": "" for number in range(51)}),),
    ),
    Refusal(
        "an experiment whose name is not an absolute workspace path",
        "Databricks documentation, Organize training runs with MLflow experiments",
        lambda call: (
            call.path == "/api/2.0/mlflow/experiments/create"
            and not call.arguments.get("name", "").startswith("/")
        ),
        (Call("POST", "/api/2.0/mlflow/experiments/create", {"name": "candlecast"}),),
    ),
)
"""Two more rules depend on stored data: `Workspace.finalize` requires a signature, and
`Workspace.set_tag` limits the number of tags on a version."""


class RefusedError(Exception):
    """The platform rejects a call.

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
        files: the folder for the workspace's new files.
        missing_code: the error code for missing things. Unity Catalog's is not documented.
    """

    def __init__(self, database: Path, files: Path, missing_code: str = "RESOURCE_DOES_NOT_EXIST"):
        uri = f"sqlite:///{database}"
        self.files, self.missing_code = files, missing_code
        self.tracking = TrackingStore(uri, "dbfs:/databricks/mlflow-tracking")
        self.registry = RegistryStore(uri)
        self.pending: set[tuple[str, str]] = set()
        self.calls: list[Call] = []
        self.denied: set[str] = set()  # paths that need a permission which nobody has
        self.roots = {
            experiment.experiment_id: experiment.artifact_location
            for experiment in self.tracking.search_experiments()
            if not experiment.artifact_location.startswith("dbfs:")
        }

    # --- Tracking ---------------------------------------------------------------------------------

    def track(self, call: Call, query: str, body: bytes) -> tuple[int, bytes]:
        """Forward a call to MLflow's own server."""
        handlers._tracking_store = self.tracking
        response = mlflow.server.app.test_client().open(
            call.path, method=call.method, query_string=query, data=body or None,
            content_type="application/json",
        )  # fmt: skip
        text = response.get_data(as_text=True)
        for number, root in self.roots.items():  # experiments that existed before
            text = text.replace(root, f"dbfs:/databricks/mlflow-tracking/{number}")
        text = re.sub(r"(mlflow-tracking/\d+)/models/", r"\1/logged_models/", text)
        return response.status_code, text.encode()

    def local(self, path: str) -> Path:
        """The local path of a file of the workspace."""
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
        """Handle a call to the registry.

        Raises:
            RefusedError: the call names something that does not exist.
            KeyError: this server does not support the call.
        """
        given, name = call.arguments, call.arguments.get("name", "")
        if call.path.endswith("is-databricks-sdk-models-artifact-repository-enabled"):
            return {"is_databricks_sdk_models_artifact_repository_enabled": True}
        match call.method, call.path.removeprefix(UC):
            case "POST", "registered-models/create":
                return {"registered_model": _model(self.registry.create_registered_model(name))}
            case "GET", "registered-models/get":
                found = self._find(self.registry.get_registered_model, name)
                return {"registered_model": _model(found)}
            case "GET", "registered-models/alias":
                alias = given["alias"]
                version = self._find(self.registry.get_model_version_by_alias, name, alias)
                return {"model_version": self._version(version)}
            case "POST", "registered-models/alias":
                self.registry.set_registered_model_alias(name, given["alias"], given["version"])
                return {}
            case "POST", "model-versions/create":
                created = self.registry.create_model_version(
                    name,
                    given["source"],
                    given.get("run_id"),
                    [ModelVersionTag(key, value) for key, value in tags_of(call).items()],
                    description=given.get("description"),
                    model_id=given.get("model_id"),
                )
                self.pending.add((name, str(created.version)))
                return {"model_version": self._version(created)}
            case "POST", "model-versions/finalize":
                self.finalize(name, given["version"])
                return {"model_version": self._version(self._get(given))}
            case "GET", "model-versions/get":
                return {"model_version": self._version(self._get(given))}
            case "PATCH", "model-versions/update":
                self.registry.update_model_version(
                    name, given["version"], given.get("description", "")
                )
                return {"model_version": self._version(self._get(given))}
            case "POST", "model-versions/set-tag":
                self.set_tag(name, given["version"], given["key"], given["value"])
                return {}
            case "DELETE", "model-versions/delete-tag":
                self.registry.delete_model_version_tag(name, given["version"], given["key"])
                return {}
            case "GET", "model-versions/search":
                # Two per page, so that a client that reads only the first page fails.
                page = self.registry.search_model_versions(
                    given["filter"], 2, page_token=given.get("page_token")
                )
                found = [self._version(version, searched=True) for version in page]
                return {"model_versions": found, "next_page_token": page.token or ""}
            case "POST", "model-versions/emit-lineage":
                return {}
        raise KeyError(call.path)

    def finalize(self, name: str, version: str) -> None:
        """Mark a version as ready if its model has a signature of inputs and outputs."""
        folder = self.local(f"/Models/{name.replace('.', '/')}/{version}")
        signature = yaml.safe_load((folder / "MLmodel").read_text()).get("signature") or {}
        if not (signature.get("inputs") and signature.get("outputs")):
            raise RefusedError("Models in the Unity Catalog must have a signature")
        self.pending.discard((name, version))

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag, up to the limit of 50."""
        if len({*self._get({"name": name, "version": version}).tags, key}) > 50:
            raise RefusedError("A version can have at most 50 tags")
        self.registry.set_model_version_tag(name, version, ModelVersionTag(key, value))

    def _get(self, given: dict[str, Any]) -> ModelVersion:
        version: ModelVersion = self._find(
            self.registry.get_model_version, given["name"], given["version"]
        )
        return version

    def _find(self, get: Callable[..., Any], *names: str) -> Any:
        try:
            return get(*names)
        except MlflowException as error:
            raise RefusedError(f"{' '.join(names)} does not exist", self.missing_code) from error

    def _version(self, version: ModelVersion, searched: bool = False) -> dict[str, Any]:
        """A version as Unity Catalog returns it; search results have neither tags nor aliases."""
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
            if searched
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

    def respond(self) -> None:
        """Reject it or pass it on."""
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
            arguments = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            if body and "json" in self.headers.get("Content-Type", "json"):
                arguments |= json.loads(body)
            self.api(Call(self.command, path, arguments), parts.query, body)

    def api(self, call: Call, query: str, body: bytes) -> None:
        """Handle a call to MLflow."""
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
            status = {workspace.missing_code: 404, "PERMISSION_DENIED": 403}.get(error.code, 400)
            self.fail(status, error.code, str(error))
        except MlflowException as error:
            self.fail(error.get_http_status_code(), error.error_code, str(error))

    def files(self, path: str, query: str, body: bytes) -> None:
        """Handle a call to the Files API: write, read or check a file, list a folder."""
        kind, _, name = path.removeprefix("/api/2.0/fs/").partition("/")
        local = self.server.workspace.local(f"/{name}")
        match self.command, kind:
            case "POST", "create-download-url":
                url = f"{self.server.url}/api/2.0/fs/files{parse_qs(query)['path'][0]}"
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
        """Send an error."""
        self.send(status, json.dumps({"error_code": code, "message": message}).encode())

    def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")
        self.send_header("x-databricks-org-id", "1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = respond

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """The loopback server of a workspace."""

    daemon_threads = True

    def __init__(self, workspace: Workspace):
        super().__init__(("127.0.0.1", 0), Handler)
        self.workspace = workspace
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(workspace: Workspace, login: Path) -> Iterator[Server]:
    """Serve a workspace until the block ends.

    Args:
        workspace: the workspace.
        login: the file to write the login into; DATABRICKS_CONFIG_FILE must name it. (With
            DATABRICKS_HOST and DATABRICKS_TOKEN, kedro-datasets would look for Spark there.)
    """
    with Server(workspace) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        login.write_text(f"[DEFAULT]\nhost = {server.url}\ntoken = a-token\n")
        yield server
        server.shutdown()
        thread.join()
