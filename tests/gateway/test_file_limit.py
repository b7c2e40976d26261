from __future__ import annotations

import resource
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from gateway.file_limit import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_children_may_have_as_many_files_as_the_hard_limit_allows(soft: int, hard: int) -> None:
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("the hard limit is lower here")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(hard)] * 3
