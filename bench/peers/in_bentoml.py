"""A BentoML service, in BentoML's environment. The environment's MODEL names the file."""

from __future__ import annotations

import os
from typing import Annotated, Any

import bentoml  # type: ignore[import-not-found]
import numpy as np
from bentoml.validators import DType, Shape  # type: ignore[import-not-found]
from running import open_model  # type: ignore[import-not-found]

Rows = Annotated[np.ndarray, DType("float32"), Shape((-1, 30))]  # the framework reads this form only


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Small:
    """One model."""

    def __init__(self) -> None:
        self._run = open_model(os.environ["MODEL"])

    @bentoml.api  # type: ignore[untyped-decorator]
    async def infer(self, x: Rows) -> np.ndarray:
        """Answer a request."""
        made: np.ndarray[Any, Any] = self._run(x)
        return made
