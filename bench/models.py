"""The benchmark's models, trained by the benchmark: small gradient boosting on 30 floats, two seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = 30
TREES = 100


def rows(count: int, seed: int) -> NDArray[np.float32]:
    """Random rows, (count, 30) float32."""
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def train(path: Path, seed: int) -> None:
    """Train a 100-tree LightGBM regressor on synthetic data and write it as ONNX with a free batch dimension."""
    import lightgbm
    from onnxmltools.convert import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    features = rows(20_000, seed)
    noise = np.random.default_rng(seed + 1).normal(scale=0.1, size=len(features))
    target = features[:, 0] * 2 + np.sin(features[:, 1] * 3) + features[:, 2] * features[:, 3] + noise
    model = lightgbm.LGBMRegressor(n_estimators=TREES, num_leaves=31, random_state=seed, n_jobs=1, verbose=-1)
    model.fit(features, target)
    graph = convert_lightgbm(model.booster_, initial_types=[("x", FloatTensorType([None, FEATURES]))], target_opset=15)
    path.write_bytes(graph.SerializeToString())
