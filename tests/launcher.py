"""Start our servers as forks of a process with all imports: `python -m tests.launcher PATH`.

A server takes seconds of CPU to import gRPC, pydantic and pymilvus with pandas; a fork takes a few
hundredths, and the tests start some two hundred servers. `python -m` itself is tested in
tests/e2e, tests/embedder_server/test_process.py and tests/packaging.

Each connection to the Unix socket PATH starts one server: the request is a line of JSON, the
answer a line with the process id and, when the process has ended, a line with its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import socket
import sys
from typing import Any

# Only packages of others: each server imports our own code itself. Not onnxruntime, which starts a
# thread that a fork would lack, and not aiohttp, which reads SSL_CERT_FILE when it is imported.
_IMPORTED = """
    fsspec google.rpc.error_details_pb2 grpc.aio grpc_health.v1.health
    grpc_reflection.v1alpha.reflection milvus_lite numpy PIL.ImageOps prometheus_client
    pydantic_settings pymilvus tokenizers uvloop
"""


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Fork for each request; return its request in the process that becomes the server."""
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork():
            connection.close()
            continue
        listener.close()
        with connection, connection.makefile("r") as lines:
            request: dict[str, Any] = json.loads(lines.readline())
            pid = os.fork()
            if not pid:
                return request
            with contextlib.suppress(OSError):  # nobody may be listening any more
                connection.sendall(f"{pid}\n".encode())
                _, status = os.waitpid(pid, 0)
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Run the module that is asked for, as `python -m` does."""
    os.environ.clear()
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    sys.argv = [request["module"], *request["flags"]]
    for name, value in request["constants"].items():
        module, constant = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), constant), name
        setattr(sys.modules[module], constant, value)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    for name in _IMPORTED.split():
        with contextlib.suppress(ImportError):  # whoever needs it says what is missing
            importlib.import_module(name)
    gc.freeze()  # a server neither looks at them nor frees them at its end
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{sys.argv[1]}.new")
        listener.listen(64)
        os.rename(f"{sys.argv[1]}.new", sys.argv[1])  # whoever finds it can connect
        request = _serve(listener)
    _become(request)


if __name__ == "__main__":
    main()
