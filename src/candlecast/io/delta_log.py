"""The folder of a Delta table, read without Spark: its log, data files, damage, old versions.

Why old files and entries of the log are not removed by Delta: docs/decisions.md.
"""

import contextlib
import json
import re
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
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
    if not _is_intact(file):
        raise _damaged_commit(file, "differs from its checksum")
    return actions


def read_checkpoint(file: Path) -> list[dict[str, Any]] | None:
    """Return the actions that make a version from nothing; None: the file is not whole."""
    columns = ["add.path", "metaData.partitionColumns", "protocol.minReaderVersion"]
    with contextlib.suppress(pa.ArrowException, OSError), pq.ParquetFile(file) as checkpoint:
        rows = checkpoint.read(columns).to_pylist()
        actions = [{kind: value for kind, value in row.items() if value} for row in rows]
        if any("protocol" in action for action in actions) and _is_intact(file):
            return actions
    return None


@dataclass
class Version:
    """What a version of a table consists of.

    Attributes:
        files: its data files.
        needs_spark: whether it has features that only Spark reads.
    """

    files: set[Path]
    needs_spark: bool


class Log:
    """The log of a table. It may begin at a checkpoint, and have gaps before others.

    Attributes:
        folder: the table's.
        commits: the file of each commit by version, the oldest first.
        checkpoints: the files that hold all that one version consists of, by version.
        numbers: the versions that have one or both, the oldest first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.commits = {int(file.stem): file for file in commit_files(folder)}
        files = sorted((folder / "_delta_log").glob("*.checkpoint.parquet"))
        self.checkpoints = {int(file.name.partition(".")[0]): file for file in files}
        self.numbers = sorted({*self.commits, *self.checkpoints})
        self._checkpoint, self._commit = cache(read_checkpoint), cache(read_commit)

    def is_base(self, version: int) -> bool:
        """Whether a version is read without an entry before its own."""
        found = self.checkpoints.get(version)
        return version == 0 or (found is not None and self._checkpoint(found) is not None)

    def entries(self, version: int) -> range:
        """Return the versions whose entries a version is read from.

        They begin at the newest whole checkpoint; else at 0, or after the gap that keeps the
        version from being read.
        """
        base = version
        while not self.is_base(base) and base - 1 in self.numbers:
            base -= 1
        return range(base, version + 1)

    def versions(self, entries: Iterable[int]) -> dict[int, Version]:
        """Return the versions that entries of the log make, the oldest first.

        Raises:
            DamageError: a commit, or a checkpoint that is needed, is not whole.
        """
        found: dict[int, Version] = {}
        for number in entries:
            before = found.get(number - 1) if number else Version(set(), needs_spark=False)
            if before and number in self.commits:
                found[number] = self._apply(before, self._commit(self.commits[number]))
            elif file := self.checkpoints.get(number):
                if (actions := self._checkpoint(file)) is None:
                    raise _damaged_checkpoint(self, number)
                found[number] = self._apply(Version(set(), needs_spark=False), actions)
        return found

    def find(self, version: int) -> Version | None:
        """Return one version; None: the log no longer has it.

        Raises:
            DamageError: a commit, or a checkpoint that is needed, is not whole.
        """
        if version not in self.commits:
            return None
        return self.versions(self.entries(version)).get(version)

    def committed_at(self, version: int) -> float:
        """Return when a version was committed (Unix seconds)."""
        actions = self._commit(self.commits[version])
        [info] = (action["commitInfo"] for action in actions if "commitInfo" in action)
        return float(info["timestamp"]) / 1000

    def _apply(self, before: Version, actions: list[dict[str, Any]]) -> Version:
        files, needs_spark = set(before.files), before.needs_spark
        for action in actions:
            if "remove" in action:
                files.discard(self.folder / unquote(action["remove"]["path"]))
        for action in actions:
            if "add" in action:
                files.add(self.folder / unquote(action["add"]["path"]))
            # Such as deletion vectors.
            needs_spark |= action.get("protocol", {}).get("minReaderVersion", 1) > 1
            needs_spark |= bool(action.get("metaData", {}).get("partitionColumns"))
        return Version(files, needs_spark)


def is_readable(folder: Path, version: int) -> bool:
    """Return whether the log still has a version, and the files of it are still there."""
    found = Log(folder).find(version)
    return found is not None and all(file.exists() for file in found.files)


def read_version(folder: Path, version: int, without: Collection[str] = ()) -> pa.Table | None:
    """Return the rows of a version but some columns, read without Spark, which takes longer.

    None if a file is damaged, which Spark reports, or the table has features that need Spark.
    """
    found = Log(folder).find(version)
    if found is None or found.needs_spark:
        return None
    paths = sorted(found.files)
    if not paths or not all(path.exists() and _is_intact(path) for path in paths):
        return None
    columns = [name for name in pq.read_schema(paths[0]).names if name not in without]
    parts = [
        pq.read_table(path, columns=columns, coerce_int96_timestamp_unit="us") for path in paths
    ]
    rows = pa.concat_tables(parts)
    for at, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            rows = rows.set_column(at, field.name, pc.assume_timezone(rows[at], "UTC"))
    return rows


def remove_old_files(folder: Path, since: float, versions: Collection[int]) -> int:
    """Remove what only versions need that were replaced before a time: data files, and the log's.

    No other process may write the table meanwhile. Killed at any moment, it leaves every needed
    version as it was, and finishes the next time.

    Args:
        folder: the table's.
        since: the time (Unix seconds); younger data files stay in any case.
        versions: whose files are kept, however old.

    Returns:
        How many data files were removed.

    Raises:
        DamageError: the file of a commit or a checkpoint is not whole; nothing is removed.
    """
    log = Log(folder)
    found = log.versions(log.numbers)
    newest = max(log.commits)
    if newest not in found or found[newest].needs_spark:  # such as checkpoints of other kinds
        return 0
    young = {old for old, new in pairwise(log.commits) if log.committed_at(new) >= since}
    needed = {newest, *young, *versions} & {*found}
    data = {file for version in needed for file in found[version].files}
    entries = {entry for version in needed for entry in log.entries(version)}
    removed = 0
    for file in folder.glob("*.parquet"):
        if file not in data and file.stat().st_mtime < since:
            _checksums(file).unlink(missing_ok=True)
            file.unlink()
            removed += 1
    for file in sorted((folder / "_delta_log").iterdir()):
        version = re.match(r"\.?(\d{20})\.", file.name)  # also Hadoop's checksums of an entry
        if version and int(version[1]) not in entries:
            file.unlink()
    return removed


# --- Damage ---------------------------------------------------------------------------------------


def find_damage(folder: Path) -> DamageError | None:
    """Return what keeps the newest version of a table from being read, if that is a file."""
    log = Log(folder)
    if not log.commits:  # of a first write that was killed
        return None
    last_checkpoint = max(log.checkpoints, default=0)
    if not log.is_base(last_checkpoint):  # Spark takes no other way, even where there is one
        return _damaged_checkpoint(log, last_checkpoint)
    try:
        if (newest := log.find(log.numbers[-1])) is None:
            return _missing_entry(log)
        for file in sorted(newest.files):
            if not file.exists() or not _is_intact(file):
                return _damaged_data(log, file)
    except DamageError as error:
        return error
    return None


def _checksums(file: Path) -> Path:
    return file.with_name(f".{file.name}.crc")


def _is_intact(file: Path) -> bool:
    """Compare a file with the checksums that Hadoop writes beside it: a CRC-32 per block."""
    sums = _checksums(file).read_bytes() if _checksums(file).exists() else b""
    if len(sums) < 8:  # cut off: Hadoop ignores it, too
        return True
    content = file.read_bytes()
    size = int.from_bytes(sums[4:8])  # after the file's own four letters
    blocks = (content[start : start + size] for start in range(0, len(content), size))
    return sums[8:] == b"".join(zlib.crc32(block).to_bytes(4) for block in blocks)


def _damaged_commit(file: Path, problem: str) -> DamageError:
    log, version = Log(file.parents[1]), int(file.stem)
    problem = f"{problem}, so table {log.folder.name} can't be read"
    if version != log.numbers[-1] or version - 1 not in log.commits:
        return DamageError(file, problem, _made_again(log.folder))
    which = f"it and {_checksums(file).name}"
    if version in log.checkpoints:
        which = f"all files in its folder with {file.stem} in their name"
    cure = f"Delete {which}, which takes back version {version} alone, then run again."
    return DamageError(file, problem, cure)


def _damaged_checkpoint(log: Log, version: int) -> DamageError:
    file, name = log.checkpoints[version], log.folder.name
    what = f"table {name}" if version == max(log.checkpoints) else f"old versions of table {name}"
    problem = f"is damaged, so {what} can't be read"
    if not log.is_base(log.entries(log.numbers[-1])[0]):
        return DamageError(file, problem, _made_again(log.folder))
    cure = f"Put back a copy of it, or delete it and {_checksums(file).name}, then run again."
    return DamageError(file, problem, cure)


def _missing_entry(log: Log) -> DamageError:
    newest, last_checkpoint = log.numbers[-1], None
    with contextlib.suppress(ValueError, OSError):
        text = (log.folder / "_delta_log/_last_checkpoint").read_text()
        last_checkpoint = json.loads(text)["version"]
    base = log.entries(newest)[0]
    if base == last_checkpoint and newest in log.commits:  # the log has a gap before it
        file = log.commits[base].with_suffix(".checkpoint.parquet")
        problem = f"is missing, so table {log.folder.name} can't be read"
        return DamageError(file, problem, _made_again(log.folder))
    missing = base - 1 if newest in log.commits else newest
    return _damaged_commit(log.folder / f"_delta_log/{missing:020d}.json", "is missing")


def _damaged_data(log: Log, damaged: Path) -> DamageError:
    folder = log.folder
    problem = "differs from its checksum" if damaged.exists() else "is missing"
    problem = f"{problem}, so table {folder.name} can't be read"
    if folder.name not in (*FETCHED, RECORD):  # nothing reads it before it is replaced
        return DamageError(damaged, problem, "Make the table again: kedro run.")
    whole = (
        number
        for number, version in reversed(log.versions(log.numbers).items())
        if damaged not in version.files and all(file.exists() for file in version.files)
    )
    if (version := next(whole, None)) is None:
        return DamageError(damaged, problem, _made_again(folder))
    back = f"RESTORE TABLE delta.`{folder}` TO VERSION AS OF {version}"
    cure = f"Put back a copy of the file, or return to version {version} (docs/faults.md): {back}"
    return DamageError(damaged, problem, cure)


def _made_again(folder: Path) -> str:
    if folder.name == RECORD:
        return (
            f"Put back a copy of the folder {folder}. Without one, delete it: the track record "
            "begins again."
        )
    command = "kedro run --tags ingest" if folder.name in FETCHED else "kedro run"
    return f"Put back a copy of the folder {folder}, or delete it and make it again: {command}"
