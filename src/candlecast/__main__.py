"""What ``kedro run`` does, from an installed wheel: ``candlecast``, ``python -m candlecast``."""

import argparse
import copy
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import fsspec

from candlecast import silence_third_party

SCHEDULE = "periodic"
"""Databricks' ``{{job.trigger.type}}`` of a scheduled run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pipelines.

    Returns on success, so that a job's task is not marked failed by a SystemExit; also when a
    schedule (``--set trigger=periodic``) forecasts before there is a first champion.

    Args:
        arguments: the options of ``kedro run``, also ``--conf-source``, and any number of
            ``--set key=value``: one parameter each. The value is the whole text behind the first
            equals sign, whatever characters it has, and goes before the same key in ``--params``.
            The command line's when None.

    Raises:
        Exception: that of the run, or click's for a wrong option. Uncaught, the process ends with
            an exit code other than 0.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory() as scratch:
        # Kedro reads this when it is imported, which silence_third_party does.
        if (log_configuration := _log_configuration(given, Path(scratch))).is_file():
            os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(log_configuration))
        silence_third_party()
        from kedro.framework.cli.utils import find_run_command
        from kedro.framework.project import configure_project

        package = Path(__file__).parent.name
        configure_project(package)
        from candlecast.errors import NoChampionError

        with read_options(find_run_command(package), given) as context:  # type: ignore[arg-type]
            try:
                context.command.invoke(context)
            except NoChampionError as error:
                given = context.params["params"]
                if "trigger" not in given or str(given["trigger"]).lower() != SCHEDULE:
                    raise
                logging.getLogger(package).warning("No forecast was made. %s", error)


def read_options(run_command: click.Command, options: Sequence[str]) -> click.Context:
    """Read the options of Kedro's run command, and ``--set``, without running anything."""
    command = copy.copy(run_command)
    help_text = "One parameter, taken whole as text: commas and colons do not split it."
    command.params = [
        *command.params,
        click.Option(["--set", "texts"], multiple=True, metavar="KEY=VALUE", help=help_text),
    ]
    context = command.make_context("run", list(options))
    _override(context.params["params"], context.params.pop("texts"))
    return context


def _override(parameters: dict[str, Any], texts: Sequence[str]) -> None:
    """Override parameters of ``--params`` with texts ``key=value``; a dotted key nests."""
    for text in texts:
        key, equals, value = text.partition("=")
        *groups, name = key.strip().split(".")
        if not (equals and name and all(groups)):
            raise click.BadParameter(f"It must be key=value; it is {text!r}.", param_hint="'--set'")
        if "${" in value:
            words = f"The configuration would read ${{ as a reference; it is {text!r}."
            raise click.BadParameter(words, param_hint="'--set'")
        group = parameters
        for part in groups:
            if not isinstance(group.get(part), dict):
                group[part] = {}
            group = group[part]
        group[name] = value


def _log_configuration(options: list[str], scratch: Path) -> Path:
    """Name ``logging.yml`` of the configuration, copied from an archive of ``kedro package``.

    Kedro reads all else from an archive itself.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--conf-source", nargs="?", type=Path)
    source = parser.parse_known_args(options)[0].conf_source or Path("conf")
    if not source.is_file():
        return Path(source, "logging.yml")
    archive = fsspec.filesystem("zip" if source.suffix == ".zip" else "tar", fo=str(source))
    for file in archive.glob("*/logging.yml"):
        archive.get(file, str(scratch / "logging.yml"))
    return scratch / "logging.yml"


if __name__ == "__main__":
    main()
