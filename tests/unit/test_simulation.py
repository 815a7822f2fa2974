# SPDX-License-Identifier: MIT
"""A simulated VM, as a reader of its page sees it."""

import contextlib
import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import guestpv
from guestpv.account.totals import Totals
from guestpv.errors import BusyError, Error, NoSuchCpuError, ScriptError
from guestpv.page.abi import Reason, State
from guestpv.page.image import write_image
from guestpv.simulation.machine import SimulatedMachine
from guestpv.simulation.script import EVENTS, parse

SECOND = 1_000_000_000


@pytest.fixture
def simulate(tmp_path):
    """A machine of two vCPUs and its reader: of so much steal, with such a script."""
    opened = []

    def begin(script="", **arguments):
        path = tmp_path / "page"
        machine = SimulatedMachine(
            path, **({"vcpus": 2, "seed": 1, "script": parse(script)} | arguments)
        )
        reader = guestpv.open(path)
        opened.extend((machine, reader))
        return machine, reader

    yield begin
    for one in opened:
        one.close()


def event(at_s, what, **values):
    """A table of a script."""
    keys = {"at_s": at_s, "what": what, **values}
    return "[[event]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def test_what_is_taken_is_what_was_asked_for(simulate):
    machine, reader = simulate(vcpus=64, percent=30)
    machine.advance(20)
    stolen_s = reader.snapshot()["stolen_ns"] / SECOND
    assert stolen_s.mean() == pytest.approx(6, rel=0.03)
    assert len(set(stolen_s)) == 64


@pytest.mark.parametrize(("percent", "stolen_ns"), [(0, 0), (100, 3 * SECOND)])
def test_nothing_and_everything(simulate, percent, stolen_ns):
    machine, reader = simulate(percent=percent)
    machine.advance(3)
    assert reader.snapshot()["stolen_ns"].tolist() == [stolen_ns] * 2


def test_the_same_seed_and_script_give_the_same_counts(simulate):
    script = event(1, "contention", percent=70, cpus="1") + event(2, "restart", cpus="0")

    def counts(seed):
        machine, reader = simulate(script, percent=20, seed=seed)
        seen = []
        for _ in range(30):
            machine.advance(0.1)
            seen.append(reader.snapshot()["stolen_ns"].tolist())
        machine.close()
        return seen

    assert counts(5) == counts(5) != counts(6)


def test_each_run_is_an_instance_of_its_own(simulate):
    machine, reader = simulate(seed=5)
    machine.close()
    assert simulate(seed=5)[1].instance != reader.instance


@given(
    st.lists(
        st.tuples(st.sampled_from([name for name in EVENTS if name != "reload"]), st.floats(0, 4)),
        max_size=12,
    ),
    st.integers(0, 2**32),
)
def test_whatever_happens_no_more_is_stolen_than_time_passes(tmp_path_factory, events, seed):
    """Totals never count more than the time, and what they do not know is said."""
    values = {
        "contention": {"percent": 100},
        "starve": {"seconds": 0.7},
        "revision": {"revision": 1, "cpus": "0"},
        "freeze": {"seconds": 0.3},
        "migrate": {"keeps_counts": False},
    }
    script = "".join(event(at_s, what, **values.get(what, {})) for what, at_s in events)
    path = tmp_path_factory.mktemp("simulated") / "page"
    machine = SimulatedMachine(path, 2, seed=seed, percent=50, script=parse(script))
    with machine, guestpv.open(path) as reader:
        totals = Totals(reader)
        for _ in range(50):
            machine.advance(0.1)
            snapshot = reader.snapshot()
            snapshot["monotonic_ns"] = totals._last["monotonic_ns"] + SECOND // 10
            rows = totals.update(snapshot)
        # A long steal is counted when it ends, which is more than one interval has.
        assert (rows["total_ns"] <= 5 * SECOND).all()
        snapshot = reader.snapshot()
        assert (snapshot["stolen_ns"] <= machine.time_s * SECOND).all()


def test_contention_from_then_on(simulate):
    machine, reader = simulate(event(2, "contention", percent=100, cpus="1"))
    machine.advance(3)
    assert reader.snapshot()["stolen_ns"].tolist() == [0, SECOND]


