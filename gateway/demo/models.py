"""The demo's three models of arrival delay, trained for real and exported to ONNX as float32.

v1 is a linear model that ignores the departure delay; v2 is gradient boosting that uses it; v3 is v2 again, trained by
somebody whose table had the departure delay in seconds, while requests carry minutes. All three take the same input,
so the same request can be answered by each. Called by the demo's story and its tests; needs the `demo` extra (imports
scikit-learn and skl2onnx only when something is trained).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.demo.data import FEATURES, Flights

MODEL = "flight-delay"
INPUT = "flight"
OUTPUT = "arrival_delay"
LATE_MINUTES = 30.0  # "late" in the flip column of the hold-out table

_DEP_DELAY = FEATURES.index("dep_delay")
_SECONDS = 60.0
_OPSET = 17  # old enough for every onnxruntime that the project supports

Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Trained:
    """One trained model: its ONNX bytes, and what scikit-learn says for rows (n, 14) → minutes (n,)."""

    onnx: bytes
    predict: Predict


@dataclass(frozen=True, slots=True)
class PairOnHoldout:
    """A candidate against its champion, on flights that neither has seen."""

    champion: int
    candidate: int
    disagreement: float  # share of rows that differ by more than half a sd of the champion's reference output
    flips: float  # share of rows where one says late by 30 minutes and the other does not
    closer: float  # share of rows where the candidate is closer to the real delay


def train(training: Flights, rng: np.random.Generator) -> dict[int, Trained]:
    """v1, v2 and v3 by number; about 5 seconds on 78,000 flights."""
    landed = training.landed()
    seed = int(rng.integers(2**31))
    in_seconds = landed.features.copy()
    in_seconds[:, _DEP_DELAY] *= _SECONDS
    return {
        1: _linear(landed.features, landed.delay),
        2: _boosting(landed.features, landed.delay, seed),
        3: _boosting(in_seconds, landed.delay, seed),
    }


def write(models: Mapping[int, Trained], folder: Path) -> dict[int, Path]:
    """One `flight-delay-vN.onnx` each."""
    paths = {number: folder / f"{MODEL}-v{number}.onnx" for number in models}
    for number, path in paths.items():
        path.write_bytes(models[number].onnx)
    return paths


def mean_errors(models: Mapping[int, Trained], holdout: Flights) -> dict[int, float]:
    """Mean absolute error in minutes, by model number."""
    landed = holdout.landed()
    return {n: float(np.abs(model.predict(landed.features) - landed.delay).mean()) for n, model in models.items()}


def compare(
    models: Mapping[int, Trained], champion: int, candidate: int, training: Flights, holdout: Flights
) -> PairOnHoldout:
    """How far apart two models are, and which is closer to the truth."""
    landed = holdout.landed()
    tolerance = 0.5 * float(models[champion].predict(training.landed().features).std())
    old, new = models[champion].predict(landed.features), models[candidate].predict(landed.features)
    return PairOnHoldout(
        champion=champion,
        candidate=candidate,
        disagreement=float((np.abs(new - old) > tolerance).mean()),
        flips=float(((new > LATE_MINUTES) != (old > LATE_MINUTES)).mean()),
        closer=float((np.abs(new - landed.delay) < np.abs(old - landed.delay)).mean()),
    )


def _linear(features: NDArray[np.float32], delay: NDArray[np.float32]) -> Trained:
    """Least squares on everything but the departure delay, whose coefficient is then 0 in a model of the full input."""
    from sklearn.linear_model import LinearRegression

    known = np.delete(features, _DEP_DELAY, axis=1).astype(np.float64)
    model = LinearRegression().fit(known, delay)
    model.coef_ = np.insert(model.coef_, _DEP_DELAY, 0.0)
    model.n_features_in_ = features.shape[1]
    return Trained(_export(model), lambda rows: np.asarray(model.predict(rows.astype(np.float64)), np.float64))


def _boosting(features: NDArray[np.float32], delay: NDArray[np.float32], seed: int) -> Trained:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    # Early stopping would hold out rows by chance; 100 trees of 31 leaves are enough here.
    model = HistGradientBoostingRegressor(max_iter=100, early_stopping=False, random_state=seed)
    # One thread (the limit acts on what is already imported): OpenMP's threads spin while another process has the core;
    # two took 32 s on a busy machine of two cores, one took 1.4 s.
    with threadpool_limits(1):
        model.fit(features, delay)

    def predict(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        with threadpool_limits(1):
            return np.asarray(model.predict(rows), np.float64)

    return Trained(_export(model), predict)


def _export(model: Any) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_regressor_converter
    from sklearn.ensemble import HistGradientBoostingRegressor

    def convert_boosting(scope: Any, operator: Any, container: Any) -> None:
        convert_sklearn_random_forest_regressor_converter(scope, operator, _WholeFlags(container))

    exported = convert_sklearn(
        model,
        initial_types=[(INPUT, FloatTensorType([None, len(FEATURES)]))],
        final_types=[(OUTPUT, FloatTensorType([None, 1]))],
        target_opset=_OPSET,
        custom_conversion_functions={HistGradientBoostingRegressor: convert_boosting},
        custom_shape_calculators={HistGradientBoostingRegressor: calculate_linear_regressor_output_shapes},
    )
    return bytes(exported.SerializeToString())


class _WholeFlags:
    """skl2onnx's container, taking 0 and 1 for booleans: skl2onnx 1.20 passes False for leaves, protobuf 7 refuses."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        flags = "nodes_missing_value_tracks_true"
        if flags in attributes:
            attributes[flags] = [int(flag) for flag in attributes[flags]]
        self._container.add_node(op_type, inputs, outputs, **attributes)
