# SPDX-License-Identifier: MIT
"""What the README shows works as it is written there."""

import html
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import guestpv
from guestpv.cli import app, exitcodes
from guestpv.cli.columns import WIDTHS
from guestpv.page import abi, image, layout
from guestpv.simulation.script import EVENTS, parse

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
NO_COUNT = 2**64 - 1
MAIN = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDONLY);
	const struct guestpv_header *first = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	const void *map = mmap(NULL, first->size, PROT_READ, MAP_SHARED, fd, 0);

	for (int arg = 2; arg < argc; arg++)
		printf("%llu\\n", stolen_ns(map, strtoul(argv[arg], NULL, 10)));
	return 0;
}
"""


@pytest.fixture
def path(tmp_path):
    image.write_image(tmp_path / "image", [123_456_789, 2**63])
    return tmp_path / "image"


def examples(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_in_ten_lines(path):
    _, code, _, _ = examples("python")
    code = code.replace("guestpv.open()", f"guestpv.open({str(path)!r})")
    assert str(path) in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reading, *changes = done.stdout.splitlines()
    assert reading == "Reading(revision=0, attributes=0, stolen_ns=123456789, epoch=1)"
    assert [line.split()[:3] for line in changes] == [["0", "0", "ns"], ["1", "0", "ns"]]


def test_the_totals_of_an_agent(path, capsys):
    _, _, code, _ = examples("python")
    exec(code.replace("guestpv.open()", f"guestpv.open({str(path)!r})"), {"guestpv": guestpv})
    assert capsys.readouterr().out.splitlines() == ["0 0 0 0", "1 0 0 0"]


def test_what_happens_in_three_lines(path):
    _, _, _, code = examples("python")
    arguments = f"guestpv.events({str(path)!r}, interval_s=0.01)"
    code = "import guestpv\n" + code.replace("guestpv.events()", arguments)
    command = [
        sys.executable,
        "-u",
        "-c",
        code.replace("    for", "    print('begun')\n    for", 1),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        path.unlink()
        said = process.stdout.readline() or ""
        process.kill()
    assert re.search(r"^\d+\.\d+ module_gone None .* is gone$", said)


def test_the_c_header_in_ten_lines(path, tmp_path):
    (tmp_path / "example.c").write_text("".join(examples("c")) + MAIN)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{CHECKOUT}/kmod/uapi"]
    subprocess.run(["cc", *flags, "example.c", "-o", "example"], cwd=tmp_path, check=True)

    def stolen_ns(*cpus):
        command = [tmp_path / "example", path, *map(str, cpus)]
        done = subprocess.run(command, capture_output=True, text=True)
        return [int(line) for line in done.stdout.splitlines()]

    assert stolen_ns(0, 1) == [123456789, 2**63]
    assert stolen_ns(2, 2**20) == [NO_COUNT, NO_COUNT]

    data = bytearray(path.read_bytes())
    np.ndarray((), layout.HEADER, data)["abi_version"] = abi.ABI_VERSION + 1
    path.write_bytes(data)
    assert stolen_ns(0) == [NO_COUNT]


def test_the_script_of_a_simulation():
    (script,) = examples("toml")
    assert [one.what for one in parse(script)] == ["contention", "restart", "migrate"]
    for what in EVENTS:
        assert f"`{what}`" in README


def test_the_picture_is_the_screen_of_watch():
    assert "](tools/watch.svg)" in README
    picture = (CHECKOUT / "tools/watch.svg").read_text()
    shown = html.unescape(re.sub(r"<[^>]+>", "", picture)).replace("\N{NO-BREAK SPACE}", " ")
    for title in WIDTHS:
        assert title in shown
    assert "url(http" not in picture  # it is whole without a network


def test_every_exit_code_is_the_one_of_its_error():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    raised = {error.exit_code for error in guestpv.Error.__subclasses__()}
    own = {code for name, code in vars(exitcodes).items() if isinstance(code, int)}
    assert codes == raised | own | {0, 1, 2} == set(exitcodes.MEANINGS)


def test_every_command_and_option_it_names_exists():
    for command, options in {
        "info": ("--source", "--json"),
        "load": ("--json",),
        "unload": ("--json",),
        "read": ("--cpu", "--source", "--json"),
        "watch": ("--interval", "--count", "--sort", "--cpu", "--source", "--json"),
        "check": ("--max", "--warn", "--for", "--total", "--cpu", "--source"),
        "run": ("--repeat", "--fail-above", "--output", "--json"),
        "jitter": (
            *("--cpu", "--duration", "--threshold", "--until-gap", "--priority"),
            *("--source", "--json"),
        ),
        "events": ("--cpu", "--source", "--interval", "--json"),
        "exporter": (
            *("--source", "--listen", "--web-config", "--textfile", "--interval"),
            *("--install", "--uninstall", "--root", "--write-rules"),
        ),
        "sim": ("--script", "--seed", "--vcpus"),
        "validate": (
            *("--quick", "--disruptive", "--list", "--only", "--skip", "--wait"),
            *("--junit", "--tap", "--json", "--schema", "--host-account", "--seconds", "--cpu"),
            *("--leave-isolated", "--fail-on", "--require", "--record", "--compare", "--event"),
        ),
    }.items():
        shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
        assert shown.exit_code == 0, command
        assert f"guestpv {command}" in README
        for option in options:
            assert option in README
            assert option in shown.output


def test_one_version_everywhere():
    version = metadata.version("guestpv")
    places = {
        "pyproject.toml": f'version = "{version}"',
        "kmod/dkms.conf": f'PACKAGE_VERSION="{version}"',
        "kmod/main.c": f'MODULE_VERSION("{version}")',
        "README.md": f"/usr/src/guestpv-{version}",
    }
    for place, text in places.items():
        assert text in (CHECKOUT / place).read_text(), place
