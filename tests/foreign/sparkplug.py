#!/usr/bin/env python3
"""The gateway as an edge node of Sparkplug B, before libraries that are not ours: pysparkplug as the host; Tahu's Python class,
npm sparkplug-payload and pysparkplug as three opinions of every payload; mosquitto, and Ironbridge's own broker, as the server.

usage: sparkplug.py IRONBRIDGE [--types]      (needs mosquitto; node and npm; pip: pymodbus paho-mqtt protobuf grpcio-tools)
Installs pysparkplug and tahu into folders of their own. --types: only the table that the choice of data types rests on.
"""
import json, math, os, shutil, signal, struct, subprocess, sys, tempfile, threading, time, zlib

import paho.mqtt.client as mqtt

from bench import check, failures, free_port, wait_port

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.abspath(os.path.join(HERE, "../../target/foreign"))
PATIENCE = 60
PLC = """
import asyncio, sys
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
regs = [0] * 60
regs[0] = 0xFFFF                                # int16 -1
regs[1] = 0x8000                                # int16 -32768
regs[2:4] = [0xFFFF, 0xFFFF]                    # uint32, largest
regs[4:6] = [0x8000, 0]                         # int32, smallest
regs[8:12] = [0x8000, 0, 0, 0]                  # int64, smallest
regs[12:16] = [0xFFFF] * 4                      # uint64, largest
regs[16:18] = [0x0000, 0x0001]                  # float32, smallest above 0
regs[18:22] = [0x7FEF, 0xFFFF, 0xFFFF, 0xFFFF]  # float64, largest
regs[22:24] = [0x4142, 0x4300]                  # text ABC
regs[24] = 0xFFFF                               # uint16, largest
regs[25] = 123                                  # times 0.1
regs[26:28] = [0x6B00, 0]                       # a time
regs[28] = 8                                    # bit 3
async def main():
    bits = [SimData(0, values=[False] * 8, datatype=DataType.BITS)]
    holding = [SimData(0, values=regs, datatype=DataType.UINT16)]
    await ModbusTcpServer(SimDevice(1, (bits, bits, holding, holding)), address=("127.0.0.1", int(sys.argv[1]))).serve_forever()
asyncio.run(main())
"""
# name, address, type, further keys, Sparkplug type, value in birth and data
TAGS = [
    ("minus", 0, "int16", "", "INT32", -1), ("least16", 1, "int16", "", "INT32", -32768),
    ("most32", 2, "uint32", "", "INT64", 4294967295), ("least32", 4, "int32", "", "INT32", -(1 << 31)),
    ("least64", 8, "int64", "", "INT64", -(1 << 63)), ("most64", 12, "uint64", "", "UINT64", (1 << 64) - 1),
    ("tiny", 16, "float32", "", "FLOAT", struct.unpack(">f", b"\0\0\0\1")[0]),
    ("huge", 18, "float64", "", "DOUBLE", struct.unpack(">d", b"\x7f\xef" + b"\xff" * 6)[0]),
    ("text", 22, "string(4)", "", "STRING", "ABC"), ("most16", 24, "uint16", "", "INT32", 65535),
    ("tenths", 25, "int16", "scale = 0.1", "FLOAT", struct.unpack(">f", struct.pack(">f", 12.3))[0]),
    ("bit", "28.3", "bool", "", "BOOLEAN", True),
    ("setpoint", 30, "int16", 'access = "read-write"\nwrite = { min = -100.0, max = 100.0 }', "INT32", 0),
    ("real", 32, "float32", 'access = "read-write"', "FLOAT", 0.0),
    ("beyond", 500, "uint16", "", "INT32", None),
]


def environment(name, *packages):
    """A Python with these packages in it; they do not bear each other's protobuf."""
    home = f"{TARGET}/sparkplug-{name}"
    python = f"{home}/bin/python"
    if subprocess.run([python, "-c", "pass"], capture_output=True).returncode if os.path.exists(python) else True:
        subprocess.run([sys.executable, "-m", "venv", home], check=True, capture_output=True)
    for package in packages:
        done = subprocess.run([f"{home}/bin/pip", "install", "-q", "--no-deps" if package.startswith("tahu") else "-q", package], capture_output=True)
        if done.returncode:
            return print(f"SKIPPED {name}: pip cannot install {package}")
    return python


