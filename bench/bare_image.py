"""What the image scenario compares with: uvicorn, np.frombuffer and onnxruntime, and nothing else.

Run by the image scenario as `python -m bench.bare_image MODEL PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn


def make(path: str) -> Any:
    """The ASGI app: the JSON before the buffer is parsed, the buffer is run where it lies, one buffer comes back."""
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
        parts = [message["body"]]
        while message.get("more_body"):
            message = await receive()
            parts.append(message["body"])
        body = b"".join(parts)
        at = int(dict(scope["headers"])[b"inference-header-content-length"])
        tensor = orjson.loads(body[:at])["inputs"][0]
        array = np.frombuffer(body, np.float32, offset=at).reshape(tensor["shape"])
        (output,) = session.run(names, {label: array})
        sizes = {"binary_data_size": output.nbytes}
        told = {"name": names[0], "datatype": "FP32", "shape": output.shape, "parameters": sizes}
        text = orjson.dumps({"model_name": "bare", "outputs": [told]})
        answer = text + output.tobytes()
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(text)),
            (b"content-length", b"%d" % len(answer)),
        ]
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
