# SPDX-License-Identifier: MIT
"""A host that vouches for PV_TIME_ST and then refuses the call: what lacks is the host's.

KVM does so where its user gave it no address for the structures.
"""

import json

import pytest
from preloaded import START, guestpv

from guestpv.page.abi import PV_TIME_ST
from pvlab import Lab

REFUSED = -1
REFUSED_BY_THE_DRAFT = 0xFFFFFFFF
"""An int32 in a register of 64 bits."""


@pytest.mark.parametrize(
    ("kernel", "answer"),
    [("claim-6.1", REFUSED), ("claim-6.1", REFUSED_BY_THE_DRAFT), ("stock-6.1", REFUSED)],
)
def test_load_says_that_the_host_refused_what_it_had_vouched_for(kernel, answer):
    """Whether the module calls PV_TIME_ST, or the kernel did when it booted."""
    with Lab(kernel=kernel, prepare=START) as lab:
        with lab.answering(call=PV_TIME_ST, answer=answer):
            if kernel != "claim-6.1":
                lab.reboot()
            done = guestpv(lab, "load")
            record = json.loads(guestpv(lab, "load", "--json").stderr)
            inserted = lab.run(["sh", "-c", "insmod /lib/modules/$(uname -r)/extra/guestpv.ko"])
        assert (done.stdout, done.returncode) == ("", 10)
        (said,) = done.stderr.splitlines()
        assert "PV_TIME_ST(0xc5000021)" in said
        assert "ask who runs the hypervisor" in said
        assert "report" not in said
        assert record["exit_code"] == 10
        assert inserted.returncode != 0

        if kernel == "claim-6.1":  # another kernel has asked once, and does not ask again
            assert guestpv(lab, "load").returncode == 0
