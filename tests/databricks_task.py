"""What Databricks tasks do, on open-source Spark: a session is there, then the wheel is called.

``python databricks_task.py classic|connect <folder> <options of kedro run> [-- <options> …]``; the
folder holds the metastore and the tables. Connect is what serverless compute has. Tasks separated
by ``--`` share the session, which takes the longest to start. The task ``keep <table>`` is what the
platform does to its tables when it likes to.
"""

import importlib.metadata
import itertools
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from candlecast.runtime.spark import ensure_jars


def settings(folder: Path) -> dict[str, str]:
    """Settings of a session with Delta tables by name and a metastore that outlives it."""
    options = [f"-Dderby.system.home={folder}", f"-Djava.io.tmpdir={folder}", "-XX:+UseSerialGC"]
    return {
        "spark.master": "local[2]",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": " ".join(options),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "hive",
        "spark.hadoop.javax.jdo.option.ConnectionURL": (
            f"jdbc:derby:;databaseName={folder}/metastore;create=true"
        ),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def session(kind: str, folder: Path) -> SparkSession:
    """Start the session that a task finds."""
    ensure_jars()
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName("task")
    given = settings(folder)
    if kind == "connect":
        builder = builder.remote(given.pop("spark.master"))
    for name, value in given.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def keep(spark: SparkSession, table: str) -> None:
    """Commit to a table what predictive optimization does, which changes no row."""
    settings = {
        "spark.databricks.delta.vacuum.logging.enabled": "true",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",  # not 10,000 tasks
    }
    for name, value in settings.items():
        spark.conf.set(name, value)
    spark.sql(f"OPTIMIZE {table}").collect()
    spark.sql(f"VACUUM {table}").collect()
    for name in settings:
        spark.conf.unset(name)


def main() -> None:
    """Start a session and call the entry point."""
    kind, folder, *arguments = sys.argv[1:]
    spark = session(kind, Path(folder))
    [entry] = importlib.metadata.entry_points(group="console_scripts", name="candlecast")
    for last, options in itertools.groupby(arguments, lambda argument: argument == "--"):
        match () if last else tuple(options):
            case ():
                continue
            case ("keep", table):
                keep(spark, table)
            case given:
                sys.argv = ["candlecast", *given]
                entry.load()()
    spark.stop()


if __name__ == "__main__":
    main()
