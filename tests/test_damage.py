"""Damaged files and unusable places: one message with the file and the cure, nothing else lost."""

import errno
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils.file_utils import local_file_uri_to_path
from pyspark.sql import SparkSession

from candlecast.__main__ import main
from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import Log, find_damage
from conftest import SMALL, Run, kedro

Refused = Callable[..., str]

pytestmark = pytest.mark.slow  # most of them run a pipeline, some of them the cure


@pytest.fixture
def refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs, and returns what the user reads: one line.

    It checks that no other table and no file of MLflow has changed.
    """

    def go(*, changed: str = "nothing", **given: Any) -> str:
        def state() -> dict[str, int]:
            files = (tmp_path / "data").rglob("*")
            kept = {str(file): file.stat().st_size for file in files if file.is_file()}
            ours = ("/tables/", "/artifacts/")
            return {
                name: size
                for name, size in kept.items()
                if any(part in name for part in ours)
                and f"/{changed}/" not in name
                and not name.endswith("/registered_model_meta")  # MLflow writes it at each load
            }

        before = state()
        with pytest.raises(Exception) as caught:  # the message is what is tested
            run(**given)
        assert state() == before
        logged = capsys.readouterr().err
        assert "ERROR" not in logged
        assert "\tat " not in logged  # of Java's stack
        sys.excepthook(caught.type, caught.value, caught.tb)
        printed = capsys.readouterr().err
        assert len(printed.splitlines()) == 1, printed
        line = printed.rstrip()
        assert "  ERROR   " in line
        return line

    return go


def newest_commit(root: Path, table: str) -> Path:
    return max((root / "tables" / table / "_delta_log").glob("*.json"))


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


# --- Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.5])
def test_fault_51_a_damaged_log_of_prices(refused: Refused, run: Run, stored: Path, share) -> None:
    commit = newest_commit(stored, "prices")
    cut(commit, share)
    line = refused(**SMALL, tags=["ingest"])
    assert f"{commit} is empty or cut off" in line
    assert f"Delete it and .{commit.name}.crc" in line
    commit.unlink()
    commit.with_name(f".{commit.name}.crc").unlink()
    run(**SMALL, tags=["ingest"])
    assert DeltaDataset(table=f"{stored}/tables/prices").find_commit(None).version == 1


def test_fault_51_a_damaged_log_that_spark_reads_first(refused: Refused, stored: Path) -> None:
    commit = newest_commit(stored, "windows")
    cut(commit)
    line = refused(**SMALL, tags=["preprocess"], changed="windows")
    assert f"{commit} is empty or cut off" in line
    assert "run again" in line


def current_files(folder: Path) -> list[Path]:
    log = Log(folder)
    return sorted(log.find(max(log.commits)).files)


@pytest.mark.parametrize("part", [{"tags": ["ingest"]}, {"tags": ["preprocess"]}])
def test_fault_52_a_missing_data_file_of_prices(
    refused: Refused, run: Run, stored: Path, spark: SparkSession, part: dict[str, Any]
) -> None:
    prices = stored / "tables/prices"
    if part["tags"] == ["ingest"]:  # of the newest version alone
        DeltaDataset(table=str(prices), replace_by="ticker").save(lambda rows: rows)
    [file] = current_files(prices)
    file.unlink()
    line = refused(**SMALL, **part, changed="prices")
    assert f"{file} is missing" in line
    if part["tags"] == ["ingest"]:
        statement = f"RESTORE TABLE delta.`{prices}` TO VERSION AS OF 1"
        assert line.endswith(statement)
        spark.sql(statement)
    else:  # of all versions
        cure = f"Put back a copy of the folder {prices}, or delete it and make it again: "
        assert line.endswith(f"{cure}kedro run --tags ingest")
        shutil.rmtree(prices)
    run(**SMALL, tags=["ingest"])


def test_fault_52_a_missing_data_file_that_a_node_comes_upon(
    refused: Refused, stored: Path
) -> None:
    """Frames are lazy: this one is first read in a node."""
    [file] = current_files(stored / "tables/windows")
    file.unlink()
    line = refused(**SMALL, node_names=["data_engineering.split_by_date"], changed="windows")
    assert f"{file} is missing" in line


def test_fault_52_a_missing_data_file_of_a_table_that_is_made_again(
    refused: Refused, stored: Path
) -> None:
    for file in (stored / "tables/test").glob("*.parquet"):
        file.unlink()
    line = refused(**SMALL, candidate="second", tags=["evaluate"], changed="test")
    assert "tables/test/part" in line
    assert line.endswith("Make the table again: kedro run.")


# --- MLflow ---------------------------------------------------------------------------------------


def overwrite(store: Path) -> None:
    store.write_bytes(b"no SQLite file  " + store.read_bytes()[16:])


def zero_the_middle(store: Path) -> None:
    content = store.read_bytes()
    third = len(content) // 3
    store.write_bytes(content[:third] + bytes(third) + content[2 * third :])


@pytest.mark.parametrize(
    "damage", [overwrite, cut, zero_the_middle, lambda store: cut(store, 0), Path.unlink]
)
def test_fault_53_a_damaged_store(refused: Refused, stored: Path, damage) -> None:
    store = stored / "mlflow/mlflow.db"
    damage(store)
    line = refused(pipeline_names=["registration"], candidate="second", approver="Ada")
    assert f"{store} can't be used as MLflow's store" in line
    assert "Put back a copy of it" in line
    assert not store.exists() or damage is not Path.unlink


@pytest.mark.parametrize("whole", [True, False])
def test_fault_54_the_champion_has_no_files(refused: Refused, stored: Path, whole) -> None:
    [folder] = model_folders(stored, "first")
    if whole:
        shutil.rmtree(folder)
    else:
        (folder / "model.skops").unlink()
    line = refused(**SMALL, pipeline_names=["forecast"], changed="quality")
    assert str(folder) in line
    assert "--pipelines rollback" in line


def test_fault_54_a_candidate_has_no_files(refused: Refused, stored: Path) -> None:
    [folder] = model_folders(stored, "second")
    shutil.rmtree(folder)
    approval = {"approver": "Ada", "override_reason": "to try"}
    line = refused(pipeline_names=["registration"], candidate="second", **approval)
    assert str(folder) in line
    assert "kedro run --params candidate=second" in line


def model_folders(root: Path, candidate: str) -> list[Path]:
    with closing(sqlite3.connect(root / "mlflow/mlflow.db")) as store:
        query = "SELECT artifact_location FROM logged_models WHERE name = ?"
        return [
            Path(local_file_uri_to_path(place)) for (place,) in store.execute(query, (candidate,))
        ]


# --- Places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "/proc/nothing"])
def test_fault_55_a_data_root_that_can_t_be_made(
    refused: Refused, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / place
    line = refused(**SMALL, data_root=root)
    assert f"{root} can't be used as the data root" in line
    assert "--params data_root=" in line


def test_fault_55_a_read_only_data_root(
    refused: Refused, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def open_for_reading(path: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
        if path.is_relative_to(stored) and mode != "r":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *others, **named)

    monkeypatch.setattr(Path, "open", open_for_reading)
    line = refused(pipeline_names=["registration"], candidate="second", approver="Ada")
    assert f"{stored} can't be used as the data root (Read-only file system)" in line


# --- A table's folder -----------------------------------------------------------------------------


def test_every_damage_of_a_table_names_a_file_and_a_cure(stored: Path) -> None:
    """Each on a fresh copy of a table whose versions 0 and 1 are there."""

    def damage(table: str, break_it: Callable[[Path], object]) -> tuple[str, str]:
        folder = stored / "copies" / table
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stored / "tables/quality", folder)  # each version has its own files
        assert find_damage(folder) is None
        break_it(folder)
        found = find_damage(folder)
        assert found is not None
        return str(found.file.relative_to(folder)), found.cure

    first, second = (f"_delta_log/{version:020d}.json" for version in (0, 1))
    file, cure = damage("windows", lambda folder: cut(folder / first))
    assert file == first
    assert cure.endswith("delete it and make it again: kedro run")
    file, cure = damage("quality", lambda folder: (folder / first).write_text('{"a": 1}'))
    assert file == first
    assert cure.endswith("kedro run --tags ingest")
    file, cure = damage("forecasts", lambda folder: cut(folder / first))
    assert "the track record begins again" in cure
    # At the end of a line: the JSON is sound, but not what was written.
    file, cure = damage("train", drop_last_line)
    assert (file, cure.split(",")[0]) == (second, f"Delete it and .{Path(second).name}.crc")
    file, cure = damage("forecasts", lambda folder: flip(current_files(folder)[0]))
    assert file.endswith(".parquet")
    assert "TO VERSION AS OF 0" in cure
    file, cure = damage(
        "prices", lambda folder: [part.unlink() for part in folder.glob("*.parquet")]
    )
    assert cure.endswith("kedro run --tags ingest")


def drop_last_line(folder: Path) -> None:
    commit = max((folder / "_delta_log").glob("*.json"))
    commit.write_text("".join(commit.read_text().splitlines(keepends=True)[:-1]))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


# --- The command ----------------------------------------------------------------------------------


def test_fault_56_a_command_from_a_folder_without_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = kedro(tmp_path, "run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: No such command 'run'."
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"no folder conf in {tmp_path}.*--conf-source"):
        main([])
