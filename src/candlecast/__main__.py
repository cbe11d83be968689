"""What ``kedro run`` does, from an installed wheel: ``candlecast``, ``python -m candlecast``."""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
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
    with tempfile.TemporaryDirectory() as scratch:
        options, configuration = _unpacked(given, Path(scratch))
        # Kedro reads this when it is imported, which quiet does.
        if (log_configuration := configuration / "logging.yml").is_file():
            os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(log_configuration))
        quiet()
        from kedro.framework.cli.utils import find_run_command
        from kedro.framework.project import configure_project

        package = Path(__file__).parent.name
        configure_project(package)
        find_run_command(package)(options, standalone_mode=False)


def _unpacked(options: list[str], scratch: Path) -> tuple[list[str], Path]:
    """Find the configuration; unpack one that is an archive, as ``kedro package`` makes it.

    Returns:
        The options that name the folder of the configuration, and the folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--conf-source", nargs="?", type=Path)
    named, others = parser.parse_known_args(options)
    folder = named.conf_source or Path("conf")
    if not folder.is_file():
        return options, folder
    if tarfile.is_tarfile(folder):
        shutil.unpack_archive(folder, scratch, filter="data")
    else:
        shutil.unpack_archive(folder, scratch)
    [folder] = scratch.iterdir()
    return [*others, "--conf-source", str(folder)], folder


if __name__ == "__main__":
    main()
