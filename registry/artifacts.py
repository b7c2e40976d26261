"""Files by their content: a model, a profile or a golden set is stored once, under its SHA-256, and never changed.

Invariant: under a digest lies either nothing or exactly those bytes, also after a power cut and with many writers: a
file is written aside, synced, and renamed. The store is a folder, or any fsspec URL with a local cache in front.
Workers never come here: they are given the path that `materialise` returns. Called by registration and the controller.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from registry.errors import ArtifactRejected, InvalidSetting, StateDamaged, StorageFailed
from registry.manifest import Manifest

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")
_IMMUTABLE = 0o444


class ArtifactStore:
    """Content-addressed files.

    `place` is a folder or a URL. A store at a URL needs a local `cache` folder, where files and unpacked versions lie.
    """

    def __init__(self, place: str | Path, cache: Path | None = None) -> None:
        text = str(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        self._remote: _Remote | None = None
        if _URL.match(text):
            if cache is None:
                raise InvalidSetting(f"artifacts at {text} need a local cache folder")
            self._remote, self.root = _Remote(text), cache.absolute()
        else:
            self.root = Path(text).absolute()
        self._verified: dict[str, tuple[int, int, int]] = {}

    def put_file(self, path: Path, progress: Callable[[float], None] | None = None) -> str:
        """Store a copy of a file → its digest. Storing the same bytes again does nothing."""
        with self.staging() as folder:
            digest, _ = copy_file(path, folder / "file", progress)
            self.adopt(folder / "file", digest)
        return digest

    def put_bytes(self, content: bytes) -> str:
        """Store these bytes → their digest."""
        digest = hashlib.sha256(content).hexdigest()
        with self.staging() as folder:
            (folder / "file").write_bytes(content)
            self.adopt(folder / "file", digest)
        return digest

    def adopt(self, staged: Path, digest: str) -> None:
        """Store a file of a staging folder whose digest is known, without copying it where hard links work.

        The staged file becomes read-only and must not be changed afterwards.
        """
        target = self._blob(digest)
        size = staged.stat().st_size
        if not (target.exists() and target.stat().st_size == size):  # another size: a damaged file, replaced
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.staging() as folder:  # swept, if this process dies before the file has its name
                aside = folder / "aside"
                _link_or_copy(staged, aside)
                aside.chmod(_IMMUTABLE)
                _sync(aside)
                aside.replace(target)
            _sync(target.parent)
        if self._remote is not None:
            self._remote.put(target, digest)

    def path(self, digest: str) -> Path:
        """The local file with that digest, its content checked once per process.

        Raises StateDamaged when it is missing or has changed.
        """
        target = self._blob(digest)
        if not target.exists() and self._remote is not None:
            with self.staging() as folder:
                self._remote.get(digest, folder / "file")
                found = hash_file(folder / "file")
                if found != digest:
                    raise StateDamaged(f"artifact {digest} is damaged in {self._remote.url}: its content is {found}")
                remote, self._remote = self._remote, None  # it is there already: store it here only
                try:
                    self.adopt(folder / "file", digest)
                finally:
                    self._remote = remote
        try:
            status = target.stat()
        except FileNotFoundError:
            raise StateDamaged(f"artifact {digest} is missing in {self.root}") from None
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._verified.get(digest) != seen:
            found = hash_file(target)
            if found != digest:
                raise StateDamaged(f"artifact {digest} is damaged: its content is {found}")
            self._verified[digest] = seen
        return target

    def read(self, digest: str) -> bytes:
        """The bytes with that digest, checked. For profiles and golden sets, which are small."""
        content = self.path(digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise StateDamaged(f"artifact {digest} is damaged")
        return content

    def materialise(self, manifest: Manifest) -> Path:
        """Lay a version's files out with their own names → the model file to be loaded, ready for onnxruntime.

        Atomic and idempotent: the folder appears whole, once; it is made anew when a file in it is missing or short.
        """
        folder = self.root / "versions" / manifest.digest
        model = folder / manifest.loaded.path
        if self._is_whole(folder, manifest):
            return model
        with self.staging() as aside:
            content = aside / "version"
            for item in manifest.laid_out:
                target = content / checked_relative(item.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(self.path(item.sha256), target)
                _sync(target.parent)
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.exists() and not self._is_whole(folder, manifest):
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(aside / "damaged")
            try:
                content.rename(folder)
            except OSError:  # somebody else was first: theirs is as good
                if not self._is_whole(folder, manifest):
                    raise
            _sync(folder.parent)
        return model

    def _is_whole(self, folder: Path, manifest: Manifest) -> bool:
        try:
            return all((folder / item.path).stat().st_size == item.bytes for item in manifest.laid_out)
        except OSError:
            return False

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh folder on the store's own disk, removed at the end: where hostile files are looked at first."""
        folder = self.root / "staging" / uuid.uuid4().hex
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder.parent, fcntl.LOCK_SH):  # between its making and its lock nobody sweeps
            folder.mkdir(mode=0o700)
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    def sweep(self) -> int:
        """Remove what processes that died in the middle left → how many: staging folders, of which those in use are
        locked, and, where none is in use, the files that an older release put beside their target.
        """
        root, removed = self.root / "staging", 0
        if not root.is_dir():
            return 0
        with _locked(root, fcntl.LOCK_EX):
            for folder in root.iterdir():
                with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
            for left in () if any(root.iterdir()) else self.root.glob("sha256/??/.*"):
                left.unlink(missing_ok=True)
                removed += 1
        return removed

    def _blob(self, digest: str) -> Path:
        if not _SHA256.fullmatch(digest):
            raise StateDamaged(f"{digest!r} is no SHA-256")
        return self.root / "sha256" / digest[:2] / digest


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold a flock on a folder; it ends with the process at the latest."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


