#!/usr/bin/env python3
"""Every format of an uplink, read by programs that are not ours and held against the plain JSON of the same gateway.

A PLC of random registers (floats of every kind, 64-bit integers, bits, text, NaN; a second unit never answers), a
mosquitto, and a gateway with four uplinks to it: plain JSON, batches, JSON by device, and compressed lists of JSON.
`batch_consumer.py` decodes the batches; every record of (stream, epoch, seq) must be the same in all four, value by value.
A second consumer comes late and must never say anything else than the first. Damaged bytes must be refused.

usage: batch.py IRONBRIDGE [--samples N]     (needs mosquitto; pip: paho-mqtt protobuf zstandard grpcio-tools)
"""
import argparse, collections, datetime, json, os, random, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt

import zstandard

import batch_consumer
from bench import free_port, wait_port

UPLINKS = [("text", 'format = "json"'), ("columns", 'format = "batch"\nbatch_samples = 500'), ("devices", 'layout = "device"'),
           ("lists", 'batch_samples = 300\ncompress = "zstd"')]
TYPES = ["int16", "uint16", "int32", "uint32", "float32", "float64", "int64", "uint64", "string(8)"]


def exactly(conn, count):
    data = b""
    while len(data) < count:
        if not (more := conn.recv(count - len(data))):
            raise OSError("closed")
        data += more
    return data


def registers(start, count):
    """A plant of noise, with plain numbers and text in it, anew at each read."""
    data = bytearray(random.randbytes(2 * count))
    for at in range(count):
        if (start + at) % 40 < 8:                     # slow little numbers
            data[2 * at:2 * at + 2] = struct.pack(">H", 1200 + at + random.choice([0, 0, 0, 1]))
        elif (start + at) % 40 >= 36:                 # text
            data[2 * at:2 * at + 2] = random.choice([b"ON", b"ab", b"\xc3\xa9", b"\0\0"])
    return bytes(data)


def plc(server):
    """Modbus TCP, FC 3; unit 2 is silent."""
    def serve(conn):
        try:
            while True:
                transaction, _, length = struct.unpack(">HHH", exactly(conn, 6))
                unit, code, start, count = struct.unpack(">BBHH", exactly(conn, length))
                if unit == 1:
                    body = struct.pack(">BBB", unit, code, 2 * count) + registers(start, count)
                    conn.sendall(struct.pack(">HHH", transaction, 0, len(body)) + body)
        except (OSError, struct.error):
            conn.close()
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


