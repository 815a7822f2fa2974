# SPDX-License-Identifier: MIT
"""A guest before and after something happened to its VM: what each event lets counts do.

Before and after are made up here; real events, and a hypervisor that loses counts in them, are in
tests/lab/test_life_events.py. kexec has no other test: the lab's guests have no kexec-tools.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reportschema import outcome_is_by_schema

from guestpv.errors import MismatchError
from guestpv.page.abi import NOT_CALLED, Origin, Reason, State
from guestpv.validate import Event, Outcome, select
from guestpv.validate.comparison import compare
from guestpv.validate.life_events import IDS
from guestpv.validate.record import CPU, Moment, Record

FAILED, MISMATCH, USAGE = 11, 2, 2
SECOND = 10**9
GOES_ON = [event for event in Event if event.same_boot]
BOOTS = [event for event in Event if not event.same_boot]


def moment(boot_ns, rtc_s):
    return Moment(boot_ns, boot_ns, boot_ns, rtc_s)


def recorded(stolen_ns=(1 * SECOND, 2 * SECOND, 3 * SECOND, 0)):
    """Four vCPUs that are adopted, 1000 s after the boot."""
    cpus = np.zeros(len(stolen_ns), CPU)
    cpus["cpu"] = np.arange(len(stolen_ns))
    cpus["state"], cpus["origin"], cpus["reason"] = State.ONLINE, Origin.ADOPTED, Reason.FIRST_SEEN
    cpus["epoch"], cpus["valid"], cpus["stolen_ns"] = 1, True, stolen_ns
    cpus["ipa"] = 0x90A0000 + 64 * cpus["cpu"]
    cpus["features_st_draft"], cpus["st_return"] = -1, NOT_CALLED
    at = moment(1000 * SECOND, 1_700_000_000)
    return Record(
        source="device",
        guestpv="0.1.0",
        kernel="6.1.0",
        machine="one",
        boot_id="before",
        generation=None,
        began=at,
        ended=at,
        instance=7,
        sequence=40,
        smccc_version=0x10001,
        conduit=2,
        possible=len(stolen_ns),
        cpus=cpus,
    )


BEFORE = recorded()


def later(
    event=Event.MIGRATED, *, boot_s=10.0, rtc_s=10, stolen_ns=SECOND, before=BEFORE, **fields
):
    """The same guest some seconds later, from each of whose CPUs *stolen_ns* were stolen."""
    at = moment(before.began.boottime_ns + int(boot_s * SECOND), before.began.rtc_s + rtc_s)
    now = replace(before, began=at, ended=at, cpus=before.cpus.copy(), sequence=before.sequence + 8)
    now.cpus["stolen_ns"] += np.uint64(stolen_ns)
    if not event.same_boot:
        at = moment(20 * SECOND, at.rtc_s + 20)
        now = replace(now, boot_id="after", instance=8, began=at, ended=at)
        now.cpus["stolen_ns"] = stolen_ns
    return replace(now, **fields)


def restart(record, cpu, reason, stolen_ns=0, first_ns=0):
    row = record.cpus[cpu]
    row["epoch"] += 1
    row["reason"], row["stolen_ns"], row["epoch_stolen_ns"] = reason, stolen_ns, first_ns


def judged(now, event=Event.MIGRATED, before=BEFORE):
    guest = SimpleNamespace(compared=compare(before, now, event))
    findings = {check: check.judge(guest) for check in select(IDS)}
    for check, finding in findings.items():
        outcome_is_by_schema(Outcome(check, finding, 0.0))
    return {check.id.removeprefix("life."): finding for check, finding in findings.items()}


def others(findings):
    """The checks that neither passed, nor were skipped."""
    return {
        name: str(finding.verdict)
        for name, finding in findings.items()
        if finding.verdict not in ("pass", "skip")
    }


@pytest.mark.parametrize("event", Event)
def test_a_healthy_hypervisor_passes(event):
    findings = judged(later(event), event)
    assert others(findings) == {}
    assert findings["grew"].verdict == findings["interface"].verdict == "pass"
    assert (findings["continues"].verdict == "pass") == event.same_boot


@pytest.mark.parametrize("event", [Event.MIGRATED, Event.HOST_UPGRADED])
@pytest.mark.parametrize("stopped_s", [0, 30])
def test_a_count_that_was_lost_fails_however_short_the_stop(event, stopped_s):
    now = later(event, boot_s=0.2, rtc_s=stopped_s, stolen_ns=0)
    restart(now, 1, Reason.FOUND_LOWER, 5)
    findings = judged(now, event)
    assert others(findings) == {"continues": "fail"}
    found = findings["continues"]
    assert "cpu1: 2000000000 ns in epoch 1 before, 5 ns in epoch 2 (found lower" in found.text
    assert "lost the count" in found.advice
    assert found.cpus == (1,)
    assert found.figures == {"lost": [{"cpu": 1, "lost_ns": 2 * SECOND - 5}]}


@pytest.mark.parametrize("event", [Event.MIGRATED, Event.HOST_UPGRADED, Event.HOTPLUG])
def test_a_count_that_is_lower_in_its_epoch_fails_twice(event):
    """Nobody may lose it, and the module should have noticed."""
    now = later(event)
    now.cpus["stolen_ns"][2] = 3 * SECOND - 1
    assert others(judged(now, event)) == {"continues": "fail", "announced": "fail"}


@pytest.mark.parametrize("reason", [Reason.FOUND_LOWER, Reason.RESTORED])
def test_a_lost_count_that_grew_past_where_it_was_is_found_by_its_epoch(reason):
    now = later()
    restart(now, 0, reason, stolen_ns=5 * SECOND)
    assert judged(now)["continues"].verdict == "fail"


@pytest.mark.parametrize("event", GOES_ON)
def test_a_cpu_that_was_offline_meanwhile_is_not_held_against_anybody(event):
    now = later(event)
    restart(now, 3, Reason.HOTPLUG, stolen_ns=SECOND)
    now.cpus["state"][2] = State.OFFLINE  # and holds its last count
    findings = judged(now, event)
    assert others(findings) == {}
    assert "cpu0-2 went on; cpu3 came online, and counts anew" in findings["continues"].text


def test_a_cpu_on_its_way_is_not_judged_and_one_without_a_structure_fails():
    now = later()
    now.cpus["state"][1], now.cpus["valid"][1], now.cpus["stolen_ns"][1] = State.STARTING, False, 0
    assert others(judged(now)) == {}
    now.cpus["state"][1] = State.REFUSED
    assert others(judged(now)) == {"continues": "fail"}
    assert others(judged(replace(now, cpus=now.cpus[[0, 2, 3]]))) == {"continues": "fail"}


def test_where_nothing_had_been_stolen_nothing_could_be_lost():
    before = recorded([0, 0])
    assert judged(later(before=before), before=before)["continues"].verdict == "skip"
    none = replace(before, cpus=before.cpus[:0])
    for finding in judged(later(before=none), before=none).values():
        assert finding.verdict in ("skip", "pass")


# ---- upgrades ----


def test_an_upgrade_may_answer_otherwise_but_not_refuse():
    now = later(Event.HOST_UPGRADED)
    now.cpus["features_st_draft"][:] = 0
    findings = judged(now, Event.HOST_UPGRADED)
    assert others(findings) == {}
    assert "cpu0-3: PV_TIME_FEATURES(0xc5000022) returned -0x1 before, 0x0" in (
        findings["interface"].text
    )
    assert others(judged(now, Event.MIGRATED)) == {"interface": "warn"}
    for refusal in -1, 0xFFFFFFFF:
        now.cpus["features_st"][1:3] = refusal
        for event in Event.HOST_UPGRADED, Event.MIGRATED:
            findings = judged(now, event)
            assert others(findings) == {"interface": "fail"}
            assert findings["interface"].text.startswith(
                "cpu1-2, on cpu1: PV_TIME_FEATURES(0xc5000021)"
            )


@pytest.mark.parametrize("event", Event)
def test_what_is_not_to_be_interpreted_fails(event):
    now = later(event)
    now.cpus["revision"][2], now.cpus["valid"][2] = 1, False
    assert others(judged(now, event)) == {"interface": "fail"}
    older = later(event, smccc_version=0x10000)
    assert others(judged(older, event)) == {"interface": "fail"}


def test_after_an_upgrade_the_module_may_be_loaded_again():
    now = later(Event.HOST_UPGRADED, instance=8)
    assert judged(now, Event.HOST_UPGRADED)["continues"].verdict == "pass"
    now.cpus["stolen_ns"][1] = 0
    assert others(judged(now, Event.HOST_UPGRADED)) == {"continues": "fail"}
    now.cpus["origin"] = Origin.CLAIMED  # which restarts each
    assert judged(now, Event.HOST_UPGRADED)["continues"].verdict == "skip"


# ---- snapshots ----


def older_snapshot(event, back_s=50, lower_ns=SECOND, **fields):
    """Of *back_s* before the record; it has been running for 5 s, and 20 s have passed."""
    now = later(event, boot_s=5 - back_s, rtc_s=20, stolen_ns=0, **fields)
    now.cpus["stolen_ns"][now.cpus["stolen_ns"] > 0] -= np.uint64(lower_ns)
    return now


SNAPSHOT = [Event.RESTORED, Event.CLONED]


@pytest.mark.parametrize("event", SNAPSHOT)
def test_counts_of_an_older_snapshot_are_lower_and_nothing_says_so(event):
    findings = judged(older_snapshot(event), event)
    assert others(findings) == {"announced": "warn"}
    assert "set back" in findings["continues"].text
    assert "the snapshot is older" in findings["announced"].advice


@pytest.mark.parametrize("event", SNAPSHOT)
def test_an_older_snapshot_is_no_excuse_for_more_than_the_time_that_is_gone(event):
    before = recorded([900 * SECOND] * 4)
    now = older_snapshot(event, before=before, lower_ns=40 * SECOND)
    assert others(judged(now, event, before)) == {"announced": "warn"}
    now = older_snapshot(event, before=before, lower_ns=80 * SECOND)
    assert others(judged(now, event, before)) == {"announced": "warn", "continues": "fail"}
    unknown = replace(now, ended=replace(now.ended, rtc_s=None))
    assert others(judged(unknown, event, before)) == {"announced": "warn"}


@pytest.mark.parametrize("event", SNAPSHOT)
def test_a_snapshot_of_an_epoch_that_was_over_may_have_a_higher_count(event):
    before = recorded([100 * SECOND] * 2)
    restart(before, 1, Reason.HOTPLUG, stolen_ns=SECOND)
    now = older_snapshot(event, before=before, lower_ns=0)
    now.cpus["epoch"][1], now.cpus["stolen_ns"][1] = 1, 90 * SECOND
    findings = judged(now, event, before)
    assert others(findings) == {}
    assert "cpu1 set back into an earlier epoch" in findings["continues"].text
    now = later(Event.HOST_UPGRADED, before=before)
    now.cpus["epoch"][1] = 1
    findings = judged(now, Event.HOST_UPGRADED, before)
    assert findings["continues"].cpus == (1,)


@pytest.mark.parametrize("event", SNAPSHOT)
def test_a_restored_count_may_begin_anew_if_that_is_announced(event):
    now = later(event)
    for cpu in range(4):
        restart(now, cpu, Reason.RESTORED)
    findings = judged(now, event)
    assert others(findings) == {}
    assert findings["announced"].text == "cpu0-3: lower after a restore or resume"
    restart(now, 1, Reason.FOUND_LOWER)
    assert others(judged(now, event)) == {"announced": "warn"}
    restart(now, 2, Reason.NONE)
    assert others(judged(now, event)) == {"announced": "fail"}


def test_a_clone_is_told_so_by_its_generation():
    before = replace(BEFORE, generation=1)
    now = later(Event.CLONED, before=before, machine="another")
    assert others(judged(now, Event.CLONED, before)) == {"announced": "warn"}
    assert others(judged(replace(now, generation=2), Event.CLONED, before)) == {}


# ---- hotplug ----


def test_only_what_came_online_may_count_anew_and_from_zero():
    now = later(Event.HOTPLUG)
    restart(now, 1, Reason.HOTPLUG, stolen_ns=SECOND)
    findings = judged(now, Event.HOTPLUG)
    assert others(findings) == {}
    assert findings["announced"].text == "cpu1: lower when the CPU came online"
    restart(now, 2, Reason.FOUND_LOWER)
    assert others(judged(now, Event.HOTPLUG)) == {"continues": "fail"}
    leapt = recorded([900 * SECOND] * 4)
    now = later(Event.HOTPLUG, before=leapt)
    restart(now, 1, Reason.HOTPLUG, stolen_ns=700 * SECOND, first_ns=700 * SECOND)
    assert others(judged(now, Event.HOTPLUG, leapt)) == {"grew": "fail"}


def test_a_structure_that_moves():
    now = later()
    now.cpus["ipa"][1] += 0x1000
    assert others(judged(now)) == {"stayed": "fail"}
    restart(now, 1, Reason.RELEARNED)  # it was asked for again, as it came online
    assert others(judged(now)) == {"stayed": "warn"}


# ---- boots ----


@pytest.mark.parametrize("event", BOOTS)
def test_over_a_boot_counts_begin_anew_or_go_on_and_nothing_else(event):
    before = recorded([500 * SECOND, 600 * SECOND])
    now = later(event, before=before)
    assert others(judged(now, event, before)) == {}
    now.cpus["stolen_ns"] = [501 * SECOND, SECOND]
    expected = {} if event == Event.KEXEC else {"grew": "warn"}
    assert others(judged(now, event, before)) == expected
    for neither in 400 * SECOND, 800 * SECOND:
        now.cpus["stolen_ns"][0] = neither
        findings = judged(now, event, before)
        assert others(findings) == {"grew": "fail"}
        assert findings["grew"].cpus == (0,)


# ---- how much ----


@pytest.mark.parametrize("event", GOES_ON)
def test_more_than_time_passed_fails(event):
    assert others(judged(later(event, stolen_ns=10 * SECOND), event)) == {}
    findings = judged(later(event, stolen_ns=13 * SECOND), event)
    assert others(findings) == {"grew": "fail"}
    assert findings["grew"].figures["grown_ns"] == 13 * SECOND


def test_the_time_that_a_vm_was_stopped_is_not_stolen():
    findings = judged(later(boot_s=1, rtc_s=30, stolen_ns=25 * SECOND))
    assert others(findings) == {"grew": "fail"}
    assert "was stopped is counted" in findings["grew"].advice
    assert "leapt" in judged(later(boot_s=1, rtc_s=30, stolen_ns=50 * SECOND))["grew"].advice


@given(
    counts=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    grown=st.data(),
    passed_ns=st.integers(0, 2**62),
)
def test_counts_of_any_height_go_on_by_what_passed_or_fail(counts, grown, passed_ns):
    before = recorded(counts)
    at = moment(before.began.boottime_ns + passed_ns, None)
    now = replace(before, cpus=before.cpus.copy(), began=at, ended=at)
    most = min(2**64 - 1 - max(counts), 2**62)
    steps = [grown.draw(st.integers(0, most)) for _ in counts]
    now.cpus["stolen_ns"] += np.array(steps, np.uint64)
    findings = judged(now, before=before)
    assert findings["continues"].verdict in ("pass", "skip")
    slack = 100_000_000 + passed_ns // 1000
    assert (findings["grew"].verdict == "pass") == (max(steps) <= passed_ns + slack)
    back = judged(replace(before, began=at, ended=at), before=now)
    assert (back["continues"].verdict == "fail") == any(steps)


def test_all_that_fail_are_named_also_of_512():
    before = recorded([SECOND] * 512)
    now = later(before=before)
    for cpu in (*range(100), 511):
        restart(now, cpu, Reason.FOUND_LOWER)
    text = judged(now, before=before)["continues"].text
    assert text.startswith("cpu0-99,511, on cpu0: 1000000000 ns in epoch 1 before, 0 ns in epoch 2")


# ---- what did not happen ----

EARLIER = moment(900 * SECOND, 1_700_000_010)
DID_NOT_HAPPEN = [
    *[(event, {"boot_id": "after", "instance": 8}, "has booted") for event in GOES_ON],
    *[(event, {"boot_id": "before"}, "has not booted") for event in BOOTS],
    *[(event, {"instance": 7}, "has not booted") for event in BOOTS],
    *[(e, {"instance": 8}, "loaded again") for e in GOES_ON if e != Event.HOST_UPGRADED],
    *[(event, {"source": "image"}, "a page image") for event in Event],
    *[
        (event, {"boot_id": "after", "instance": 8, "machine": "two"}, "another machine")
        for event in Event
    ],
    (Event.MIGRATED, {"began": EARLIER, "ended": EARLIER}, "was restored"),
    (Event.HOTPLUG, {"sequence": 38}, "was restored"),
    (Event.HOTPLUG, {"sequence": 40}, "no CPU go or come"),
]


@pytest.mark.parametrize(("event", "fields", "why"), DID_NOT_HAPPEN)
def test_what_did_not_happen_is_not_judged(event, fields, why):
    with pytest.raises(MismatchError, match=why):
        compare(BEFORE, later(event, **fields), event)


@pytest.mark.parametrize("event", SNAPSHOT)
def test_a_snapshot_from_before_the_boot_id_was_drawn_is_of_the_same_boot(event):
    """Linux draws it when it is first read; the module's instance has been there before."""
    now = older_snapshot(event, boot_id="drawn anew")
    assert others(judged(now, event)) == {"announced": "warn"}


