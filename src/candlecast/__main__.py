"""What ``kedro run`` does, from an installed wheel: ``candlecast``, ``python -m candlecast``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from candlecast import quiet


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pipelines.

    Returns on success, so that a job's task is not marked failed by a SystemExit.

    Args:
        arguments: the options of ``kedro run``, also ``--conf-source``; the command line's when
            None.

    Raises:
        Exception: what the run failed of, or click's for a wrong option; uncaught, the process ends
            with a code that is not 0.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Kedro reads this when it is imported, which quiet does.
    os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(_configuration(given) / "logging.yml"))
    quiet()
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package = Path(__file__).parent.name
    configure_project(package)
    find_run_command(package)(given, standalone_mode=False)


def _configuration(arguments: Sequence[str]) -> Path:
    """The folder of the configuration, as the options name it."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option.startswith("--conf-source"):
            return Path(option.partition("=")[2] or value)
    return Path("conf")


if __name__ == "__main__":
    main()
