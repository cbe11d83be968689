"""The folder of a Delta table, read without Spark: commits, data files, damage, old versions.

Why old files are not removed by Delta's VACUUM: docs/decisions.md.
"""

import contextlib
import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from candlecast.errors import DamageError

FETCHED, RECORD = ("prices", "quality"), "forecasts"
"""Tables that a run does not make again from other tables: fetched ones, and the forecasts."""


def commit_files(folder: Path) -> list[Path]:
    """Return the file of each commit, the oldest first."""
    return sorted((folder / "_delta_log").glob("*.json"))


def read_commit(file: Path) -> list[dict[str, Any]]:
    """Return the actions of a commit.

    Raises:
        DamageError: the file is not whole.
    """
    actions = []
    with contextlib.suppress(ValueError):  # of JSON, or of the encoding
        actions = [json.loads(line) for line in file.read_text().splitlines()]
    if not any("commitInfo" in action for action in actions):
        raise _damaged_commit(file, "is empty or cut off")
    return actions


@dataclass
class DataFile:
    """A data file that versions of a table need.

    Attributes:
        path: the file.
        added: the first version that needs it.
        removed: the first version that no longer needs it; None: the newest one needs it.
        removed_at: when that was committed (Unix seconds).
    """

    path: Path
    added: int
    removed: int | None = None
    removed_at: float = 0

    def is_of(self, version: int) -> bool:
        """Whether a version needs it."""
        return self.added <= version and (self.removed is None or version < self.removed)


def data_files(folder: Path) -> list[DataFile]:
    """Return the data files of all versions whose commits there are.

    Raises:
        DamageError: the file of a commit is not whole.
    """
    files: list[DataFile] = []
    current: dict[str, DataFile] = {}
    for commit in commit_files(folder):
        version, actions = int(commit.stem), read_commit(commit)
        for action in actions:
            if "remove" in action:
                path = unquote(action["remove"]["path"])
                if path not in current:  # added by a commit that is no longer there
                    files.append(current.setdefault(path, DataFile(folder / path, 0)))
                file = current.pop(path)
                file.removed = version
                file.removed_at = _committed_at(actions)
        for action in actions:
            if "add" in action:
                path = unquote(action["add"]["path"])
                files.append(current.setdefault(path, DataFile(folder / path, version)))
    return files


def _committed_at(actions: list[dict[str, Any]]) -> float:
    [info] = (action["commitInfo"] for action in actions if "commitInfo" in action)
    return float(info["timestamp"]) / 1000


def is_readable(folder: Path, version: int) -> bool:
    """Return whether the files of a version are still there."""
    return all(file.path.exists() for file in data_files(folder) if file.is_of(version))


def read_version(folder: Path, version: int) -> pa.Table | None:
    """Return the rows of a version, read without Spark, which takes longer for a small table.

    None if a file is damaged, which Spark reports, or the table has features that need Spark.
    """
    commits = commit_files(folder)
    if int(commits[0].stem) > 0:
        return None
    actions = [each for commit in commits for each in read_commit(commit)]
    if any(action.get("protocol", {}).get("minReaderVersion", 1) > 1 for action in actions):
        return None  # such as deletion vectors
    if any(action.get("metaData", {}).get("partitionColumns") for action in actions):
        return None
    paths = [file.path for file in data_files(folder) if file.is_of(version)]
    if not paths or not all(path.exists() and _is_intact(path) for path in paths):
        return None
    parts = [pq.read_table(path, coerce_int96_timestamp_unit="us") for path in paths]
    rows = pa.concat_tables(parts)
    for at, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            rows = rows.set_column(at, field.name, pc.assume_timezone(rows[at], "UTC"))
    return rows


