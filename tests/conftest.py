"""Load the fixtures from `shared`, which takes seconds to import, except in a process that only distributes tests."""

import gc
import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures in a process that runs tests."""
    gc.set_threshold(20_000, 10, 10)  # as commands do (`commands.as_command`), before the imports
    only_distributes = config.getoption("dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ
    if not only_distributes:
        config.pluginmanager.import_plugin("shared")
