#!/usr/bin/env python3
"""The local side, against programs that are not ours: pymodbus as the PLC, mosquitto_sub and paho as clients.

usage: local.py IRONBRIDGE        (needs mosquitto_sub; pip: pymodbus paho-mqtt)
"""
import json, shutil, signal, subprocess, sys, tempfile, time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pymodbus.client import ModbusTcpClient

from bench import Client, check, command, free_port, sub, verdict, wait_port

PLC = """
import asyncio, struct, sys
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
f = struct.unpack(">HH", struct.pack(">f", 230.5))
regs = [0] * 60
regs[0:2] = [f[1], f[0]]                      # float32 CDAB 230.5
regs[2] = 0xFFFE                              # int16 -2
regs[4:8] = [0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF]  # int64 max, exact
regs[8:10] = [0x7FC0, 0]                      # NaN
regs[10:13] = [0x5055, 0x4D50, 0x3100]        # PUMP1
regs[13] = 0b1000
regs[20] = 100                                # set-point, scale 0.1 -> 10.0
async def main():
    bits = [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)]
    holding = [SimData(0, values=regs, datatype=DataType.UINT16)]
    await ModbusTcpServer(SimDevice(1, (bits, bits, holding, holding)), address=("127.0.0.1", int(sys.argv[1]))).serve_forever()
asyncio.run(main())
"""
TAGS = """
[[device.tag]]
name = "voltage"
address = "holding:0"
type = "float32"
order = "CDAB"
[[device.tag]]
name = "temperature"
address = "holding:2"
type = "int16"
[[device.tag]]
name = "energy"
address = "holding:4"
type = "int64"
[[device.tag]]
name = "nothing"
address = "holding:8"
type = "float32"
[[device.tag]]
name = "label"
address = "holding:10"
type = "string(6)"
[[device.tag]]
name = "flag"
address = "holding:13.3"
[[device.tag]]
name = "run"
address = "coil:0"
access = "read-write"
[[device.tag]]
name = "beyond"
address = "holding:500"
type = "uint16"
[[device.tag]]
name = "setpoint"
address = "holding:20"
type = "uint16"
scale = 0.1
access = "read-write"
write = { min = 0.0, max = 50.0 }
"""