def test_a_vcpu_that_starves_is_told_so_at_once_and_afterwards(simulate):
    machine, reader = simulate(event(1, "starve", seconds=1.5, cpus="0"), percent=100)
    machine.advance(2)
    assert reader.snapshot()["stolen_ns"].tolist() == [SECOND, 2 * SECOND]
    machine.advance(1)
    assert reader.snapshot()["stolen_ns"].tolist() == [3 * SECOND, 3 * SECOND]


def test_a_restart_is_an_epoch_once_the_module_has_looked(simulate):
    machine, reader = simulate(event(2.5, "restart", cpus="0"), percent=100)
    machine.advance(2.7)
    hidden = reader.snapshot()
    assert hidden["stolen_ns"][0] == SECOND // 5
    assert hidden["epoch"].tolist() == [1, 1]
    machine.advance(1)
    seen = reader.snapshot()
    assert seen["epoch"].tolist() == [2, 1]
    assert seen["reason"].tolist() == [Reason.FOUND_LOWER, Reason.FIRST_SEEN]
    assert seen["epoch_stolen_ns"][0] == SECOND // 2


def test_a_cpu_goes_and_comes_back(simulate):
    script = event(1, "offline", cpus="1") + event(3, "online", cpus="1")
    machine, reader = simulate(script, percent=100)
    machine.advance(2)
    gone = reader.snapshot()
    assert gone["state"].tolist() == [State.ONLINE, State.OFFLINE]
    assert gone["stolen_ns"].tolist() == [2 * SECOND, SECOND]
    machine.advance(2)
    back = reader.snapshot()
    assert back["state"].tolist() == [State.ONLINE] * 2
    assert back["stolen_ns"].tolist() == [4 * SECOND, SECOND]
    assert back["epoch"].tolist() == [1, 2]
    assert back["reason"][1] == Reason.HOTPLUG


def test_nothing_was_counted_so_nothing_began_anew(simulate):
    """An epoch follows from evidence, as the contract says: 0 is not lower than 0."""
    script = event(1, "offline", cpus="1") + event(2, "online", cpus="1")
    machine, reader = simulate(script, percent=0)
    machine.advance(3)
    assert reader.snapshot()["epoch"].tolist() == [1, 1]


def test_a_revision_that_is_not_known(simulate):
    script = event(1, "revision", revision=3, attributes=5, cpus="0")
    machine, reader = simulate(script + event(4, "revision", revision=0), percent=10)
    machine.advance(2.1)
    with pytest.raises(guestpv.StructureError) as refused:
        reader.read(0)
    assert (refused.value.revision, refused.value.attributes) == (3, 5)
    assert reader.snapshot()["valid"].tolist() == [False, True]
    assert reader.entries["revision"].tolist() == [3, 0]
    assert reader.entries["attributes"].tolist() == [5, 0]
    assert reader.entries["since_ns"][0] > 0
    machine.advance(3)
    assert reader.snapshot()["valid"].all()
    assert reader.entries["revision"].tolist() == [0, 0]


def test_a_structure_that_is_asked_for_again_has_the_revision_that_is_known(simulate):
    """As KVM writes it anew when the CPU comes online."""
    script = event(1, "revision", revision=3, cpus="0") + event(3, "offline", cpus="0")
    machine, reader = simulate(script + event(4, "online", cpus="0"), percent=10)
    machine.advance(3.5)
    assert reader.structure(0)["revision"] == 3
    machine.advance(2)
    assert reader.snapshot()["valid"].all()
    assert reader.structure(0)["revision"] == reader.entries["revision"][0] == 0


def test_frozen_and_migrated_counts_stand_still_and_go_on(simulate):
    script = event(1, "freeze", seconds=1) + event(3, "migrate", seconds=0.5)
    machine, reader = simulate(script, percent=100)
    machine.advance(1.9)
    assert reader.stolen_ns(0) == SECOND
    machine.advance(3.1)
    assert reader.stolen_ns(0) == 3.5 * SECOND
    assert reader.snapshot()["epoch"].tolist() == [1, 1]


def test_a_destination_that_loses_the_counts(simulate):
    machine, reader = simulate(event(2, "migrate", seconds=0, keeps_counts=False), percent=100)
    machine.advance(4)
    rows = reader.snapshot()
    assert rows["stolen_ns"].tolist() == [2 * SECOND] * 2
    assert rows["reason"].tolist() == [Reason.FOUND_LOWER] * 2


