"""Trains the tour's three models on scikit-learn's own diabetes data (442 patients, ten measurements each).

linear.onnx   least squares
ridge.onnx    ridge regression: nearly the same answers
mixed_up.onnx least squares trained with two measurements swapped, as after a careless refactoring of the pipeline
reference.csv what all of them were trained on: one column a measurement, and the progression of the disease
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge

data = load_diabetes(as_frame=True, scaled=False)
rows = data.data.to_numpy(np.float32)
progression = data.target.to_numpy(np.float32)
swapped = rows.copy()
swapped[:, [2, 3]] = rows[:, [3, 2]]  # body mass index and blood pressure

for name, model, inputs in (
    ("linear", LinearRegression(), rows),
    ("ridge", Ridge(alpha=0.1), rows),
    ("mixed_up", LinearRegression(), swapped),
):
    model.fit(inputs, progression)
    Path(f"{name}.onnx").write_bytes(to_onnx(model, inputs[:1], target_opset=17).SerializeToString())
    error = float(np.abs(model.predict(rows) - progression).mean())
    print(f"{name}.onnx: mean absolute error {error:.1f}")
data.frame.to_csv("reference.csv", index=False)
print(f"reference.csv: {len(rows)} rows")
