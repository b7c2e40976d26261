"""Files stored by their content."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore, checked_relative, fetch
from registry.errors import ArtifactRejected, InvalidSetting, StateDamaged
from registry.manifest import FileDigest
from tests.support.models import manifest_of


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_same_bytes_are_stored_once_and_read_back(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    (tmp_path / "file").write_bytes(b"content")
    digest = store.put_file(tmp_path / "file")
    assert digest == store.put_bytes(b"content") == digest_of(b"content")
    assert store.read(digest) == b"content"
    assert len([file for file in (tmp_path / "artifacts").rglob("*") if file.is_file()]) == 1
    assert store.path(digest).stat().st_mode & 0o222 == 0


def test_a_changed_or_missing_file_is_told_never_returned(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.put_bytes(b"content")
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"CONTENT")
    with pytest.raises(StateDamaged, match="damaged"):
        store.path(digest)
    path.unlink()
    with pytest.raises(StateDamaged, match="missing"):
        store.read(digest)
    with pytest.raises(StateDamaged, match="no SHA-256"):
        store.path("../../etc/passwd")


def test_a_truncated_file_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.put_bytes(b"content")
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"con")
    store.put_bytes(b"content")
    assert store.read(digest) == b"content"


def test_a_version_is_laid_out_with_its_own_names_whole_and_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    manifest = manifest_of(
        "x",
        files=(
            FileDigest("model.onnx", store.put_bytes(b"model"), 5),
            FileDigest("data/weights.bin", store.put_bytes(b"weights"), 7),
        ),
    )
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(store.materialise(manifest))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0].read_bytes() == b"model"
    assert (found[0].parent / "data" / "weights.bin").read_bytes() == b"weights"
    (found[0].parent / "data" / "weights.bin").unlink()
    assert store.materialise(manifest) == found[0]
    assert (found[0].parent / "data" / "weights.bin").read_bytes() == b"weights"
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\\b", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ArtifactRejected, match="not inside"):
        checked_relative(name)


def test_a_store_behind_a_url_keeps_a_local_copy_and_checks_it(tmp_path: Path) -> None:
    import fsspec

    url = f"memory://{tmp_path.name}/artifacts"
    digest = ArtifactStore(url, tmp_path / "one").put_bytes(b"content")
    other = ArtifactStore(url, tmp_path / "two")
    assert other.read(digest) == b"content"
    with pytest.raises(StateDamaged, match="missing"):
        other.path(digest_of(b"never stored"))
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/{tmp_path.name}/artifacts/sha256/{digest[:2]}/{digest}", b"CONTENT")
    with pytest.raises(StateDamaged, match="damaged"):
        ArtifactStore(url, tmp_path / "three").path(digest)
    with pytest.raises(InvalidSetting, match="cache"):
        ArtifactStore(url)
    with pytest.raises(InvalidSetting):
        ArtifactStore("nonsense://x", tmp_path / "four")


def test_a_url_is_downloaded_file_or_folder(tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/{tmp_path.name}/m/model.onnx", b"model")
    fs.pipe_file(f"/{tmp_path.name}/m/data/w.bin", b"weights")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert fetch(f"memory://{tmp_path.name}/m/model.onnx", tmp_path / "a").read_bytes() == b"model"
    folder = fetch(f"memory://{tmp_path.name}/m", tmp_path / "b")
    assert (folder / "data" / "w.bin").read_bytes() == b"weights"
    with pytest.raises(ArtifactRejected, match="nothing at"):
        fetch(f"memory://{tmp_path.name}/none", tmp_path / "a")


_DIES_STAGING = """
import os, sys
from pathlib import Path
from registry.artifacts import ArtifactStore
with ArtifactStore(Path(sys.argv[1])).staging() as folder:
    (folder / "file").write_bytes(bytes(1000))
    os._exit(9)
"""


def test_what_a_process_left_in_staging_is_swept_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.sweep() == 0
    assert subprocess.run([sys.executable, "-c", _DIES_STAGING, str(tmp_path)], check=False).returncode == 9
    (left,) = (tmp_path / "staging").iterdir()
    with store.staging() as folder:
        (folder / "file").write_bytes(b"mine")
        assert ArtifactStore(tmp_path).sweep() == 1
        assert (folder / "file").read_bytes() == b"mine"
        assert not left.exists()
    assert list((tmp_path / "staging").iterdir()) == []


_DIES_STORING = """
import os, sys
from pathlib import Path
from registry.artifacts import ArtifactStore
os.fsync = lambda _file: os._exit(9)
ArtifactStore(Path(sys.argv[1])).put_bytes(b"half way")
"""


def test_a_process_that_dies_while_it_stores_leaves_nothing_that_a_sweep_does_not_find(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert subprocess.run([sys.executable, "-c", _DIES_STORING, str(tmp_path)], check=False).returncode == 9
    assert store.sweep() > 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    digest = store.put_bytes(b"half way")
    beside = store.path(digest).with_name(f".{digest}.0123")  # as release 0.1 left them
    beside.write_bytes(b"")
    with store.staging():
        assert ArtifactStore(tmp_path).sweep() == 0
    assert store.sweep() == 1
    assert not beside.exists()
    assert store.read(digest) == b"half way"
