"""Load tests and measurements.

    python -m bench list                          the scenarios
    python -m bench run NAME… [--quick] [flags]   run scenarios; `run NAME --help` tells a scenario's own flags
    python -m bench run all [--quick]             every scenario, one after the other
    python -m bench compare BEFORE AFTER          two result files: medians, spread, what changed
    python -m bench plot FILES… [--folder DIR]    curves and latency distributions as PNG
    python -m bench report FILES… [--write FILE]  docs/benchmarks.md from result files
    python -m bench peers install|run …           other servers on the same model; `peers --help` tells more

Results are stored in bench/results/. Exit 0 when all bars hold, 1 when one was missed, 2 for wrong usage.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Sequence

from bench import compare, plots, report
from bench.peers import __main__ as peers
from bench.scenario import discover, run_all


def _list() -> int:
    known = discover()
    width = max(map(len, known))
    for name, scenario in known.items():
        lack = scenario.lacks()
        print(f"  {name:<{width}}  {scenario.load().SUMMARY}{f'  (not here: {lack})' if lack else ''}")
    return 0


def main(words: Sequence[str]) -> int:
    """See above."""
    match list(words):
        case ["list"]:
            return _list()
        case ["run", *rest]:
            names = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
            known = discover()
            chosen = list(known) if names == ["all"] else names
            unknown = [name for name in chosen if name not in known]
            if not chosen or unknown:
                print(f"{', '.join(unknown) or 'no scenario'}: the scenarios are {', '.join(known)}", file=sys.stderr)
                return 2
            return run_all(chosen, rest[len(names) :])
        case ["peers", *rest]:
            return peers.main(rest)
        case ["compare", *rest]:
            return compare.main(rest)
        case ["plot", *rest]:
            return plots.main(rest)
        case ["report", *rest]:
            return report.main(rest)
        case _:
            print(__doc__, file=sys.stderr)
            return 0 if words and words[0] in ("-h", "--help", "help") else 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers that were started shall end too
    sys.exit(main(sys.argv[1:]))
