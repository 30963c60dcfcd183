"""Preprocessing that misbehaves in the process of a decoder, as a hostile file would."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes.fake_model import shrink

# Pictures of these widths misbehave.
STUCK, GREEDY, DEADLY, SLOW, BROKEN = 101, 102, 103, 104, 105


def misbehave(image: Image.Image) -> np.ndarray[Any, Any]:
    """Do what the width says; else as `shrink`."""
    if image.width == STUCK:
        time.sleep(600)
    if image.width == GREEDY:
        return np.zeros(2**28, np.uint8) + shrink(image).max()
    if image.width == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.width == SLOW:
        time.sleep(0.1)
    if image.width == BROKEN:
        raise ValueError("a bug")
    return shrink(image)