def main():
    binary = sys.argv[1]
    if not shutil.which("mosquitto_sub"):
        print("SKIPPED local.py: mosquitto_sub is not installed")
        return 0
    work = tempfile.mkdtemp(prefix="local-")
    plc_port, port = free_port(), free_port()
    with open(f"{work}/g.toml", "w") as f:
        f.write(f"""
[gateway]
name = "here"
topic = "p/{{device}}/{{tag}}"
data_dir = "{work}/data"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read-write"
[[broker.acl]]
user = "anonymous"
write = ["p/plc/+/set"]
[[bus]]
name = "net"
type = "modbus-tcp"
endpoint = "127.0.0.1:{plc_port}"
response_timeout = "2s"
[[device]]
name = "plc"
bus = "net"
unit_id = 1
poll = "200ms"
""" + TAGS)
    start_plc = lambda: subprocess.Popen([sys.executable, "-c", PLC, str(plc_port)])
    plc = start_plc()
    wait_port(plc_port)
    log = open(f"{work}/log", "w")
    gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=log)
    wait_port(port)
    time.sleep(2)
    try:
        for version in ("311", "5"):
            print(f"values, mosquitto_sub -V {version}")
            values = {t: json.loads(p) for t, p in sub(port, "p/#", 9, version).items()}
            value = lambda tag: values.get(f"p/plc/{tag}", {}).get("value")
            state = lambda tag: (values.get(f"p/plc/{tag}", {}).get("quality"), values.get(f"p/plc/{tag}", {}).get("cause"))
            check("float32 with swapped words", value("voltage"), 230.5)
            check("int16", value("temperature"), -2)
            check("int64 exact", value("energy"), 2**63 - 1)
            check("NaN is null, bad, nan", (value("nothing"), *state("nothing")), (None, "bad", "nan"))
            check("string", value("label"), "PUMP1")
            check("bit of a register", value("flag"), True)
            check("coil", value("run"), True)
            check("scaled", value("setpoint"), 10.0)
            check("one illegal address does not spoil its block", (value("beyond"), *state("beyond")), (None, "bad", "exception"))
            check("a good value says so", state("voltage"), ("good", None))
        status = sub(port, "ironbridge/here/status", 1)
        check("gateway status", json.loads(status.get("ironbridge/here/status", "{}")).get("state"), "online")
        device = sub(port, "ironbridge/here/device/plc", 1)
        check("device status", json.loads(device.get("ironbridge/here/device/plc", "{}")).get("state"), "answering")
        check("$SYS", sub(port, "$SYS/broker/clients/connected", 1), lambda d: len(d) == 1)

        for version, label in ((mqtt.MQTTv311, "3.1.1"), (mqtt.MQTTv5, "5")):
            print(f"commands, paho {label}")
            c = Client(port, version)
            check("granted QoS", str(c.subscribe("p/plc/+/set/result")), lambda s: "1" in s)
            done = command(c, "p/plc/setpoint/set", '{"value":42.5,"id":"a%s"}' % label)
            check("done and read back", done, {"id": f"a{label}", "outcome": "done", "read_back": 42.5})
            with_plc = ModbusTcpClient("127.0.0.1", port=plc_port)
            with_plc.connect()
            check("the PLC has it", with_plc.read_holding_registers(20, count=1, device_id=1).registers, [425])
            with_plc.write_register(20, 7, device_id=1)
            again = command(c, "p/plc/setpoint/set", '{"value":42.5,"id":"a%s"}' % label)
            check("the same id gets the old answer", again, {"id": f"a{label}", "outcome": "done", "read_back": 42.5})
            check("and is not written twice", with_plc.read_holding_registers(20, count=1, device_id=1).registers, [7])
            with_plc.close()
            refused = lambda reason: lambda r: r and r["outcome"] == "refused" and r["reason"] == reason
            check("beyond the limits", command(c, "p/plc/setpoint/set", "50.1"), refused("range"))
            check("read-only tag", command(c, "p/plc/voltage/set", "1"), refused("access"))
            check("nonsense", command(c, "p/plc/setpoint/set", "full speed"), refused("payload"))
            check("retained", command(c, "p/plc/setpoint/set", "1", retain=True), refused("retained"))
            check("expired", command(c, "p/plc/setpoint/set", '{"value":1,"expires":"2026-01-01T00:00:00Z"}'), refused("expired"))
            off = command(c, "p/plc/run/set", "false")
            check("coil", off, lambda r: r and r["outcome"] == "done" and r["read_back"] is False)
            command(c, "p/plc/run/set", "true")
            c.close()
        check("a refused retained command is not kept", sub(port, "p/plc/setpoint/set", 1, seconds=1), {})

        print("what clients may and may not do, paho 5")
        c = Client(port, mqtt.MQTTv5, "r")
        c.subscribe("answers/é")
        p = Properties(PacketTypes.PUBLISH)
        p.ResponseTopic, p.CorrelationData = "answers/é", b"\x01\x02"
        c.client.publish("p/plc/setpoint/set", "12.5", qos=1, properties=p)
        answer = c.get()
        check("response topic and correlation data", answer and (json.loads(answer.payload)["outcome"], answer.properties.CorrelationData), ("done", b"\x01\x02"))
        c.subscribe("p/plc/voltage")
        first = c.get()
        c.client.publish("p/plc/voltage", '{"value":0}', qos=1, retain=True)
        time.sleep(0.5)
        check("nobody overwrites a tag", json.loads(sub(port, "p/plc/voltage", 1)["p/plc/voltage"])["value"], 230.5)
        c.client.publish("machines/é/x", "kept", qos=1, retain=True).wait_for_publish(5)
        c.close()
        check("a client's retained message", sub(port, "machines/#", 1), {"machines/é/x": "kept"})

        print("faults")
        plc.kill()
        plc.wait()
        time.sleep(3)
        gone = {t: json.loads(p) for t, p in sub(port, "p/#", 9).items()}
        check("PLC gone: every tag bad, null", [m for m in gone.values() if m["quality"] != "bad" or m["value"] is not None], [])
        plc = start_plc()
        until, back = time.time() + 60, None
        while time.time() < until and back != 230.5:
            time.sleep(0.5)
            back = json.loads(sub(port, "p/plc/voltage", 1)["p/plc/voltage"])["value"]
        check("PLC back: values back without a restart", back, 230.5)
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
        gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=log)
        wait_port(port)
        check("a client's retained message survives kill -9", sub(port, "machines/#", 1), {"machines/é/x": "kept"})
        rss = int(next(l for l in open(f"/proc/{gateway.pid}/status") if l.startswith("VmRSS")).split()[1])
        check(f"resident memory {rss} kB", rss, lambda r: r <= 25_000)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
    finally:
        plc.kill()
        gateway.kill()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
