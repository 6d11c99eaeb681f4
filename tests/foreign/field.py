#!/usr/bin/env python3
"""Every type of bus against pymodbus: values, a write, a server that goes and comes back, an adapter that is unplugged.

usage: field.py IRONBRIDGE        (needs mosquitto_sub, mosquitto_pub, socat, openssl; pip: pymodbus pyserial)
"""
import json, os, shutil, signal, socket, ssl, subprocess, sys, tempfile, time

from bench import check, failures, free_port

SERVER = """
import asyncio, ssl, struct, sys
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import SimData, SimDevice, DataType
kind, framer, place = sys.argv[1], FramerType(sys.argv[2]), sys.argv[3]
f = struct.unpack(">HH", struct.pack(">f", 230.5))
regs = [0] * 200
regs[0:2] = [f[1], f[0]]                      # float32 CDAB 230.5
regs[2] = 0xFFFE                              # int16 -2
regs[4:8] = [0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF]  # int64 max, exact
regs[20] = 100                                # set-point, scale 0.1 -> 10.0
regs[150] = 4711                              # far away: a block of its own, or a long one
async def main():
    bits = [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)]
    holding = [SimData(0, values=regs, datatype=DataType.UINT16)]
    device = SimDevice(1, (bits, bits, holding, holding))
    if kind == "serial":
        # 8N1, whatever the gateway has: the C library finds 7E1 not accepted by a pseudo-terminal.
        server = ModbusSerialServer(device, framer=framer, port=place, baudrate=19200)
    elif kind == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=sys.argv[4] + "/ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(sys.argv[4] + "/plc.pem", sys.argv[4] + "/plc.key")
        server = ModbusTlsServer(device, framer=framer, address=("127.0.0.1", int(place)), sslctx=context)
    else:
        server = {"tcp": ModbusTcpServer, "udp": ModbusUdpServer}[kind](device, framer=framer, address=("127.0.0.1", int(place)))
    await server.serve_forever()
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
name = "far"
address = "holding:150"
type = "uint16"
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
"""
WANTED = {"voltage": 230.5, "temperature": -2, "energy": 2**63 - 1, "far": 4711, "run": True, "beyond": None, "setpoint": 10.0}
running = []


def start(*command):
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    running.append(process)
    return process


def stop(process):
    os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
    process.wait()


