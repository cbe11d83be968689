"""What ``kedro run`` does, from an installed wheel: ``candlecast``, ``python -m candlecast``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project

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
    quiet()
    package = Path(__file__).parent.name
    configure_project(package)
    run = find_run_command(package)
    run(list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)


if __name__ == "__main__":
    main()
