"""Become another program that ends when its parent ends. Run by path; imports nothing of ours.

Only the child can ask the kernel for this. Asking between fork and exec (`preexec_fn`) can
deadlock in a process with threads, so this small program asks after its own exec; the request
survives the second exec. The signal is SIGTERM, for a clean end; the kernel may send it once for
each thread of the parent. Other systems than Linux lack this: there, the lock of the data folder
shows that servers remain.

Usage: _server_launcher.py PARENT_PID PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGTERM at the parent's end, then become PROGRAM."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