def certificates(work):
    run = lambda *command: subprocess.run(["openssl", *command], check=True, cwd=work, capture_output=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=plant authority")
    for name, usage in (("plc", "serverAuth"), ("gateway", "clientAuth")):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        with open(f"{work}/{name}.ext", "w") as f:
            f.write(f"extendedKeyUsage={usage}\nsubjectAltName=DNS:plc.example,IP:127.0.0.1\n")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", f"{name}.ext", "-out", f"{name}.pem")


def serve(bus, work):
    """Starts the server of a bus, and what stands between."""
    kind, framer = bus["server"]
    between = []
    if kind == "serial":
        near, far = f"{work}/{bus['name']}-near", f"{work}/{bus['name']}-far"
        between.append(start("socat", f"pty,raw,echo=0,link={near}", f"pty,raw,echo=0,link={far}"))
        for _ in range(100):
            if os.path.exists(near) and os.path.exists(far):
                break
            time.sleep(0.05)
        place = far
    else:
        place = str(bus["port"])
        if "listen" in bus:
            # A modem: dials the gateway, and passes on to the server.
            loop = f"while true; do socat TCP:127.0.0.1:{bus['listen']} TCP:127.0.0.1:{place}; sleep 0.2; done"
            between.append(start("bash", "-c", loop))
    return [start(sys.executable, "-c", SERVER, kind, framer, place, work), *between]


def values(port, device, seconds=10):
    out = subprocess.run(["mosquitto_sub", "-p", str(port), "-t", f"p/{device}/+", "-v", "-C", str(len(WANTED)), "-W", str(seconds)],
                         capture_output=True, text=True).stdout
    rows = [line.split(" ", 1) for line in out.splitlines()]
    return {topic.rsplit("/", 1)[1]: json.loads(payload) for topic, payload in rows}


def until(port, device, wanted, seconds=40):
    """Waits until all values of a device are as wanted; what they are in the end."""
    deadline = time.time() + seconds
    while True:
        seen = values(port, device)
        if wanted(seen) or time.time() > deadline:
            return seen
        time.sleep(0.3)


def right(seen):
    return {tag: value["value"] for tag, value in seen.items()} == WANTED and seen["voltage"]["quality"] == "good"


def gone(seen):
    return all(value["value"] is None and value["quality"] == "bad" for value in seen.values())


def command(port, device, payload):
    answer = subprocess.Popen(["mosquitto_sub", "-p", str(port), "-t", f"p/{device}/setpoint/set/result", "-C", "1", "-W", "10"],
                              stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    subprocess.run(["mosquitto_pub", "-p", str(port), "-t", f"p/{device}/setpoint/set", "-m", payload], check=True)
    text = answer.communicate()[0]
    return json.loads(text) if text else None


def buses(work):
    rows = [
        ("tcp", "modbus-tcp", ("tcp", "socket")),
        ("rtu-tcp", "modbus-rtu-over-tcp", ("tcp", "rtu")),
        ("ascii-tcp", "modbus-ascii-over-tcp", ("tcp", "ascii")),
        ("udp", "modbus-udp", ("udp", "socket")),
        ("rtu-udp", "modbus-rtu-over-udp", ("udp", "rtu")),
        ("tls", "modbus-tls", ("tls", "socket")),
        ("rtu", "modbus-rtu", ("serial", "rtu")),
        ("ascii", "modbus-ascii", ("serial", "ascii")),
        ("modem", "modbus-rtu-over-tcp", ("tcp", "rtu")),
    ]
    for name, type, server in rows:
        bus = {"name": name, "type": type, "server": server}
        if server[0] == "serial":
            settings = "19200-7E1" if server[1] == "ascii" else "19200-8N1"
            bus["keys"] = f'port = "{work}/{name}-near"\nserial = "{settings}"'
        else:
            bus["port"] = free_port()
            bus["keys"] = f'endpoint = "127.0.0.1:{bus["port"]}"'
        if name == "modem":
            bus["listen"] = free_port()
            bus["keys"] = f'listen = "127.0.0.1:{bus["listen"]}"\nallow = ["127.0.0.0/8"]'
        if name == "tls":
            bus["keys"] += f'\nca_file = "{work}/ca.pem"\ncertificate = "{work}/gateway.pem"\nkey = "{work}/gateway.key"\nserver_name = "plc.example"'
        yield bus


def secured(name, at, work):
    """By hand: the TLS framing of pymodbus' client is one of its own, without a header."""
    host, port = at.rsplit(":", 1)
    context = ssl.create_default_context(cafile=f"{work}/plant/plant-ca.pem")
    try:
        with context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname="localhost") as stranger:
            stranger.send(bytes([0, 1, 0, 0, 0, 6, 1, 3, 0, 20, 0, 1]))
            answer = stranger.recv(100)
    except (ssl.SSLError, ConnectionError):
        answer = b""
    check(f"simulated {name}: nobody without a certificate", answer, b"")
    context.load_cert_chain(f"{work}/plant/plant-gateway.crt", f"{work}/plant/plant-gateway.key")
    with context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname="localhost") as client:
        # transaction 1, protocol 0, 6 bytes, unit 1, FC 6, register 20 = 4242; then the same read
        client.send(bytes([0, 1, 0, 0, 0, 6, 1, 6, 0, 20, 0x10, 0x92]))
        check(f"simulated {name}: a write", client.recv(100).hex(), "000100000006010600141092")
        client.send(bytes([0, 2, 0, 0, 0, 6, 1, 3, 0, 20, 0, 1]))
        check(f"simulated {name}: what is written stays", client.recv(100).hex(), "0002000000050103021092")


