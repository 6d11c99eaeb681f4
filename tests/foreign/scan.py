#!/usr/bin/env python3
"""`ironbridge scan` against pymodbus: a line with several units, who they say they are, a gateway, and peers that do harm.

usage: scan.py IRONBRIDGE        (needs socat; pip: pymodbus pyserial)
"""
import json, os, signal, socket, subprocess, sys, tempfile, threading, time

from bench import check, failures, free_port

SERVER = """
import asyncio, sys
from pymodbus import FramerType, ModbusDeviceIdentification
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
from pymodbus.simulator import simcore
from pymodbus.exceptions import NoSuchIdException
kind, place, units = sys.argv[1], sys.argv[2], [int(unit) for unit in sys.argv[3].split(",")]
identity = ModbusDeviceIdentification(info_name={"VendorName": "ACME", "ProductCode": "P", "MajorMinorRevision": "2.11", "ProductName": "Meter"})
def find(core, unit):
    if unit not in core.devices and 0 not in core.devices:
        raise NoSuchIdException("nobody")
    return core.devices.get(unit) or core.devices[0]
if kind != "refusing":  # left alone, pymodbus 3.16 answers for unknown ids with exception 4
    simcore.SimCore._SimCore__get_device = find
def device(unit):
    bits = [SimData(0, values=[True] * 8, datatype=DataType.BITS)]
    words = [SimData(0, values=[unit] * 8, datatype=DataType.UINT16)]
    return SimDevice(unit, (bits, bits, words, words))
async def main():
    def trace(sending, pdu):
        if not sending:
            print(pdu.function_code, flush=True)
        return pdu
    devices = [device(unit) for unit in units]
    if kind == "serial":
        server = ModbusSerialServer(devices, framer=FramerType.RTU, identity=identity, port=place, baudrate=19200, trace_pdu=trace, ignore_missing_devices=True)
    else:
        framer = FramerType.RTU if kind == "rtu-over-tcp" else FramerType.SOCKET
        server = ModbusTcpServer(devices, framer=framer, identity=identity, address=("127.0.0.1", int(place)), trace_pdu=trace, ignore_missing_devices=kind == "rtu-over-tcp")
    await server.serve_forever()
asyncio.run(main())
"""
READS = {"1", "2", "3", "4", "17", "43"}
running = []


def start(*command, **options):
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, **options)
    running.append(process)
    return process


def until(wanted, seconds=20):
    deadline = time.time() + seconds
    while not wanted():
        if time.time() > deadline:
            sys.exit("nothing came up")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def serve(kind, place, units, log):
    return start(sys.executable, "-c", SERVER, kind, str(place), units, stdout=open(log, "w"))


def functions(log):
    with open(log) as f:
        return set(f.read().split())


