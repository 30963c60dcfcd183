"""Becomes another program that ends when its parent does. Run by path, with nothing imported.

Asking the kernel for that in a forked child before its exec (`preexec_fn`) may deadlock in a
process with threads; asking after an exec, in a small program of its own, may not. The request
outlives the second exec. SIGTERM, so that the program may end cleanly; when the parent had
threads, the kernel may send it several times. Elsewhere than on Linux nothing is arranged, and
the folder's lock tells of servers that were left behind.

Usage: _launch.py PARENT_PID PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange for the end, then become PROGRAM."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before it was asked for
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
