#!/usr/bin/env python3
"""Devices that say no: holes in a map, short answers only, busy, silent behind a gateway; and what is remembered of it.

usage: refusals.py IRONBRIDGE [--for SECONDS] [--patience SECONDS]        (needs mosquitto_sub)
Default 10 s of looking at the silent ones, whose gateway takes 0.3 s to say so; by hand 60 s and 1 s.
"""
import argparse, asyncio, collections, contextlib, json, shutil, signal, struct, subprocess, sys, tempfile, threading, time

from hostile import Mbap
from bench import check, free_port, sub, verdict, wait_port

HOLES = {13, 27}
LONGEST = 20
TAGS = 40


class Devices:
    """One door for each kind of device. `asked`: moment, unit, first register, how many, code of the exception or 0."""

    def __init__(self, patience):
        self.patience = patience
        self.asked, self.busy, self.ports = collections.defaultdict(list), "never", {}
        self.silent = set()

    def answer(self, kind, unit, start, count):
        """Code, and seconds."""
        if kind == "holes":
            return (2 if HOLES & set(range(start, start + count)) or start + count > TAGS else 0), 0
        if kind == "short":
            return (3 if count > LONGEST else 0), 0
        if kind == "busy":
            asked = len(self.asked[kind])
            return {"never": 0, "now and then": 6 if asked % 4 < 2 else 0, "always": 5}[self.busy], 0
        return (11, self.patience) if unit in self.silent else (0, 0.005)

    async def serve(self, kind, reader, writer):
        with contextlib.suppress(ConnectionError):  # a gateway that is killed
            await self.converse(kind, reader, writer)

    async def converse(self, kind, reader, writer):
        buffer = bytearray()
        while data := await reader.read(512):
            buffer += data
            while question := Mbap.take(buffer):
                _, transaction, unit, pdu = question
                function, start, count = struct.unpack(">BHH", pdu)
                code, seconds = self.answer(kind, unit, start, count)
                self.asked[kind].append((time.monotonic(), unit, start, count, code))
                await asyncio.sleep(seconds)  # one after the other, as behind a gateway to one line
                words = struct.pack(f">{count}H", *range(start, start + count))
                writer.write(Mbap.frame(transaction, unit, bytes([function | 0x80, code]) if code else bytes([function, 2 * count]) + words))

    def run(self):
        async def doors():
            for kind in KINDS:
                self.ports[kind] = free_port()
                await asyncio.start_server(lambda r, w, kind=kind: self.serve(kind, r, w), "127.0.0.1", self.ports[kind])
            ready.set()
            await asyncio.Event().wait()

        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(doors()), daemon=True).start()
        ready.wait()

    def since(self, kind, moment):
        return [row for row in self.asked[kind] if row[0] >= moment]


KINDS = {"holes": [1], "short": [1], "busy": [1], "behind": list(range(1, 11))}


