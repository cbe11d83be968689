"""The local Spark session: Java 17 or 21, Delta's two jars, and ``spark.yml``.

On Databricks none of this runs, as a session is already there. ``python -m
candlecast.runtime.spark`` fetches the jars before the first run, so that runs need no network.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from candlecast.errors import SparkUnavailableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA = range(17, 22)
"""Spark 4.1 supports Java 17 and 21. On 25 it can't start ("getSubject is not supported"); Spark
4.2 can."""

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

    Spark's own Ivy resolves them and honours the machine's Maven settings. The other 33 packages
    that it brings are not used.

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


def start_session(configuration: Mapping[str, bool | int | str], scratch: Path) -> "SparkSession":
    """Start the local session, or return the one that runs.

    Args:
        configuration: Spark's settings by name; texts may hold ``{cores}`` and ``{scratch}``.
        scratch: the folder for Spark's own files (spilled data, the embedded metastore).

    Raises:
        SparkUnavailableError: Java is missing, too old or too new, or the jars can't be fetched.
    """
    require_java()
    ensure_jars()
    from pyspark.sql import SparkSession

    scratch.mkdir(parents=True, exist_ok=True)
    _clear(scratch)
    cores = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["SPARK_LOCAL_DIRS"] = str(scratch)
    (scratch / "log4j2.properties").write_text(LOG4J)
    settings: dict[str, bool | float | int | str | None] = {
        name: value.replace("{cores}", cores).replace("{scratch}", str(scratch))
        if isinstance(value, str)
        else value
        for name, value in configuration.items()
    }
    on_interrupt = signal.getsignal(signal.SIGINT)
    with _stderr_to(scratch / "spark.log"):
        session = SparkSession.builder.appName("candlecast").config(map=settings).getOrCreate()
    if signal.getsignal(signal.SIGINT) != on_interrupt != signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)  # pyspark has set its own
    return session


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


@contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    """Send the standard error of this process, and of the JVM that it starts, to a file."""
    kept = os.dup(2)
    try:
        with file.open("a") as log:
            os.dup2(log.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"Delta's jars are in {ensure_jars()}\n")
    except SparkUnavailableError as error:
        sys.exit(str(error))
