# SPDX-License-Identifier: MIT
"""The command line, run as a user runs it: what it says, in words and JSON, and how it ends."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import guestpv as package
from guestpv.cli import app
from guestpv.cli.records import write
from guestpv.page.abi import NO_COUNT, NOT_CALLED, PV_TIME_ST, Fault, Origin, Reason, State

SECOND = 1_000_000_000
NO_DEVICE = not Path("/dev/guestpv").exists()
OTHER_MACHINE = platform.machine() != "aarch64"

READ_CPU = {
    "cpu",
    "state",
    "origin",
    "fault",
    "valid",
    "epoch",
    "reason",
    "epoch_stolen_ns",
    "revision",
    "attributes",
    "stolen_ns",
    "procstat_steal_ns",
}
INFO_CPU = {
    "cpu",
    "state",
    "origin",
    "fault",
    "epoch",
    "reason",
    "epoch_stolen_ns",
    "ipa",
    "st_call",
    "arch_features",
    "features_self",
    "features_st",
    "features_st_draft",
    "features_undefined",
    "features_st_smc32",
    "features_smc32",
    "revision",
    "attributes",
    "unknown_since_s",
    "st_return",
}


def record(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def refused(done, code, *words):
    """One line that says what, why and what to do; nothing on stdout; the documented code."""
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("guestpv: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def misused(*args):
    """What is said of a wrong usage; nothing of it needs a process of its own."""
    done = CliRunner().invoke(app, args, prog_name="guestpv", env={"COLUMNS": "200"})
    assert done.exit_code == 2, done.output
    return done.output


# What it says


def test_version(guestpv):
    assert guestpv("--version").stdout.split() == ["guestpv", "0.1.0"]


def test_help_has_the_exit_codes(guestpv):
    said = " ".join(guestpv("--help").stdout.split())
    for error in vars(package).values():
        if isinstance(error, type) and issubclass(error, package.Error):
            assert f" {error.exit_code} " in said, error


@pytest.mark.parametrize("command", ["info", "load", "unload", "read", "watch"])
def test_every_command_has_help_and_json(guestpv, command):
    done = guestpv(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_read(guestpv, machine):
    machine.steal(1, 5)
    lines = guestpv("read", "--source", machine.path).stdout.splitlines()
    assert any(line.split()[:3] == ["1", "online", "2.000000005"] for line in lines)
    assert lines[-1].split()[:2] == ["all", "10.000000005"]


def test_read_json(guestpv, machine):
    machine.offline(2)
    machine.refuse(3, Fault.OVERLAP)
    read = record(guestpv("read", "--json", "--source", machine.path))
    assert set(read) == {
        *("schema", "time_s", "source", "instance", "monotonic_ns", "cpus", "total"),
    }
    assert read["schema"] == "guestpv.read/1"
    assert read["source"] == {
        **{"kind": "image", "path": machine.path},
        **{"resolution_ns": 1, "simulated": False},
    }
    assert all(set(cpu) == READ_CPU for cpu in read["cpus"])
    assert [cpu["stolen_ns"] for cpu in read["cpus"]] == [SECOND, 2 * SECOND, 3 * SECOND, None]
    assert [cpu["state"] for cpu in read["cpus"]] == ["online", "online", "offline", "refused"]
    assert [cpu["fault"] for cpu in read["cpus"]] == ["none", "none", "none", "overlap"]
    assert read["total"] == {"stolen_ns": 6 * SECOND, "procstat_steal_ns": None}


def test_counts_survive_a_parser_that_knows_only_doubles(guestpv, machine):
    """What such a one would round is a string, with each digit; also where it is a sum."""
    machine.structures["stolen_time"] = 2**53 - 1, 2**53, 2**53 + 1, 2**64 - 1
    read = record(guestpv("read", "--json", "--source", machine.path))
    counts = [cpu["stolen_ns"] for cpu in read["cpus"]]
    assert counts == [2**53 - 1, str(2**53), str(2**53 + 1), str(2**64 - 1)]
    assert read["total"]["stolen_ns"] == str(3 * 2**53 + 2**64 - 1)


@pytest.mark.parametrize("number", [2**53 - 1, 2**53, 2**64 - 1, 10**30])
def test_each_number_that_is_written_is_exact(capsys, number):
    for value in number, -number:
        write("test/1", {"deep": [{"value": value}], "true": True, "rate": 2.0**60})
        doubles = json.loads(capsys.readouterr().out, parse_int=float)
        (deep,) = doubles["deep"]
        assert isinstance(deep["value"], str) == (number > 2**53 - 1)
        assert int(deep["value"]) == value
        assert (doubles["true"], doubles["rate"]) == (True, 2.0**60)


@pytest.mark.parametrize("command", ["read", "info", "watch --count=1 --interval=0.01"])
@pytest.mark.parametrize("instance", [1, 2**64 - 1])
def test_every_record_has_the_instance(guestpv, machine, command, instance):
    machine.header["instance"] = instance
    said = record(guestpv(*command.split(), "--json", "--source", machine.path))
    assert said["instance"] == f"0x{instance:016x}"


def test_read_and_info_say_why_an_epoch_began(guestpv, machine):
    machine.steal(1, 700)
    machine.restart(1, Reason.RESTORED)
    machine.entries["epoch_stolen_ns"][1] = 600
    for command in "read", "info":
        cpus = record(guestpv(command, "--json", "--source", machine.path))["cpus"]
        assert [cpu["reason"] for cpu in cpus] == ["first_seen", "restored"] + 2 * ["first_seen"]
        assert cpus[1]["epoch_stolen_ns"] == 600
    (line,) = (
        line
        for line in guestpv("read", "--source", machine.path).stdout.splitlines()
        if line.split()[:1] == ["1"]
    )
    assert "2 restored" in line
    said = guestpv("info", "--source", machine.path).stdout
    assert f"online, count in epoch 2: {Reason.RESTORED.text}, 0x90a0040" in said


def test_read_of_chosen_cpus(guestpv, machine):
    read = record(guestpv("read", "--json", "--cpu", "0,2-3", "--source", machine.path))
    assert [cpu["cpu"] for cpu in read["cpus"]] == [0, 2, 3]
    assert read["total"]["stolen_ns"] == 8 * SECOND


def test_sum_of_no_counts_is_unknown(guestpv, machine):
    for cpu in range(4):
        machine.revise(cpu, 7)
    read = json.loads(guestpv("read", "--json", "--source", machine.path).stdout)
    assert read["total"] == {"stolen_ns": None, "procstat_steal_ns": None}
    lines = guestpv("read", "--source", machine.path).stdout.splitlines()
    assert lines[-1].split() == ["all", "-", "-"]


def test_read_without_a_single_count_says_why(guestpv, machine):
    machine.revise(1, 7)
    done = guestpv("read", "--cpu", "1", "--source", machine.path)
    assert done.returncode == 7
    assert "revision 7" in done.stdout
    assert "revision 7" in done.stderr


def test_info(guestpv, machine):
    machine.refuse(3)
    machine.entries["features_st"][2] = 0xFFFFFFFF
    said = guestpv("info", "--source", machine.path).stdout
    facts = dict(line.split("  ", 1) for line in said.splitlines())
    assert facts["SMCCC"].split() == ["version", "1.1,", "by", "HVC"]
    assert "0 (0x0)" in facts["SMCCC_ARCH_FEATURES(0xc5000020)"]
    assert "-1 (0xffffffffffffffff) NOT_SUPPORTED" in facts["PV_TIME_FEATURES(0xc5000022)"]
    assert facts["PV_TIME_ST"].strip() == "not called"
    assert "the kernel" in facts["owner"]
    assert facts["cpu0-2"].strip() == "online, 0x90a0000 to 0x90a0080"
    assert facts["cpu3"].strip() == f"{Fault.SYSTEM_RAM.text}, 0x90a00c0"


def test_info_shows_answers_apart_where_they_differ(guestpv, machine):
    machine.entries["features_st"][2] = 0xFFFFFFFF
    said = guestpv("info", "--source", machine.path).stdout
    assert "0 (0x0) on cpu0-1,3" in said
    assert "4294967295 (0xffffffff) NOT_SUPPORTED on cpu2" in said


def test_info_does_not_know_the_owner_of_what_was_not_asked_for(guestpv, machine):
    """Discovery was refused on one CPU of a kernel that owns the structures."""
    machine.refuse(1, Fault.NOT_SUPPORTED)
    machine.entries["origin"][1] = Origin.NONE
    said = guestpv("info", "--source", machine.path).stdout
    assert "adopted, without a reset on cpu0,2-3" in said
    assert "unknown: no structure was asked for on cpu1" in said


def test_info_json(guestpv, machine):
    info = record(guestpv("info", "--json", "--source", machine.path))
    assert set(info) == {
        *("schema", "time_s", "source", "instance", "smccc_version", "conduit", "cpus"),
    }
    assert info["schema"] == "guestpv.info/1"
    assert (info["smccc_version"], info["conduit"]) == ("1.1", "hvc")
    assert all(set(cpu) == INFO_CPU for cpu in info["cpus"])
    assert info["cpus"][1]["ipa"] == 0x90A0040
    assert info["cpus"][1]["st_call"] == PV_TIME_ST
    assert info["cpus"][1]["features_st_draft"] == -1
    assert info["cpus"][1]["st_return"] is None


def test_numbers_of_a_later_module_are_shown_as_such(guestpv, machine):
    machine.entries["origin"][0] = 99
    machine.refuse(1, 77)
    for command in ("info", "read"):
        done = guestpv(command, "--source", machine.path)
        assert done.returncode == 0, done.stderr
        assert "unknown fault 77" in done.stdout
    read = record(guestpv("read", "--json", "--source", machine.path))
    assert read["cpus"][0]["origin"] == "unknown 99"


@pytest.mark.parametrize("command", ["info", "read"])
def test_procfs_is_named_as_such(guestpv, command):
    assert "/proc/stat" in guestpv(command, "--source", "procfs").stdout
    source = record(guestpv(command, "--json", "--source", "procfs"))["source"]
    assert source["kind"] == "procfs"
    assert source["resolution_ns"] == 10_000_000


def test_read_of_procfs_is_what_the_kernel_says(guestpv):
    read = record(guestpv("read", "--json", "--source", "procfs"))
    for cpu in read["cpus"]:
        if cpu["valid"]:
            assert cpu["stolen_ns"] <= cpu["procstat_steal_ns"]


# How it is refused


@pytest.mark.skipif(not (OTHER_MACHINE and NO_DEVICE), reason="this machine may have PV-time")
@pytest.mark.parametrize("command", ["info", "load", "read", "watch"])
def test_other_architecture_is_named_and_what_works(guestpv, command):
    refused(guestpv(command), 10, "architecture", platform.machine(), "--source procfs")


@pytest.mark.skipif(not NO_DEVICE, reason="the module is loaded")
def test_unload_where_there_is_nothing_to_unload(guestpv):
    assert guestpv("unload").returncode == 0
    assert record(guestpv("unload", "--json"))["changed"] is False


def test_error_is_one_object_with_json(guestpv):
    done = guestpv("read", "--json", "--source", "/nonexistent")
    assert done.returncode == 3
    assert done.stdout == ""
    error = json.loads(done.stderr)
    assert set(error) == {"schema", "exit_code", "what", "why", "fix"}
    assert error["schema"] == "guestpv.error/1"
    assert error["exit_code"] == 3


@pytest.mark.parametrize("command", ["info", "read", "watch"])
@pytest.mark.parametrize(
    ("source", "code"), [("/nonexistent", 3), ("/etc/passwd", 5), ("/", 5), ("/dev/null", 5)]
)
def test_source_that_is_none(guestpv, command, source, code):
    refused(guestpv(command, "--source", source), code, source)


@pytest.mark.parametrize("command", ["info", "read", "watch"])
def test_page_image_cut_short(guestpv, machine, command):
    os.truncate(machine.path, 4096)
    refused(guestpv(command, "--source", machine.path), 5, "cut short")


def test_source_that_may_not_be_opened(machine):
    os.chmod(machine.path, 0)
    command = [sys.executable, "-m", "guestpv", "read", "--source", machine.path]
    if os.geteuid() == 0:  # who reads whatever the mode says, but for these capabilities
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    refused(done, 4, "permission denied")


@pytest.mark.parametrize("command", ["read", "watch"])
@pytest.mark.parametrize("cpus", ["4", "0-4", "0-99999999999999999999"])
def test_cpu_that_does_not_exist(guestpv, machine, command, cpus):
    refused(guestpv(command, "--source", machine.path, "--cpu", cpus), 6, "no such CPU", "0-3")


@pytest.mark.parametrize("cpus", ["", "x", "-1", "3-1", "0,", "1.5"])
def test_list_of_cpus_that_is_none(machine, cpus):
    assert "--cpu" in misused("read", "--source", machine.path, f"--cpu={cpus}")


@pytest.mark.parametrize(
    "interval", ["0", "-1", "nan", "inf", "-inf", "1e9", "3601", "1e-9", "x", ""]
)
def test_interval_that_is_none(machine, interval):
    said = misused("watch", "--source", machine.path, f"--interval={interval}")
    assert "--interval" in said
    assert "0.01 to 3600" in said


@pytest.mark.parametrize("option", ["--count=0", "--count=-1", "--count=x", "--sort=x", "--what"])
def test_option_that_is_none(machine, option):
    assert option.partition("=")[0] in misused("watch", "--source", machine.path, option)


@pytest.mark.parametrize("args", [["nonsense"], ["read", "too", "much"]])
def test_command_that_is_none(args):
    assert "guestpv" in misused(*args)


# How it ends


@pytest.mark.parametrize("args", [["read"], ["read", "--json"], ["info"], ["watch"]])
def test_output_that_cannot_be_written(machine, args):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "guestpv", *args, "--source", machine.path],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_reader_that_had_enough_ends_it_silently(machine, json_too):
    watch = subprocess.Popen(
        [
            *(sys.executable, "-m", "guestpv", "watch", "--source", machine.path),
            *("--interval=0.05", *json_too),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch.stdout.readline()
    watch.stdout.close()
    assert watch.stderr.read() == ""
    assert watch.wait(60) == -13  # SIGPIPE, as for any filter


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["read", "watch --count 1 --interval 0.01"])
def test_without_the_usual_files(machine, closed, command):
    shell = f"{sys.executable} -m guestpv {command} --source {machine.path} {closed}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_no_traceback_while_it_is_imported(tmp_path):
    (tmp_path / "typer.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
    path = f"{tmp_path}:{Path(package.__file__).parents[1]}"
    with subprocess.Popen(
        [sys.executable, "-m", "guestpv", "read"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    ) as starting:
        starting.stdout.readline()
        starting.send_signal(signal.SIGINT)
        assert starting.stderr.read() == b""
    assert starting.returncode == -signal.SIGINT


def test_an_interrupt_while_commands_are_set_up_has_no_traceback():
    script = """
