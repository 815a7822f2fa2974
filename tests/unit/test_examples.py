# SPDX-License-Identifier: MIT
"""The shipped readers in other languages give what `guestpv read` gives."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guestpv.page.image import write_image

CHECKOUT = Path(__file__).parents[2]
C = ("-Wall", "-Wextra", "-Werror", "-std=c11", f"-I{CHECKOUT}/kmod/uapi", "stolen.c")
COMPILED = {
    "C, by gcc": ("gcc", *C),
    "C, by clang": ("clang", *C),
    "Go": ("gccgo", "-Wall", "-Werror", "stolen.go"),
}


@pytest.fixture(scope="module", params=COMPILED)
def reader(request, tmp_path_factory):
    """An example, made by a compiler that takes no warning."""
    program = tmp_path_factory.mktemp("example") / "stolen"
    command = [*COMPILED[request.param], "-o", program]
    subprocess.run(command, cwd=CHECKOUT / "guestpv/examples", check=True)
    return program


def lines(reader, path):
    done = subprocess.run([reader, path], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_it_reads_a_simulation_as_guestpv_does(reader, guestpv, tmp_path):
    path = tmp_path / "page"
    command = [sys.executable, "-m", "guestpv", "sim", path, "--vcpus", "8", "--steal", "50"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.02)
            before = json.loads(guestpv("read", "--source", str(path), "--json").stdout)["cpus"]
            read = [int(line.split()[1]) for line in lines(reader, path)]
            after = json.loads(guestpv("read", "--source", str(path), "--json").stdout)["cpus"]
        finally:
            process.kill()
    for first, count, last in zip(before, read, after, strict=True):
        assert int(first["stolen_ns"]) <= count <= int(last["stolen_ns"])
    assert any(read)


def test_it_interprets_only_what_it_may(reader, machine):
    assert lines(reader, machine.path) == [f"{cpu} {cpu + 1}000000000" for cpu in range(4)]
    machine.revise(0, 1)
    machine.structures["attributes"][1] = 1
    machine.refuse(2)
    machine.offline(3)
    assert lines(reader, machine.path) == ["0 none", "1 none", "2 none", "3 4000000000"]
    machine.header["sequence"] += 1
    assert lines(reader, machine.path) == [f"{cpu} busy" for cpu in range(4)]


def test_it_refuses_another_layout(reader, tmp_path):
    path = tmp_path / "page"
    write_image(path, [1])
    image = bytearray(path.read_bytes())
    image[8] += 1
    path.write_bytes(image)
    done = subprocess.run([reader, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
