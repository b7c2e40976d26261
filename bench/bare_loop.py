"""onnxruntime alone in a loop, what no server can beat: `python -m bench.bare_loop MODEL INPUT.npy SECONDS`.

Prints runs a second as JSON. Run by the alone scenario, on the server's core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from bench.models import open_session


def main(path: str, array: str, seconds: float) -> None:
    """Run the model on this one input for so long."""
    session, value = open_session(Path(path)), np.load(array)
    feed = {session.get_inputs()[0].name: value}
    for _ in range(3):
        session.run(None, feed)
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        session.run(None, feed)
        runs += 1
    print(json.dumps({"runs_per_s": runs / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
