"""``kedro run`` from an installed wheel: ``candlecast`` or ``python -m candlecast``."""

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
"""The parameter ``trigger`` of a scheduled run: Databricks' ``{{job.trigger.type}}``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pipelines.

    Returns on success without a SystemExit, which Databricks takes for a failure. A scheduled
    forecast (``--set trigger=periodic``) succeeds also while there is no champion.

    Args:
        arguments: the options of ``kedro run``, and any number of ``--set key=value``: one
            parameter each, which overrides ``--params``. The value is the whole text after the
            first equals sign. None: the command line's.

    Raises:
        SystemExit: an option is wrong, or only help was requested.
        Exception: that of the run.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory() as scratch:
        # Kedro reads the variable on import, in silence_third_party.
        if (log_configuration := _log_configuration(given, Path(scratch))).is_file():
            os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(log_configuration))
        silence_third_party()
        from kedro.framework.cli.utils import find_run_command
        from kedro.framework.project import configure_project

        package = Path(__file__).parent.name
        configure_project(package)
        from candlecast.errors import NoChampionError

        try:
            options = read_options(find_run_command(package), given)  # type: ignore[arg-type]
        except click.exceptions.Exit as end:
            sys.exit(end.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        with options as context:
            if not (context.params["conf_source"] or Path("conf").is_dir()):
                sys.exit(
                    f"There is no folder conf in {Path.cwd()}. Change to the project's folder, or "
                    "name the configuration: --conf-source=<folder or archive>"
                )
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
    help_text = "One parameter. Its value is taken whole: commas and colons do not split it."
    command.params = [
        *command.params,
        click.Option(["--set", "texts"], multiple=True, metavar="KEY=VALUE", help=help_text),
    ]
    context = command.make_context("candlecast", list(options))
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
            message = f"It must not contain a reference (${{); it is {text!r}."
            raise click.BadParameter(message, param_hint="'--set'")
        group = parameters
        for part in groups:
            if not isinstance(group.get(part), dict):
                group[part] = {}
            group = group[part]
        group[name] = value


def _log_configuration(options: list[str], scratch: Path) -> Path:
    """Return the path of the configuration's ``logging.yml``, copied out of an archive.

    Kedro itself reads everything else from an archive of ``kedro package``.
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
