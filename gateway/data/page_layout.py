"""Where everything lies in a worker's page: words, tables, buckets and names. Constants, and what follows from them.

A header, then five tables. A table is its entries' key lengths, their keys (UTF-8 text), and their words, each side by
side, so that a table with room for thousands costs memory and reading for what is used of it only. An entry's key
length is stored last, so it is seen whole or not at all; low places are taken first. Written by `page.py`, read by
`page_reader.py`: what changes here changes the layout that the header tells.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

from registry.formats import stamped
from registry.vocabulary import LoadState

MAGIC = b"DGPAGE01"
STAGES = ("decode", "queue", "infer", "encode")
PROTOCOLS = ("v2", "v1", "mlflow", "sagemaker", "vertex", "azureml", "grpc", "other")
_STATUSES = (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 499, 500, 501, 503, 504)
CODES = tuple(str(status) for status in _STATUSES)
SHED_REASONS = ("overloaded", "deadline", "draining", "not_ready", "quota", "breaker", "bodies")
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Contract: metric buckets, in milliseconds.
REQUEST_BUCKETS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
STAGE_BUCKETS_MS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, *REQUEST_BUCKETS_MS)


def _fine_edges_us(width: float = 1.05, first_us: float = 20.0) -> tuple[float, ...]:
    """Bucket bounds at most `width` apart, with every metric bucket's bound among them."""
    anchors = [first_us, *(ms * 1000.0 for ms in REQUEST_BUCKETS_MS)]
    edges = [first_us]
    for low, high in pairwise(anchors):
        steps = math.ceil(math.log(high / low) / math.log(width))
        edges += [low * (high / low) ** (i / steps) for i in range(1, steps)] + [high]
    return tuple(edges)


LATENCY_EDGES_US = _fine_edges_us()
STAGE_EDGES_US = tuple(ms * 1000.0 for ms in STAGE_BUCKETS_MS)

# Words of a totals entry.
LATENCY_SUM_NS = 0
STAGE_SUM_NS = 1  # four words
BATCH_ROWS_SUM = 5
LANELESS_OFFERED = 6
LANELESS_DROPPED = 7
SHADOW_DROPPED = 8
KEPT_HITS = 9  # requests answered by a kept answer
KEPT_MISSES = 10
FAILED = 11  # requests whose run failed, whoever answered them then
BREAKER_OPENED = 12
CONSTANTS = 13  # requests answered by a constant
OVERFLOWED = 14  # requests that a canary had no room or time for, and the champion took
FATAL = 15  # times that the worker ended in a run of it, or in its load, and did not try it for a while
SHED = 16
CODE = 32
BATCH_ROWS = CODE + len(PROTOCOLS) * len(CODES)
STAGE = BATCH_ROWS + len(BATCH_EDGES) + 1
STAGE_WIDTH = len(STAGE_EDGES_US) + 1
LATENCY = STAGE + len(STAGES) * STAGE_WIDTH
_TOTAL_WORDS = 8 * math.ceil((LATENCY + len(LATENCY_EDGES_US) + 1) / 8)

# Words of a segment entry.
REQUESTS, ERRORS, SLOW, BAD_OUTPUTS = range(4)
_SEGMENT_WORDS = 8

KEY_BYTES = 248  # after the 8-byte length
TOTALS_TABLE, SEGMENTS_TABLE, LOADS_TABLE, VETOES_TABLE, BLAMES_TABLE = range(5)
ENTRIES = (4096, 1024, 4096, 256, 256)
WORDS = (_TOTAL_WORDS, _SEGMENT_WORDS, 40, 16, 8)  # a load, a veto and a blame: as below

# Words of a load entry. After what it took: whether it is being loaded, and its runs under way, where these are marked.
LOAD_STATE, REASON_BYTES, LOAD_BYTES, LOAD_US, OPENING, RUNNING, REASON = range(7)

# Words of a veto entry: of a rollout that this worker has something to say of. Its id's length, when it is vetoed; the
# id; its length in any case; runs of its candidate under way; the signal that ended a worker in one of them.
VETOED, ROLLOUT = 0, 1
ROLLOUT_BYTES, RUNS, ENDED_BY = range(12, 15)

# Words of a blame entry: as many fields as `blame.Blame` has, in their order.
BLAME_FIELDS = 6

HEADER_BYTES = 4096
HEADER_JSON = 16
HEADER_WORDS = 2048 // 8
PID, STARTED, BOOT0, _BOOT1, HEARTBEAT, ACKED, FLAGS, INFLIGHT, NO_ROOM, SLOT = range(10)
MEMORY, BUDGET, LOADED, WAITING_LOADS = range(10, 14)  # as they are now
LOADS_DONE, LOADS_FAILED, LOADS_US, EVICTIONS, LOADS_REFUSED = range(14, 19)  # ever
OPEN_BREAKERS = 19  # as they are now
HEADER_WORDS_USED = 20
DRAINING, READY = 1, 2

NOBODY = "|0|"

LOAD_STATES_IN_ORDER = tuple(LoadState)


def _offsets() -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Where each table's lengths, keys and words begin, in bytes; and where the last one ends."""
    offsets, at = [], HEADER_BYTES
    for entries, words in zip(ENTRIES, WORDS, strict=True):
        offsets.append((at, at + entries * 8, at + entries * (8 + KEY_BYTES)))
        at += entries * (8 + KEY_BYTES + 8 * words)
    return tuple(offsets), at


OFFSETS, PAGE_BYTES = _offsets()


def page_path(run: Path, slot: int) -> Path:
    """Where the page of a worker slot lies."""
    return run / f"worker-{slot}.page"


def header_json() -> bytes:
    layout = {
        "entries": ENTRIES,
        "words": WORDS,
        "latency_edges": len(LATENCY_EDGES_US),
        "stages": STAGES,
        "segment_key": 6,
        "by_columns": 1,
    }
    return json.dumps(stamped("page", layout)).encode()
