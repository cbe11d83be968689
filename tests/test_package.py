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
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement

from conftest import ROOT, copy_project
from yahoo_server import YahooServer, prices, walk

PARAMETERS = (
    "candidate=c-1,tickers=AAPL IBM,start=2016-01-01,end=2021-12-31,candidate_trees=5 10,folds=3"
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

    The packages that it needs are those of this environment, by a path: only candlecast itself is
    another one.
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
    """The wheel installed, and a loopback Yahoo that it asks."""
    folder = tmp_path_factory.mktemp("installed")
    with YahooServer() as server:
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(walk(date(2016, 1, 1), date(2021, 12, 31))))
        place = Installed(folder, wheel)
        place.environment = server.environment(folder / "hook", pace=0)
        yield place


ENTRY_POINT = """
import importlib.metadata, sys
[entry] = importlib.metadata.entry_points(group="console_scripts", name="candlecast")
returned = entry.load()()
assert returned is None
"""
"""What the launcher of a wheel task does: it calls the entry point and looks for an exception."""


@pytest.mark.slow
def test_four_tasks_in_four_processes_make_one_candidate(installed: Installed) -> None:
    commands = {
        "ingest": ["candlecast"],
        "preprocess": ["python", "-m", "candlecast"],
        "train": ["python", "-c", ENTRY_POINT],
        "evaluate": ["candlecast"],
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
    client = MlflowClient(f"sqlite:///{installed.root}/mlflow/mlflow.db")
    runs = client.search_runs(["1"])
    assert [run.data.tags["candidate"] for run in runs] == ["c-1"]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["git_commit"] == "unknown"  # no repository around
    assert list(installed.empty.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "parameters", "last"),
    [
        ([], f"{PARAMETERS},windw=3", "  windw: unknown parameter; did you mean window?"),
        (["--pipelines", "forecst"], PARAMETERS, "    forecast"),  # what was meant
        (["--frequency", "daily"], PARAMETERS, "No such option '--frequency'."),
    ],
)
def test_a_failure_ends_with_its_cause(
    installed: Installed, options: list[str], parameters: str, last: str
) -> None:
    done = installed.run("python", "-m", "candlecast", *options, parameters=parameters)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(last)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ([], "{empty}/conf/base"),
        (["--conf-source", "nowhere"], "Path 'nowhere' does not exist."),
        (["--conf-source"], "Option '--conf-source' requires an argument."),
        (["--conf-source={conf}.zip", "--params", "windw=3"], "did you mean window?"),
    ],
)
def test_the_configuration_is_missed_or_unpacked(
    installed: Installed, options: list[str], last: str
) -> None:
    shutil.make_archive(str(installed.conf), "zip", installed.conf.parent, "conf")
    done = installed.type("candlecast", *(option.format(**vars(installed)) for option in options))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(last.format(**vars(installed)))
    assert list(installed.empty.iterdir()) == []


def test_the_sample_is_missed_in_one_line(installed: Installed) -> None:
    done = installed.type(
        *("candlecast", "--conf-source", str(installed.conf)),
        *("--params", f"data_root={installed.root}/none"),
    )
    assert done.returncode == 1
    assert "data/sample/prices.csv is not there" in done.stderr.splitlines()[-1]
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
