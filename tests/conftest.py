"""Where the fixtures are: in `shared`, which takes seconds to import, so who only hands out tests does without."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures in a process that runs tests."""
    hands_out = config.getoption("dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ
    if not hands_out:
        config.pluginmanager.import_plugin("shared")
