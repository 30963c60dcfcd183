"""Run `sentinel-app` with longer limits: `python -m tests.app.patient_page`, flags as of the app.

On a busy machine a search can take longer than a person would wait, and a browser can pause for
longer than the page waits before it ends the search. `ABANDONED_AFTER_S` sets that wait.
"""

from __future__ import annotations

import os
from dataclasses import replace

from sentinel_app import __main__, backend, search_job
from sentinel_client import Timeouts

LIMIT_S = 200.0

if __name__ == "__main__":
    timeouts = Timeouts(search=LIMIT_S, read=LIMIT_S, health=3.0)
    backend._CONFIG = replace(backend._CONFIG, timeouts=timeouts)
    search_job._ABANDONED_AFTER_S = float(os.environ.get("ABANDONED_AFTER_S", LIMIT_S))
    __main__.main()