def configure(devices, work, port):
    with open(f"{work}/g.toml", "w") as f:
        f.write(f'[gateway]\nname = "here"\ntopic = "p/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
                f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read"\n')
        for kind in KINDS:
            f.write(f'[[bus]]\nname = "{kind}"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{devices.ports[kind]}"\nresponse_timeout = "2s"\n')
        for kind, units in KINDS.items():
            for unit in units:
                f.write(f'[[device]]\nname = "{kind}-{unit}"\nbus = "{kind}"\nunit_id = {unit}\npoll = "{"50ms" if kind == "behind" else "200ms"}"\n')
                count = TAGS if kind in ("holes", "short") else 2
                f.writelines(f'[[device.tag]]\nname = "t{n}"\naddress = "holding:{n}"\ntype = "uint16"\n' for n in range(count))


def values(port, device, count=TAGS, seconds=10):
    """The first `count` values, retained ones first; fewer only when they do not come in time."""
    return {topic.rsplit("/", 1)[1]: json.loads(text) for topic, text in sub(port, f"p/{device}/+", count, seconds=seconds).items()}


def right_but_holes(seen):
    return len(seen) == TAGS and all(
        (value["value"], value["quality"]) == ((None, "bad") if int(name[1:]) in HOLES else (int(name[1:]), "good")) for name, value in seen.items())


def until(condition, seconds):
    deadline = time.time() + seconds
    while not condition():
        if time.time() > deadline:
            return False
        time.sleep(0.2)
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--for", type=float, default=10, dest="seconds")
    parser.add_argument("--patience", type=float, default=0.3)
    options = parser.parse_args()
    if not shutil.which("mosquitto_sub"):
        print("SKIPPED refusals.py: mosquitto_sub is not installed")
        return 0
    work, port, devices = tempfile.mkdtemp(prefix="refusals-"), free_port(), Devices(options.patience)
    devices.run()
    configure(devices, work, port)
    log = open(f"{work}/log", "w")

    def start():
        gateway = subprocess.Popen([options.binary, "run", "--config", f"{work}/g.toml"], stderr=log)
        wait_port(port)
        return gateway

    gateway = start()
    try:
        print("holes in the map, and answers that must be short")
        check("all but the holes is read", until(lambda: right_but_holes(values(port, "holes-1")), 30), True)
        numbers = {f"t{n}": n for n in range(TAGS)}
        all_right = lambda: {name: value["value"] for name, value in values(port, "short-1").items()} == numbers
        check("a device that answers 20 at most is read", until(all_right, 20), True)
        refused = lambda kind, moment: [row[2:4] for row in devices.since(kind, moment) if row[4]]
        print(f"  refused while it was learned: {len(refused('holes', 0))} (holes), {len(refused('short', 0))} (short)")
        for how in (signal.SIGTERM, signal.SIGKILL):
            moment = time.monotonic()
            gateway.send_signal(how)
            gateway.wait(20)
            gateway = start()
            check(f"{how.name}: read again", until(lambda: right_but_holes(values(port, "holes-1")), 20), True)
            again = refused("holes", moment)
            check(f"{how.name}: only the holes themselves are asked for again", [row for row in again if row[1] > 1 or row[0] not in HOLES] or len(again) <= 2, True)
            check(f"{how.name}: nothing long is asked for again", refused("short", moment), [])

        print("busy")
        was_bad = lambda: {name: value["quality"] for name, value in values(port, "busy-1", 200, seconds=2).items()} != {"t0": "good", "t1": "good"}
        devices.busy = "now and then"
        check("busy twice, then an answer: never bad", [was_bad() for _ in range(4)], [False] * 4)
        devices.busy = "always"
        check("busy for ever: bad", until(was_bad, 10), True)
        check("busy is no silence", json.loads(sub(port, "ironbridge/here/device/busy-1", 1)["ironbridge/here/device/busy-1"])["state"], "answering")
        devices.busy = "never"
        check("and good again", until(lambda: not was_bad(), 10), True)

        print("silent behind a gateway that says so (exception 11)")
        moment = time.monotonic()
        time.sleep(5)
        alone = len([row for row in devices.since("behind", moment) if row[1] not in (2, 5, 9)]) / (time.monotonic() - moment)
        devices.silent = {2, 5, 9}
        state = lambda unit: json.loads(sub(port, f"ironbridge/here/device/behind-{unit}", 1)[f"ironbridge/here/device/behind-{unit}"])["state"]
        check("they are down", until(lambda: [state(unit) for unit in (2, 5, 9)] == ["down"] * 3, 30), True)
        check("as timeouts", {value["cause"] for value in values(port, "behind-5", 2).values()}, {"timeout"})
        moment = time.monotonic()
        time.sleep(options.seconds)
        rows = devices.since("behind", moment)
        lost = sum(min(later[0] - row[0], options.patience + 0.1) for row, later in zip(rows, rows[1:]) if row[4])
        part = lost / (time.monotonic() - moment)
        print(f"  {sum(row[4] == 11 for row in rows)} probes took {100 * part:.1f} % of the line; "
              f"{len([row for row in rows if not row[4]]) / (time.monotonic() - moment):.0f} reads a second of the others, {alone:.0f} before")
        check("three dead cost the others a tenth at most", part / (1 - part) <= 0.1, timed=True)
        devices.silent = set()
        check("and they come back", until(lambda: [state(unit) for unit in (2, 5, 9)] == ["answering"] * 3, 62), True)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
    finally:
        gateway.kill()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
