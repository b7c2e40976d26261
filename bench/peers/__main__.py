"""Environments of other servers, from PyPI.

    python -m bench peers install [NAME …] [--folder DIR]    make what is missing (Ray Serve and KServe are large)
    python -m bench peers list [--folder DIR]                which there are

They are measured by `python -m bench run peers [--only NAME …] [--folder DIR]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.peers.registry import FOLDER, PEERS
from tests.conformance.peers import environments


def main(words: Sequence[str]) -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        prog="python -m bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["install", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="(%(default)s)")
    arguments = parser.parse_args(words)
    folder = arguments.folder.resolve()
    if unknown := set(arguments.names) - set(PEERS):
        parser.error(f"{', '.join(sorted(unknown))}: the peers are {', '.join(PEERS)}")
    for name in arguments.names or PEERS:
        peer = PEERS[name]
        if arguments.what == "install":
            print(f"{name}: {', '.join(peer.packages)} into {folder / name}", flush=True)
            environments.install(folder, name, peer.packages)
        else:
            here = "installed" if environments.is_installed(folder, name, peer.packages) else "not installed"
            print(f"  {name:<9} {here:<14} {peer.package}: {peer.settings}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