def test_the_module_goes_and_another_instance_comes(simulate):
    script = event(0.5, "offline", cpus="1") + event(1, "reload", seconds=1)
    machine, before = simulate(script + event(3, "online", cpus="1"), percent=100)
    machine.advance(1.5)
    with pytest.raises(guestpv.NoSourceError):
        guestpv.open(machine.path)
    assert before.snapshot()["state"].tolist() == [State.OFFLINE] * 2
    machine.advance(1)
    with guestpv.open(machine.path) as reader:
        assert reader.instance == machine.instance != before.instance
        rows = reader.snapshot()
        assert rows["state"].tolist() == [State.ONLINE, State.ABSENT]
        assert rows["stolen_ns"].tolist() == [2.5 * SECOND, 0]
        assert rows["epoch"].tolist() == [1, 0]
        machine.advance(1)
        rows = reader.snapshot()
        assert rows["epoch"].tolist() == [1, 1]
        assert rows["reason"].tolist() == [Reason.FIRST_SEEN] * 2
        assert rows["stolen_ns"].tolist() == [3.5 * SECOND, SECOND // 2]


def test_in_the_end_nothing_is_online(simulate):
    machine, reader = simulate(percent=100)
    machine.advance(1)
    machine.close()
    rows = reader.snapshot()
    assert rows["state"].tolist() == [State.OFFLINE] * 2
    assert rows["stolen_ns"].tolist() == [SECOND] * 2


def test_4096_vcpus(simulate):
    machine, reader = simulate(vcpus=4096, percent=50)
    machine.advance(1)
    rows = reader.snapshot()
    assert rows["valid"].all()
    assert len(set(rows["stolen_ns"].tolist())) > 4000


def test_what_is_no_simulated_page_is_not_written_over(tmp_path):
    write_image(tmp_path / "recorded", [1, 2])
    (tmp_path / "notes").write_text("mine")
    for name in "recorded", "notes", ".":
        before = (tmp_path / name).read_bytes() if name != "." else None
        with pytest.raises(Error, match="no simulated page"):
            SimulatedMachine(tmp_path / name, 1, seed=0)
        assert name == "." or (tmp_path / name).read_bytes() == before


def test_one_simulation_in_a_file(simulate):
    machine, _ = simulate()
    with pytest.raises(BusyError):
        SimulatedMachine(machine.path, 1, seed=0)
    machine.close()
    SimulatedMachine(machine.path, 1, seed=0).close()


def test_a_script_for_more_cpus_than_there_are_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(NoSuchCpuError, match="The list 2 goes beyond"):
        SimulatedMachine(tmp_path / "page", 2, seed=0, script=parse(event(1, "online", cpus="2")))
    assert not list(tmp_path.iterdir())


def test_a_simulated_page_says_so_wherever_it_shows(simulate, guestpv):
    machine, reader = simulate(percent=10)
    assert reader.source.simulated
    path = str(machine.path)
    assert "SIMULATED" in guestpv("read", "--source", path).stdout
    assert "simulated" in guestpv("info", "--source", path).stdout
    shown = guestpv("watch", "--source", path, "--interval=0.01", "--count=1").stdout
    assert shown.startswith(f"# SIMULATED: {path}\n")
    jitter = ["jitter", "--duration=50ms", "--cpu=0"]
    assert "SIMULATED" in guestpv(*jitter, "--source", path).stdout
    for command in (["read"], ["info"], ["watch", "--interval=0.01", "--count=1"], jitter):
        record = json.loads(guestpv(*command, "--source", path, "--json").stdout)
        assert record["source"]["simulated"] is True
    refused = guestpv("validate", "--source", path)
    assert refused.returncode == 3
    assert "simulated" in refused.stderr


def test_a_recorded_page_does_not(machine, guestpv):
    record = json.loads(guestpv("read", "--source", machine.path, "--json").stdout)
    assert record["source"]["simulated"] is False
    assert "SIMULATED" not in guestpv("read", "--source", machine.path).stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("at_s = 1", "nothing that is called 'at_s'"),
        ("[[event]", "not TOML"),
        ("event = 3", "no tables"),
        (event(1, "explode"), "'explode'"),
        ('[[event]]\nwhat = "restart"', "None is no number"),
        (event(1, "contention"), "no percent"),
        (event(1, "contention", percent=101), "not from 0 to 100"),
        ('[[event]]\nat_s = nan\nwhat = "restart"', "not from"),
        (event(1, "restart", seconds=1), "'seconds'"),
        (event(1, "restart", cpus="3-1"), "counts down"),
        (event(1, "restart", cpus=3), "no list of CPUs"),
        (event(1, "revision", revision=-1), "32 bits"),
        (event(1, "migrate", keeps_counts=1), "neither true nor false"),
    ],
)
def test_a_script_that_is_not_understood(script, said):
    with pytest.raises(ScriptError) as refused:
        parse(script)
    assert said in str(refused.value)