def opposite(binary, work):
    """The simulated devices of every bus, asked by the clients of pymodbus."""
    from pymodbus import FramerType
    from pymodbus.client import ModbusSerialClient, ModbusTcpClient, ModbusUdpClient

    simulation = subprocess.Popen([binary, "simulate", "--config", f"{work}/g.toml", "--write-config", f"{work}/simulated.toml", "--json"],
                                  stdout=subprocess.PIPE, text=True, start_new_session=True)
    running.append(simulation)
    places = {bus["name"]: bus["at"] for bus in json.loads(simulation.stdout.readline())["buses"]}
    for bus in buses(work):
        name, (kind, framer), at = bus["name"], bus["server"], places[bus["name"]]
        if "listen" in bus:
            continue  # dials in; the gateway itself asks it below
        if kind == "tls":
            secured(name, at, work)
            continue
        if kind == "serial":
            client = ModbusSerialClient(at, framer=FramerType(framer), baudrate=19200)
        else:
            host, port = at.rsplit(":", 1)
            client = {"tcp": ModbusTcpClient, "udp": ModbusUdpClient}[kind](host, port=int(port), framer=FramerType(framer))
        client.connect()
        wrote = client.write_register(20, 4242, device_id=1)
        read = client.read_holding_registers(20, count=1, device_id=1)
        check(f"simulated {name}: what is written stays", (wrote.isError(), read.registers), (False, [4242]))
        check(f"simulated {name}: four registers", len(client.read_holding_registers(4, count=4, device_id=1).registers), 4)
        check(f"simulated {name}: a hole is exception 2", client.read_holding_registers(900, count=1, device_id=1).exception_code, 2)
        client.close()
    return simulation


def main():
    binary = sys.argv[1]
    for tool in ("mosquitto_sub", "mosquitto_pub", "socat", "openssl"):
        if not shutil.which(tool):
            print(f"SKIPPED field.py: {tool} is not installed")
            return 0
    work = tempfile.mkdtemp(prefix="field-")
    certificates(work)
    port = free_port()
    all_buses = list(buses(work))
    with open(f"{work}/g.toml", "w") as f:
        f.write(f'[gateway]\nname = "here"\ntopic = "p/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
                f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read-write"\n'
                '[[broker.acl]]\nuser = "anonymous"\nwrite = ["p/+/+/set"]\n')
        for bus in all_buses:
            f.write(f'[[bus]]\nname = "{bus["name"]}"\ntype = "{bus["type"]}"\nresponse_timeout = "500ms"\n{bus["keys"]}\n')
        for bus in all_buses:
            f.write(f'[[device]]\nname = "on-{bus["name"]}"\nbus = "{bus["name"]}"\nunit_id = 1\npoll = "200ms"\n{TAGS}\n')
    servers = {bus["name"]: serve(bus, work) for bus in all_buses}
    log = open(f"{work}/log", "w")
    gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=log, start_new_session=True)
    running.append(gateway)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            break
        except OSError:
            time.sleep(0.05)
    for bus in all_buses:
        name, device = bus["name"], f"on-{bus['name']}"
        print(f"{bus['type']} ({name})")
        check(f"{name}: every value is right", until(port, device, right), right)
        done = command(port, device, '{"value":42.5,"id":"a-%s"}' % name)
        check(f"{name}: a write is done and read back", done, {"id": f"a-{name}", "outcome": "done", "read_back": 42.5})
        for process in servers[name]:
            stop(process)
        check(f"{name}: all is bad without it", until(port, device, gone), gone)
        servers[name] = serve(bus, work)
        check(f"{name}: and right again with it", until(port, device, right), right)
    gateway.send_signal(signal.SIGTERM)
    check("stops well", gateway.wait(20), 0)
    print("simulate, asked by pymodbus")
    simulation = opposite(binary, work)
    gateway = subprocess.Popen([binary, "run", "--config", f"{work}/simulated.toml"], stderr=log, start_new_session=True)
    running.append(gateway)
    for bus in all_buses:
        good = lambda seen: len(seen) == len(WANTED) and all(value["quality"] == "good" for value in seen.values())
        check(f"simulated {bus['name']}: the gateway reads all of it", until(port, f"on-{bus['name']}", good), good)
    gateway.send_signal(signal.SIGTERM)
    check("stops well", gateway.wait(20), 0)
    simulation.send_signal(signal.SIGTERM)
    check("the simulation stops well", simulation.wait(20), 0)
    if failures:
        print("".join(line for line in open(f"{work}/log") if " client " not in line)[-6000:])
    else:
        shutil.rmtree(work)
    print(f"{len(failures)} failed" if failures else "all right")
    return 1 if failures else 0


try:
    code = main()
finally:
    for process in running:
        if process.poll() is None:
            stop(process)
sys.exit(code)
