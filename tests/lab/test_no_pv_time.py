# SPDX-License-Identifier: MIT
"""Guests without PV-time: each command says how far discovery came, and changes nothing."""

import json
from collections.abc import Iterator

import pytest
from preloaded import START, guestpv

from pvlab import Lab

MODULE = "/lib/modules/$(uname -r)/extra/guestpv.ko"
PLACES = {
    # what the hypervisor is asked for, insmod's errno, how its line in the log begins
    "a host that does not offer it": (
        {"steal_time": False},
        "Operation not supported",
        "guestpv: not loaded: PV_TIME_FEATURES(0xc5000021) returned -1 (0xffffffffffffffff)",
    ),
    "plain emulation": (
        {"hypervisor": "none"},
        "No such device",
        "guestpv: not loaded: SMCCC version 1.0 without a conduit",
    ),
}


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str, str]]:
    machine, error, line = PLACES[request.param]
    with Lab(prepare=START, **machine) as lab:
        yield lab, error, line


def log_of(lab):
    log = lab.run(["dmesg", "-t"]).stdout.splitlines()
    return [line for line in log if "guestpv" in line and "taint" not in line]


def test_insmod_is_refused_in_one_line(place):
    lab, error, line = place
    before = len(log_of(lab))
    done = lab.run(["sh", "-c", f"insmod {MODULE}"])
    assert done.returncode != 0
    assert error in done.stderr
    (said,) = log_of(lab)[before:]
    assert said.startswith(line)
    assert lab.run(["ls", "/sys/module/guestpv"]).returncode != 0


def test_load_says_which_step_failed_and_what_it_returned(place):
    lab, _, line = place
    step = line.removeprefix("guestpv: not loaded: ")
    done = guestpv(lab, "load")
    assert (done.stdout, done.returncode) == ("", 10)
    (said,) = done.stderr.splitlines()
    assert step in said
    assert "--source procfs" in said
    record = json.loads(guestpv(lab, "load", "--json").stderr)
    assert step in record["why"]


def test_validate_reports_the_step_that_failed(place):
    """discovery.smccc has its fault here: with SMCCC 1.0 there is no conduit."""
    lab, _, line = place
    done = guestpv(lab, "validate", "--json")
    (said,) = done.stderr.splitlines()
    assert line.removeprefix("guestpv: not loaded: ") in said
    verdicts = {check["id"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    failed = {id for id, verdict in verdicts.items() if verdict == "fail"}
    without_conduit = "SMCCC" in line
    wanted = {"discovery.smccc"} if without_conduit else {"discovery.features_self", "discovery.st"}
    assert (done.returncode, failed) == (11, wanted)
    assert lab.run(["ls", "/sys/module/guestpv"]).returncode != 0


def test_offering_nothing_is_a_verdict_where_that_is_expected(place):
    lab, _, _ = place
    done = guestpv(lab, "validate", "--expect", "none", "--json")
    (none,) = (
        check for check in json.loads(done.stdout)["checks"] if check["id"] == "discovery.none"
    )
    assert (done.returncode, none["verdict"]) == (0, "pass"), none


@pytest.mark.parametrize("command", ["info", "read", "watch --count 1"])
def test_the_others_say_so_too_and_that_procfs_works(place, command):
    lab, _, line = place
    lab.run(["sh", "-c", f"insmod {MODULE}"])
    done = guestpv(lab, *command.split())
    assert (done.stdout, done.returncode) == ("", 3)
    (said,) = done.stderr.splitlines()
    assert line.removeprefix("guestpv: not loaded: ") in said
    assert "--source procfs" in said

    done = guestpv(lab, *command.split(), "--source", "procfs")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "/proc/stat" in done.stdout or "online" in done.stdout


def test_unload_has_nothing_to_do(place):
    lab, _, _ = place
    done = guestpv(lab, "unload")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "nothing to do" in done.stdout
