"""What we compare with: the least that answers the same request, uvicorn + orjson + onnxruntime and nothing else.

Run by the hot-path scenario as `python -m bench.bare_app MODEL PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn


def make(path: str) -> Any:
    """The ASGI app: parse, run, answer in the Open Inference form."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    label = session.get_inputs()[0].name

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":  # is it up?
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        tensor = orjson.loads(body)["inputs"][0]
        array = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        outputs = session.run(names, {label: array})
        answer = orjson.dumps(
            {
                "model_name": "bare",
                "outputs": [
                    {"name": name, "datatype": "FP32", "shape": value.shape, "data": value.ravel()}
                    for name, value in zip(names, outputs, strict=True)
                ],
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    uvicorn.run(
        make(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
    )
