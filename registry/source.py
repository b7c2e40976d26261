"""What PATH means in `driftgate register`: a model file, a folder with one model and its data, or an fsspec URL.

Everything is copied into a staging folder first, and only the copies are looked at, so a file that is changed while it
is registered cannot be probed as one thing and stored as another. Called by `registry/register.py`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from registry.artifacts import checked_relative, copy_file, fetch, is_url
from registry.errors import ArtifactRejected
from registry.manifest import FileDigest

_MODEL_SUFFIXES = (".onnx", ".ort")
_SHOWN = 300  # characters of a path in a refusal
MODEL_NAME = "model.onnx"
_OTHER_NAME = "driftgate-model{}.onnx"  # when external data has taken the first, and for what is made of the model


@dataclass(frozen=True, slots=True)
class Source:
    """A model file that was found, still where the user has it."""

    model: Path

    @property
    def folder(self) -> Path:
        """Where its external data is looked for."""
        return self.model.parent


def find_source(path: str, scratch: Path) -> Source:
    """The model that a path or URL means; a URL is downloaded into scratch. Raises ArtifactRejected."""
    local = _local(path, scratch, "")
    if not local.is_dir():
        return Source(local)
    with _refusing(f"folder {path}"):
        models = sorted(file for file in local.iterdir() if file.suffix in _MODEL_SUFFIXES)
    if len(models) != 1:
        names = ", ".join(file.name for file in models[:5])
        what = f"holds {len(models)} models ({names}): name one" if models else "holds no .onnx file"
        raise ArtifactRejected(f"folder {path} {what}")
    return Source(models[0])


def stage_model(source: Source, folder: Path, progress: Callable[[float], None] | None = None) -> FileDigest:
    """Copy the model file into a staging folder, under one name for all. Raises ArtifactRejected."""
    return _stage(source.model, folder, MODEL_NAME, progress)


def stage_data(
    source: Source, folder: Path, locations: list[str], model: FileDigest
) -> tuple[FileDigest, list[FileDigest]]:
    """Copy external data beside the staged model → (the model, perhaps under another name, and the data).

    Raises ArtifactRejected for data that is missing, or lies outside the model's folder, links included.
    """
    names = sorted({str(checked_relative(location)) for location in locations})
    taken = {name.split("/")[0] for name in names}
    if model.path in taken:
        other = name_beside(names)
        (folder / model.path).rename(folder / other)
        model = FileDigest(other, model.sha256, model.bytes)
    data = []
    for name in names:
        with _refusing(f"external data {name!r}"):
            root, file = source.folder.resolve(), source.folder / name
            if not file.exists():
                raise ArtifactRejected(f"external data {name!r} is missing in {source.folder}", path=name)
            if not file.resolve().is_relative_to(root):
                raise ArtifactRejected(f"external data {name!r} leads out of the model's folder", path=name)
            data.append(_stage(file, folder, name))
    return model, data


def name_beside(names: Iterable[str]) -> str:
    """A name for a model beside files of these names."""
    taken = {name.split("/")[0] for name in names}
    return next(name for n in count(1) if (name := _OTHER_NAME.format("" if n == 1 else f"-{n}")) not in taken)


def stage_golden(path: str, folder: Path, scratch: Path) -> Path:
    """Copy a golden set (a file, or a folder of tensors) into a staging folder → where it lies there."""
    source = _local(path, scratch, "golden set ")
    target = folder / ("golden" if source.is_dir() else "golden.npz")
    if not source.is_dir():
        _stage(source, folder, target.name)
        return target
    target.mkdir()
    for pattern in ("input_*.pb", "output_*.pb", "test_data_set_*/input_*.pb", "test_data_set_*/output_*.pb"):
        for file in sorted(source.glob(pattern)):
            name = file.relative_to(source)
            _stage(file, target, str(name))
    return target


def _local(path: str, scratch: Path, what: str) -> Path:
    """Where a path or URL lies on this machine, and that it exists. Raises ArtifactRejected."""
    if is_url(path):
        return fetch(path, scratch)
    with _refusing(f"{what}{path[:_SHOWN]}"):
        local = Path(path).expanduser()
        if not local.exists():
            raise ArtifactRejected(f"{what}{path[:_SHOWN]} does not exist")
    return local


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Say as a refusal what the file system says of a name that a user chose: too long, no home, links in a circle."""
    try:
        yield
    except OSError as error:
        raise ArtifactRejected(f"{what[:_SHOWN]} cannot be used: {error.strerror or error}") from None
    except (RuntimeError, ValueError) as error:
        raise ArtifactRejected(f"{what[:_SHOWN]} cannot be used: {error}") from None


def _stage(file: Path, folder: Path, name: str, progress: Callable[[float], None] | None = None) -> FileDigest:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ArtifactRejected(f"{file} is not a regular file")
    except OSError as error:
        raise ArtifactRejected(f"{file} cannot be read: {error.strerror}") from None
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = copy_file(file, target, progress)
    return FileDigest(name, digest, size)
