# SPDX-License-Identifier: MIT
"""The exit codes of the command line, the same for every command."""

FAILED = 11
"""validate: the hypervisor broke a promise; it comes before all others."""
FAILED_ELSEWHERE = 12
UNMET = 13
NOT_JUDGED = 14
ERROR = 15
SLOWED = 16
"""run: the command itself succeeded."""
GAP_REACHED = 17
"""jitter: a gap was as long as --until-gap."""
INTERRUPTED = 130

MEANINGS = {
    0: "done",
    1: "unexpected error, or the output could not be written",
    2: "wrong usage, or a record or event that does not fit this guest",
    3: "nothing to read from",
    4: "not permitted",
    5: "device or page image of another format or version, or cut short",
    6: "no such CPU",
    7: "no structure, or one that must not be interpreted",
    8: "busy",
    9: "the module could not be loaded or unloaded",
    10: "no PV-time on this machine",
    FAILED: "validate: the hypervisor broke a promise",
    FAILED_ELSEWHERE: "validate: a check of KVM's ways, this guest's Linux or guestpv failed",
    UNMET: "validate: what --require asks for was not so",
    NOT_JUDGED: "validate: nothing was judged",
    ERROR: "validate: something went wrong while a check was made",
    SLOWED: "run: the host slowed the command by more than --fail-above, or may have",
    GAP_REACHED: "jitter: a gap was as long as --until-gap",
    126: "run: the command can't be executed",
    127: "run: there is no such command",
    INTERRUPTED: "interrupted (validate: after what it had changed was undone)",
}
"""Those up to 10, 126 and 127 are the errors' own: `guestpv.Error.exit_code`."""
