#!/usr/bin/env python3
"""A second and a third opinion: modbus-serial and libmodbus as the devices, over TCP and on a line.

usage: second.py IRONBRIDGE        (needs socat; node and npm; cc and libmodbus; pip: pymodbus pyserial paho-mqtt)

Each of them serves the registers of maps.py (every type, every order, scale factors, sentinels; each tag written too) and
of two meters. Every value exact, every register as it was meant. A library that is not there is SKIPPED, visibly.
"""
import csv, json, os, shutil, signal, subprocess, sys, tempfile, time

import paho.mqtt.client as mqtt
from pymodbus.client import ModbusSerialClient, ModbusTcpClient

from bench import Client, check, command, free_port, sub, verdict, wait_port
from maps import TAGS, WRITTEN, layout, same

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.abspath(os.path.join(HERE, "../../target/foreign"))
METERS = {2: "sdm630", 3: "em24"}


def meter(name):
    """The tags of a meter as TOML, its registers, its values."""
    with open(f"{HERE}/{name}.csv") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    toml = "".join(f'[[device.tag]]\nname = "{row["name"]}"\naddress = "input:{row["address"]}"\ntype = "{row["type"]}"\n'
                   f'order = "{row["order"]}"\nscale = {row["scale"]}\n' for row in rows)
    registers = {int(row["address"]) + n: int(word, 16) for row in rows for n, word in enumerate(row["words"].split())}
    return toml, {"input": registers}, {row["name"]: float(row["value"]) for row in rows}


def everything():
    """By unit: TOML, registers, wanted values with quality and cause."""
    toml, registers, where = layout()
    holding = {place + n: word for place, words in registers for n, word in enumerate(words)}
    units = {1: (toml, {"holding": holding, "coil": {str(n): 0 for n in range(8)}}, {tag[0]: (tag[5], *tag[6]) for tag in TAGS})}
    for unit, name in METERS.items():
        toml, registers, values = meter(name)
        units[unit] = (toml, registers, {name: (value, "good", None) for name, value in values.items()})
    return units, where


def modbus_serial():
    """The folder of node's modules, once modbus-serial is in it."""
    if not (shutil.which("node") and shutil.which("npm")):
        return print("SKIPPED modbus-serial: node or npm is not installed")
    modules = f"{TARGET}/node_modules"
    if not os.path.isdir(f"{modules}/modbus-serial"):
        install = subprocess.run(["npm", "install", "--prefix", TARGET, "--no-fund", "--no-audit", "modbus-serial@8"], capture_output=True)
        if install.returncode:
            return print("SKIPPED modbus-serial: npm cannot install it")
    return modules


def libmodbus():
    """Our few lines around libmodbus, compiled."""
    if not (shutil.which("cc") and shutil.which("pkg-config")):
        return print("SKIPPED libmodbus: no C compiler, or no pkg-config")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libmodbus"], capture_output=True, text=True)
    if flags.returncode:
        return print("SKIPPED libmodbus: not installed (libmodbus-dev)")
    os.makedirs(TARGET, exist_ok=True)
    subprocess.run(["cc", "-O1", "-o", f"{TARGET}/second", f"{HERE}/second.c", *flags.stdout.split()], check=True)
    return f"{TARGET}/second"


class Server:
    """One process of one library at one port or line, with some units."""

    def __init__(self, library, carrier, units, work):
        self.library, self.carrier, self.units = library, carrier, units
        self.name = f"{library}-{carrier}" + (f"-{units[0]}" if len(units) == 1 else "")
        self.near, self.place = f"{work}/{self.name}-near", f"{work}/{self.name}-far"
        self.port = free_port() if carrier == "tcp" else None
        self.processes = []

    def start(self, tool, registers):
        if self.carrier == "rtu":
            line = ["socat", f"pty,raw,echo=0,link={self.near}", f"pty,raw,echo=0,link={self.place}"]
            self.processes.append(subprocess.Popen(line))
            while not (os.path.exists(self.near) and os.path.exists(self.place)):
                time.sleep(0.02)
        place = str(self.port or self.place)
        mine = {unit: registers[unit] for unit in self.units}
        if self.library == "modbus-serial":
            words, told = ["node", f"{HERE}/second.js", tool, self.carrier, place], json.dumps(mine)
        else:
            words = [tool, self.carrier, place] + ([] if self.port else [str(self.units[0])])
            told = "\n".join(f"{unit} {table[0]} {address} {word}" for unit, tables in mine.items()
                             for table, content in tables.items() for address, word in content.items())
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        process.stdin.write(told)
        process.stdin.close()
        check(f"{self.name}: serves", process.stdout.readline(), "ready\n")

    def keys(self):
        if self.port:
            return f'type = "modbus-tcp"\nendpoint = "127.0.0.1:{self.port}"'
        return f'type = "modbus-rtu"\nport = "{self.near}"\nserial = "19200-8N1"'

    def client(self):
        client = ModbusTcpClient("127.0.0.1", port=self.port) if self.port else ModbusSerialClient(self.near, baudrate=19200)
        client.connect()
        return client


