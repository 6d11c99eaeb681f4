#!/usr/bin/env python3
"""Register maps of every kind, served by pymodbus: each tag exactly as it was meant, live, in the store, and written back.

usage: maps.py IRONBRIDGE        (needs mosquitto_sub; pip: pymodbus paho-mqtt)

The words are packed here with Python's own struct, so that the two sides are two opinions.
"""
import datetime, json, shutil, signal, struct, subprocess, sys, tempfile, time

import paho.mqtt.client as mqtt
from pymodbus.client import ModbusTcpClient

from bench import Client, check, command, failures, free_port, sub, verdict, wait_port

SERVER = """
import asyncio, json, sys
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
holding = [0] * int(sys.argv[3] if len(sys.argv) > 3 else 1000)
for start, words in json.loads(sys.argv[2]):
    holding[start:start + len(words)] = words
async def main():
    bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    registers = [SimData(0, values=holding, datatype=DataType.REGISTERS)]
    await ModbusTcpServer(SimDevice(1, (bits, bits, registers, registers)), address=("127.0.0.1", int(sys.argv[1]))).serve_forever()
asyncio.run(main())
"""


def words(data):
    """Big-endian bytes to registers."""
    data += b"\0" * (len(data) % 2)
    return list(struct.unpack(f">{len(data) // 2}H", data))


def ordered(registers, order):
    if order in ("BADC", "DCBA"):
        registers = [(word >> 8) | (word & 0xFF) << 8 for word in registers]
    return registers[::-1] if order in ("CDAB", "DCBA") else registers


def swapped(registers):
    """Text and bytes know no order of words."""
    return ordered(registers, "BADC")