def test_a_machine_without_an_id_is_known_by_its_boot_alone():
    for machines in (None, "one"), ("one", None), (None, None):
        before, now = replace(BEFORE, machine=machines[0]), later(Event.REBOOTED)
        assert compare(before, replace(now, machine=machines[1]), Event.REBOOTED)


# ---- the command ----


@pytest.fixture
def validate(guestpv, machine, tmp_path):
    """Of a page image that was recorded."""
    file = str(tmp_path / "before.json")
    assert guestpv("validate", "--source", machine.path, "--record", file).returncode == 0

    def run(event, *options):
        compared = ("--compare", file, "--event", event)
        return guestpv("validate", "--json", "--source", machine.path, *compared, *options)

    return run


def checks_of(done):
    return {check["id"]: check for check in json.loads(done.stdout)["checks"]}


def test_what_goes_on_passes_at_once(machine, validate):
    machine.steal(1, 1000)
    done = validate("migrated")
    assert (done.returncode, done.stderr) == (0, "")
    assert {id: check["verdict"] for id, check in checks_of(done).items()} == dict.fromkeys(
        IDS, "pass"
    )
    assert json.loads(done.stdout)["duration_s"] < 10


def test_a_lost_count_is_the_exit_code_of_a_failure(machine, validate):
    machine.restart(2)
    done = validate("migrated")
    assert done.returncode == FAILED
    continues = checks_of(done)["life.continues"]
    assert continues["cpus"] == [2]
    assert continues["figures"] == {"lost": [{"cpu": 2, "lost_ns": 3 * SECOND}]}


