# SPDX-License-Identifier: MIT
"""The record of validate --record: what is written is read back, and nothing else is taken."""

import json
import os
import resource
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestpv.cli import recordfile
from guestpv.cli.records import dumps
from guestpv.errors import FormatError
from guestpv.page import layout
from guestpv.page.abi import CALLS, NO_COUNT, NOT_CALLED, State
from guestpv.page.image import write_image
from guestpv.source.mapped import MappedReader
from guestpv.validate import record as records
from guestpv.validate.record import CPU, SCHEMA, Moment, Record, as_json, parse, take

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
WORDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
FORMAT_ERROR, NO_SOURCE, USAGE = 5, 3, 2


def equal(one, other):
    first, second = (asdict(replace(each, cpus=None)) for each in (one, other))
    return first == second and one.cpus.tobytes() == other.cpus.tobytes()


def written(record):
    return dumps(SCHEMA, as_json(record)).encode()


@st.composite
def cpus(draw):
    rows = np.zeros(draw(st.integers(0, 5)), CPU)
    for number, row in enumerate(rows):
        row["cpu"] = 3 * number
        for name in "state", "origin", "fault", "reason":
            row[name] = draw(st.integers(0, 255))
        for name in "epoch", "st_call":
            row[name] = draw(U32)
        row["ipa"], row["epoch_stolen_ns"] = draw(U64), draw(U64)
        row["valid"] = draw(st.booleans())
        if row["valid"]:
            row["stolen_ns"] = draw(U64)
        else:
            row["revision"], row["attributes"] = draw(U32), draw(U32)
        for call in CALLS:
            row[call] = draw(st.integers(-(2**63), 2**63 - 1))
    return rows


MOMENTS = st.builds(Moment, U64, U64, U64, st.none() | st.integers(-(2**63), 2**63 - 1))
RECORDS = st.builds(
    Record,
    source=WORDS,
    guestpv=WORDS,
    kernel=WORDS,
    machine=st.none() | WORDS,
    boot_id=WORDS,
    generation=st.none() | U64,
    began=MOMENTS,
    ended=MOMENTS,
    instance=U64,
    sequence=U32,
    smccc_version=U32,
    conduit=U32,
    possible=st.integers(13, 2**32 - 1),
    cpus=cpus(),
)


@given(RECORDS)
def test_what_is_written_is_read_back_exactly(record):
    assert equal(parse(written(record)), record)


@given(RECORDS)
def test_no_integer_is_one_that_a_double_rounds(record):
    def numbers(value):
        match value:
            case dict():
                return [number for item in value.values() for number in numbers(item)]
            case list():
                return [number for item in value for number in numbers(item)]
            case int():
                return [value]
        return []

    assert all(abs(number) < 2**53 for number in numbers(json.loads(written(record))))


@pytest.fixture
def reader(tmp_path):
    write_image(tmp_path / "image", [10**9, 2**63, 0])
    with MappedReader(tmp_path / "image") as reader:
        yield reader


@pytest.fixture
def record(reader):
    return take(reader)


def test_a_guest_is_recorded_as_it_is(reader, record):
    assert record.source == "image"
    assert record.instance == reader.instance
    assert record.sequence == reader.header["sequence"]
    assert record.cpus["stolen_ns"].tolist() == [10**9, 2**63, 0]
    for field in {*CPU.names} & {*reader.entries.dtype.names}:
        assert record.cpus[field].tolist() == reader.entries[field].tolist()
    for clock in "monotonic_raw_ns", "boottime_ns", "realtime_ns":
        assert 0 < getattr(record.began, clock) < getattr(record.ended, clock)


def test_two_of_512_possible_cpus_are_a_small_record(tmp_path):
    write_image(tmp_path / "image", [0] * 512)
    content = bytearray((tmp_path / "image").read_bytes())
    entries = np.ndarray(512, layout.ENTRY, content, layout.HEADER.itemsize)
    entries["state"][2:], entries["offset"][2:] = State.ABSENT, 0
    (tmp_path / "image").write_bytes(content)
    with MappedReader(tmp_path / "image") as reader:
        record = take(reader)
    assert record.cpus["cpu"].tolist() == [0, 1]
    assert record.possible == 512
    assert equal(parse(written(record)), record)
    assert len(written(record)) < 3000