def opinions():
    """How each of them is started."""
    found = {}
    if python := environment("pysparkplug", "pysparkplug==0.6.1"):
        found["pysparkplug"] = ([python, f"{HERE}/sparkplug_decode.py", "pysparkplug"], None)
    if python := environment("tahu", "tahu==0.1.2", "protobuf==3.20.3"):
        found["tahu"] = ([python, f"{HERE}/sparkplug_decode.py", "tahu"], None)
    if shutil.which("node") and shutil.which("npm"):
        done = os.path.isdir(f"{TARGET}/node_modules/sparkplug-payload") or not subprocess.run(
            ["npm", "install", "--prefix", TARGET, "--no-fund", "--no-audit", "sparkplug-payload@1.0.3"], capture_output=True).returncode
        if done:
            found["npm"] = (["node", f"{HERE}/sparkplug_decode.js"], {**os.environ, "NODE_PATH": f"{TARGET}/node_modules"})
    if "npm" not in found:
        print("SKIPPED npm: node or npm is not installed, or cannot install sparkplug-payload")
    return found


def ask(opinion, cases):
    command, env = opinion
    lines = "".join(json.dumps({"birth": birth.hex(), "data": data.hex()}) + "\n" for birth, data in cases)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, env=env, timeout=PATIENCE)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if len(said) != len(cases):
        raise SystemExit(f"FAIL {command}: {done.stderr[-2000:]}")
    return said


def schema():
    """Our published schema, compiled by protoc: the text itself is under test here."""
    home = tempfile.mkdtemp(prefix="sparkplug-schema-")
    from grpc_tools import protoc
    assert protoc.main(["protoc", f"-I{HERE}/../../config", f"--python_out={home}", "ironbridge-sparkplug.proto"]) == 0
    sys.path.insert(0, home)
    return __import__("ironbridge_sparkplug_pb2")


def types(pb, found):
    """What each library makes of each way to say a value; the head of src/payload/sparkplug/kind.rs has it as a table."""
    smallest = -(1 << 63)
    ways = [  # type, field, bits, meant, read right by
        (2, "int_value", 0xFFFF, -1, {"pysparkplug"}), (2, "int_value", 0xFFFFFFFF, -1, {"tahu", "npm"}),
        (1, "int_value", 0xFF, -1, {"pysparkplug"}), (7, "int_value", (1 << 32) - 1, (1 << 32) - 1, {"pysparkplug", "tahu"}),
        (3, "int_value", 0xFFFFFFFF, -1, None), (3, "int_value", 1 << 31, -(1 << 31), None), (4, "long_value", 1 << 63, smallest, None),
        (4, "long_value", (1 << 32) - 1, (1 << 32) - 1, None), (8, "long_value", (1 << 64) - 1, (1 << 64) - 1, None),
        (9, "float_value", 0.5, 0.5, None), (10, "double_value", 12.3, 12.3, None), (11, "boolean_value", True, True, None),
        (12, "string_value", 'Größe "1"\n', 'Größe "1"\n', None), (3, None, None, None, None),
    ]
    for typed in (True, False):
        cases = []
        for kind, field, bits, _, _ in ways:
            birth, data = pb.Payload(timestamp=5, seq=0), pb.Payload(timestamp=6, seq=1)
            birth.metrics.add(name="x", alias=7, timestamp=5, datatype=kind, is_null=True)
            metric = data.metrics.add(alias=7, timestamp=1795204800123, is_historical=True)
            if typed:
                metric.datatype = kind
            if field:
                setattr(metric, field, bits)
            else:
                metric.is_null = True
            cases.append((birth.SerializeToString(), data.SerializeToString()))
        for name, opinion in found.items():
            for way, said in zip(ways, ask(opinion, cases)):
                kind, field, _, meant, right = way
                told = said.get("x")
                read = told is not None and json.loads(told[0]) == meant and told[1:] == [meant is None, True, 1795204800123]
                wanted = (right is None or name in right) and (typed or name != "npm" or meant is None)
                check(f"{name}: type {kind} {field} {meant!r} {'with' if typed else 'without'} its type: {'right' if wanted else 'not right'}", read, wanted)


class Tap:
    """Every message of Sparkplug on a broker, as it is."""

    def __init__(self, port):
        self.heard, self.ready = [], threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"tap-{os.urandom(3).hex()}")
        self.client.on_connect = lambda client, *_: client.subscribe("spBv1.0/#")
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = lambda _c, _u, message: self.heard.append((message.topic, message.payload))
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE)


