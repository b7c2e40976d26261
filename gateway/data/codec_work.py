"""What is read of a body, and written of a run: the same function in a worker and in its codec process.

`writer` stands for the version: it writes its answers, and holds what reading needs to know. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.data.codecs.call import Answer, Call, Headers, Reader
from gateway.data.codecs.v2 import Writer
from gateway.data.servable import Tensor
from gateway.settings import LimitSettings


def read(
    writer: Writer, reader: Reader, headers: Headers, limits: LimitSettings, body: bytes | memoryview
) -> tuple[Sequence[Tensor], Call]:
    """A request's tensors, and its call. Raises as `Codec.read` says."""
    return reader(bytes(body), headers, writer.servable, limits)


def write(
    writer: Writer, calls: Sequence[Call], counts: Sequence[int], starts: Sequence[int], outputs: Sequence[Tensor]
) -> Sequence[bytes | Answer]:
    """The answers to requests of one run. counts, starts: how many rows of the outputs are whose, and from where.

    The outputs are of these requests alone: all their rows, in order.
    """
    if writer.servable.by_rows:
        joint = [call for call, rows in zip(calls, counts, strict=True) if rows == 1 and call.joint]
        single = writer.write_single_rows(outputs, joint) if len(joint) == len(calls) else None
        if single is not None:
            return single
    if len(calls) == 1:
        return [calls[0].write(writer, outputs, counts[0])]
    return [
        call.write(writer, [output[start : start + rows] for output in outputs], rows)
        for call, start, rows in zip(calls, starts, counts, strict=True)
    ]