@given(st.text())
def test_no_script_is_fatal(text):
    with contextlib.suppress(ScriptError):
        parse(text)


def test_events_happen_in_the_order_of_their_times():
    script = event(2, "restart") + event(1, "freeze", seconds=1) + event(2, "reload")
    assert [one.what for one in parse(script)] == ["freeze", "restart", "reload"]


def test_the_command_until_it_is_told_to_end(tmp_path):
    """In real time, with its script, and a page that no read finds torn."""
    (tmp_path / "script").write_text(event(0.1, "restart", cpus="0"))
    path = tmp_path / "page"
    command = [sys.executable, "-m", "guestpv", "sim", str(path), "--vcpus=8", "--steal=100"]
    command += [f"--script={tmp_path / 'script'}", "--seed=3", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        began = json.loads(process.stdout.readline())
        assert (began["vcpus"], began["seed"], began["path"]) == (8, 3, str(path))
        happened = json.loads(process.stdout.readline())
        assert (happened["what"], happened["cpus"], happened["at_s"]) == ("restart", "0", 0.1)
        with guestpv.open(path) as reader:
            assert f"{reader.instance:#018x}" == began["instance"]
            before, time_s = reader.snapshot(), time.monotonic()
            while (reader.snapshot()["stolen_ns"] <= before["stolen_ns"]).any():
                assert time.monotonic() < time_s + 20
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert (reader.snapshot()["state"] == State.OFFLINE).all()


def test_the_command_ends_after_its_duration(tmp_path, guestpv):
    path = str(tmp_path / "page")
    done = guestpv("sim", path, "--vcpus=1", "--steal=100", "--duration=0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Simulating 1 vCPU in {path}, seed ")
    record = json.loads(guestpv("read", "--source", path, "--json").stdout)
    assert record["cpus"][0]["stolen_ns"] == 0.3 * SECOND


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--vcpus=0"], 2, "vcpus"),
        (["--vcpus=4097"], 2, "vcpus"),
        (["--steal=nan"], 2, "nan is no number of percent"),
        (["--step=0"], 2, "seconds"),
        (["--script=/nowhere"], 2, "/nowhere: not read"),
        (["--script=/proc/self/exe"], 2, "not UTF-8"),
        (["--script=/dev/zero"], 2, "/dev/zero: not read. It is larger than 16 MiB"),
    ],
)
def test_bad_input_in_plain_words(tmp_path, guestpv, arguments, code, said):
    done = guestpv("sim", str(tmp_path / "page"), *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_page_for_which_there_is_no_room_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # as of a file system that is full
    try:
        with pytest.raises(OSError, match=r"File too large: '.*page.*'"):
            SimulatedMachine(tmp_path / "page", 64, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing/page", "."])
def test_a_place_that_can_not_be_written(tmp_path, guestpv, place):
    done = guestpv("sim", str(tmp_path / place))
    assert done.returncode == 1
    assert done.stderr.startswith(f"guestpv: {tmp_path / place}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["page.new", "page.new.partial"])
def test_what_has_the_name_of_a_page_in_the_making(tmp_path, name):
    """A simulation that runs as root in /tmp does not follow the links of others."""
    victim, made = tmp_path / "victim", tmp_path / "made"
    victim.write_text("mine")
    made.mkdir()
    (made / name).symlink_to(victim)
    with SimulatedMachine(made / "page", 1, seed=0):
        assert [path.name for path in made.iterdir()] == ["page"]
    assert victim.read_text() == "mine"


def test_numbers_of_a_page_are_those_of_the_contract(simulate):
    """The index is stored as words, and read back as what they mean."""
    machine, reader = simulate(event(0.5, "offline", cpus="0"))
    machine.advance(1)
    sequence = int(reader.header["sequence"])
    machine.advance(1)
    assert sequence % 2 == 0
    assert reader.header["sequence"] == sequence, "nothing changed, and the index says so"
    assert np.diff(reader.entries["offset"].astype(int)).tolist() == [64]
