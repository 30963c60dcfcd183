"""A worker process with the fake model: `python -m tests.fakes.worker`, flags as of the real one.

`FAKE_SECONDS_PER_BATCH` makes every forward pass take that long; `FAKE_NAME` names the model and
`FAKE_DIMENSIONS` is the length of its vectors: another model with another fingerprint.
`FAKE_SUPPORTED` lists shorter lengths that it offers. With `FAKE_ASYMMETRIC` its vectors depend on
the role; with `FAKE_IMAGE_WITH_TEXT` it embeds images with texts. With
`FAKE_STUCK` it does not answer any more once it is SERVING. While the file `FAKE_HOLD` exists, no
forward pass ends. A text with the word `FAKE_KILLER`, or an image of that colour, ends the process
as if by the kernel; `FAKE_FREEZER` stops it as SIGSTOP does.
"""

from __future__ import annotations

import asyncio
import os
import signal

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from sentinel_core import runtime
from tests.fakes.fake_model import FakeModel

_SIGNALS = {"FAKE_KILLER": signal.SIGKILL, "FAKE_FREEZER": signal.SIGSTOP}


async def _follow(hold: str, model: FakeModel) -> None:
    """Hold the model while the file exists."""
    while True:
        if os.path.exists(hold):  # noqa: ASYNC240 - takes no time
            model.faults.gate.clear()
        else:
            model.faults.gate.set()
        await asyncio.sleep(0.01)


async def main() -> None:
    model = FakeModel(
        int(os.environ.get("FAKE_DIMENSIONS", "16")),
        name=os.environ.get("FAKE_NAME", "fake-model"),
        supported_dimensions=tuple(map(int, os.environ.get("FAKE_SUPPORTED", "").split(",")))
        if "FAKE_SUPPORTED" in os.environ
        else (),
        asymmetric="FAKE_ASYMMETRIC" in os.environ,
        embeds_image_with_text="FAKE_IMAGE_WITH_TEXT" in os.environ,
    )
    model.faults.seconds_per_batch = float(os.environ.get("FAKE_SECONDS_PER_BATCH", "0"))
    async with running_worker(EmbedderSettings(_cli_parse_args=True), model=model) as worker:
        if "FAKE_STUCK" in os.environ:
            model.faults.seconds_per_batch = 600.0
        for variable, number in _SIGNALS.items():
            if word := os.environ.get(variable):
                model.faults.signals[word] = number
        worker.lifecycle.install_signal_handlers()
        if hold := os.environ.get("FAKE_HOLD"):
            following = asyncio.create_task(_follow(hold, model))
            await worker.lifecycle.wait()
            following.cancel()
            model.faults.gate.set()  # lets the device thread end
        else:
            await worker.lifecycle.wait()


if __name__ == "__main__":
    runtime.run(main())