def values(server, port, unit, wanted):
    deadline, wrong = time.time() + 40, wanted
    while wrong and time.time() < deadline:
        time.sleep(0.3)
        seen = {topic.rsplit("/", 1)[1]: json.loads(text) for topic, text in sub(port, f"p/{server.name}-{unit}/+", 300, seconds=1).items()}
        got = lambda name: (seen.get(name, {}).get("value"), seen.get(name, {}).get("quality"), seen.get(name, {}).get("cause"))
        wrong = [(name, got(name), want) for name, want in wanted.items() if not same(got(name)[0], want[0]) or got(name)[1:] != want[1:]]
    check(f"{server.name}, unit {unit}: {len(wanted)} tags, each exact", wrong, [])


def writes(server, port, client, where):
    """What cannot be done must be said to have failed, and change nothing."""
    refuses_masks = server.library == "modbus-serial"  # it does not know function 22
    done = {name: command(client, f"p/{server.name}-1/{name}/set", payload) for name, _, _, payload, _, _ in WRITTEN}
    wrong, kept = [], {}
    for name, _, keys, _, back, after in WRITTEN:
        refused = refuses_masks and 'function = "mask"' in keys
        outcome, answer = "failed" if refused else "done", done[name] or {}
        if answer.get("outcome") != outcome or not refused and not same(answer.get("read_back"), back):
            wrong.append((name, done[name]))
        kept[name] = [0x5AAA] * len(after) if refused else after
    check(f"{server.name}: {len(WRITTEN)} tags written", wrong, [])
    check(f"{server.name}: a coil by function 15", command(client, f"p/{server.name}-1/w_coil/set", "true"), {"outcome": "done", "read_back": True})
    return kept


def main():
    binary = sys.argv[1]
    for tool in ("mosquitto_sub", "socat"):
        if not shutil.which(tool):
            print(f"SKIPPED second.py: {tool} is not installed")
            return 0
    tools = {"modbus-serial": modbus_serial(), "libmodbus": libmodbus()}
    work = tempfile.mkdtemp(prefix="second-")
    units, where = everything()
    servers = []
    if tools["modbus-serial"]:
        servers += [Server("modbus-serial", carrier, [1, 2, 3], work) for carrier in ("tcp", "rtu")]
    if tools["libmodbus"]:  # on a line it listens to one unit
        servers += [Server("libmodbus", "tcp", [1, 2, 3], work), *(Server("libmodbus", "rtu", [unit], work) for unit in units)]
    if not servers:
        return 0
    port, gateway = free_port(), None
    with open(f"{work}/g.toml", "w") as f:
        f.write(f'[gateway]\nname = "here"\ntopic = "p/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
                f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read-write"\n'
                '[[broker.acl]]\nuser = "anonymous"\nwrite = ["p/+/+/set"]\n')
        for server in servers:
            f.write(f'[[bus]]\nname = "{server.name}"\n{server.keys()}\n')
        for server in servers:
            for unit in server.units:
                f.write(f'[[device]]\nname = "{server.name}-{unit}"\nbus = "{server.name}"\nunit_id = {unit}\npoll = "300ms"\n{units[unit][0]}\n')
    try:
        for server in servers:
            server.start(tools[server.library], {unit: registers for unit, (_, registers, _) in units.items()})
        log = open(f"{work}/log", "w")
        gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=log)
        wait_port(port)
        client, kept = Client(port, mqtt.MQTTv5, "writer"), {}
        client.subscribe("p/+/+/set/result")
        for server in servers:
            for unit in server.units:
                values(server, port, unit, units[unit][2])
            if 1 in server.units:
                kept[server] = writes(server, port, client, where)
        client.close()
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
        for server, registers in kept.items():
            master = server.client()
            seen = {name: master.read_holding_registers(where[name], count=len(words), device_id=1).registers for name, words in registers.items()}
            check(f"{server.name}: the registers, read by pymodbus", seen, registers)
            check(f"{server.name}: the coil", master.read_coils(3, count=1, device_id=1).bits[0], True)
            master.close()
    finally:
        for process in [process for server in servers for process in server.processes] + ([gateway] if gateway else []):
            process.kill()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