def test_only_the_cpus_that_were_asked_for_are_compared(machine, validate):
    machine.restart(2)
    assert validate("migrated", "--cpu", "0-1,3").returncode == 0
    done = validate("migrated", "--cpu", "2")
    assert done.returncode == FAILED
    assert checks_of(done)["life.continues"]["cpus"] == [2]


def test_hotplug_is_announced(machine, validate):
    machine.offline(1)
    machine.online(1)
    assert validate("hotplug").returncode == 0
    assert "cpu1 came online" in checks_of(validate("migrated"))["life.continues"]["text"]


@pytest.mark.parametrize("event", ["rebooted", "kexec", "hotplug"])
def test_an_event_that_did_not_happen_is_no_pass_and_no_failure(validate, event):
    done = validate(event)
    assert done.returncode == MISMATCH
    assert f"--event {event}: nothing to judge" in json.loads(done.stderr)["what"]
    assert {check["verdict"] for check in checks_of(done).values()} == {"error"}


def test_more_checks_run_if_they_are_named(validate):
    checks = checks_of(validate("migrated", "--only", "life.grew,discovery"))
    assert checks.keys() == {check.id for check in select(["life.grew", "discovery"])}


@pytest.mark.parametrize("options", [("--event", "migrated"), ("--compare", "/dev/null")])
def test_a_record_and_an_event_go_together(guestpv, machine, options):
    done = guestpv("validate", "--source", machine.path, *options)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "go together" in done.stderr


def test_an_event_that_there_is_not_is_refused_with_those_that_there_are(guestpv, machine):
    done = guestpv("validate", "--event", "moved", "--compare", "/dev/null")
    assert done.returncode == USAGE
    for event in Event:
        assert event in done.stderr


def test_a_record_may_be_compared_and_written_anew_in_one(guestpv, machine, tmp_path):
    file = str(tmp_path / "before.json")
    source = ("validate", "--source", machine.path, "--record", file)
    guestpv(*source)
    machine.steal(0, 1000)
    again = guestpv(*source, "--compare", file, "--event", "migrated", "--json")
    assert again.returncode == 0
    assert checks_of(again)["life.grew"]["figures"]["grown_ns"] == 1000
    with open(file) as record:
        assert json.load(record)["cpus"][0]["stolen_ns"] == SECOND + 1000
