# SPDX-License-Identifier: MIT
"""A CPU of a lab's guest that goes offline and comes back, in which KVM begins its count anew."""

from pvlab import Lab


def switch(lab: Lab, cpu: int) -> None:
    online = f"/sys/devices/system/cpu/cpu{cpu}/online"
    lab.run(["sh", "-c", f"echo 0 >{online} && echo 1 >{online}"]).check_returncode()
