"""An example request for each version, made so that the model accepts it: what `/openapi.json` shows and `/docs` sends.

Where registration kept a sample of the reference, the example holds the typical value of each element (the median of
numbers, shortened to three digits; the commonest of texts that several rows share), so it looks like real input and is
nobody's row: the data port asks no one who they are. Else it holds zeros, or ones where zeros do not do. Which of them
the model accepts is found by running it, once per version. Slow; called off the event loop by `openapi.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.servable import InputSlot, Servable, Tensor
from registry.errors import ServingError
from registry.tensors import load_tensors

MOST_ELEMENTS = 1024  # of one example; an image of floats would make a document that no page can show
_SHARED_BY = 5  # rows that must hold a text before it is shown


def example(
    servable: Servable, sample: Path | None, may_run: Callable[[], bool], most_elements: int = MOST_ELEMENTS
) -> list[Tensor] | None:
    """Tensors in the order of the servable's slots; None when they are too long or nothing is accepted.

    sample: what `registry/sample.py` wrote. may_run: asked before each run of the model; when it says no, the first
    candidate is given untried.
    """
    if sum(math.prod(_shape(slot)) for slot in servable.slots) > most_elements:
        return None
    for feeds in _candidates(servable, sample):
        if not may_run() or _accepts(servable, feeds):
            return feeds
    return None


def _candidates(servable: Servable, sample: Path | None) -> Iterator[list[Tensor]]:
    if sample is not None:
        feeds = _typical_feeds(servable.slots, sample)
        if feeds is not None:
            yield feeds
    for value in (0, 1):
        yield [_filled(slot, value) for slot in servable.slots]


def _accepts(servable: Servable, feeds: Sequence[Tensor]) -> bool:
    try:
        outputs = servable.run(feeds)
    except ServingError:
        return False
    if not servable.refuses_nonfinite:
        return True
    return all(bool(np.isfinite(outputs[index]).all()) for index in servable.float_outputs)


def _shape(slot: InputSlot) -> tuple[int, ...]:
    return (1,) if slot.spec.shape is None else tuple(1 if size is None else size for size in slot.spec.shape)


def _filled(slot: InputSlot, value: int) -> Tensor:
    if slot.dtype.kind == "O":
        return np.full(_shape(slot), str(value), dtype=object)
    return np.full(_shape(slot), value).astype(slot.dtype)


def _typical_feeds(slots: Sequence[InputSlot], sample: Path) -> list[Tensor] | None:
    try:
        rows = load_tensors(sample)
    except ServingError:  # the file is gone or damaged: an example is no reason to fail
        return None
    feeds = []
    for slot in slots:
        array = rows.get(slot.spec.name)
        if array is None or not len(array) or array[:1].size > MOST_ELEMENTS:
            return None
        feed = typical(array)[None]
        if feed.ndim != len(_shape(slot)) or any(
            want is not None and got != want for got, want in zip(feed.shape, slot.spec.shape or (), strict=False)
        ):
            return None
        feeds.append(feed if feed.dtype == object else feed.astype(slot.dtype))
    return feeds


def typical(rows: NDArray[Any]) -> NDArray[Any]:
    """The typical value of each element over the rows. rows: (n, …), n ≥ 1, numbers, bool or str; returns (…).

    >>> typical(np.array([[1.2345, 9], [3.0, 70000.0], [2.71828, 12345]]))
    array([2.72e+00, 1.23e+04])
    """
    if rows.dtype == object:
        flat = rows.reshape(len(rows), -1)
        texts = np.empty(flat.shape[1], dtype=object)
        texts[:] = [_commonest(flat[:, column]) for column in range(flat.shape[1])]
        return texts.reshape(rows.shape[1:])
    middle = np.asarray(np.sort(rows, axis=0)[(len(rows) - 1) // 2])
    if rows.dtype.kind == "b":
        return middle
    if rows.dtype.kind in "iu":
        shortened = np.array([_short_int(int(value)) for value in middle.ravel()], dtype=rows.dtype)
        return shortened.reshape(middle.shape)
    wide = np.nan_to_num(middle.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.vectorize(_short_float, otypes=[np.float64])(wide)).reshape(middle.shape)


def _short_int(value: int) -> int:
    """Three leading digits, towards zero, so that an index stays inside its table."""
    keep = int(10 ** max(0, len(str(abs(value))) - 3))
    return (abs(value) // keep * keep) * (1 if value >= 0 else -1)


def _short_float(value: float) -> float:
    return float(f"{value:.2e}")


def _commonest(texts: NDArray[Any]) -> str:
    values, counts = np.unique(texts.astype(str), return_counts=True)
    best = int(np.argmax(counts))
    return str(values[best]) if counts[best] >= _SHARED_BY else ""


def v2_body(slots: Sequence[InputSlot], feeds: Sequence[Tensor]) -> dict[str, Any]:
    """An Open Inference V2 request."""
    inputs = [
        {
            "name": slot.spec.name,
            "shape": list(feed.shape),
            "datatype": slot.spec.datatype,
            "data": _listed(feed.reshape(-1)),
        }
        for slot, feed in zip(slots, feeds, strict=True)
    ]
    return {"inputs": inputs}


def v1_body(slots: Sequence[InputSlot], feeds: Sequence[Tensor], *, by_rows: bool) -> dict[str, Any]:
    """A KServe V1 request; MLflow's `instances` and `inputs` read the same."""
    named: Mapping[str, Any] = {slot.spec.name: _listed(feed) for slot, feed in zip(slots, feeds, strict=True)}
    if not by_rows:
        return {"inputs": next(iter(named.values())) if len(slots) == 1 else dict(named)}
    if len(slots) == 1:
        return {"instances": next(iter(named.values()))}
    return {"instances": [{name: values[0] for name, values in named.items()}]}


def _listed(feed: Tensor) -> Any:
    return (feed.astype(np.float32) if feed.dtype.name == "bfloat16" else feed).tolist()