def test_an_id_of_the_machine_is_not_given_away(reader, tmp_path, monkeypatch):
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(records, "_MACHINE_ID", tmp_path / "machine-id")
    one = take(reader)
    assert b"0123456789abcdef" not in written(one)
    assert len(one.machine) == 32
    (tmp_path / "machine-id").write_text("1123456789abcdef0123456789abcdef\n")
    assert take(reader).machine != one.machine
    (tmp_path / "machine-id").write_text("")  # as before a first boot
    assert take(reader).machine is None


# ---- what is no record ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_and_no_json_end_in_anything_but_a_refusal(content):
    with pytest.raises(FormatError):
        parse(content)


def places(value, path=()):
    """The way to each value of a record."""
    yield path
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, name))


def put(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_with_one_value_exchanged_is_refused_or_another_record(record, data):
    """Whatever is there instead, it is what was read, and not something like it."""
    good = json.loads(written(record))
    path = data.draw(st.sampled_from(list(places(good))))
    new = data.draw(JSON)
    try:
        read = parse(json.dumps(put(good, path, new)).encode())
    except FormatError:
        return
    if path and path[0] not in ("schema", "time_s"):
        assert as_json(read) == as_json(parse(written(read)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cpus", 0, "stolen_ns"), 2**64),
        (("cpus", 0, "stolen_ns"), -1),
        (("cpus", 0, "stolen_ns"), 1.0),
        (("cpus", 0, "stolen_ns"), True),
        (("cpus", 0, "stolen_ns"), "1e9"),
        (("cpus", 0, "stolen_ns"), "٣"),
        (("cpus", 0, "revision"), 1),  # and yet there is a count
        (("cpus", 0, "answers"), None),
        (("cpus", 0, "answers", "features_st"), 2**63),
        (("cpus", 1, "cpu"), 0),
        (("cpus", 1, "cpu"), 3),
        (("instance",), "9"),
        (("instance",), 9),
        (("instance",), "0x10000000000000000"),
        (("boot_id",), ""),
        (("boot_id",), "a\x1b[2J"),
        (("machine",), 7),
        (("began", "rtc_s"), "now"),
        (("schema",), "guestpv.validate-record/2"),
        (("schema",), "guestpv.read/1"),
    ],
)
def test_what_can_not_be_is_refused(record, path, value):
    good = json.loads(written(record))
    with pytest.raises(FormatError) as refused:
        parse(json.dumps(put(good, path, value)).encode())
    assert str(path[-1] if path[-1] != "cpu" else "CPU") in refused.value.why or value == 1


def test_each_name_is_needed_and_more_may_come(record):
    good = json.loads(written(record))
    for path in places(good):
        if not path or isinstance(path[-1], int) or path[0] == "time_s" or "answers" in path[:-1]:
            continue
        inner = good
        for name in path[:-1]:
            inner = inner[name]
        short = put(good, path[:-1], {k: v for k, v in inner.items() if k != path[-1]})
        with pytest.raises(FormatError, match=f"{path[-1]} is missing|no JSON object"):
            parse(json.dumps(short).encode())
    assert equal(parse(json.dumps(good | {"later": [1]}).encode()), record)


def test_what_is_unknown_is_null_or_missing(record):
    record.cpus["epoch_stolen_ns"][1], record.cpus["valid"][1] = NO_COUNT, False
    good = json.loads(written(record))
    one = good["cpus"][1]
    assert one["epoch_stolen_ns"] is one["stolen_ns"] is one["answers"]["st_return"] is None
    del good["cpus"][0]["answers"]["st_return"]
    assert parse(json.dumps(good).encode()).cpus[0]["st_return"] == NOT_CALLED
    good["cpus"][0]["epoch_stolen_ns"] = None
    assert parse(json.dumps(good).encode()).cpus[0]["epoch_stolen_ns"] == NO_COUNT


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"schema": ' * 100_000, b"1" * 10_000, b"\xff\xfe\x00", b"NaN", b"\0" * 99],
)
def test_what_brings_a_parser_down_is_refused(content):
    with pytest.raises(FormatError):
        parse(content)


# ---- files ----


def test_a_record_is_its_owners_and_replaces_the_one_before(guestpv, machine, tmp_path):
    file = tmp_path / "before.json"
    file.write_text("another")
    link = tmp_path / "link.json"
    link.symlink_to("before.json")
    done = guestpv("validate", "--source", machine.path, "--record", str(link))
    assert (done.returncode, done.stdout) == (0, "")
    assert "cpu0-3" in done.stderr
    assert link.is_symlink()
    assert parse(file.read_bytes()).cpus["cpu"].tolist() == [0, 1, 2, 3]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["before.json", "link.json", "page"]


