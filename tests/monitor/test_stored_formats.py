"""Files that earlier releases wrote, kept as they were, here and in `stored/`: every later release must read them."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from monitor.counts import BinSet, ColumnBins
from monitor.lane import LaneReader
from monitor.profile import ReferenceProfile
from monitor.score_streams import ScoreStreams
from monitor.stream import Stream
from monitor.windows import Tile, VersionBins
from registry.vocabulary import Role

# A lane of three rows of a classifier with two inputs, zlib and base64.
LANE_V1 = (
    "eNrt1zFrFEEUB3AlHyCVnGATxkKMg+zG83K3zV4gRoWQQsvjPGZ25y4ruzvL7FySI0SDjR9AUBAFwdreUrSz0sLOwkYQsUhhHZy5"
    "Te7cO/DKSPj/YHdmZ+a9N7O3za3eXF/ZuOG4u6QrVcI08Uiooq7uMS2uxiwVhJIt4rmUcCl1JwrNAj6DCcljaVI5lCQyFLGJSWwe"
    "ofJIpsNsSsbCDAebLMnsGCUBy1gQ6QHxalVKeiIViunhcpOGs1wMO3GUCtazoY67dK16vbZcbzAehKJrUmxLFeYde4iq06jZItvF"
    "Y91tLJlNBZsiYcTbJXzQsXPE06ovKInSrK/NU6tFdlpO22TaMVfaT7hQhDrUaVM7407OuGamTYns61F8zLg5Lx21gXmPPakGozSZ"
    "kpzxKI50JPKiWGlounA5wv1XxNGGhufphHqQ2RfVrZLjPY7H6vZHCqQSdtsT+dp7e2cAAAAAAADgdJk74fiTdp/hGwAAAAAAAIDT"
    "7+fWxcXyf/jF2uGLZ5VLH+6lT/LHDy9/52sba7cfnP1rxbi/sDIe3ffNrVn0D/yi/XTU/vCnKxd1nlaurN9dpp/n33x9dOFw7vzs"
    "Ok1TY79ZzvXNL7fTdT7+qvx+e+7lrfj1nYXn8++/zK7zytR4N3GeYwc+vhwAAAAAAAAAAAAAAPhf/QEDVtnA"
)

TILE_V1 = (
    '{"format":"driftgate.tile","v":1,"model":"m","version":1,"role":"champion","start_s":100,"width_s":1'
    '0,"edges":"aee6cdacb297024da1cb679950d8298da1629e2da6b1da6d706fbced9c75cd61","rows":6,"errors":2,"in'
    'puts":{"bins":"e99a8f65186e66c30ae28390ca7e821aaf63b0c8fe699ccd3d7fa281d9a33d4f","rows":4,"width":2,'
    '"counts":"eAFjZIAAJigNAAAwAAQ=","missing":"eAFjZIAAAAAQAAI=","infinite":"eAFjYIAAAAAIAAE=","mean":"e'
    'AFjYACBD/YAAicBMA==","m2":"eAFjYAABBQcAAIgAYQ=="},"outputs":{"bins":"80a8e0973451f17754e0b29d88bec8e'
    '71911ba7c2abfaf70f6548039b8515901","rows":4,"width":3,"counts":"eAFjYoAARjQaAABgAAU=","missing":"eAF'
    'jYIAAAAAIAAE=","infinite":"eAFjYIAAAAAIAAE=","mean":"eAFjYAABNgcAAFQARw==","m2":"eAFjYACCAxYOAAL4ATk'
    '="}}'
)


PROFILE_V1 = (
    '{"format":"driftgate.profile","v":1,"rows":60,"inputs":[{"name":"x0","kind":"number","edges":[1.0,2.0,5.0,5.00000'
    '0000000001],"values":[],"counts":[0,9,20,30,0],"missing":1,"infinite":0,"low":1.0,"high":5.0,"mean":3.3728813559322'
    '033,"sd":1.6864193849264744,"complete":false,"deff":2.5,"hashed":false},{"name":"x1","kind":"category","edges":[],"'
    'values":[0.0,1.0,2.0],"counts":[20,20,20,0],"missing":0,"infinite":0,"low":0.0,"high":2.0,"mean":1.0,"sd":0.8164965'
    '80927726,"complete":true,"deff":1.0,"hashed":false}],"outputs":[{"name":"y0","kind":"number","edges":[0.0,0.5,1.0],'
    '"values":[],"counts":[0,30,30,0],"missing":0,"infinite":0,"low":0.0,"high":1.0,"mean":0.5,"sd":0.29,"complete":fals'
    'e,"deff":1.0,"hashed":false}]}'
)


def test_a_v1_profile_is_read_with_an_order_that_nobody_knew() -> None:
    profile = ReferenceProfile.from_bytes(PROFILE_V1.encode())
    assert (profile.rows, profile.ordered, profile.since_s) == (60, None, None)
    x0, x1 = profile.inputs
    assert (x0.counts, x0.missing, x0.rows, x0.type) == ((0, 9, 20, 30, 0), 1, 60, "numeric")
    assert (x0.deff, x0.bin_deffs, x0.edge_deffs, x0.missing_deff) == (2.5, (2.5,) * 5, (2.5,) * 4, 2.5)
    assert (x0.block_rows, x0.season) == (None, None)
    assert (x1.type, x1.bin_deffs, x1.edge_deffs, x1.complete) == ("categorical", (1.0,) * 4, (), True)
    assert ReferenceProfile.from_bytes(profile.to_bytes()) == profile


STORED = Path(__file__).parent / "stored"


@pytest.mark.parametrize("version", [2, 3])
def test_a_profile_with_types_dependence_and_seasons_is_read_to_the_last_byte(version: int) -> None:
    content = (STORED / f"profile_v{version}.json").read_bytes().rstrip()
    assert json.loads(content)["v"] == version
    profile = ReferenceProfile.from_bytes(content)
    assert profile.to_bytes() == content
    assert profile.digest == hashlib.sha256(content).hexdigest()  # what measurements and streams name it by
    assert (profile.rows, profile.ordered) == (200_000, True)
    assert (profile.since_s, profile.until_s) == (1_767_225_600.0, 1_771_225_580.0)
    visits, city = profile.inputs
    assert (visits.type, visits.bins.whole, visits.complete) == ("integer", True, False)
    assert (visits.missing, visits.counts[1:4]) == (5940, (3396, 10_810, 0))
    assert (visits.deff, visits.missing_deff) == (63.367, 3.657)
    assert (visits.block_rows, visits.levelled) == (2048, True)
    assert len(set(visits.bin_deffs)) > 10
    assert (city.type, city.complete, city.counts) == ("categorical", True, (107_632, 46_130, 46_238, 0))
    assert [[wave.period_s for wave in c.season.waves] for c in profile.inputs if c.season] == [
        [86_400, 43_200],
        [86_400],
    ]
    assert city.season is not None
    assert city.season.shares(np.array([0.54, 0.23, 0.23, 0.0]), 6 * 3600.0)[0] == pytest.approx(0.54 + 0.108797)
    assert [(column.name, column.counts) for column in profile.outputs] == [("label", (139_857, 60_143, 0))]
    assert (profile.together is None) == (version == 2)


def test_a_v3_profile_s_questions_about_columns_together_mean_what_they_meant() -> None:
    together = ReferenceProfile.from_bytes((STORED / "profile_v3.json").read_bytes()).together
    assert together is not None
    assert together.questions.first.tolist() == [0, 0, 0, 1, 1, 1]
    assert together.questions.second.tolist() == [2, 3, 4, 2, 3, 4]
    rows = np.array([[1.0, 11.0], [7.0, 22.0], [np.nan, 33.0], [3.0, 44.0], [400.0, 11.0]])
    answers = together.questions.tally(rows)
    assert answers.happened[:16].tolist() == [2, 2, 3, 3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert answers.of[:7].tolist() == [4, 4, 4, 4, 4, 4, 5]  # a missing value answers nothing about pairs
    assert (len(answers.of), answers.happened.sum(), answers.of.sum()) == (633, 941, 3159)
    assert answers.unexplained == pytest.approx([0.0, 0.279293], abs=1e-5)


def test_a_stream_with_columns_together_goes_on_where_it_stood() -> None:
    profile = ReferenceProfile.from_bytes((STORED / "profile_v3.json").read_bytes())
    documents = json.loads((STORED / "stream_v1_together.json").read_bytes())
    with ThreadPoolExecutor(1) as executor:
        stream = Stream(profile, executor)
        stream.restore({name: json.dumps(document).encode() for name, document in documents.items()})
    assert (stream.evaluations, stream.waiting_rows) == (3, 210)
    assert [detector.rows for detector in stream.detectors] == [3600, 3600]
    assert stream.together is not None
    assert (stream.together.evaluations, stream.together.detector.rows, stream.together.sampled) == (3, 3000, 3210)
    assert stream.active() == []


# A profile and the stored state of its stream: the whole state after two evaluations, the third, and what waits.
STREAM_V1 = (
    "eNrtWOtv4roS/1eO+EpV8rZzpP3gBAiUV3gUCtuqchI7BEICeRJW/d+vE9g+zm5790hnr86VGuTgccYz9sxv7NF8q+2jkHo+qf35R+3bfY2G0Q4n"
    "97U/72tO5NHExQm5vrDc167uaxn7JrD/KMxj1lUk1g8jh0TEYWSQ+j4biL3AJo/xy0AaJJ7/esAL9mlS0l+Z0gDvSKXyWKnYeoFTkUG6s0hUjSXF"
    "/sziBQlxL4PEcUklg7vmrnjWBNZE1iTWZNYU1sC5VY8EFCgCXoYP5U6wn56nl5QdsjWehV3Bv/y4kmHnxWxbLuPgqvVTL/ASciH9MC9712V/7blr"
    "RoCK2BEcMEK8lkuzlNsSrgWVFyCAEpAAUIVK927vk0oYxX5M2JBDKGUkfxZyVv34ZtDyQ3v7eHHDxao+yYjvV55IorSUs8bxuqIrwU/lRsI0+Znt"
    "i0/b/2bbP9Wu/qjFCYuoj4ItTiKCd8+xxrP/4BJzz3HIJii2JCsqFGTFciSKJUeWBAWLAlQkAhULS1DgZNWyecvGIuVUSGxJwZJCeMdxZMpXCqoo"
    "ZOLeW4vDDGMnYfRmNc8QoThOqi+x53wHSCWvtJAXxNUQZAuhliBz0IEUCA6vQAcQKii8paqSSjigSg7nSA5QqQ0tAKilKjwQeB7zvKMIlbSLpWFp"
    "e1JiBydeWCkozULxzvM98h3RFVlUyuM13p+PLT90H31v55U75IWLZ49JGpHz9ncVP0EGoI1GwXctSWtgi7pzmdJjUZjAjA+26EenJNnCZJn7bmPa"
    "di0Q7MAADo95Y5XuDnQWREL9oKtFuGwsiNo30mPfMEatTBazWM9g1u4ep5mhD8eD1miY0+ECcg20zLPJFKYOsE6BaAYZf+inMJLGpoCCFh+m8myX"
    "CvM2jJ0R7OcFVObyQnWDW2Vi0bTY6s5+v6KxDHpBvdGAiXMkyd6cLcBmyjVA0Y0UY5HbbaCvDmkcCjfDdDWyqJW0JjQThKzeJadF55RZWabIEjSt"
    "1SiOV0QF8qmoN242qTqazm8beDWeJE0w7qm9MU0XqwZtiVQ9ObNhssum9by+THsOTlTo1K2oOFozMDsIMiaRKs2tzgyYts5DbsuDzWHBD91GL0my"
    "SNkmiZilQdGRrY22CVrE2jjBoi4slkCmw3i1EyV6XGyttHODI6RMTvwx7kdiXdxoyg4vR8vOPJtzkd5fiUsatuK+kI2yTFN9BWbrSQx4SxgJGljT"
    "UZJTZXmyW5oa22o+dlwqrmmC7oDLQ8moF2bTcvScGMXW2/Y7OtBBfoekeT/cj92RrwxSm2g5Z63V5uQ0WhVg6w5MuRcM5qObYhhIh2auBqcid/JR"
    "my4Cd3FncL2O0R9qso2bN0R07XTEgH24tb1BrvvdkWHBrnbjNDM/pi41J+qUG0idXigNJmu7uW2hFuCmt/GXCr4Mx3sSEOeC0vZmiZDWGtv5ZGYk"
    "aDPvNLmDNTb8fs/gOuEktjtjtD/ky1M1O6Rv5rVzNu/WxqjPUw1wXy4xXF7Zl0D7Jd43jPpGlDqt1tw0XJ2fHDV8vjnYafX449o1l81AiDD5L2yv"
    "F/mG4ak8ALAXVxKq+8L3skvYhkzyL9skvCvuEL5Zg8P0dp1tTcWDxq4DYUhB4TZCsTUITWOq4+VkOljHWqh3CyM33G6z3x0j1LSIJqjnYzN+vCj+"
    "er4zqgP/3P3w/VAZ70Rema6FjE5j1SQ9k8NND413iOssi52rtrnBTWhO4lST5uGI6V+fFH5d6d9jL3ptfV1rNlau5+Y6ak0DNEPMTU9PV2/PwkOK"
    "fS8p/tZp2OrfiZmnRsv5ps6d7vbyWATW0e+I8b4F23cCGCZ7YsfDCJGlsmrc3WiC4/M8d4oNvYncCXLMXUgmpNVBujm19vZ7aNbRqHR47zsifoLY"
    "9dI2kM4zXN/+V8S+w/sTxHYXpuZq3sqdcx8h9q/r+wGxbxh+HbE6aqfNNZprI8+b3Z40IyTd1X4JOWvetG4Z6rRiPp7L/zjqKshkGq+7quEqG2XR"
    "4kypWCDF9Bni5YHe76GxZhY9OP4biHt4ek4v/8Gk4rvA11kFkR3IU0fkoMhzmEAqS0DEtoUxByDLdajAYU6yIHskQSAOVhWOo8CSsEh4lTqfWcVn"
    "VvGZVXxmFZ9ZxWdW8ZlV/NuziqpwUtVcrsWPSicvl/gP5RPxd5RPcuyfi5o8x53xXsG/Shm+VhFQvh6uXvUfXtc+v/2mOolULiX3nGRdre11he1i"
    "6i5Cc3e/P3SWBkJ2jvTtGdEvhbYXRvawd+vLpWL0XHt7hyMgzBdnYL7DwZSUJUXnfY4Ee/6b06zNPo9fBJwLey/R2XFthNhOZuMvFw7hTVCui7yD"
    "UMdGo/Lme3pTBP32m9LKTyd87IQqqHPsJWyr/6ag/u3RCX4BF5PNzf7QXEraGGkhc8r/My6aJS7aLpr+HBeakbPvA4Ro9f1/E5yfPvjQB0+1p/8A"
    "FLPVFw=="
)

# What was followed of scores and losses under a profile, whose digest stands in place of PROFILE.
SCORES_V1 = (
    '{"format":"driftgate.scores","v":1,"profile":"PROFILE","streams":[{"role":"canary","rows":4,"skipped":0,"adwin'
    '_ns":0,"page_hinkley_ns":0,"looked_ns":0,"blocks":0,"last":0.0,"between":0.0,"within":0.0,"output":"y0","strea'
    'm":"loss","low":0.0,"high":1.16,"waiting":[0.0,0.21551724137931036,0.4310344827586207,0.646551724137931],"adwi'
    'n":{"format":"driftgate.detector","v":1,"kind":"adwin","state":{"delta":0.002,"every":32,"buckets":5,"least":5'
    ',"grace":10,"changes":0,"skipped":0,"width":0,"_total":0.0,"_m2":0.0,"_ticks":0,"_levels":[[]]}},"page_hinkley'
    '":{"format":"driftgate.detector","v":1,"kind":"pagehinkley","state":{"min_values":32,"delta":0.25,"threshold":'
    '35.0,"forgetting":1.0,"changes":0,"skipped":0,"_n":0,"_mean":0.0,"_up":0.0,"_down":0.0,"_least":"inf","_most":'
    '"-inf"}}},{"role":"champion","rows":1283,"skipped":0,"adwin_ns":0,"page_hinkley_ns":0,"looked_ns":100000000210'
    '9999999,"blocks":40,"last":1.0,"between":0.00553210136217949,"within":0.07906653225806454,"output":"y0","strea'
    'm":"value","low":0.0,"high":1.0,"waiting":[1.0,1.0,1.0],"adwin":{"format":"driftgate.detector","v":1,"kind":"a'
    'dwin","state":{"delta":0.002,"every":32,"buckets":5,"least":5,"grace":10,"changes":0,"skipped":0,"width":1280,'
    '"_total":692.8000000000001,"_m2":130.622,"_ticks":0,"_levels":[[],[],[],[],[],[[32.0,0.0],[32.0,0.0],[32.0,0.0'
    "],[32.0,0.0]],[[36.400000000000006,5.6375],[32.0,6.3],[29.5,5.89234375],[33.9,5.75359375]],[[62.5,10.992421875"
    "],[61.5,10.561171875000001],[59.3,10.477421875],[61.9,11.335546875000002],[63.400000000000006,11.0371875]],[[1"
    '24.39999999999999,22.029375]]]}},"page_hinkley":{"format":"driftgate.detector","v":1,"kind":"pagehinkley","sta'
    'te":{"min_values":32,"delta":0.25,"threshold":35.0,"forgetting":1.0,"changes":0,"skipped":0,"_n":9,"_mean":0.7'
    '163194444444445,"_up":16.958417085521617,"_down":21.458417085521617,"_least":-1.492299968417207,"_most":21.458'
    "417085521617}}}]}"
)


def test_a_v1_lane_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0-m-1-champion.lane"
    path.write_bytes(zlib.decompress(base64.b64decode(LANE_V1)))
    lane = LaneReader.open(path)
    rows = lane.read(100)
    assert lane.header.key == "0-m-1-champion-0123456789abcdef"
    assert [column.name for column in lane.header.schema.outputs] == ["label", "probabilities[0]", "probabilities[1]"]
    assert rows["features"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert rows["outputs"].tolist() == [[1, 0.25, 0.75], [0, 0.5, 0.5], [1, 0, 1]]
    assert rows["seq"].tolist() == [0, 1, 2]
    lane.close()


def test_a_v1_tile_is_read() -> None:
    inputs = BinSet((ColumnBins("x", "number", (0.0,)),))
    outputs = BinSet((ColumnBins("y", "category", values=(1.0, 2.0)),))
    tile = Tile.from_bytes(TILE_V1.encode(), VersionBins(inputs, outputs))
    assert (tile.model, tile.version, tile.role, tile.start_s, tile.width_s) == ("m", 1, "champion", 100, 10)
    assert (tile.rows, tile.errors) == (6, 2)
    assert tile.inputs.of(0).tolist() == [1, 2]
    assert tile.inputs.missing.tolist() == [1]
    assert tile.inputs.mean.tolist() == [1.0]
    assert tile.outputs.of(0).tolist() == [2, 1, 1]


def test_a_v1_tile_does_not_know_how_far_out_its_values_lay() -> None:
    inputs = BinSet((ColumnBins("x", "number", (0.0,)),))
    outputs = BinSet((ColumnBins("y", "category", values=(1.0, 2.0)),))
    tile = Tile.from_bytes(TILE_V1.encode(), VersionBins(inputs, outputs))
    again = Tile.from_bytes(tile.to_bytes(), VersionBins(inputs, outputs)).merge(tile)
    assert np.isnan(again.inputs.tails).all()
    assert again.inputs.mistyped.tolist() == again.inputs.negative.tolist() == [0]
    assert (again.outputs.tails == 0.0).all()


def test_a_v1_stream_goes_on_where_it_stood() -> None:
    stored = json.loads(zlib.decompress(base64.b64decode(STREAM_V1)))
    found = ReferenceProfile.from_bytes(stored.pop("profile").encode())
    with ThreadPoolExecutor(1) as executor:
        stream = Stream(found, executor)
        stream.restore({name: document.encode() for name, document in stored.items()})
    assert (stream.evaluations, stream.waiting_rows) == (3, 7)
    assert [detector.rows for detector in stream.detectors] == [120, 120]


def test_v1_scores_go_on_where_they_stood() -> None:
    profile = ReferenceProfile.from_bytes(PROFILE_V1.encode())
    streams = ScoreStreams.resumed(profile, SCORES_V1.replace("PROFILE", profile.digest).encode())
    loss, value = streams.views()
    assert (loss.role, loss.output, loss.kind, loss.rows, loss.mean) == ("canary", "y0", "loss", 4, None)
    assert (value.role, value.output, value.kind, value.rows) == ("champion", "y0", "value", 1283)
    assert (value.window_rows, value.mean) == (1280, 0.54125)
    for _ in range(28):
        streams.add_loss(Role.CANARY, "y0", False, 0.75, 10**18)
    assert next(streams.views()).window_rows == 32
