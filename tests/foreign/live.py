#!/usr/bin/env python3
"""`check --live` against pymodbus: a wrong word order, a map that is one off, a wrong table, a dead unit, each named; a sound
device is left in peace; a port that the gateway holds is told. Takes about 12 s.

usage: live.py IRONBRIDGE        (needs socat; pip: pymodbus pyserial)
"""
import json, os, shutil, signal, struct, subprocess, sys, tempfile, time

from bench import check, failures, free_port

SERVER = """
import asyncio, json, sys
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
units = json.loads(sys.argv[3])
def device(unit, start, words):
    bits = [SimData(0, values=[True] * 16, datatype=DataType.BITS)]
    holding = [SimData(start, values=words, datatype=DataType.REGISTERS)]
    empty = [SimData(60000, values=[0] * 4, datatype=DataType.REGISTERS)]
    return SimDevice(int(unit), (bits, bits, holding, empty))
async def main():
    devices = [device(unit, start, words) for unit, (start, words) in units.items()]
    if sys.argv[1] == "serial":
        server = ModbusSerialServer(devices, framer=FramerType.RTU, port=sys.argv[2], baudrate=19200,
                                    trace_packet=lambda sending, data: b"" if sending and data[:1] == b"\\x07" else data)  # 7 is dead
    else:
        server = ModbusTcpServer(devices, address=("127.0.0.1", int(sys.argv[2])))
    await server.serve_forever()
asyncio.run(main())
"""
# As a meter has them: all digits in use. Phases, then power, a counter of 32 bits, frequency in hundredths.
VALUES = [("voltage_l1", "float32", "V", 231.417), ("voltage_l2", "float32", "V", 230.884), ("voltage_l3", "float32", "V", 229.631),
          ("current", "float32", "A", 12.3457), ("power", "float32", "W", 2871.93), ("energy", "uint32", "kWh", 1_234_567),
          ("frequency", "uint16", "Hz", 4998)]


running = []


def start(*command):
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    running.append(process)
    return process


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        process.wait()


def words(order):
    """The registers of a device, packed here and not by the product."""
    registers = []
    for _, kind, _, value in VALUES:
        data = struct.pack({"float32": ">f", "uint32": ">I", "uint16": ">H"}[kind], value)
        pair = struct.unpack(f">{len(data) // 2}H", data)
        registers += pair[::-1] if order == "CDAB" else pair
    return registers


def tags(start, order="ABCD", table="holding"):
    text, at = "", start
    for name, kind, unit, _ in VALUES:
        scale = "scale = 0.01\n" if kind == "uint16" else ""
        text += (f'[[device.tag]]\nname = "{name}"\naddress = "{table}:{at}"\ntype = "{kind}"\norder = "{order}"\n'
                 f'unit = "{unit}"\n{scale}')
        at += 1 if kind == "uint16" else 2
    return text


def device(name, bus, unit, *more, **how):
    return f'[[device]]\nname = "{name}"\nbus = "{bus}"\nunit_id = {unit}\n' + tags(*more, **how)


def live(binary, config, *more):
    done = subprocess.run([binary, "check", "--live", "--config", config, *more], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def said(report, name):
    return next(device for bus in report["buses"] for device in bus["devices"] if device["name"] == name)


def wait(ready, seconds=10):
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.05)


def main(binary):
    work, port = tempfile.mkdtemp(), free_port()
    near, far = f"{work}/near", f"{work}/far"
    try:
        start("socat", f"pty,raw,echo=0,link={near}", f"pty,raw,echo=0,link={far}")
        wait(lambda: os.path.exists(near) and os.path.exists(far))
        padded = [0] * 99 + words("ABCD") + [0] * 20  # from 1 on: a device that answers beside its map too
        units = {1: (100, words("ABCD")), 2: (100, words("CDAB")), 3: (1, padded), 4: (100, words("ABCD"))}
        start(sys.executable, "-c", SERVER, "tcp", str(port), json.dumps(units))
        start(sys.executable, "-c", SERVER, "serial", far, json.dumps({1: (100, words("ABCD")), 2: (100, words("CDAB"))}))
        time.sleep(2)
        bus = (f'[gateway]\nname = "g"\ndata_dir = "{work}/data"\n[[broker.listener]]\nlisten = "127.0.0.1:{free_port()}"\n'
               f'[[bus]]\nname = "net"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{port}"\nresponse_timeout = "500ms"\n'
               f'[[bus]]\nname = "line"\ntype = "modbus-rtu"\nport = "{near}"\nserial = "19200-8N1"\nresponse_timeout = "500ms"\n')
        config = f"{work}/plant.toml"
        with open(config, "w") as f:
            f.write(bus + device("sound", "net", 1, 100) + device("turned", "net", 2, 100) + device("high", "net", 3, 101)
                    + device("low", "net", 3, 99) + device("strict", "net", 1, 101) + device("table", "net", 4, 100, table="input")
                    + device("meter", "line", 1, 100) + device("swapped", "line", 2, 100) + device("dead", "line", 7, 100))
        code, text = live(binary, config, "--json")
        report = json.loads(text.splitlines()[0])
        check("exit code 1", code, 1)
        for name in ("sound", "meter"):
            sound = said(report, name)
            check(f"{name}: every value good", [tag["verdict"] for tag in sound["tags"]], ["good"] * len(VALUES))
            check(f"{name}: no accusation", (sound["finding"], sound["notes"]), (None, []))
        for name in ("turned", "swapped"):
            turned = said(report, name)
            check(f"{name}: word order named", turned["finding"] and turned["finding"]["text"], lambda text: 'order = "CDAB"' in (text or ""))
            check(f"{name}: likely, addresses left alone", turned["finding"] and (turned["finding"]["confidence"], turned["finding"]["address_shift"]), ("likely", 0))
            first = turned["tags"][0]
            check(f"{name}: 231.417 V proposed", first["proposal"] and (first["proposal"]["value"], round(first["proposal"]["reads"], 3)), ("CDAB", 231.417))
        for name, shift in (("high", -1), ("low", 1), ("strict", -1)):
            finding = said(report, name)["finding"]
            check(f"{name}: map one off", finding and finding["address_shift"], shift)
            if shift == -1:
                check(f"{name}: one-based proposed", finding and finding["text"], lambda text: 'address_style = "one-based"' in (text or ""))
        finding = said(report, "table")["finding"]
        check("table: holding proposed", finding and finding["text"], lambda text: "holding: in place of input:" in (text or ""))
        dead = said(report, "dead")
        check("dead: silent", dead["state"], "silent")
        check("dead: its neighbours named", dead["silence"], lambda text: "unit 7 does not answer; units 1, 2 on the same line do" in text)
        code, text = live(binary, config, "--device", "sound", "--device", "meter")
        check("two sound devices alone", (code, "14 good" in text), (0, True))
        code, text = live(binary, config, "--device", "dead")
        check("nobody reached", (code, "no device could be reached" in text), (75, True))
        gateway = start(binary, "run", "--config", config)
        time.sleep(3)
        code, text = live(binary, config)
        check("a port that the gateway holds is told", "another program has this port, maybe the gateway itself" in text, True)
        check("and the other bus is read all the same", "device sound (unit 1): all 7 tags good" in text, True)
        gateway.send_signal(signal.SIGTERM)
        gateway.wait(timeout=20)
    finally:
        for process in reversed(running):
            stop(process)
        shutil.rmtree(work, ignore_errors=True)
    print("live:", "all right" if not failures else f"{len(failures)} FAILED")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
