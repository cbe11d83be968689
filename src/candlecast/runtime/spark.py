"""The local Spark session: Java 17 or 21, Delta's two jars, and ``spark.yml``.

On Databricks none of this runs, as a session is already there. ``python -m
candlecast.runtime.spark`` fetches the jars before the first run, so that runs need no network, and
archives Spark's classes, so that Java need not load them from the jars.
"""

import fcntl
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from candlecast.errors import SparkUnavailableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JAVA = range(17, 22)
"""Spark 4.1 supports Java 17 and 21. On 25 it can't start ("getSubject is not supported"); Spark
4.2 can."""

NOT_NEEDED = "org.*:*,com.*:*,jakarta.*:*,javax.*:*,io.unitycatalog:*"
"""Packages that Delta's jars name, and nothing here uses."""

LOG4J = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


def require_java() -> None:
    """Check the Java that Spark would start.

    Raises:
        SparkUnavailableError: there is none, or it is too old or too new.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        found = f"none in JAVA_HOME={home}" if home else "none on the PATH"
    else:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        answer = (done.stderr or done.stdout).strip()
        match = re.search(r'version "(?:1\.)?(\d+)', answer)
        if match and int(match[1]) in JAVA:
            return
        found = f"Java {match[1]} at {java}" if match else f"{answer[:120]!r} from {java} -version"
    raise SparkUnavailableError(
        "Java 17 or 21",
        found,
        "Install one (Debian, Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install "
        "openjdk@17), and set JAVA_HOME to its folder if java is another one.",
    )


def ensure_jars() -> Path:
    """Put Delta's two jars beside pyspark's own if they are not there yet; return their folder.

    Spark's own Ivy resolves them and honours the machine's Maven settings.

    Raises:
        SparkUnavailableError: they are not there and can't be fetched.
    """
    import pyspark

    spark, delta = Path(pyspark.__file__).parent, importlib.metadata.version("delta-spark")
    artifact = f"delta-spark_{'.'.join(pyspark.__version__.split('.')[:2])}_2.13"
    jars = spark / "jars"
    names = (f"{artifact}-{delta}.jar", f"delta-storage-{delta}.jar")
    missing = [name for name in names if not (jars / name).exists()]
    if not missing:
        return jars
    require_java()
    with tempfile.TemporaryDirectory() as ivy:
        script = Path(ivy, "nothing.py")
        script.touch()
        resolved = subprocess.run(
            [
                str(spark / "bin" / "spark-submit"),
                *("--packages", f"io.delta:{artifact}:{delta}"),
                *("--exclude-packages", NOT_NEEDED),
                *("--conf", f"spark.jars.ivy={ivy}"),
                str(script),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        )
        for name in missing:
            fetched = Path(ivy, "jars", f"io.delta_{name}")
            if not fetched.exists():
                lines = [line.strip() for line in resolved.stderr.splitlines()]
                unresolved = [line for line in lines if "UNRESOLVED" in line]
                raise SparkUnavailableError(
                    f"{name} in {jars}",
                    f"neither there nor by Maven ({'; '.join(unresolved or lines[-3:])})",
                    "Connect to Maven Central or to a mirror of it once and run: "
                    f"{sys.executable} -m candlecast.runtime.spark",
                )
            partial = jars / f"{name}.{os.getpid()}"
            shutil.copyfile(fetched, partial)
            partial.replace(jars / name)
    return jars


def class_archive() -> Path:
    """Return the file of Java's classes that `make_archive` makes, beside Spark's jars."""
    import pyspark

    return Path(pyspark.__file__).with_name("candlecast.jsa")


def make_archive(configuration: Mapping[str, bool | int | str]) -> Path:
    """Archive the classes that windows, split and audit load, in the form that Java keeps them in.

    Java (AppCDS) ignores an archive of another version of it or of other jars.
    """
    from pyspark import SparkContext
    from pyspark.sql import functions as F

    from candlecast.features.audit import audit_leakage
    from candlecast.features.split import split_by_date
    from candlecast.features.windows import make_windows

    archive = class_archive()
    partial = archive.with_suffix(f".{os.getpid()}")
    java = "spark.driver.extraJavaOptions"
    at_exit = str(configuration[java]).replace(
        "SharedArchiveFile={archive}", f"ArchiveClassesAtExit={partial}"
    )
    with tempfile.TemporaryDirectory() as folder:
        session = start_session({**configuration, java: at_exit}, Path(folder, "spark"))

        def stored(frame: "DataFrame", name: str) -> "DataFrame":
            frame.write.format("delta").mode("overwrite").save(f"{folder}/{name}")
            return session.read.format("delta").load(f"{folder}/{name}")

        prices = session.range(400).select(
            F.lit("A").alias("ticker"),
            F.date_add(F.lit("2020-01-01"), F.col("id").cast("int")).alias("session"),
            (2 + F.rand(1)).alias("open"),
            (2 + F.rand(2)).alias("close"),
        )
        prices = stored(prices, "prices").repartition("ticker")
        keep_rows(prices)
        windows = stored(make_windows(prices, 14, "return"), "windows")
        train, test = (
            stored(part, f"part_{n}") for n, part in enumerate(split_by_date(windows, 0.2, 14))
        )
        audit_leakage(prices, train, test, 14, "return", ["lags"], 14)
        session.stop()
        java_process = getattr(SparkContext._gateway, "proc")  # noqa: B009 # it is there
        java_process.stdin.close()  # Java ends with it, and writes the archive
        java_process.wait()
    partial.replace(archive)
    return archive


def start_session(configuration: Mapping[str, bool | int | str], scratch: Path) -> "SparkSession":
    """Start the local session, or return the one that runs.

    Args:
        configuration: Spark's settings by name; texts may hold ``{cores}``, ``{scratch}`` and
            ``{archive}``.
        scratch: the folder for Spark's own files (spilled data, the embedded metastore).

    Raises:
        SparkUnavailableError: Java is missing, too old or too new, or the jars can't be fetched.
    """
    require_java()
    ensure_jars()
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession
    from pyspark.sql.utils import to_str

    scratch.mkdir(parents=True, exist_ok=True)
    _clear(scratch)
    cores = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["SPARK_LOCAL_DIRS"] = str(scratch)
    (scratch / "log4j2.properties").write_text(LOG4J)
    settings = {
        name: str(to_str(value))
        .replace("{cores}", cores)
        .replace("{scratch}", str(scratch))
        .replace("{archive}", str(class_archive()))
        for name, value in configuration.items()
    }
    on_interrupt = signal.getsignal(signal.SIGINT)
    if SparkContext._gateway is None:
        conf = SparkConf(loadDefaults=False).setAll([*settings.items()])
        with (scratch / "spark.log").open("a") as log:
            gateway = launch_gateway(conf, {"stderr": log})  # type: ignore[no-untyped-call]
        SparkContext._ensure_initialized(gateway=gateway)
    session = SparkSession.builder.appName("candlecast").config(map={**settings}).getOrCreate()
    if signal.getsignal(signal.SIGINT) != on_interrupt != signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)  # pyspark has set its own
    return session


def start_early(start: "Callable[[], SparkSession]") -> "Callable[[], SparkSession]":
    """Start a session in the background; return a function that waits for it.

    Java starts while this process imports what the run needs.
    """
    session: Future[SparkSession] = Future()

    def work() -> None:
        try:
            session.set_result(start())
        except BaseException as error:  # for whoever waits
            session.set_exception(error)

    threading.Thread(target=work, name="spark", daemon=True).start()
    return session.result


def keep_rows(frame: "DataFrame") -> None:
    """Keep the rows of a frame when they are computed, and forget those of earlier frames."""
    frame.sparkSession.catalog.clearCache()
    frame.persist()


def stop_java() -> None:
    """Stop the Java that this process has started, if any: calls that wait for it end at once."""
    if "pyspark" not in sys.modules:
        return
    from pyspark import SparkContext

    if process := getattr(SparkContext._gateway, "proc", None):
        process.terminate()


def _clear(scratch: Path) -> None:
    """Remove what dead sessions have left, unless another process has a session here."""
    lock = os.open(scratch / "lock", os.O_RDWR | os.O_CREAT)
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in scratch.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            elif left.name != "lock":
                left.unlink()
    fcntl.flock(lock, fcntl.LOCK_SH)  # until this process ends, however it ends


if __name__ == "__main__":
    try:
        sys.stdout.write(f"Delta's jars are in {ensure_jars()}\n")
        if (file := Path("conf/base/spark.yml")).exists():
            archive = make_archive(yaml.safe_load(file.read_text())["session"])
            sys.stdout.write(f"Java's archive of their classes is {archive}\n")
    except SparkUnavailableError as error:
        sys.exit(str(error))