def remove_old_files(folder: Path, since: float, versions: Collection[int]) -> int:
    """Remove data files that no version needs, or only versions that were replaced before a time.

    No other process may write the table meanwhile.

    Args:
        folder: the table's.
        since: the time (Unix seconds).
        versions: whose files are kept, however old.

    Returns:
        How many files were removed.

    Raises:
        DamageError: the file of a commit is not whole; nothing is removed.
    """
    files = data_files(folder)
    known = {file.path for file in files}
    needed = {
        file.path
        for file in files
        if file.removed is None or file.removed_at >= since or any(map(file.is_of, versions))
    }
    is_whole_log = int(commit_files(folder)[0].stem) == 0
    removed = 0
    for path in folder.glob("*.parquet"):
        is_orphan = path not in known and is_whole_log and path.stat().st_mtime < since
        if is_orphan or path in known - needed:
            path.unlink()
            _checksums(path).unlink(missing_ok=True)
            removed += 1
    return removed


# --- Damage ---------------------------------------------------------------------------------------


def find_damage(folder: Path) -> DamageError | None:
    """Return what keeps the newest version of a table from being read, if that is a file."""
    commits = commit_files(folder)
    try:
        files = data_files(folder)
    except DamageError as error:
        return error
    first = int(commits[0].stem) if commits else 0  # a first write that was killed has none
    for expected, commit in enumerate(commits, start=first):
        if int(commit.stem) != expected:
            missing = commit.with_name(f"{expected:020d}.json")
            return _damaged_commit(missing, "is missing")
    for commit in commits:
        if not _is_intact(commit):
            return _damaged_commit(commit, "differs from its checksum")
    for file in files:
        if file.removed is None and not file.path.exists():
            return _damaged_data(folder, files, file, "is missing")
        if file.removed is None and not _is_intact(file.path):
            return _damaged_data(folder, files, file, "differs from its checksum")
    return None


def _checksums(file: Path) -> Path:
    return file.with_name(f".{file.name}.crc")


def _is_intact(file: Path) -> bool:
    """Compare a file with the checksums that Hadoop writes beside it: a CRC-32 per block."""
    if not _checksums(file).exists():
        return True
    content, sums = file.read_bytes(), _checksums(file).read_bytes()
    size = int.from_bytes(sums[4:8])  # after the file's own four letters
    blocks = (content[start : start + size] for start in range(0, len(content), size))
    return sums[8:] == b"".join(zlib.crc32(block).to_bytes(4) for block in blocks)


def _damaged_commit(file: Path, problem: str) -> DamageError:
    folder, version = file.parents[1], int(file.stem)
    problem = f"{problem}, so table {folder.name} can't be read"
    if file != commit_files(folder)[-1] or version == 0:
        return DamageError(file, problem, _made_again(folder))
    cure = f"Delete it and {_checksums(file).name}, which takes back version {version} alone, then "
    return DamageError(file, problem, f"{cure}run again.")


def _damaged_data(
    folder: Path, files: list[DataFile], damaged: DataFile, problem: str
) -> DamageError:
    problem = f"{problem}, so table {folder.name} can't be read"
    if folder.name not in (*FETCHED, RECORD):  # nothing reads it before it is replaced
        return DamageError(damaged.path, problem, "Make the table again: kedro run.")
    whole = (
        version
        for version in reversed(range(damaged.added))
        if all(each.path.exists() for each in files if each.is_of(version))
    )
    if (version := next(whole, None)) is None:
        return DamageError(damaged.path, problem, _made_again(folder))
    back = f"RESTORE TABLE delta.`{folder}` TO VERSION AS OF {version}"
    cure = f"Put back a copy of the file, or return to version {version} (docs/faults.md): {back}"
    return DamageError(damaged.path, problem, cure)


def _made_again(folder: Path) -> str:
    if folder.name == RECORD:
        return (
            f"Put back a copy of the folder {folder}. Without one, delete it: the track record "
            "begins again."
        )
    command = "kedro run --tags ingest" if folder.name in FETCHED else "kedro run"
    return f"Put back a copy of the folder {folder}, or delete it and make it again: {command}"
