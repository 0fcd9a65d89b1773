"""Run the `tradeverdict` command without loading it anew each time: a process that has it forks for each call.

`python -m tests.docs.commands SOCKET` waits there. `CALLER` is the program that stands for `tradeverdict`: it hands
over its arguments, folder, environment, input and outputs, and ends as the command ended.
"""

import contextlib
import json
import os
import socket
import sys
import traceback

from app.cli import main

CALLER = """\
#!{python} -SE
import json, os, socket, sys
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as line:
    line.connect({socket!r})
    socket.send_fds(line, [len(call).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(call)
    sys.exit(int(line.recv(9) or b"70"))
"""
"""Needs `python` and `socket`. 70 is said when the command said nothing."""


def serve(address: str) -> None:
    """Answer calls until killed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            line, _ = listener.accept()
            with line:
                head, descriptors, _, _ = socket.recv_fds(line, 4, 3)
                call = line.makefile("rb").read(int.from_bytes(head, "big"))
                child = os.fork()
                if not child:
                    _run(descriptors, *json.loads(call))
                for descriptor in descriptors:
                    os.close(descriptor)
                line.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _run(descriptors: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 (as Python ends any program)
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
