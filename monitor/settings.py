"""The monitor's branch of the settings tree. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """How lanes are read, counted and judged."""

    enabled: bool = True  # false: nothing is logged to lanes and nothing is judged
    tick_ms: int = 500  # pause between two looks at lanes and pages
    tile_s: int = 10  # seconds of records in the narrowest tile, at most; a divisor of a minute is taken
    keep_tiles_h: int = 840  # hours that tiles are kept in the database; after two days they are of a whole day
    latency_window_s: int = 60  # the champion's p99 is taken over closed windows of this length
    join_memory_rows: int = 200_000  # predictions remembered for shadow pairs and labels; the oldest leave first
    label_memory: int = 100_000  # labels that wait for their prediction; the oldest leave first
    label_wait_s: float = 30.0  # a label without a prediction after this long is counted as expired
    false_alarms_per_month: float = 1.0  # drift alarms to expect in a month without drift, over all features of a model
    features_shown: int = 50  # features of a version in /metrics: the worst this many, plus totals
    features_shown_in_all: int = 1_000  # of all versions together, in equal shares; each shows its worst one at least


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """The ring buffers between workers and the monitor."""

    lane_bytes: int = 4 * 1024 * 1024  # size of one lane's file; with rows above 1 KiB up to eight times as much
    lane_seconds: float = 4.0  # a lane that fills in less, or is full, grows up to eight times lane_bytes; 0: never
    lane_rows_per_request: int = 256  # a larger request is logged as that many rows, chosen by a seeded sample