class Host:
    """pysparkplug, in a Python of its own."""

    def __init__(self, python, port):
        self.said, self.ready = [], threading.Event()
        self.process = subprocess.Popen([python, f"{HERE}/sparkplug_host.py", str(port), "acme", "gw"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()
        assert self.ready.wait(PATIENCE)

    def listen(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if said["kind"] == "READY":
                self.ready.set()
            else:
                self.said.append(said)

    def write(self, device, name, kind, value):
        self.process.stdin.write(json.dumps({"device": device, "name": name, "type": kind, "value": value}) + "\n")
        self.process.stdin.flush()

    def of(self, kind):
        return [said for said in list(self.said) if said["kind"] == kind]

    def values(self, name):
        return {(time, value) for said in list(self.said) for known, value, time, *_ in said.get("list", []) if known == name}


def until(what, holds, seconds=PATIENCE):
    end = time.time() + seconds
    while not (found := holds()):
        if time.time() > end:
            check(what, "nothing", "something")
            return None
        time.sleep(0.02)
    return found


def counted(host):
    """The faults in the order of a host's messages: seq over everything, bdSeq equal until a death."""
    wanted, faults = None, []
    for said in list(host.said):
        if "error" in said:
            faults.append(said)
        elif said["kind"] == "NBIRTH":
            wanted = 0
        if said["kind"] == "NDEATH":
            wanted = None
        elif wanted is not None:
            if said["seq"] != wanted:
                faults.append((said["kind"], said["seq"], wanted))
            wanted = (wanted + 1) % 256
    return faults


def config(home, plc, server, more):
    text = f"""
[gateway]
name = "gw"
data_dir = "data"
[store]
commit_interval = "100ms"
[[broker.listener]]
listen = "127.0.0.1:{free_port()}"
anonymous = "read-write"
[[bus]]
name = "line"
type = "modbus-tcp"
endpoint = "127.0.0.1:{plc}"
[[device]]
name = "plc"
bus = "line"
unit_id = 1
poll = "200ms"
"""
    for name, address, kind, keys, _, _ in TAGS:
        text += f'[[device.tag]]\nname = "{name}"\naddress = "holding:{address}"\ntype = "{kind}"\n{keys}\n'
    text += f'[[uplink]]\nname = "scada"\nurl = "mqtt://127.0.0.1:{server}"\nformat = "sparkplug"\ngroup_id = "acme"\nstart = "oldest"\ncommands = true\n{more}\n'
    open(f"{home}/ironbridge.toml", "w").write(text)


def gateway(binary, home):
    return subprocess.Popen([binary, "run", "--config", "ironbridge.toml"], cwd=home, stderr=open(f"{home}/log", "a"))


def same(got, wanted):
    return got == wanted or isinstance(wanted, float) and isinstance(got, (int, float)) and math.isclose(got, wanted, rel_tol=0)


def live(binary, found, pb, server, name, more, packed):
    """One server: births and data by all opinions, writes and rebirths by pysparkplug."""
    print(f" {name}")
    home, plc = tempfile.mkdtemp(prefix="sparkplug-"), free_port()
    port, server_process, restart = server()
    device = subprocess.Popen([sys.executable, "-c", PLC, str(plc)])
    wait_port(plc)
    tap, host = Tap(port), Host(found["pysparkplug"][0][0], port) if not packed else None
    config(home, plc, port, more)
    process = gateway(binary, home)
    try:
        topics = lambda kind: [payload for topic, payload in list(tap.heard) if topic.split("/")[2] == kind]
        if not until(f"{name}: births and data", lambda: len(topics("DDATA")) > 3 and topics("DBIRTH")):
            return print(open(f"{home}/log").read()[-3000:])
        opinion(name, found, pb, topics, more)
        if host:
            drive(name, host)
            server_process = outage(name, host, tap, (server_process, process), restart)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(30)
        time.sleep(0.5)
        deaths = [payload for topic, payload in tap.heard if topic.split("/")[2] == "NDEATH"]
        check(f"{name}: ends with a death", (ended, bool(deaths)), (0, True))
        tap.client.loop_stop()
        if host:
            host.process.kill()
        for process in (device, server_process):
            process.terminate()
            process.wait(10)
        shutil.rmtree(home)


def opinion(name, found, pb, topics, more):
    def plain(payload):
        outer = pb.Payload.FromString(payload)
        return zlib.decompress(outer.body, 31) if outer.uuid == "SPBV1.0_COMPRESSED" else payload
    squeezed = sum(pb.Payload.FromString(payload).uuid != "" for payload in topics("DBIRTH") + topics("DDATA"))
    check(f"{name}: compressed only where it was asked for", squeezed > 0, "gzip" in more)
    birth = plain(topics("DBIRTH")[-1])
    read = pb.Payload.FromString(birth)
    kinds = {metric.name: metric.datatype for metric in read.metrics}
    codes = {"INT32": 3, "INT64": 4, "UINT64": 8, "FLOAT": 9, "DOUBLE": 10, "BOOLEAN": 11, "STRING": 12}
    for tag, _, _, _, kind, _ in TAGS:
        check(f"{name}: type of {tag}", kinds.get(tag), codes[kind])
    data = [plain(payload) for payload in topics("DDATA")]
    for who, way in found.items():
        if who == "npm" and "always" not in more:
            continue  # it does not remember the types of births
        values = {}
        for said in ask(way, [(birth, payload) for payload in data]):
            check(f"{who} reads data of {name}", said.get("error"), None) if "error" in said else values.update(said)
        for tag, _, _, _, _, wanted in TAGS:
            got = values.get(tag)
            if wanted is None:
                check(f"{name}: {who} reads {tag}", got is None or got[1], True)
            else:
                check(f"{name}: {who} reads {tag}", got and json.loads(got[0]), lambda got, wanted=wanted: same(got, wanted))


def drive(name, host):
    births = len(host.of("NBIRTH"))
    host.write(None, "Node Control/Rebirth", "BOOLEAN", True)
    if until(f"{name}: a rebirth", lambda: len(host.of("NBIRTH")) > births):
        bd_seqs = [birth["bdSeq"] for birth in host.of("NBIRTH")]
        check(f"{name}: a rebirth has the bdSeq of its session", len(set(bd_seqs[-2:])), 1)
    for tag, kind, value in [("setpoint", "INT32", -77), ("setpoint", "INT16", 55), ("real", "FLOAT", 2.5), ("real", "DOUBLE", -0.125)]:
        host.write("plc", tag, kind, value)
        until(f"{name}: {tag} = {value} as {kind} comes back", lambda: any(got == value for _, got in host.values(tag)))
    host.write("plc", "setpoint", "INT32", 101)
    host.write("plc", "minus", "INT32", 5)
    host.write("plc", "setpoint", "STRING", "5")
    time.sleep(1)
    check(f"{name}: out of range, read-only and the wrong type are not written",
          [any(got == wrong for _, got in host.values(tag)) for tag, wrong in (("setpoint", 101), ("minus", 5), ("setpoint", 5))], [False] * 3)
    check(f"{name}: pysparkplug reads everything, in one count", counted(host), [])


def outage(name, host, tap, processes, restart):
    """The server is killed and comes back: pysparkplug's host has a new birth, and values of the time between.

    A server that keeps its retained messages still says that the host is online; so the edge node stands still until the host
    is back, which would miss what comes before, and does not ask for a rebirth."""
    process, edge = processes
    births, before = len(host.of("NBIRTH")), time.time()
    process.kill()
    process.wait()
    time.sleep(3)
    edge.send_signal(signal.SIGSTOP)
    tap.ready.clear()
    host.ready.clear()
    process = restart()
    check(f"{name}: host and tap are back", tap.ready.wait(PATIENCE) and host.ready.wait(PATIENCE), True)
    edge.send_signal(signal.SIGCONT)
    after = time.time()
    if until(f"{name}: births after the server died", lambda: len(host.of("NBIRTH")) > births):
        # mosquitto has forgotten that the host was there; our own broker has not, and the gateway may have been back before it
        between = lambda: {at for at, _ in host.values("minus") if before * 1000 < at < after * 1000}
        enough = until(f"{name}: values of the time between", lambda: len(between()) >= 10)
        check(f"{name}: historical", enough and any(old for said in host.said for _, _, at, old, _ in said.get("list", []) if before * 1000 < at < after * 1000), True)
        sessions = [birth["bdSeq"] for birth in host.of("NBIRTH")]
        check(f"{name}: the next bdSeq", (sessions[-1] - sessions[births - 1]) % 256 >= 1, True)
        check(f"{name}: births are not stormed", len(host.of("NBIRTH")) - births <= 2, True)
    return process


def mosquitto():
    port, home = free_port(), tempfile.mkdtemp(prefix="sparkplug-mosquitto-")
    open(f"{home}/conf", "w").write(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n")

    def start():
        process = subprocess.Popen(["mosquitto", "-c", f"{home}/conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_port(port)
        return process
    return port, start(), start


def own_broker(binary):
    def server():
        port, home = free_port(), tempfile.mkdtemp(prefix="sparkplug-broker-")
        open(f"{home}/ironbridge.toml", "w").write(
            f'[gateway]\nname = "server"\ndata_dir = "data"\n[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read-write"\n')

        def start():
            process = gateway(binary, home)
            wait_port(port)
            return process
        return port, start(), start
    return server


def main():
    binary = os.path.abspath(sys.argv[1])
    found = opinions()
    pb = schema()
    types(pb, found)
    if "--types" not in sys.argv:
        if "pysparkplug" not in found or not shutil.which("mosquitto"):
            print("SKIPPED the edge node: pysparkplug or mosquitto is not there")
        else:
            primary = 'primary_host = "scada"\nhost_timeout = "30s"'
            live(binary, found, pb, mosquitto, "mosquitto", primary + '\ndatatypes = "always"', False)
            live(binary, found, pb, mosquitto, "mosquitto, by births", primary, False)
            live(binary, found, pb, mosquitto, "mosquitto, gzip", 'compress = "gzip"', True)
            live(binary, found, pb, own_broker(binary), "ironbridge as the server", primary, False)
    print("failed: " + ", ".join(failures) if failures else "all right")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
