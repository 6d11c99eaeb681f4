#!/usr/bin/env python3
"""A host of Sparkplug, `scada`, made of pysparkplug: what an edge node says, as a line of JSON each; what is written here, as commands.

usage: sparkplug_host.py PORT GROUP NODE      in: {"device": "pump"|null, "name": …, "type": …, "value": …}
out: {"kind", "device", "seq", "bdSeq", "metrics": {name: [value, time, historical, null]}, "births": {name: [type, alias]}}
"""
import json, sys, threading

import paho.mqtt.client as mqtt
import pysparkplug as ps

port, group, node = int(sys.argv[1]), sys.argv[2], sys.argv[3]
births, lock = {}, threading.Lock()
KINDS = {"NBIRTH": ps.NBirth, "DBIRTH": ps.DBirth, "NDATA": ps.NData, "DDATA": ps.DData, "NDEATH": ps.NDeath, "DDEATH": ps.DDeath}


def said(client, _, message):
    levels = message.topic.split("/")
    kind, device = levels[2], levels[4] if len(levels) > 4 else None
    if kind not in KINDS:
        return
    try:
        payload = KINDS[kind].decode(message.payload, birth=births.get(device))
        out = {"kind": kind, "device": device, "seq": getattr(payload, "seq", None), "metrics": {}}
        if kind.endswith("BIRTH"):
            births[device] = payload
            out["births"] = {m.name: [m.datatype.name, m.alias] for m in payload.metrics}
        if kind == "NDEATH":
            out["bdSeq"] = payload.bd_seq_metric.value
        values = getattr(payload, "metrics", ())
        told = [(m.name, m.value.isoformat() if hasattr(m.value, "isoformat") else m.value, m.timestamp, m.is_historical, m.is_null) for m in values]
        out["list"] = told
        out["bdSeq"] = next((m[1] for m in told if m[0] == "bdSeq"), out.get("bdSeq"))
    except Exception as error:  # whatever it is, it is what the library says of our payload
        out = {"kind": kind, "device": device, "error": repr(error), "payload": message.payload.hex()}
    with lock:
        print(json.dumps(out), flush=True)


client = mqtt.Client("sparkplug-host") if not hasattr(mqtt, "CallbackAPIVersion") else mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, "sparkplug-host")
topic = "spBv1.0/STATE/scada"
since = [0]
client.on_message = said
client.on_connect = lambda client, *_: client.subscribe(f"spBv1.0/{group}/#")


def subscribed(*_):
    """It hears everything: now it may say that it is there."""
    client.publish(topic, ps.State(timestamp=since[0], online=True).encode(), qos=1, retain=True)
    print(json.dumps({"kind": "READY"}), flush=True)


client.on_subscribe = subscribed


def begins(*_):
    """Each session has a time of its own, in its last will too."""
    since[0] = ps.get_current_timestamp()
    client.will_set(topic, ps.State(timestamp=since[0], online=False).encode(), qos=1, retain=True)


begins()
client.on_disconnect = begins  # and connects again by itself
client.reconnect_delay_set(1, 2)
client.connect("127.0.0.1", port)
client.loop_start()
for line in sys.stdin:
    wish = json.loads(line)
    metric = ps.Metric(timestamp=ps.get_current_timestamp(), name=wish["name"], datatype=ps.DataType[wish["type"]], value=wish["value"])
    command = (ps.DCmd if wish["device"] else ps.NCmd)(timestamp=ps.get_current_timestamp(), metrics=(metric,))
    kind = "DCMD" if wish["device"] else "NCMD"
    to = f"spBv1.0/{group}/{kind}/{node}" + (f"/{wish['device']}" if wish["device"] else "")
    client.publish(to, command.encode(include_dtypes=True), qos=0)
