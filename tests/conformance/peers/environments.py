"""Environments of other servers, made from PyPI, and Triton's program inside one of them.

Shared by the conformance suite, which asks if answers are right, and by `bench.peers`, which asks how many a second.
A server lives in FOLDER/NAME, a virtual environment; a package once installed is not asked for again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

MLSERVER, KSERVE, TRITON = "mlserver==1.7.1", "kserve==0.21.0", "nvidia-pytriton==0.7.0"


def install(folder: Path, name: str, packages: Sequence[str]) -> None:
    """Make the environment and install these requirements into it, unless they are there."""
    python = folder / name / "bin/python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
    if missing := [package for package in packages if not _marker(folder, name, package).exists()]:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *missing], check=True)
        for package in missing:
            _marker(folder, name, package).write_text(package + "\n")


def is_installed(folder: Path, name: str, packages: Sequence[str]) -> bool:
    """Whether `install` has finished here."""
    return all(_marker(folder, name, package).exists() for package in packages)


def _marker(folder: Path, name: str, package: str) -> Path:
    return folder / name / package


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def triton(folder: Path, models: Path, http: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    """Triton's command line on this model repository, and what its environment needs: the program in the wheel of
    nvidia-pytriton in FOLDER/triton, with the Python backend's stub for that environment's interpreter."""
    python = folder / "triton/bin/python"
    (site,) = (folder / "triton/lib").glob("python*/site-packages")
    wheel = site / "pytriton/tritonserver"
    backends = fresh(folder / "backends-triton")
    shutil.copytree(wheel / "backends", backends, dirs_exist_ok=True)
    said = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-c", said], capture_output=True, text=True, check=True).stdout.strip()
    stub = backends / "python/triton_python_backend_stub"
    shutil.copy(wheel / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    command = [
        str(wheel / "bin/tritonserver"), f"--model-repository={models}", f"--backend-directory={backends}",
        f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false", "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1", "--disable-auto-complete-config",
    ]  # fmt: skip
    libraries = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    paths = [str(site / "nvidia_pytriton.libs"), libraries]
    return command, {"LD_LIBRARY_PATH": ":".join(paths), "PATH": f"{python.parent}:{os.environ['PATH']}"}
