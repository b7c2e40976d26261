"""How many files a process may have open: each connection is one, and shells start programs with 1,024.

That soft limit is for programs that use select(); ours do not, so children get what the hard limit allows. Called by
the supervisor before it starts them, and by the workers.
"""

from __future__ import annotations

import contextlib
import resource

MOST = 1 << 20  # as many as Linux takes unless told otherwise; also where there is no hard limit


def raise_file_limit() -> int:
    """Raise this process's soft limit, which its children inherit, and never lower it → what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_files() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
