"""Where the state of one Driftgate lives on disk, and how it is found.

`--home`, else DRIFTGATE_HOME, else the nearest `.driftgate` upwards, else `./.driftgate`. Only `serve`, `register` and
`demo` create it; every other command says where it looked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder's layout."""

    root: Path
    run: Path  # route table, lanes, worker pages; may lie elsewhere (a tmpfs) by --run-dir

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.root / 'registry.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def lock(self) -> Path:
        return self.root / "serve.lock"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def create(self) -> None:
        """Make the folders, readable by their owner only. Idempotent. Raises InvalidSetting when that cannot be."""
        for folder in (self.root, self.artifacts, self.run, self.log):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                why = f"{str(folder)[:300]}: {error.strerror or error}"
                raise InvalidSetting(f"the state folder cannot be made: {why}") from None


def find_home(
    flag: Path | None, environ: Mapping[str, str], cwd: Path, *, create: bool, run_dir: Path | None = None
) -> Home:
    """The state folder that a command started in cwd means.

    Raises InvalidSetting, naming every place looked at, when it does not exist and create is False.
    """
    looked: list[Path] = []
    if flag is not None:
        root = flag
    elif environ.get("DRIFTGATE_HOME"):
        root = Path(environ["DRIFTGATE_HOME"])
    else:
        looked = [folder / ".driftgate" for folder in (cwd, *cwd.parents)]
        root = next((folder for folder in looked if folder.is_dir()), cwd / ".driftgate")
    with contextlib.suppress(RuntimeError):  # ~somebody without a home: a name like any other
        root = root.expanduser()
    root = root.absolute()
    home = Home(root=root, run=(run_dir or root / "run").absolute())
    if create:
        home.create()
    elif not root.is_dir():
        places = ", ".join(str(place) for place in looked) or str(root)
        raise InvalidSetting(
            f"no state folder here: looked at {places}. Make one with `driftgate register` or `driftgate serve`, "
            "or name one with --home."
        )
    return home