import guestpv.cli
def interrupted(**_): raise KeyboardInterrupt
guestpv.cli.app = interrupted
guestpv.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_unexpected_error_has_no_traceback_unless_it_is_wanted(machine):
    script = """
import guestpv.cli, guestpv.source.open, sys
def broken(source): raise RuntimeError("out of luck")
guestpv.open = broken
sys.argv = ["guestpv", "read"]
guestpv.cli.main()
"""
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env=os.environ | {"GUESTPV_DEBUG": debug},
        )
        assert done.returncode == 1
        assert "out of luck" in done.stderr
        assert ("Traceback" in done.stderr) == bool(debug)


def test_what_a_cpu_was_answered_is_shown_when_it_is_gone(guestpv, machine):
    """Refused, and then offline: it is as absent as one that was never asked, and was asked."""
    machine.enter(1, state=State.ABSENT, offset=0, st_return=-1)
    machine.enter(2, state=State.ABSENT, offset=0, arch_features=NOT_CALLED)
    cpus = json.loads(guestpv("info", "--source", machine.path, "--json").stdout)["cpus"]
    assert [cpu["st_return"] for cpu in cpus] == [None, -1, None, None]
    assert [cpu["arch_features"] for cpu in cpus] == [0, 0, None, 0]


def test_a_first_count_that_was_not_seen_is_not_shown(guestpv, machine):
    machine.revise(1, 1)
    machine.enter(1, epoch_stolen_ns=NO_COUNT)
    for command in "read", "info":
        cpus = json.loads(guestpv(command, "--source", machine.path, "--json").stdout)["cpus"]
        assert [cpu["epoch_stolen_ns"] for cpu in cpus] == [0, None, 0, 0]
