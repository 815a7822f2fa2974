# SPDX-License-Identifier: MIT
"""./tools/lab, as far as it needs no machine."""

import pytest
from typer.testing import CliRunner

from pvlab import cli
from pvlab.kernels import KERNELS


@pytest.fixture
def lab():
    """Run a command, and return what it prints."""

    def run(*arguments):
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    return run


def test_what_the_kernels_are_stands_in_one_column(lab):
    lines = lab("kernels").splitlines()
    assert [line.split()[0] for line in lines] == list(KERNELS)
    (column,) = {line.index(KERNELS[line.split()[0]].what) for line in lines}
    assert column == max(map(len, KERNELS)) + 1
