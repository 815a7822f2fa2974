# SPDX-License-Identifier: MIT
"""python -m guestpv: the command line where it is not on the PATH."""

from guestpv.cli import main

main()
