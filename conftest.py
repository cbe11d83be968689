"""Doctests in src see the Spark session of the tests under the name ``spark``."""

from tests.conftest import _spark_in_doctests, spark  # noqa: F401
