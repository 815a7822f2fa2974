# SPDX-License-Identifier: MIT
"""The README's picture: the last page of a real `guestpv watch`, as SVG.

Two of four vCPUs are busy, and after a while the host takes about half of their time; a
third is taken offline and comes back.
"""

import io
import re
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.text import Text

from .errors import LabError
from .lab import Lab

WIDTH, HEIGHT = 100, 18
STEAL, STEAL_AFTER_S = 50, 15
STORY = f"""
stty columns {WIDTH} rows {HEIGHT}
for cpu in 0 1; do nice -n 19 taskset -c $cpu sh -c 'while :; do :; done' & done
{{
	sleep 15; echo 0 >/sys/devices/system/cpu/cpu3/online
	sleep 4; echo 1 >/sys/devices/system/cpu/cpu3/online
}} &
TERM=xterm-256color guestpv watch --count 30
kill $(jobs -p) 2>/dev/null
"""

_PAGE_BEGINS = "\x1b[H"
_SCREEN_ENDS = "\x1b[?1049l"

_FETCHED_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def draw(path: Path) -> None:
    """Run the story in a guest, and write the picture of its end."""
    with Lab(vcpus=4, load=True) as lab, TemporaryFile() as shown:
        story = lab.guest.argv(["sh", "-c", STORY], pty=True)
        with subprocess.Popen(story, stdin=subprocess.DEVNULL, stdout=shown) as watching:
            try:
                time.sleep(STEAL_AFTER_S)
                lab.steal(STEAL)
                watching.wait(timeout=180)
            finally:  # or Popen waits for it for ever
                watching.kill()
        shown.seek(0)
        page = last_page(shown.read().decode())
    path.write_text(svg(page))


def last_page(shown: str) -> list[Text]:
    """The lines that were on a terminal's alternate screen when it was left."""
    screen, left, _ = shown.rpartition(_SCREEN_ENDS)
    _, begun, page = screen.rpartition(_PAGE_BEGINS)
    if not (left and begun):
        raise LabError(f"guestpv watch showed no screen:\n{shown[-500:]}")
    return [Text.from_ansi(line) for line in page.splitlines()[:HEIGHT]]


def svg(lines: list[Text]) -> str:
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop")
    picture = console.export_svg(title="sudo guestpv watch", unique_id="watch")
    return _FETCHED_FONT.sub("", picture)  # any monospaced one will do
