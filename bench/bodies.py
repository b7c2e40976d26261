"""Request bodies in the Open Inference V2 form. Called by scenarios."""

from __future__ import annotations

import orjson

from bench import models


def json_rows(count: int, seed: int, name: str = "x") -> list[bytes]:
    """This many bodies of one row each, of 30 floats, with ids of their own."""
    rows = models.rows(count, seed)
    return [
        orjson.dumps(
            {
                "id": f"r{index}",
                "inputs": [
                    {
                        "name": name,
                        "shape": [1, models.FEATURES],
                        "datatype": "FP32",
                        "data": [round(float(v), 6) for v in row],
                    }
                ],
            }
        )
        for index, row in enumerate(rows)
    ]
