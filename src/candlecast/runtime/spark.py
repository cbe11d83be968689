"""The local Spark session: a Java that is new enough, Delta's two jars, and ``spark.yml``.

On Databricks none of this runs: the session is the one that is there. ``python -m
candlecast.runtime.spark`` fetches the jars ahead of the first run, so that runs need no network.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from candlecast.errors import SparkUnavailableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA = 17
"""The oldest Java that Spark 4 runs on."""

LOG4J = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


def java_version() -> int:
    """Return the major version of the Java that Spark would start.

    Raises:
        SparkUnavailableError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        found = f"none in JAVA_HOME={home}" if home else "none on the PATH"
    else:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        answer = (done.stderr or done.stdout).strip()
        match = re.search(r'version "(?:1\.)?(\d+)', answer)
        if match and int(match[1]) >= JAVA:
            return int(match[1])
        found = f"Java {match[1]} at {java}" if match else f"{answer[:120]!r} from {java} -version"
    raise SparkUnavailableError(
        f"Java {JAVA} or later",
        found,
        "Install one (Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew "
        "install openjdk@17), or point JAVA_HOME at one.",
    )


def delta_jars() -> list[str]:
    """The names of the two jars that a Delta table needs (33 come with them, unused)."""
    import pyspark

    delta = importlib.metadata.version("delta-spark")
    spark = ".".join(pyspark.__version__.split(".")[:2])
    return [f"delta-spark_{spark}_2.13-{delta}.jar", f"delta-storage-{delta}.jar"]


def ensure_jars() -> Path:
    """Put the two Delta jars beside pyspark's own, once an environment, and return their folder.

    They are resolved by Spark's own Ivy, which honours the machine's Maven settings.

    Raises:
        SparkUnavailableError: they are not there and can't be fetched.
    """
    import pyspark

    folder = Path(pyspark.__file__).parent / "jars"
    wanted = [name for name in delta_jars() if not (folder / name).exists()]
    if not wanted:
        return folder
    java_version()
    artifact, version = delta_jars()[0].removesuffix(".jar").rsplit("-", 1)
    with tempfile.TemporaryDirectory() as ivy:
        script = Path(ivy) / "nothing.py"
        script.write_text("")
        resolved = subprocess.run(
            [
                str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
                *("--packages", f"io.delta:{artifact}:{version}"),
                *("--conf", f"spark.jars.ivy={ivy}"),
                str(script),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        )
        missing = [
            name for name in wanted if not (Path(ivy) / "jars" / f"io.delta_{name}").exists()
        ]
        if missing:
            output = resolved.stderr
            lines = [line.strip() for line in output.splitlines() if "UNRESOLVED" in line]
            raise SparkUnavailableError(
                f"{' and '.join(missing)} in {folder}",
                f"neither there nor by Maven ({'; '.join(lines) or output.strip()[-300:]})",
                "Reach Maven Central or a mirror of it once and run: "
                f"{sys.executable} -m candlecast.runtime.spark",
            )
        for name in wanted:
            partial = folder / f"{name}.{os.getpid()}"
            shutil.copyfile(Path(ivy) / "jars" / f"io.delta_{name}", partial)
            partial.replace(folder / name)
    return folder


def start_session(configuration: Mapping[str, object], scratch: Path) -> "SparkSession":
    """Start the local session, or return the one that runs.

    Args:
        configuration: Spark's settings by name.
        scratch: the folder for Spark's own files (spilled data, the embedded metastore).

    Raises:
        SparkUnavailableError: no Java, one too old, or the jars are missing and out of reach.
    """
    java_version()
    ensure_jars()
    from pyspark.sql import SparkSession

    scratch.mkdir(parents=True, exist_ok=True)
    cores = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["SPARK_LOCAL_DIRS"] = str(scratch)
    (scratch / "log4j2.properties").write_text(LOG4J)
    builder = SparkSession.builder.appName("candlecast")
    for name, value in configuration.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        builder = builder.config(
            name, text.replace("{cores}", cores).replace("{scratch}", str(scratch))
        )
    with _stderr_to(scratch / "spark.log"):
        return builder.getOrCreate()


@contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    """Lend this process's standard error to what starts meanwhile: the JVM's lines go to a file."""
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
