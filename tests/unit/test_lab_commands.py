# SPDX-License-Identifier: MIT
"""./tools/lab, as far as it needs no machine."""

import pytest
from typer.testing import CliRunner

from pvlab import Lab, LabError, cli, prepare
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hypervisor": "xen"}, "no hypervisor 'xen'; there are: kvm, none"),
        ({"hypervisor": "none", "steal": 40}, "no hypervisor that could take time"),
        ({"steal": 95}, "from 0 to 90, not 95"),
        ({"kernel": "stock-2.6"}, "no kernel 'stock-2.6'; there are: stock-6.1, "),
        ({"kernel": "build-5.10"}, "not to boot"),
        ({"host_kernel": "claim-6.1"}, "does not serve guests in this lab: stock-6.1, "),
    ],
)
def test_what_can_not_be_had_is_refused_before_anything_is_built_or_booted(
    monkeypatch, wrong, says
):
    monkeypatch.setattr(prepare, "prepare", pytest.fail)
    with pytest.raises(LabError, match=says), Lab(**wrong):
        pass
