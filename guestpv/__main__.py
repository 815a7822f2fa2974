# SPDX-License-Identifier: MIT
"""The command guestpv, and python -m guestpv where that is not on the PATH."""

import signal


def main() -> None:
    """Run the command line."""
    # What it imports takes a moment, in which Ctrl-C would be a traceback.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from guestpv.cli import main

    main()


if __name__ == "__main__":
    main()
