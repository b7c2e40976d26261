"""Sends single-row requests to a model, as an application would: python traffic.py MODEL REQUESTS [URL]

Rows are drawn from reference.csv, at most 400 a second: a rollout takes its steps by evidence and
time, and a burst would be over before the first. Prints how many answers each version and role gave.
"""

from __future__ import annotations

import collections
import http.client
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

model, requests = sys.argv[1], int(sys.argv[2])
port = os.environ.get("DRIFTGATE_GATEWAY__PORT", "8080")
address = urlsplit(sys.argv[3]).netloc if len(sys.argv) > 3 else f"127.0.0.1:{port}"
table = np.loadtxt(Path("reference.csv"), delimiter=",", skiprows=1)[:, :-1]
chance = np.random.default_rng()
RATE = 400.0

connection = http.client.HTTPConnection(address)
answers: collections.Counter[str] = collections.Counter()
began = time.monotonic()
for sent in range(requests):
    time.sleep(max(0.0, began + sent / RATE - time.monotonic()))
    row = chance.choice(table)
    tensor = {"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
    body = json.dumps({"inputs": [tensor]})
    connection.request("POST", f"/v2/models/{model}/infer", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    who = f"v{answer.headers['x-driftgate-version']} {answer.headers['x-driftgate-role']}"
    answers[who if answer.status == 200 else f"status {answer.status}"] += 1
for who, count in sorted(answers.items()):
    print(f"{count:6d}  {who}")