class _Remote:
    """The same layout behind an fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._base = open_url(self.url)

    def put(self, local: Path, digest: str) -> None:
        target = self._name(digest)
        if self._fs.exists(target):
            return
        aside = f"{self._base}/staging/{uuid.uuid4().hex}"
        self._fs.makedirs(f"{self._base}/staging", exist_ok=True)
        self._fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        self._fs.put_file(str(local), aside)
        self._fs.mv(aside, target)

    def get(self, digest: str, local: Path) -> None:
        try:
            self._fs.get_file(self._name(digest), str(local))
        except FileNotFoundError:
            raise StateDamaged(f"artifact {digest} is missing in {self.url}") from None

    def _name(self, digest: str) -> str:
        return f"{self._base}/sha256/{digest[:2]}/{digest}"


def is_url(text: str) -> bool:
    """Whether a path that a user gave is an fsspec URL."""
    return _URL.match(text) is not None


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system and the path in it. Raises InvalidSetting for a scheme that is not installed."""
    import fsspec

    try:
        fs, base = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidSetting(f"{url} cannot be opened: {error}") from None
    return fs, str(base)


def fetch(url: str, folder: Path) -> Path:
    """Download a file, or a folder with everything in it, of any fsspec URL into a local folder.

    Raises ArtifactRejected when there is nothing, or it cannot be read.
    """
    fs, base = open_url(url)
    target = folder / (PurePosixPath(base).name or "download")
    try:
        if not fs.exists(base):
            raise ArtifactRejected(f"nothing at {url}")
        if fs.isdir(base):
            for name in fs.find(base):
                local = target / checked_relative(str(PurePosixPath(name).relative_to(base)))
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(name, str(local))
        else:
            fs.get_file(base, str(target))
    except OSError as error:
        raise ArtifactRejected(f"{url} cannot be read: {error}") from None
    return target


def checked_relative(name: str) -> PurePosixPath:
    """A file's name inside a version's folder. Raises ArtifactRejected for one that leads out of it.

    >>> str(checked_relative("data/weights.bin"))
    'data/weights.bin'
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) == ".":
        raise ArtifactRejected(f"external data at {name!r} is not inside the model's folder", path=name)
    return path


def copy_file(source: Path, target: Path, progress: Callable[[float], None] | None = None) -> tuple[str, int]:
    """Copy a file and hash what was copied → (digest, bytes). Raises ArtifactRejected when it cannot be read."""
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            return _copy(reader, writer, os.fstat(reader.fileno()).st_size, progress)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ArtifactRejected(f"{source} cannot be read: {error.strerror}") from None
    except OSError as error:  # a name that is too long, a target that is there already
        if (full := StorageFailed.of(error)) is not None:
            raise full from None
        raise ArtifactRejected(f"{str(source)[:300]} cannot be copied: {error.strerror or error}") from None


def _copy(
    reader: IO[bytes], writer: IO[bytes], total: int, progress: Callable[[float], None] | None
) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := reader.read(_CHUNK):
        digest.update(chunk)
        writer.write(chunk)
        size += len(chunk)
        if progress is not None:
            progress(min(1.0, size / max(1, total)))
    return digest.hexdigest(), size


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)
        target.chmod(_IMMUTABLE)
        _sync(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
