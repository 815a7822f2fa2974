# SPDX-License-Identifier: MIT
"""What the guest reads against what the host knows: its scheduler's account of each vCPU thread."""

import json

import pytest

from pvlab import Lab

CONTENDED_S = 10
SPIN = f"timeout {CONTENDED_S} taskset -c $cpu sh -c 'while :; do :; done'"
SPIN_ON_BOTH = f"for cpu in 0 1; do {SPIN} & done; wait"


def stolen_ns(lab):
    """Each vCPU's count, by `guestpv read`."""
    done = lab.run(["guestpv", "read", "--json"])
    assert done.returncode == 0, done.stderr
    return [row["stolen_ns"] for row in json.loads(done.stdout)["cpus"]]


@pytest.mark.parametrize("kernel", ["stock-6.1", "stock-6.12", "claim-6.1"])
def test_stolen_time_is_what_the_host_says_it_took(kernel):
    """Both are read while nothing contends, so that neither moves while it is read."""
    with Lab(kernel=kernel, vcpus=2) as lab:
        assert lab.run(["guestpv", "load"]).returncode == 0
        host, guest = lab.vcpu_run_delay_ns(), stolen_ns(lab)
        lab.steal(40)
        lab.run(["sh", "-c", SPIN_ON_BOTH])
        lab.steal(0)
        host = [after - before for before, after in zip(host, lab.vcpu_run_delay_ns(), strict=True)]
        guest = [after - before for before, after in zip(guest, stolen_ns(lab), strict=True)]

    for vcpu, (told, true) in enumerate(zip(guest, host, strict=True)):
        error = told - true
        print(
            f"{kernel} vcpu{vcpu}: host {true / 1e6:.1f} ms, guest {told / 1e6:.1f} ms,"
            f" error {error / 1e6:+.2f} ms ({100 * error / true:+.2f} %)"
        )
        assert true > 1_000_000_000, "the host took less than a second: no contention?"
        assert abs(error) <= max(0.02 * true, 5_000_000)
