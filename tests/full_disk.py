"""Run on a disk that fills up: ``unshare --mount python full_disk.py <folder>``.

Mounts a small file system on the folder, visible only to this process, and runs three times: with
enough space, on the full disk, and with space again. Prints JSON: after each run, the ``rows`` of
prices; the ``statuses`` of the three MLflow runs; ``error``, the message of the second run.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient
from pyspark.sql import SparkSession

from conftest import SMALL, run_session, start_spark

FREE_BYTES = 150_000
"""Left on the full disk: enough for the fetched files, too few for the table as well."""


def main(disk: Path) -> None:
    """Run three times, the second time on a full disk."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    rows, log = [], io.StringIO()

    def run(candidate: str) -> None:
        small = {"tickers": SMALL["tickers"], "start": SMALL["start"]}
        try:
            run_session(disk, candidate=candidate, tags=["ingest"], **small)
        finally:
            spark = SparkSession.active()
            rows.append(spark.read.format("delta").load(f"{disk}/tables/prices").count())

    start_spark(disk / "spark")
    run("before")
    file_system = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(b"0" * (file_system.f_bavail * file_system.f_frsize - FREE_BYTES))
    try:
        run("full")
    except Exception:
        logging.getLogger("candlecast").addHandler(logging.StreamHandler(log))
        with contextlib.redirect_stderr(log):
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type] # installed by the project
    error = log.getvalue()
    filler.unlink()
    run("after")
    runs = MlflowClient(f"sqlite:///{disk}/mlflow/mlflow.db").search_runs(
        ["1"], order_by=["attributes.start_time ASC"]
    )
    statuses = [run.info.status for run in runs]
    print(json.dumps({"rows": rows, "statuses": statuses, "error": error}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