def config(work, plc_port, cloud_port):
    text = (f'[gateway]\nname = "foreign"\ndata_dir = "{work}/data"\n[[broker.listener]]\nlisten = "127.0.0.1:{free_port()}"\n'
            f'anonymous = "read"\n[[bus]]\nname = "net"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{plc_port}"\nresponse_timeout = "200ms"\n')
    for name, form in UPLINKS:
        text += f'[[uplink]]\nname = "{name}"\nclient_id = "{name}"\nurl = "mqtt://127.0.0.1:{cloud_port}"\ntopic_prefix = "{name}/"\n{form}\n'
    text += '[[device]]\nname = "plc"\nbus = "net"\nunit_id = 1\npoll = "50ms"\n'
    for n in range(3):
        for place, kind in enumerate(TYPES):
            extra = ['', 'scale = 0.1\n', 'scale = 0.05\noffset = -40.0\n'][n] if not kind.startswith("string") else ""
            text += f'[[device.tag]]\nname = "t{n}-{place}"\naddress = "holding:{40 * n + 4 * place}"\ntype = "{kind}"\n{extra}'
        text += f'[[device.tag]]\nname = "bit-{n}"\naddress = "holding:{40 * n + 9}.{n}"\ntype = "bool"\n'
        text += f'[[device.tag]]\nname = "limits-{n}"\naddress = "holding:{40 * n + 10}"\ntype = "uint16"\nmin = 0\nmax = 32767\n'
    text += '[[device]]\nname = "dead"\nbus = "net"\nunit_id = 2\npoll = "1s"\n[[device.tag]]\nname = "x"\naddress = "holding:0"\ntype = "uint16"\n'
    open(f"{work}/gateway.toml", "w").write(text)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("binary")
    ap.add_argument("--samples", type=int, default=20_000)
    args = ap.parse_args()
    if not shutil.which("mosquitto"):
        print("SKIPPED batch.py: mosquitto is not installed")
        return 0
    work = tempfile.mkdtemp(prefix="batch-")
    os.chmod(work, 0o755)                             # mosquitto, started by root, becomes another user
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=plc, args=(server,), daemon=True).start()
    cloud_port = free_port()
    open(f"{work}/mosquitto.conf", "w").write(f"listener {cloud_port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n")
    cloud = subprocess.Popen(["mosquitto", "-c", f"{work}/mosquitto.conf"], stderr=subprocess.DEVNULL)
    wait_port(cloud_port)
    texts, columns, devices, lists, late, batches, payload_bytes = {}, {}, {}, {}, {}, [], collections.Counter()
    consumer, latecomer = batch_consumer.Consumer(), batch_consumer.Consumer()

    def on_message(_client, _userdata, message):
        if message.topic == "columns/ironbridge/foreign/batch":
            payload_bytes["batch"] += len(message.payload)
            batches.append(message.payload)
            for record in consumer.feed(message.payload):
                columns[record["stream"], record["epoch"], record["seq"]] = record
            if len(batches) > 3:
                for record in latecomer.feed(message.payload):
                    late[record["stream"], record["epoch"], record["seq"]] = record
        elif message.topic.startswith("devices/"):
            for record in parts(message.topic, json.loads(message.payload)):
                devices[record["stream"], record["epoch"], record["seq"]] = record
        elif message.topic == "lists/ironbridge/foreign/batch":
            payload_bytes["lists"] += len(message.payload)
            for record in json.loads(zstandard.ZstdDecompressor().decompress(message.payload)):
                lists[record["stream"], record["epoch"], record["seq"]] = record
        elif message.topic.startswith("text/"):
            record = json.loads(message.payload)
            if "seq" in record:
                payload_bytes["json"] += len(message.payload)
                texts[record["stream"], record["epoch"], record["seq"]] = dict(record, topic=message.topic)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="receiver")
    client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
    client.on_message = on_message
    client.connect("127.0.0.1", cloud_port)
    client.loop_start()
    config(work, server.getsockname()[1], cloud_port)
    gateway = subprocess.Popen([args.binary, "run", "--config", f"{work}/gateway.toml"], stderr=open(f"{work}/gateway.log", "w"))
    until = time.time() + 120
    while time.time() < until and gateway.poll() is None and min(map(len, (texts, columns, devices, lists))) < args.samples:
        time.sleep(0.2)
    gateway.send_signal(signal.SIGTERM)
    code = gateway.wait(60)
    time.sleep(1)
    client.loop_stop()
    cloud.kill()

    others = {"columns": columns, "devices": devices, "lists": lists}
    different = [(name, key) for name, other in others.items() for key in other if key in texts and not same(texts[key], other[key])]
    missing = [key for other in others.values() for key in texts.keys() ^ other.keys()]
    qualities = collections.Counter(record.get("quality") for record in columns.values())
    kinds = collections.Counter(type(record.get("value")).__name__ for record in columns.values())
    lies = [key for key, record in late.items() if record != columns.get(key)]
    accepted = sum(misled(consumer, payload, columns) for payload in damaged(batches[:5]))
    enough = min(len(texts), len(columns)) >= args.samples and late and len(kinds) >= 5 and len(qualities) >= 3
    verdict = enough and not different and not missing and not lies and accepted == 0 and code == 0
    print(json.dumps({"json_records": len(texts), "batch_records": len(columns), "batches": len(batches), "device_records": len(devices), "list_records": len(lists), "different": len(different),
                      "missing": len(missing), "late_records": len(late), "late_lies": len(lies), "damaged_accepted": accepted,
                      "values": kinds, "qualities": qualities, "payload_bytes": payload_bytes, "stop_exit_code": code}))
    for name, key in different[:3]:
        print("text   ", texts[key], f"\n{name:8}", others[name][key])
    if verdict:
        shutil.rmtree(work)
    print("PASSED" if verdict else f"FAILED: see {work}")
    return 0 if verdict else 1


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def parts(topic, message):
    """The layout device: names sorted bytewise have the numbers seq, seq + 1 and so on. Anything else is a plain record."""
    if "count" not in message or "seq" not in message:
        if "seq" in message:
            yield dict(message, topic=topic)
        return
    values, bad, uncertain = (message.get(key, {}) for key in ("values", "bad", "uncertain"))
    names = sorted([*values, *bad, *uncertain], key=lambda name: name.encode())
    assert len(names) == message["count"], message
    for seq, name in enumerate(names, message["seq"]):
        value, cause = (values[name], None) if name in values else (None, bad[name]) if name in bad else uncertain[name]
        yield dict(stream=message["stream"], epoch=message["epoch"], seq=seq, topic=f"{topic}/{name}", value=value, cause=cause,
                   quality="good" if name in values else "bad" if name in bad else "uncertain",
                   time=seconds(message["time"]) + message.get("at", {}).get(name, 0) / 1000)


def same(text, record):
    """A JSON record and another of its number: value and type, topic, quality, time to the millisecond; events key by key."""
    if text["topic"].split("/", 1)[1] != record["topic"].split("/", 1)[1]:
        return False
    if "value" not in record or "quality" not in record:
        return all(record.get(key) == value for key, value in text.items() if key != "topic")
    moment, other = (seconds(time) if isinstance(time, str) else time for time in (text["time"], record["time"]))
    return (text["value"] == record["value"] and type(text["value"]) is type(record["value"]) and text["quality"] == record["quality"]
            and text.get("cause") == record.get("cause") and abs(moment - other) < 0.0005)


def damaged(payloads):
    for payload in payloads:
        yield payload[:len(payload) // 2]
        for _ in range(20):
            at = random.randrange(len(payload))
            yield payload[:at] + bytes([payload[at] ^ 1 << random.randrange(8)]) + payload[at + 1:]


def misled(consumer, payload, columns):
    """Damage must be an error, or (where zstd has bits that mean nothing) change nothing."""
    try:
        return any(record != columns.get((record["stream"], record["epoch"], record["seq"])) for record in consumer.feed(payload))
    except Exception:
        return False


sys.exit(main())
