"""Real servers of other packages on loopback, each in a process of its own, for tests."""

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
    """Return a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def mlflow_serving(
    *arguments: str, health: str, log: Path, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Run ``mlflow …`` on a free port of loopback until the block ends; give the port.

    Args:
        arguments: of the command, without host and port.
        health: the path that answers once the server does.
        log: a file for what it says.
        env: variables beside those of this process.
    """
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), *arguments]
    with (
        log.open("w") as said,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            stdout=said,
            stderr=subprocess.STDOUT,
            # `mlflow models serve` starts uvicorn by name.
            env={
                **os.environ,
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
            with suppress(ProcessLookupError):  # it never came up
                os.killpg(server.pid, signal.SIGTERM)
