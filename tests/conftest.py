"""Load the fixtures from `shared`, which takes seconds to import, except in a process that only distributes tests."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures in a process that runs tests."""
    only_distributes = config.getoption("dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ
    if not only_distributes:
        config.pluginmanager.import_plugin("shared")