def scan(binary, *words):
    done = subprocess.run([binary, "scan", *words, "--json"], capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def who(found):
    return {device["unit_id"]: (device["vendor"], device["product"], device["revision"]) for device in found.get("devices", [])}


def meters(*units):
    return {unit: ("ACME", "Meter", "2.11") for unit in units}


def line(binary, work):
    near, far = f"{work}/near", f"{work}/far"
    start("socat", f"pty,raw,echo=0,link={near}", f"pty,raw,echo=0,link={far}")
    until(lambda: os.path.exists(near) and os.path.exists(far))
    serve("serial", far, "2,5,31", f"{work}/line.log")
    # The server has the port when the first question is answered.
    until(lambda: scan(binary, "serial", near, "--serial", "19200-8E1", "--units", "2", "--timeout", "100ms")[0] == 0)
    code, found, said = scan(binary, "serial", near, "--serial", "19200-8E1", "--units", "1-40", "--timeout", "50ms")
    check("a line with three units", (code, who(found)), (0, meters(2, 5, 31)))
    check("an estimate before it begins", said, lambda text: "40 units at 19200-8E1: at worst" in text)
    config = f"{work}/pasted.toml"
    with open(config, "w") as f:
        f.write('[gateway]\nname = "g"\n' + found.get("config", "nothing = 1"))
    checked = subprocess.run([binary, "check", "--config", config], capture_output=True, text=True)
    check("the lines to paste are a configuration", checked.returncode, 0)
    check("nothing but reads", functions(f"{work}/line.log"), lambda seen: seen and seen <= READS)
    # Somebody who never stops: bytes that are no frame, all the time.
    stop = threading.Event()
    def babble():
        with open(far, "wb", buffering=0) as port:
            while not stop.wait(0.03):
                port.write(b"\x00\xff\x55")
    babbler = threading.Thread(target=babble)
    babbler.start()
    code, found, _ = scan(binary, "serial", near, "--serial", "19200-8E1", "--units", "1-6", "--timeout", "100ms")
    stop.set()
    babbler.join()
    check("a line with somebody who babbles: only real devices", (code, set(who(found))), lambda got: got[1] <= {2, 5})
    check("... and it is told", " ".join(found.get("notes", [])), lambda text: "unasked" in text)


def network(binary, work):
    ports = {kind: free_port() for kind in ("tcp", "every", "refusing", "rtu-over-tcp")}
    serve("tcp", ports["tcp"], "1,9,200", f"{work}/tcp.log")
    serve("refusing", ports["refusing"], "1,9", f"{work}/refusing.log")
    serve("every", ports["every"], "0", f"{work}/every.log")
    serve("rtu-over-tcp", ports["rtu-over-tcp"], "3,7", f"{work}/rtu.log")
    until(lambda: all(listens(port) for port in ports.values()))
    code, found, _ = scan(binary, "tcp", f"127.0.0.1:{ports['tcp']}")
    check("a gateway with three units", (code, who(found)), (0, meters(1, 9, 200)))
    check("... that says who is not there", [len(heard["absent"]) for heard in found["heard"]], [253])
    code, found, _ = scan(binary, "tcp", f"127.0.0.1:{ports['refusing']}")
    check("a gateway that refuses in its own way", (code, who(found)), (0, meters(1, 9)))
    code, found, _ = scan(binary, "tcp", f"127.0.0.1:{ports['every']}")
    check("a device that answers for every id is one", (code, [d["unit_id"] for d in found["devices"]], found["alike"] is not None), (0, [1], True))
    code, found, _ = scan(binary, "tcp", f"127.0.0.1:{ports['rtu-over-tcp']}", "--rtu-over-tcp", "--units", "1-8", "--timeout", "100ms")
    check("a serial server in transparent mode", (code, who(found)), (0, meters(3, 7)))
    for kind, log in (("tcp", "tcp"), ("every", "every"), ("rtu-over-tcp", "rtu")):
        check(f"nothing but reads on {kind}", functions(f"{work}/{log}.log"), lambda seen: seen and seen <= READS)


def harm(binary):
    code, _, said = scan(binary, "tcp", f"127.0.0.1:{free_port()}")
    check("nobody listens", (code, "nobody listens" in said), (75, True))
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(16)
        stop = threading.Event()
        def slam():
            door.settimeout(0.2)
            while not stop.is_set():
                try:
                    peer = door.accept()[0]
                    peer.recv(64)
                    peer.close()
                except OSError:
                    pass
        slammer = threading.Thread(target=slam)
        slammer.start()
        code, found, _ = scan(binary, "tcp", "127.0.0.1:%d" % door.getsockname()[1])
        stop.set()
        slammer.join()
        check("a server that closes at each question", (code, found["complete"], found["asked"]), (1, False, 5))


def main():
    binary = os.path.realpath(sys.argv[1])
    try:
        with tempfile.TemporaryDirectory() as work:
            line(binary, work)
            network(binary, work)
            harm(binary)
    finally:
        for process in running:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    print("scan: " + ("all right" if not failures else f"{len(failures)} failed: {', '.join(failures)}"))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
