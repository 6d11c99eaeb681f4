#!/usr/bin/env python3
"""Sparkplug payloads read by Python's own libraries. usage: sparkplug_decode.py pysparkplug|tahu

In: a line for each case, {"birth": hex, "data": hex}. Out: a line for each, what the library makes of the data, with the birth
to help: {"alias": [value as text, null, historical, time]}; tahu's class has no decoder: its generated one is taken.
"""
import json, sys


def told(value):
    return value.isoformat() if hasattr(value, "isoformat") else json.dumps(value)


def pysparkplug(birth, data):
    import pysparkplug as ps
    birth = ps.DBirth.decode(birth)
    return {m.name: [told(m.value), m.is_null, m.is_historical, m.timestamp] for m in ps.DData.decode(data, birth=birth).metrics}


def tahu(birth, data):
    import tahu.sparkplug_b_pb2 as pb
    payloads = [pb.Payload.FromString(raw) for raw in (birth, data)]
    names = {m.alias: (m.name, m.datatype) for m in payloads[0].metrics if m.HasField("alias")}
    found = {}
    for m in payloads[1].metrics:
        name, kind = names[m.alias] if m.HasField("alias") else (m.name, m.datatype)
        field = m.WhichOneof("value")
        value = getattr(m, field) if field else None
        bits = {1: 32, 2: 32, 3: 32, 4: 64, 13: 64}.get(kind)  # in and out as tahu.sparkplug_b.addMetric puts them
        if bits and value is not None and value >= 1 << bits - 1:
            value -= 1 << bits
        found[name] = [told(value), m.is_null, m.is_historical, m.timestamp]
    return found


for line in sys.stdin:
    case = json.loads(line)
    try:
        said = globals()[sys.argv[1]](bytes.fromhex(case["birth"]), bytes.fromhex(case["data"]))
    except Exception as error:  # whatever it is, it is what the library says of our payload
        said = {"error": repr(error)}
    print(json.dumps(said), flush=True)