def bcd(number, nibbles):
    return words(int(str(number).zfill(nibbles), 16).to_bytes(nibbles // 2, "big"))


def cp56(moment, day_of_week=0, summer=0, invalid=0):
    octets = struct.pack("<HBBBBBB", moment.second * 1000 + moment.microsecond // 1000, moment.minute | invalid << 7,
                         moment.hour | summer << 7, moment.day | day_of_week << 5, moment.month, moment.year - 2000, 0)
    return words(octets[::-1])


NOON = datetime.datetime(2026, 11, 20, 12, 34, 56, 789000, tzinfo=datetime.timezone.utc)
SECONDS = int(NOON.timestamp())
GOOD, NAN, RANGE = ("good", None), ("bad", "nan"), ("uncertain", "range")

# name, type, order, registers, further keys, value, quality and cause
TAGS = [
    # A SunSpec inverter, model 103: scale factors behind what they scale.
    ("amps", "uint16", "ABCD", [2077], 'scale_from = "amps_sf"\nnan = ["0xFFFF"]', 20.77, GOOD),
    ("amps_c", "uint16", "ABCD", [0xFFFF], 'scale_from = "amps_sf"\nnan = ["0xFFFF"]', None, NAN),
    ("amps_sf", "int16", "ABCD", [0xFFFE], 'nan = ["0x8000"]', -2, GOOD),
    ("watts", "int16", "ABCD", words(struct.pack(">h", -1234)), 'scale_from = "watts_sf"', -12340, GOOD),
    ("watts_sf", "int16", "ABCD", [1], "", 1, GOOD),
    ("nothing", "int16", "ABCD", [5], 'scale_from = "nothing_sf"', None, NAN),
    ("nothing_sf", "int16", "ABCD", [0x8000], "", -32768, GOOD),
    ("lifetime", "uint32", "ABCD", words(struct.pack(">I", 4_000_000_001)), 'scale_from = "lifetime_sf"', 4_000_000_001, GOOD),
    ("lifetime_sf", "int16", "ABCD", [0], "", 0, GOOD),
    # Decimal digits.
    ("bcd", "bcd16", "ABCD", bcd(9876, 4), "", 9876, GOOD),
    ("bcd_wide", "bcd32", "CDAB", ordered(bcd(12345678, 8), "CDAB"), "scale = 0.01", 123456.78, GOOD),
    ("bcd_broken", "bcd16", "ABCD", [0x12A4], "", None, NAN),
    ("modulo", "mod10_3", "ABCD", [12, 3456, 7890], "", 12_3456_7890, GOOD),
    ("modulo_down", "mod10_2", "CDAB", words(struct.pack(">hh", -1234, -1)), "", -11234, GOOD),
    ("modulo_broken", "mod10_2", "ABCD", [1, 10000], "", None, NAN),
    # Bits.
    ("field", "uint16", "ABCD", [0xABCD], 'mask = "0x0FF0"\nshift = 4', 0xBC, GOOD),
    ("field_signed", "int16", "ABCD", [0xFE12], 'mask = "0xFF00"\nshift = 8', -2, GOOD),
    ("mode", "uint16", "ABCD", [2], 'map = { 0 = "off", 1 = "auto", 2 = "by hand" }', "by hand", GOOD),
    ("mode_new", "uint16", "ABCD", [9], 'map = { 0 = "off" }', "9", RANGE),
    # Text and bytes.
    ("label", "string(7)", "BADC", swapped(words(b"Pumpe 1")), "", "Pumpe 1", GOOD),
    ("umlaut", "string(6)", "ABCD", words("Tür ".encode("latin-1") + b"  "), 'encoding = "latin-1"\npad = "space"', "Tür", GOOD),
    ("stopped", "string(6)", "ABCD", words(b"AB\rxyz"), 'terminator = "cr"', "AB", GOOD),
    ("key", "bytes(5)", "ABCD", words(bytes.fromhex("0a1b2c3d4e")), "", "0a1b2c3d4e", GOOD),
    # Times.
    ("seconds", "unix32", "CDAB", ordered(words(struct.pack(">I", SECONDS)), "CDAB"), "", "2026-11-20T12:34:56.000Z", GOOD),
    ("seconds_wide", "unix64", "ABCD", words(struct.pack(">q", -1)), "", "1969-12-31T23:59:59.000Z", GOOD),
    ("clock", "cp56", "ABCD", cp56(NOON, day_of_week=5), "", "2026-11-20T12:34:56.789Z", GOOD),
    ("clock_summer", "cp56", "ABCD", cp56(NOON, summer=1), "", "2026-11-20T11:34:56.789Z", GOOD),
    ("clock_unset", "cp56", "ABCD", cp56(NOON, invalid=1), "", None, NAN),
]
# Every order of every width.
for order in ("ABCD", "CDAB", "BADC", "DCBA"):
    low = order.lower()
    TAGS += [
        (f"half_{low}", "float16", order, ordered(words(struct.pack(">e", -3.140625)), order), "", -3.140625, GOOD),
        (f"single_{low}", "float32", order, ordered(words(struct.pack(">f", 0.1)), order), "", struct.unpack(">f", struct.pack(">f", 0.1))[0], GOOD),
        (f"double_{low}", "float64", order, ordered(words(struct.pack(">d", 0.1)), order), "", 0.1, GOOD),
        (f"nan_{low}", "float32", order, ordered(words(struct.pack(">f", float("nan"))), order), 'nan = ["ieee"]', None, NAN),
        (f"counter_{low}", "uint64", order, ordered(words(struct.pack(">Q", 2**64 - 2)), order), "", 2**64 - 2, GOOD),
        (f"tens_{low}", "uint64", order, ordered(words(struct.pack(">Q", 2**60 + 1)), order), "scale = 10", (2**60 + 1) * 10, GOOD),
        (f"below_{low}", "int64", order, ordered(words(struct.pack(">q", -(2**63) + 1)), order), "", -(2**63) + 1, GOOD),
        (f"missing_{low}", "int32", order, ordered([0x8000, 0], order), 'nan = ["0x80000000"]\nscale = 0.1', None, NAN),
        (f"tenths_{low}", "int32", order, ordered(words(struct.pack(">i", -123456789)), order), "scale = 0.1", -12345678.9, GOOD),
    ]
WRITTEN = [
    # name, type, keys, payload, read back, registers afterwards; all registers held 0x5AAA before
    ("w_single", "uint16", "write = { function = \"single\" }", "4660", 4660, [0x1234]),
    ("w_multiple", "uint16", "write = { function = \"multiple\" }", "4660", 4660, [0x1234]),
    ("w_masked", "uint16", 'mask = "0x0FF0"\nshift = 4\nwrite = { function = "mask" }', "18", 18, [0x512A]),
    ("w_field", "uint16", 'mask = "0x0FF0"\nshift = 4', "18", 18, [0x512A]),
    ("w_mode", "uint16", 'map = { 0 = "off", 1 = "auto" }', '"auto"', "auto", [1]),
    ("w_bcd", "bcd32", "", "12345678", 12345678, [0x1234, 0x5678]),
    ("w_counter", "uint64", 'order = "DCBA"', "18446744073709551614", 2**64 - 2, ordered(words(struct.pack(">Q", 2**64 - 2)), "DCBA")),
    ("w_half", "float16", "", "1.5", 1.5, words(struct.pack(">e", 1.5))),
    ("w_time", "unix32", "write = { verify = true }", '"2026-11-20T12:34:56Z"', "2026-11-20T12:34:56.000Z", words(struct.pack(">I", SECONDS))),
    ("w_clock", "cp56", "write = { verify = true }", '"2026-11-20T13:34:56.789+01:00"', "2026-11-20T12:34:56.789Z", cp56(NOON)),
    ("w_key", "bytes(3)", "", '"0A1B2C"', "0a1b2c", [0x0A1B, 0x2C00]),
    ("w_text", "string(5)", 'encoding = "latin-1"\npad = "space"\nterminator = "none"', '"Tür"', "Tür", words("Tür  ".encode("latin-1") + b" ")),
    ("w_watts", "int16", 'scale_from = "watts_sf"', "-12340", -12340, words(struct.pack(">h", -1234))),
]


# A SunSpec chain: model, words of its points; the tags in it: name, model, offset, type, further keys, value, quality and cause.
def sunspec_text(text, registers):
    return words(text.encode().ljust(registers * 2, b"\0"))


COMMON = sunspec_text("ACME", 16) + sunspec_text("Sun 7", 16) + sunspec_text("", 8) + sunspec_text("1.2", 8) + sunspec_text("S-1", 16) + [1]
INVERTER = [2077, 692, 693, 0xFFFF, 0xFFFE] + [0xFFFF] * 3 + [2404, 2398, 2401, 0xFFFF]  # currents, A_SF; voltages, V_SF
INVERTER += words(struct.pack(">h", -1234)) + [1, 5001, 0xFFFE] + [0x8000] * 6 + words(struct.pack(">I", 4_000_000_001)) + [0]
INVERTER += [0] * (50 - len(INVERTER))
FLOATS = words(struct.pack(">ff", 20.5, float("nan"))) + [0] * 56
STATUS = [3, 0, 1] + words(struct.pack(">QQ", 2**63 + 1, 0)) + [0] * 33
LONG = [0] * 178 + [0x1234] + [0] * 21
CHAIN = [(1, COMMON), (64110, [1, 2, 3]), (103, INVERTER), (113, FLOATS), (122, STATUS), (64111, LONG)]
POINTS = [
    ("s_maker", "1", 2, "string(32)", "", "ACME", GOOD),
    ("s_amps", "101|102|103", 2, "uint16", 'scale_from = "s_amps_sf"\nnan = ["0xFFFF"]', 20.77, GOOD),
    ("s_amps_c", "101|102|103", 5, "uint16", 'scale_from = "s_amps_sf"\nnan = ["0xFFFF"]', None, NAN),
    ("s_amps_sf", "101|102|103", 6, "int16", 'nan = ["0x8000"]', -2, GOOD),
    ("s_watts", "101|102|103", 14, "int16", 'scale_from = "s_watts_sf"\nnan = ["0x8000"]', -12340, GOOD),
    ("s_watts_sf", "101|102|103", 15, "int16", 'nan = ["0x8000"]', 1, GOOD),
    ("s_hertz", "101|102|103", 16, "uint16", 'scale_from = "s_hertz_sf"', 50.01, GOOD),
    ("s_hertz_sf", "101|102|103", 17, "int16", "", -2, GOOD),
    ("s_va", "101|102|103", 18, "int16", 'scale_from = "s_va_sf"', None, NAN),
    ("s_va_sf", "101|102|103", 19, "int16", 'nan = ["0x8000"]', None, NAN),
    ("s_energy", "101|102|103", 24, "uint32", 'scale_from = "s_energy_sf"\nnan = ["0x00000000"]', 4_000_000_001, GOOD),
    ("s_energy_sf", "101|102|103", 26, "int16", "", 0, GOOD),
    ("s_float", "111|112|113", 2, "float32", "", 20.5, GOOD),
    ("s_float_nan", "111|112|113", 4, "float32", "", None, NAN),
    ("s_counter", "122", 5, "uint64", 'nan = ["0x0000000000000000"]', 2**63 + 1, GOOD),
    ("s_counter_none", "122", 9, "uint64", 'nan = ["0x0000000000000000"]', None, NAN),
    ("s_far", "64111", 180, "uint16", "", 0x1234, GOOD),
    ("s_absent", "203", 18, "int16", "", None, ("bad", "config")),
    ("s_beyond", "64110", 5, "uint16", "", None, ("bad", "config")),
]


def chain(common=66, before=()):
    """The registers of the chain from its base on; its first model may have 65 registers or 66."""
    registers = [0x5375, 0x6E53]
    for model, content in [(1, COMMON + [0] * (common - len(COMMON))), *before, *CHAIN[1:]]:
        registers += [model, len(content), *content]
    return registers + [0xFFFF, 0]


def points():
    return "".join(f'[[device.tag]]\nname = "{name}"\naddress = "sunspec:{model}:{offset}"\ntype = "{kind}"\n{keys}\n'
                   for name, model, offset, kind, keys, _, _ in POINTS)


def sunspec(binary):
    """A chain at each base; then one whose registers are swapped for another layout while the gateway polls."""
    for base, common in [(40000, 65), (50000, 66), (0, 66)]:
        work = tempfile.mkdtemp(prefix="sunspec-")
        plc_port, port = free_port(), free_port()
        with open(f"{work}/g.toml", "w") as f:
            f.write(CONFIG.format(work=work, port=port, plc_port=plc_port, tags=points()))
        registers = chain(common)
        # Nothing behind the chain: reads beyond it are refused.
        server = [sys.executable, "-c", SERVER, str(plc_port), json.dumps([[base, registers]]), str(base + len(registers))]
        plc = subprocess.Popen(server)
        wait_port(plc_port)
        gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=open(f"{work}/log", "w"))
        wait_port(port)
        try:
            print(f"{len(POINTS)} SunSpec points, base {base}, first model of {common} registers")
            states = lambda live, name: (live.get(name, {}).get("value"), live.get(name, {}).get("quality"), live.get(name, {}).get("cause"))
            fits = lambda got, tag: same(got[0], tag[5]) and got[1:] == tag[6]
            deadline, wrong = time.time() + 30, POINTS
            while wrong and time.time() < deadline:
                time.sleep(0.5)
                live = {t.rsplit("/", 1)[1]: json.loads(p) for t, p in sub(port, "p/plc/+", len(POINTS)).items()}
                wrong = [tag for tag in POINTS if not fits(states(live, tag[0]), tag)]
            for tag in POINTS:
                check(f"{tag[0]} = {tag[5]!r}", states(live, tag[0]), lambda got: fits(got, tag))
            if base == 40000:
                moved(port, plc_port, base)
        finally:
            plc.kill()
            gateway.kill()
        if not failures:
            shutil.rmtree(work)


def moved(port, plc_port, base):
    """The chain is written anew, in another order, register by register over Modbus: a firmware update without a restart."""
    seen = []
    listener = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    listener.on_message = lambda _c, _u, message: seen.append(json.loads(message.payload))
    listener.connect("127.0.0.1", port)
    listener.subscribe("p/plc/s_watts")
    listener.loop_start()
    master = ModbusTcpClient("127.0.0.1", port=plc_port)
    master.connect()
    size = len(chain(65))
    for turn in range(40):
        # The vendor model in front is longer or shorter: all that follows moves, the chain stays as long as it was.
        space = turn % 3
        registers = [0x5375, 0x6E53]
        models = [(1, COMMON[:65]), (64110, [1, 2, 3][: 3 - space] or [1]), *CHAIN[2:]]
        for model, content in models:
            registers += [model, len(content), *content]
        registers += [0xFFFF, 0]
        registers += [7] * (size - len(registers))
        for start in range(0, size, 120):
            master.write_registers(base + start, registers[start:start + 120], device_id=1)
        time.sleep(0.35)
    time.sleep(2)
    good = [sample["value"] for sample in seen if sample["quality"] == "good"]
    check("a chain that moves: wrong good values", sum(value != -12340 for value in good), 0)
    check("a chain that moves: good values", len(good), lambda count: count > 20)
    master.close()
    listener.loop_stop()


CONFIG = """
[gateway]
name = "here"
topic = "p/{{device}}/{{tag}}"
data_dir = "{work}/data"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read"
[[bus]]
name = "net"
type = "modbus-tcp"
endpoint = "127.0.0.1:{plc_port}"
[[device]]
name = "plc"
bus = "net"
unit_id = 1
poll = "200ms"
{tags}"""


def layout():
    """The tags as TOML, and the registers they stand in."""
    toml, registers, place = [], [], 0
    where = {}
    for name, data_type, order, content, keys, _, _ in TAGS:
        toml.append(f'[[device.tag]]\nname = "{name}"\naddress = "holding:{place}"\ntype = "{data_type}"\norder = "{order}"\n{keys}\n')
        registers.append((place, content))
        place += len(content)
    place += 10
    for name, data_type, keys, _, _, after in WRITTEN:
        toml.append(f'[[device.tag]]\nname = "{name}"\naddress = "holding:{place}"\ntype = "{data_type}"\naccess = "read-write"\n{keys}\n')
        where[name] = place
        registers.append((place, [0x5AAA] * len(after)))
        place += len(after)
    toml.append('[[device.tag]]\nname = "w_coil"\naddress = "coil:3"\naccess = "read-write"\nwrite = { function = "multiple" }\n')
    return "".join(toml), registers, where


def same(got, wanted):
    return type(got) is type(wanted) and got == wanted or isinstance(wanted, float) and got == wanted


def main():
    binary = sys.argv[1]
    if not shutil.which("mosquitto_sub"):
        print("SKIPPED maps.py: mosquitto_sub is not installed")
        return 0
    toml, registers, where = layout()
    work = tempfile.mkdtemp(prefix="maps-")
    plc_port, port = free_port(), free_port()
    with open(f"{work}/g.toml", "w") as f:
        f.write(f"""
[gateway]
name = "here"
topic = "p/{{device}}/{{tag}}"
data_dir = "{work}/data"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read"
[[broker.acl]]
user = "anonymous"
write = ["p/plc/+/set"]
[[bus]]
name = "net"
type = "modbus-tcp"
endpoint = "127.0.0.1:{plc_port}"
[[device]]
name = "plc"
bus = "net"
unit_id = 1
poll = "200ms"
{toml}""")
    plc = subprocess.Popen([sys.executable, "-c", SERVER, str(plc_port), json.dumps(registers)])
    wait_port(plc_port)
    log = open(f"{work}/log", "w")
    gateway = subprocess.Popen([binary, "run", "--config", f"{work}/g.toml"], stderr=log)
    wait_port(port)
    try:
        print(f"{len(TAGS)} tags, live")
        deadline, wrong = time.time() + 30, TAGS
        while wrong and time.time() < deadline:
            time.sleep(0.5)
            live = {t.rsplit("/", 1)[1]: json.loads(p) for t, p in sub(port, "p/plc/+", len(TAGS) + len(WRITTEN) + 1).items()}
            seen = lambda name: (live.get(name, {}).get("quality"), live.get(name, {}).get("cause"))
            wrong = [tag for tag in TAGS if not (same(live.get(tag[0], {}).get("value"), tag[5]) and seen(tag[0]) == tag[6])]
        for name, *_, value, state in TAGS:
            check(f"{name} = {value!r}", (live.get(name, {}).get("value"), *seen(name)), lambda got: same(got[0], value) and got[1:] == state)

        print("written")
        client = Client(port, mqtt.MQTTv5, "writer")
        client.subscribe("p/plc/+/set/result")
        master = ModbusTcpClient("127.0.0.1", port=plc_port)
        master.connect()
        for name, _, _, payload, back, after in WRITTEN:
            done = command(client, f"p/plc/{name}/set", payload)
            check(f"{name} = {payload}", done, lambda r: r and r["outcome"] == "done" and same(r["read_back"], back))
            check(f"{name}: registers", master.read_holding_registers(where[name], count=len(after), device_id=1).registers, after)
        done = command(client, "p/plc/w_coil/set", "true")
        check("a coil by FC 15", done, {"outcome": "done", "read_back": True})
        check("the coil", master.read_coils(3, count=1, device_id=1).bits[0], True)
        client.close()
        master.close()

        print("stored")
        time.sleep(2)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
        export = subprocess.run([binary, "store", "export", "--config", f"{work}/g.toml", "--format", "ndjson"], capture_output=True, text=True)
        stored = {}
        for line in export.stdout.splitlines():
            record = json.loads(line)
            if record.get("quality") in ("good", "uncertain"):
                stored.setdefault(record["topic"].rsplit("/", 1)[1], record.get("value"))
        for name, *_, value, _ in TAGS:
            if value is not None:
                check(f"{name} in the store", stored.get(name), lambda got: same(got, value))
    finally:
        plc.kill()
        gateway.kill()
    sunspec(binary)
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
