"""Run Databricks tasks on open-source Spark: start a session, then call the wheel's entry point.

``python databricks_task.py <folder> <options of kedro run> [-- <options> …]``. The folder contains
metastore and tables. The session is one of Spark Connect, as on serverless compute. Tasks separated
by ``--`` share it, because its start takes longest. The task ``maintain <table>`` does what the
platform may do to a table at any time; ``stages <folder>`` writes what connect_stages.py computes.
"""

import importlib.metadata
import itertools
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from candlecast.runtime.spark import class_archive, ensure_jars
from connect_stages import write_stages


def settings(folder: Path) -> dict[str, str]:
    """Settings of a session with named Delta tables and a persistent metastore."""
    options = [f"-Dderby.system.home={folder}", f"-Djava.io.tmpdir={folder}", "-XX:+UseSerialGC"]
    options += ["-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=240m"]  # as in spark.yml
    options += [f"-XX:SharedArchiveFile={class_archive()}", "-Xlog:disable"]
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
        # To compile Java for each query takes longer than to interpret it on a few thousand rows.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def session(folder: Path) -> SparkSession:
    """Start the session that Databricks provides to a task."""
    ensure_jars()
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    configuration = settings(folder)
    builder = SparkSession.builder.appName("task").remote(configuration.pop("spark.master"))
    for name, value in configuration.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def maintain(spark: SparkSession, table: str) -> None:
    """Do to a table what predictive optimization does. It commits, but changes no row."""
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
    """Start a session and run the tasks."""
    folder, *arguments = sys.argv[1:]
    spark = session(Path(folder))
    [entry] = importlib.metadata.entry_points(group="console_scripts", name="candlecast")
    for last, options in itertools.groupby(arguments, lambda argument: argument == "--"):
        match () if last else tuple(options):
            case ():
                continue
            case ("maintain", table):
                maintain(spark, table)
            case ("stages", prices):
                write_stages(spark, Path(prices))
            case task:
                sys.argv = ["candlecast", *task]
                entry.load()()
    spark.stop()


if __name__ == "__main__":
    main()
