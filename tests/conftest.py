# SPDX-License-Identifier: MIT
"""What `./tools/test` can be asked for beside pytest's own options, whatever tests it is to run."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="on every kernel and host of the lab")
    parser.addoption("--measure", action="store_true", help="more often, what is done repeatedly")
    parser.addoption("--pictures", type=Path, metavar="DIR", help="where to put pictures of runs")
