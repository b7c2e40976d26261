"""Where every Driftgate process starts: `driftgate …` and `python -P -m driftgate …`.

The children of `driftgate serve` (worker, controller) and of a registration (probe) are started through here too, and
must not pay for, nor hold in memory, the command line's libraries: each is sent to its own module before anything else
is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# First word of the command line → the module whose main(argv) is that process. argv is what follows the word.
CHILDREN = {
    "worker": "gateway.data.worker",
    "controller": "gateway.control.controller_process",
    "probe": "registry.probe_child",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process to its end and return its exit code: 0 done, 1 refused or failed, 2 usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in CHILDREN:
        module = importlib.import_module(CHILDREN[words[0]])
        return int(module.main(words[1:]) or 0)
    from gateway.cli import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
