"""MLflow's real server on loopback, in its own process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def mlflow_serving(
    *arguments: str, health: str, log: Path, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Run ``mlflow …`` on a free loopback port until the block ends; yield the port.

    Args:
        arguments: the arguments of the command, without host and port.
        health: a path that responds as soon as the server is ready.
        log: a file for its output.
        env: variables to add to those of this process.
    """
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), *arguments]
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            stdout=output,
            stderr=subprocess.STDOUT,
            # `mlflow models serve` finds uvicorn through PATH.
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it starts eight processes for them
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                **(env or {}),
            },
            start_new_session=True,
        ) as server,
    ):
        deadline = time.monotonic() + 120
        try:
            while True:
                assert server.poll() is None, log.read_text()
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}{health}", timeout=5):
                    break
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield port
        finally:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(server.pid, signal.SIGTERM)
