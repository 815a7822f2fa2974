# SPDX-License-Identifier: MIT
"""What the guest reads against what the host knows: its scheduler's account of each vCPU thread."""

import json
import subprocess

from pvlab import Lab

CONTENDED_S = 10
SPIN = f"timeout {CONTENDED_S} taskset -c $cpu sh -c 'while :; do :; done'"
SPIN_ON_BOTH = f"for cpu in 0 1; do {SPIN} & done; wait"

# Says each vCPU's count whenever it is asked, and does nothing in between: while it waits, neither
# the guest's counts nor the host's move.
ANSWER = """
import json, sys, guestpv
with guestpv.open() as reader:
    rows = reader.snapshot()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(reader.snapshot(rows)["stolen_ns"].tolist()), flush=True)
"""


def test_stolen_time_is_what_the_host_says_it_took(machine):
    with Lab(vcpus=2, load=True, **machine) as lab:
        guest = subprocess.Popen(
            lab.guest.argv(["python3", "-c", ANSWER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert guest.stdin
        assert guest.stdout
        assert guest.stdout.readline() == "ready\n"

        def both():
            print("now", file=guest.stdin, flush=True)
            return json.loads(guest.stdout.readline()), lab.vcpu_run_delay_ns()

        before = both()
        lab.steal(40)
        lab.run(["sh", "-c", SPIN_ON_BOTH])
        lab.steal(0)
        after = both()
        guest.kill()

    for vcpu in range(2):
        told, true = (after[of][vcpu] - before[of][vcpu] for of in (0, 1))
        error = told - true
        print(
            f"{' '.join(machine.values())} vcpu{vcpu}: host {true / 1e6:.1f} ms,"
            f" guest {told / 1e6:.1f} ms, error {error / 1e6:+.2f} ms ({100 * error / true:+.2f} %)"
        )
        assert true > 1_000_000_000, "the host took less than a second: no contention?"
        assert abs(error) <= max(0.02 * true, 5_000_000)
