"""The wheel, in an environment and a folder of its own, as a job has it."""

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from kedro.framework.cli.project import run as run_command
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement

from candlecast.__main__ import main, read_options
from candlecast.errors import ParameterError
from conftest import ROOT, copy_project
from yahoo_server import YahooServer, prices, walk

PARAMETERS = (
    "candidate=c-1,tickers=AAPL IBM,start=2019-01-01,end=2021-12-31,folds=2,"
    "estimators=forest_5 forest_10,evaluation.repetitions=1000"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as ``make package`` builds it, from a copy of the project."""
    project = copy_project(tmp_path_factory.mktemp("source") / "candlecast")
    for name in ("README.md", "LICENSE", "scripts/wheel.sh"):
        shutil.copy(ROOT / name, project)
    subprocess.run(["sh", "wheel.sh", sys.executable], cwd=project, check=True, capture_output=True)
    [built] = (project / "dist").glob("*.whl")
    return built


class Installed:
    """The wheel in an environment of its own, and an empty folder to work in.

    The packages that it needs are those of this environment, by a path file; only candlecast itself
    is installed.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin, self.empty = folder / "environment/bin", folder / "empty"
        self.conf, self.root = folder / "conf", folder / "data"
        self.empty.mkdir()
        shutil.copytree(ROOT / "conf", self.conf)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.bin.parent], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([*pip, *quiet, str(wheel)], check=True)
        [own] = self.bin.parent.glob("lib/python*/site-packages")
        (own / "packages.pth").write_text(sysconfig.get_path("purelib"))
        self.environment = dict(os.environ)

    def run(
        self, *words: str, parameters: str = PARAMETERS, conf: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the empty folder."""
        return self.type(
            *words,
            *("--env", "yahoo", "--conf-source", str(conf or self.conf)),
            *("--params", f"data_root={self.root},{parameters}"),
        )

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the empty folder, with nothing added."""
        return subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            cwd=self.empty,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel installed, and a loopback Yahoo for its requests."""
    folder = tmp_path_factory.mktemp("installed")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may name the checkout
    with YahooServer() as server:
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(walk(date(2019, 1, 1), date(2021, 12, 31))))
        place = Installed(folder, wheel)
        place.environment = server.environment(folder / "hook", pace=0)
        yield place
    monkeypatch.undo()


ENTRY_POINT = """
import importlib.metadata, sys
[entry] = importlib.metadata.entry_points(group="console_scripts", name="candlecast")
returned = entry.load()()
assert returned is None
"""
"""A wheel task's launcher: it calls the entry point and looks for an exception."""


@pytest.mark.slow
def test_tasks_make_one_candidate_and_the_last_one_the_champion(
    installed: Installed,
) -> None:
    commands = {
        "ingest,preprocess": ["candlecast"],
        "train": ["python", "-m", "candlecast"],
        "evaluate": ["python", "-c", ENTRY_POINT],
    }
    archive = shutil.make_archive(
        str(installed.root) + "-conf", "gztar", installed.conf.parent, "conf"
    )
    for tag, command in commands.items():
        conf = Path(archive) if tag == "evaluate" else None  # as kedro package makes it
        done = installed.run(*command, "--tags", tag, conf=conf)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert "candidate c-1, environment yahoo" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[-1].endswith(f"report: {installed.root}/reporting/report.html")
    reason = "Worth it, says Ada: gate {too} strict = 'yes'"
    done = installed.run(
        *("candlecast", "--pipelines", "registration"),
        *("--set", f"override_reason={reason}", "--set", "approver=Ada, Bob"),
    )
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{installed.root}/mlflow/mlflow.db")
    runs = client.search_runs(["1"])
    assert [run.data.tags["candidate"] for run in runs] == ["c-1"]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["git_commit"] == "unknown"  # no repository around
    version = client.get_model_version_by_alias("candlecast", "champion")
    assert (version.tags["override_reason"], version.tags["approver"]) == (reason, "Ada, Bob")
    assert list(installed.empty.iterdir()) == []


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, as a job has it; it stays empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDRO_LOGGING_CONFIG", "")
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


CONF = f"--conf-source={ROOT / 'conf'}"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ([CONF, "--set", "windw=3"], ParameterError, "window"),
        ([CONF, "--params", "windw=3"], ParameterError, "window"),
        ([CONF, "--set", "gate.treshold=3"], ParameterError, "gate.threshold"),
        ([CONF, "--set", "window=ten,9"], ParameterError, "'ten,9'"),
        ([CONF, "--set", "window"], SystemExit, "'window'"),
        ([CONF, "--set", "approver=${x}"], SystemExit, "'approver=${x}'"),
        ([CONF, "--set", "=3"], SystemExit, "'=3'"),
        ([CONF, "--set"], SystemExit, "--set"),
        ([CONF, "--frequency", "daily"], SystemExit, "--frequency"),
        (["--conf-source", "nowhere"], SystemExit, "nowhere"),
        (["--conf-source"], SystemExit, "--conf-source"),
        ([], SystemExit, "There is no folder conf"),
    ],
)
def test_wrong_options_raise(
    elsewhere: Path,
    options: list[str],
    error: type[Exception],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(error) as caught:
        main(options)
    assert words in f"{caught.value} {capsys.readouterr().err}"
    if isinstance(caught.value, SystemExit):  # click's code, or a text, which makes it 1
        assert caught.value.code == 2 or words in str(caught.value.code)


def test_help_is_no_failure(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([CONF, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: candlecast [OPTIONS]") and "--set KEY=VALUE" in shown


def test_an_unknown_environment_is_named_with_those_there_are(elsewhere: Path) -> None:
    with pytest.raises(ParameterError, match=r"no databrick in .*only base, databricks, local"):
        main([CONF, "--env", "databrick"])


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_of_the_configuration_is_read(
    elsewhere: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    base = str(tmp_path_factory.mktemp("archive") / "conf")
    archive = shutil.make_archive(base, kind, ROOT, "conf")
    with pytest.raises(ParameterError) as caught:
        main(["--conf-source", archive, "--env", "databricks"])
    assert list(caught.value.faults) == ["catalog", "schema", "volume"]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (["--set", "candidate=0123"], {"candidate": "0123"}),
        (["--set", "a=b=c,d:e \"'{}"], {"a": "b=c,d:e \"'{}"}),
        (["--params", "a=1,b=x", "--set", "a=2"], {"a": "2", "b": "x"}),
        (["--set", "gate.threshold=0.1"], {"gate": {"threshold": "0.1"}}),
        (
            ["--params", "gate.metric=roc_auc", "--set", "gate.threshold=0.1"],
            {"gate": {"metric": "roc_auc", "threshold": "0.1"}},
        ),
        (["--set", "a="], {"a": ""}),
        ([], {}),
    ],
)
def test_parameters_given_one_by_one_are_texts(
    options: list[str], parameters: dict[str, object]
) -> None:
    assert read_options(run_command, options).params["params"] == parameters


def test_a_missing_sample_is_one_line(installed: Installed) -> None:
    done = installed.type(
        *("candlecast", "--conf-source", str(installed.conf)),
        *("--params", f"data_root={installed.root}/none"),
    )
    assert done.returncode == 1
    assert "data/sample/prices.csv" in done.stderr.splitlines()[-1]
    assert not (installed.root / "none/tables").exists()


def test_the_wheel_needs_no_spark_and_holds_every_part(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        [entries] = [name for name in names if name.endswith("/entry_points.txt")]
        about = email.message_from_bytes(archive.read(metadata))
        assert "candlecast = candlecast.__main__:main" in archive.read(entries).decode()
    needed = [Requirement(text) for text in about.get_all("Requires-Dist", [])]
    hard = {need.name for need in needed if not need.marker}
    local = {
        need.name for need in needed if need.marker and need.marker.evaluate({"extra": "local"})
    }
    assert local >= {"pyspark", "delta-spark"}
    assert hard & {"pyspark", "delta-spark", "databricks-connect"} == set()
    for name in hard:  # nor does one of them bring it
        of = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        assert {need.name for need in of if not need.marker} & {"pyspark", "delta-spark"} == set()
    source = {
        str(file.relative_to(ROOT / "src"))
        for file in (ROOT / "src/candlecast").rglob("*")
        if file.suffix in (".py", ".j2", ".typed")
    }
    assert source <= names
