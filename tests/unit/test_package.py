# SPDX-License-Identifier: MIT
"""What a user installs: an sdist, the wheel that is built of it, and nothing of this checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from guestpv.agent import rules, service
from guestpv.page.image import write_image

CHECKOUT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with guestpv in it, by way of an sdist and a wheel."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    source.mkdir()
    files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT)
    for name in files.rstrip("\0").split("\0"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    backend = "from setuptools import build_meta; print(build_meta.build_sdist(r'..'))"
    sdist = run(sys.executable, "-c", backend, cwd=source).splitlines()[-1]
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation")
    run(*pip, "wheel", *options, sdist, cwd=place)
    (wheel,) = place.glob("guestpv-*-cp311-abi3-*.whl")

    run(sys.executable, "-m", "venv", "environment", cwd=place)
    python = place / "environment/bin/python"
    run(python, "-m", "pip", "-q", "--disable-pip-version-check", "install", wheel, cwd=place)
    return place / "environment/bin"


def test_it_reads_a_page_image(installed: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "image", [123, 456])
    program = (
        "import guestpv\n"
        "print(guestpv.__file__)\n"
        "with guestpv.open('./image') as reader: print(reader.read(1).stolen_ns)\n"
    )
    place, stolen_ns = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert stolen_ns == "456"
    assert "456" in run(installed / "guestpv", "read", "--source", "./image", cwd=tmp_path)


def test_its_command_says_what_it_can_do(installed: Path, tmp_path: Path) -> None:
    assert "validate" in run(installed / "guestpv", "--help", cwd=tmp_path)


def test_what_it_writes_out_travels_with_it(installed: Path, tmp_path: Path) -> None:
    run(installed / "guestpv", "exporter", "--write-rules", tmp_path, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(rules.FILES)
    (package,) = installed.parent.glob("lib/python3*/site-packages/guestpv")
    assert {path.name for path in (package / "agent/system").iterdir()} == set(service.FILES)


def test_the_module_travels_with_it(installed: Path) -> None:
    (package,) = installed.parent.glob("lib/python3*/site-packages/guestpv")
    missing = [
        path.name
        for path in [*(CHECKOUT / "kmod").rglob("*.[ch]"), CHECKOUT / "kmod/COPYING"]
        if not (package / "kmod" / path.relative_to(CHECKOUT / "kmod")).exists()
    ]
    assert not missing