def test_a_full_disk_leaves_the_record_that_is_there(tmp_path):
    file = tmp_path / "before.json"
    file.write_text("the one before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            recordfile._write(file, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "the one before"
    assert os.listdir(tmp_path) == ["before.json"]


@pytest.mark.parametrize("file", ["/dev/full", "/nowhere/before.json", "/proc/before.json", ""])
def test_where_no_record_can_be_written_that_is_said(guestpv, machine, file):
    done = guestpv("validate", "--source", machine.path, "--record", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the record can't be written" in done.stderr


def test_a_record_goes_through_pipes(guestpv, machine):
    """As over ssh: a snapshot that is older than the record has not got the file."""
    for options in ("--record", "/dev/stdout"), ("--record", "/dev/null", "--json"):
        done = guestpv("validate", "--source", machine.path, *options)
        assert parse(done.stdout.encode()).instance == machine.header["instance"]


def test_where_the_hosts_account_is_known_a_record_is_made(guestpv, machine, tmp_path, monkeypatch):
    """As in every guest of the lab, where the environment has it."""
    monkeypatch.setenv("GUESTPV_HOST_ACCOUNT", "localhost:1")
    file = str(tmp_path / "before.json")
    assert guestpv("validate", "--source", machine.path, "--record", file).returncode == 0


def test_a_record_alone_runs_no_check(guestpv, machine, tmp_path):
    for option in "--quick", "--tap", "--only=life", "--junit=x", "--wait=1":
        done = guestpv(
            "validate", "--record", str(tmp_path / "x"), "--source", machine.path, option
        )
        assert done.returncode == USAGE
        assert "runs no check" in done.stderr
    assert os.listdir(tmp_path) == ["page"]


def test_the_kernels_account_is_nothing_to_record(guestpv, tmp_path):
    done = guestpv("validate", "--source", "procfs", "--record", str(tmp_path / "x"))
    assert done.returncode == NO_SOURCE
    assert "nothing to record" in done.stderr


@pytest.mark.parametrize(
    ("file", "code"),
    [("/nowhere", NO_SOURCE), ("/tmp", NO_SOURCE), ("/dev/null", FORMAT_ERROR), ("", NO_SOURCE)],
)
def test_what_is_no_record_is_refused_before_the_run(guestpv, machine, file, code):
    options = ("--compare", file, "--event", "migrated")
    done = guestpv("validate", "--source", machine.path, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert "no record" in done.stderr


def test_what_never_ends_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(recordfile, "_LARGEST", 1000)
    (tmp_path / "large").write_bytes(bytes(1001))
    with pytest.raises(FormatError, match="more than 1000 bytes: make one"):
        recordfile.read_record(tmp_path / "large")


@pytest.mark.parametrize(
    "options",
    [
        ("--junit", "{record}", "--compare", "{record}", "--event", "migrated"),
        ("--junit", "{link}", "--compare", "{record}", "--event", "migrated"),
        ("--junit", "{new}", "--record", "{new}", "--compare", "{record}", "--event", "migrated"),
        ("--junit", "{page}"),
        ("--record", "{page}"),
        ("--junit", "{stdout}", "--json"),
        ("--junit", "/dev/stdout"),
        ("--record", "/dev/stdout", "--compare", "{record}", "--event", "migrated"),
    ],
)
def test_no_file_is_lost_to_another_part_of_the_run(guestpv, machine, tmp_path, options):
    names = {name: tmp_path / name for name in ("record", "link", "new", "stdout")}
    guestpv("validate", "--source", machine.path, "--record", str(names["record"]))
    names["link"].symlink_to(names["record"])
    before = names["record"].read_bytes(), Path(machine.path).read_bytes()
    command = [sys.executable, "-m", "guestpv", "validate", "--source", machine.path]
    command += [option.format(page=machine.path, **names) for option in options]
    with names["stdout"].open("w") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "another part in this" in " ".join(done.stderr.replace("│", "").split())
    assert (names["record"].read_bytes(), Path(machine.path).read_bytes()) == before
    assert names["stdout"].read_text() == ""
    assert not names["new"].exists()
