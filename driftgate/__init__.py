"""Driftgate: serve ONNX models, split traffic, watch it, take a bad version out. Importing this does nothing."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
