# SPDX-License-Identifier: MIT
"""./tools/test: what it runs, and how it ends, with programs that only say what they were told."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

TEST = Path(__file__).parents[2] / "tools/test"
BOOTSTRAP = """
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/venv python=$checkout/venv/bin/python
say() { :; }
"""
NOTHING_CHOSEN, INTERRUPTED = 5, 2
SAYS = """#!/bin/sh
echo "$*" >>"$SAID"
set -- $ENDS
shift $(($(wc -l <"$SAID") - 1))
exit $1
"""
INTERRUPTED_LATE = f"""#!/bin/sh
trap 'exit {INTERRUPTED}' INT
echo begun >>"$SAID"
echo begun
for _ in $(seq 100); do sleep 0.1; done
"""


class Command:
    """It is in a checkout that has nothing but what it needs."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.said = checkout / "said"

    def program(self, name: str, script: str) -> None:
        path = self.checkout / "venv/bin" / name
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def argv(self, *arguments: str) -> list[str]:
        return [str(self.checkout / "tools/test"), *arguments]

    def environment(self, ends: str) -> dict[str, str]:
        return os.environ | {"SAID": str(self.said), "ENDS": ends}

    def run(self, *arguments: str, ends: str = "0 0 0", at: str = ".") -> tuple[int, list[str]]:
        """Its exit code, and what each pytest was told, which end with these codes in turn."""
        self.said.write_text("")
        done = subprocess.run(
            self.argv(*arguments), cwd=self.checkout / at, env=self.environment(ends)
        )
        return done.returncode, self.said.read_text().splitlines()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    programs = tmp_path / "venv/bin"
    for directory in programs, tmp_path / "tools", tmp_path / "kmod", tmp_path / "tests/unit":
        directory.mkdir(parents=True)
    (tmp_path / "tests/unit/test_one.py").touch()
    shutil.copy(TEST, tmp_path / "tools")
    (tmp_path / "tools/bootstrap.sh").write_text(BOOTSTRAP)
    for name in "python", "ruff", "mypy", "lint-imports":
        (programs / name).symlink_to("/bin/true")
    command = Command(tmp_path)
    command.program("pytest", SAYS)
    return command


def test_all_tests_are_run_and_each_failure_counts(command):
    code, told = command.run()
    assert (code, len(told)) == (0, 3)
    for ends in "1 0 0", "0 1 0", "0 0 1":
        assert command.run(ends=ends)[0] == 1


def test_that_nothing_is_left_of_some_is_no_failure_and_of_all_it_is(command):
    for ends in "5 0 5", "5 5 0", "0 5 5":
        assert command.run("-k", "some", ends=ends)[0] == 0
    assert command.run("-k", "some", ends="5 1 5")[0] == 1
    assert command.run("-k", "typo", ends="5 5 5")[0] == NOTHING_CHOSEN


@pytest.mark.parametrize("at", [".", "tools", "/"])
def test_paths_are_in_the_place_of_all_tests_wherever_it_is_called(command, at):
    code, (told,) = command.run("tests/unit/test_one.py::test_it", at=at)
    assert code == 0
    assert told.endswith(" tests/unit/test_one.py::test_it")
    assert "test_truth" not in told


def test_a_name_that_is_also_a_directorys_is_no_path(command):
    assert len(command.run("-k", "kmod")[1]) == 3


def test_it_ends_when_a_pytest_is_interrupted(command):
    command.program("pytest", INTERRUPTED_LATE)
    with subprocess.Popen(
        command.argv(),
        env=command.environment(""),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    assert command.said.read_text() == "begun\n"


def test_what_the_linters_find_is_said_at_once_and_nothing_is_built_any_more(command):
    built = command.checkout / "built"
    command.program("python", f"#!/bin/sh\necho $$ >{built}\nexec sleep 60\n")
    command.program("ruff", f"#!/bin/sh\nuntil test -s {built}; do sleep 0.1; done; exit 3\n")
    ends = time.monotonic() + 30
    assert command.run() == (3, [])
    while Path(f"/proc/{built.read_text().strip()}").exists():
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert time.monotonic() < ends


def test_without_what_is_to_be_built_no_test_is_run(command):
    command.program("python", "#!/bin/sh\nexit 125\n")
    assert command.run() == (125, [])
