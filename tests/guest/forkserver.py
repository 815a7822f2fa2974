# SPDX-License-Identifier: MIT
"""Python's modules as commands, in a guest whose Python has imported already what they need.

`forkserver.py guestpv info` does what `python3 -m guestpv info` does, and `forkserver.py -c CODE`
what `python3 -c CODE` does, but for the seconds that an emulated guest takes for the imports: a
server makes them once, and each command is a fork of it, with the arguments, environment,
directory, CPUs, input and output, and the signals of who asks for it. A caller's user and limits it
has not.
"""

import marshal
import os
import signal
import socket
import sys

COMMAND = (sys.executable, "-I", "-S", __file__)
"""What a command begins with. The first one starts the server, if `--start MODULE...` has not."""
GUESTPV = (*COMMAND, "guestpv")

SOCKET = "/run/guestpv-preloaded"
LONGEST = 1 << 16
COMMANDS = ("info", "load", "read", "validation")
PRELOADED = ("rich.console", *(f"guestpv.cli.{name}" for name in COMMANDS))


def serve(more: list[str]) -> None:
    """Import what they need, and more, and serve for ever."""
    import gc
    from importlib import import_module

    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(SOCKET)
    for module in (*PRELOADED, *more):
        import_module(module)
    gc.freeze()  # or the forks would copy each page of it to look for garbage
    server.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = server.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            attend(client)
        client.close()


def attend(client: socket.socket) -> None:
    """Run what a client asks for, in a fork, and tell it of its end."""
    asked, given, _, _ = socket.recv_fds(client, LONGEST, 3)
    pid = os.fork()
    if not pid:
        client.close()
        run(marshal.loads(asked), given)
    for file in given:
        os.close(file)
    client.send(marshal.dumps(pid))
    client.send(marshal.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)  # all that is to be cleaned up is the server's


def run(asked: tuple[list[str], dict[str, str], str, set[int]], given: list[int]) -> None:
    """Be the command."""
    import runpy

    for own, file in enumerate(given):
        os.dup2(file, own)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    sys.argv, environment, directory, cpus = asked
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    os.sched_setaffinity(0, cpus)
    code: object = None
    try:
        if sys.argv[0] == "-c":
            exec(sys.argv.pop(1), {"__name__": "__main__"})
        else:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


def ask(words: list[str]) -> int:
    """How it ended, as subprocess has it."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if server.connect_ex(SOCKET):
        start([])
        server.connect(SOCKET)
    asked = (words, dict(os.environ), os.getcwd(), os.sched_getaffinity(0))
    socket.send_fds(server, [marshal.dumps(asked)], [0, 1, 2])
    pid = marshal.loads(server.recv(LONGEST))
    for each in signal.SIGINT, signal.SIGTERM:
        signal.signal(each, lambda number, _: os.kill(pid, number))
    return marshal.loads(server.recv(LONGEST))


def start(more: list[str]) -> None:
    """Start the server, and return when it serves. It is no matter if there is one."""
    import subprocess
    import time

    nothing = subprocess.DEVNULL
    subprocess.Popen(
        [sys.executable, __file__, "--serve", *more],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        while probe.connect_ex(SOCKET):
            time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2:])
    elif sys.argv[1] == "--start":
        start(sys.argv[2:])
    else:
        ended = ask(sys.argv[1:])
        if ended < 0:
            signal.signal(-ended, signal.SIG_DFL)
            os.kill(os.getpid(), -ended)
        sys.exit(ended)
