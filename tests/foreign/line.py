#!/usr/bin/env python3
"""Buses of type line against instruments that were written apart from the gateway, over pseudo-terminals and over TCP.

A scale that is asked and a GPS receiver that speaks by itself, each on a serial port (pyserial) and behind a serial server,
and a barcode reader. They damage what they say in every way that a line does: flipped bits, bytes that are lost, halves of
frames, frames glued together, garbage between, floods without an end, answers that come too late, 7E1 text whose parity
nobody takes off, plugs pulled and put back. Every value that the gateway calls good must be one that was said.

usage: line.py IRONBRIDGE [--seconds N]        (needs mosquitto_sub, socat; pip: pyserial)
"""
import json, os, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time

import serial

from bench import free_port

failures, running = [], []
dice = random.Random(11)


def check(name, ok, got=""):
    print(f"  {'ok  ' if ok else 'FAIL'} {name}" + ("" if ok else f": {got!r}"), flush=True)
    if not ok:
        failures.append(name)


def start(*command, **more):
    process = subprocess.Popen(command, start_new_session=True, **more)
    running.append(process)
    return process


def stop(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Plug:
    """A serial line of socat's: near is the gateway's end, far the instrument's."""

    def __init__(self, work, name):
        self.near, self.far = f"{work}/{name}-near", f"{work}/{name}-far"

    def put_in(self):
        self.cable = start("socat", f"pty,raw,echo=0,link={self.near}", f"pty,raw,echo=0,link={self.far}", stderr=subprocess.DEVNULL)
        for _ in range(200):
            if os.path.exists(self.near) and os.path.exists(self.far):
                break
            time.sleep(0.02)
        self.port = serial.Serial(self.far, 9600, timeout=0.05)
        return self

    def pull(self):
        self.port.close()
        stop(self.cable)
        for link in (self.near, self.far):
            if os.path.lexists(link):
                os.unlink(link)

    def read(self):
        return self.port.read(64)

    def write(self, data):
        self.port.write(data)


class Server:
    """A serial server: one connection at a time."""

    def __init__(self, port):
        self.number = port

    def put_in(self):
        self.door = socket.socket()
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.door.bind(("127.0.0.1", self.number))
        self.door.listen(1)
        self.door.settimeout(0.05)
        self.peer = None
        return self

    def pull(self):
        for end in (self.peer, self.door):
            if end:
                end.close()
        self.peer = None

    def read(self):
        try:
            if not self.peer:
                self.peer, _ = self.door.accept()
                self.peer.settimeout(0.05)
            data = self.peer.recv(64)
            if not data:
                self.peer.close()
                self.peer = None
            return data
        except TimeoutError:
            return b""

    def write(self, data):
        if not self.peer:
            self.read()
        if self.peer:
            self.peer.sendall(data)


def nmea(body):
    sum = 0
    for byte in body.encode():
        sum ^= byte
    return f"${body}*{sum:02X}\r\n".encode()


def even(data):
    """7E1 as it looks to a port with 8 bits."""
    return bytes(byte | (0x80 if bin(byte).count("1") % 2 else 0) for byte in data)


def flipped(frame, has_checksum):
    """One bit. Where nothing checks it, one that makes no other digit of a digit: that nobody could tell."""
    at = dice.randrange(len(frame))
    bit = 1 << dice.randrange(8) if has_checksum else 0x80
    return frame[:at] + bytes([frame[at] ^ bit]) + frame[at + 1:]


class Instrument(threading.Thread):
    """Speaks, and damages what it says with the probability `trouble`."""

    def __init__(self, name, wire):
        super().__init__(daemon=True)
        self.name, self.wire = name, wire
        self.trouble, self.silent, self.over = 0.0, False, False
        self.said, self.damaged = set(), 0
        self.lock = threading.Lock()

    def run(self):
        while not self.over:
            with self.lock:
                try:
                    self.turn()
                except (OSError, serial.SerialException, TypeError):
                    pass
            time.sleep(0.002)

    def say(self, frame, has_checksum):
        if self.silent:
            return
        if dice.random() >= self.trouble:
            return self.wire.write(frame)
        self.damaged += 1
        kind = dice.randrange(7)
        half = frame[:dice.randrange(1, len(frame))]
        if kind == 0:
            self.wire.write(flipped(frame, has_checksum))
        elif kind == 1:
            self.wire.write(half)
        elif kind == 2:
            self.wire.write(frame[len(half):])
        elif kind == 3:
            self.wire.write(half + frame)  # glued
        elif kind == 4:
            self.wire.write(bytes(dice.randrange(128, 256) for _ in range(dice.randrange(1, 20))) + frame)
        elif kind == 5:
            self.wire.write(b"x" * 700)  # no end for longer than any frame
        else:
            self.wire.write(even(frame))


class Scale(Instrument):
    """MT-SICS, the weight counts up; every weight is told apart from every part of another."""

    pending, count, late = b"", 0, False

    def turn(self):
        self.pending = (self.pending + self.wire.read())[-64:]
        if not self.pending.endswith(b"SI\r\n"):
            return
        self.pending = b""
        self.count += 1
        weight = f"{1000 + self.count % 8000}.{dice.randrange(10)}7"
        self.said.add(float(weight))
        frame = f"S S {weight:>10} g\r\n".encode()
        if self.late and self.count % 5 == 0:
            # When nobody waits for it any more, and before the next question may go out.
            self.said.discard(float(weight))
            time.sleep(0.55)
            return self.wire.write(b"S S    6666.66 g\r\n")
        self.say(frame, False)


class Receiver(Instrument):
    """NMEA 0183, ten times a second; the altitude counts up."""

    count, next = 0, 0.0

    def turn(self):
        self.wire.read()
        if time.time() < self.next:
            return
        self.next = time.time() + 0.1
        self.count += 1
        altitude = f"{100 + self.count % 800}.{dice.randrange(10)}"
        self.said.add(float(altitude))
        self.say(nmea(f"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,{altitude},M,46.9,M,,"), True)


class Reader(Instrument):
    """Barcodes: 13 digits, the second half being the first one backwards, and a line end. It does not damage bits: nothing
    would tell. But the connection breaks in the middle of a code, and the rest is the first that comes over the next one."""

    next = 0.0

    def turn(self):
        self.wire.read()
        if time.time() < self.next:
            return
        self.next = time.time() + 0.05
        half = "".join(str(dice.randrange(10)) for _ in range(6))
        code = f"{half}5{half[::-1]}"
        self.said.add(code)
        breaks_at = dice.randrange(1, 13) if dice.random() < self.trouble and isinstance(self.wire, Server) else None
        for at, byte in enumerate(f"{code}\r".encode()):
            if at == breaks_at and self.wire.peer:
                self.damaged += 1
                self.wire.peer.close()
                self.wire.peer = None
                while not self.wire.peer and not self.over:
                    self.wire.read()
                time.sleep(dice.random() * 0.2)
            self.wire.write(bytes([byte]))
            time.sleep(0.001)


def config(work, port, places):
    text = f"""[gateway]
name = "here"
topic = "p/{{device}}/{{tag}}"
data_dir = "{work}/data"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read"
"""
    for name, place in places.items():
        bus = f'[[bus]]\nname = "{name}"\ntype = "line"\n{place}\n'
        device = f'[[device]]\nname = "{name}"\nbus = "{name}"\n'
        if name.startswith("scale"):
            text += bus + 'frame_end = "\\r\\n"\nresponse_timeout = "500ms"\nmax_frame = 64\n'
            text += device + 'send = "SI\\r\\n"\npoll = "20ms"\nmatch = "S (?P<state>[SD]) +(?P<weight>[0-9.]+) g"\n'
            text += 'status = { field = "state", good = ["S"], uncertain = ["D"] }\n[[device.tag]]\nname = "value"\nfield = "weight"\n'
        elif name.startswith("gps"):
            text += bus + 'mode = "listen"\nframe_start = "$"\nframe_end = "\\r\\n"\nmax_frame = 82\nchecksum = "xor"\n'
            text += device + "poll = \"100ms\"\nmatch = 'G[A-Z]GGA,([^,]*,){5}(?P<fix>[0-9]),[0-9]*,[0-9.]*,(?P<altitude>[-0-9.]*),M,.*'\n"
            text += 'status = { field = "fix", good = ["1"] }\n[[device.tag]]\nname = "value"\nfield = "altitude"\nstale_after = "1s"\n'
        else:
            text += bus + 'mode = "listen"\nframe_end = "\\r"\n'
            text += device + "poll = \"100ms\"\nmatch = '(?P<code>[0-9]+)'\n[[device.tag]]\nname = \"value\"\nfield = \"code\"\ntype = \"string(40)\"\nstale_after = \"1s\"\n"
    with open(f"{work}/g.toml", "w") as f:
        f.write(text)


class Watch(threading.Thread):
    """What the gateway publishes."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.seen = {}
        self.client = start("mosquitto_sub", "-p", str(port), "-t", "p/#", "-v", stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self):
        for line in self.client.stdout:
            topic, payload = line.rstrip("\n").split(" ", 1)
            self.seen.setdefault(topic.split("/")[1], []).append(json.loads(payload))

    def good(self, name):
        return [it["value"] for it in self.seen.get(name, []) if it["quality"] == "good"]

    def newest(self, name):
        return (self.seen.get(name) or [{"quality": "nothing", "value": None}])[-1]

    def count(self, name):
        return len(self.seen.get(name, []))

    def until(self, name, wanted, seconds=20, since=None):
        """Waits until what comes from now on fits, or from an earlier count on."""
        begun, deadline = self.count(name) if since is None else since, time.time() + seconds
        while time.time() < deadline:
            if any(wanted(it) for it in self.seen.get(name, [])[begun:]):
                return True
            time.sleep(0.02)
        return False


def is_good(it):
    return it["quality"] == "good"


def is_bad(it):
    return it["quality"] == "bad" and it["value"] is None


def main():
    binary = sys.argv[1]
    seconds = float(sys.argv[sys.argv.index("--seconds") + 1]) if "--seconds" in sys.argv else 10
    for tool in ("mosquitto_sub", "socat"):
        if not shutil.which(tool):
            print(f"SKIPPED line.py: {tool} is not installed")
            return 0
    work = tempfile.mkdtemp(prefix="line-")
    plugs = {name: Plug(work, name) for name in ("scale-serial", "gps-serial", "reader-serial")}
    servers = {name: Server(free_port()) for name in ("scale-tcp", "gps-tcp", "reader-tcp")}
    places = {name: f'port = "{plug.near}"\nserial = "9600-{"7E1" if name.startswith("scale") else "8N1"}"' for name, plug in plugs.items()}
    places |= {name: f'endpoint = "127.0.0.1:{server.number}"' for name, server in servers.items()}
    kinds = {"scale": Scale, "gps": Receiver, "reader": Reader}
    wires = {**plugs, **servers}
    instruments = {name: kinds[name.split("-")[0]](name, wire.put_in()) for name, wire in wires.items()}
    # Pseudo-terminals have 8 bits whatever they are set to; 7E1 that is not taken off is one of the troubles.
    port = free_port()
    config(work, port, places)
    for instrument in instruments.values():
        instrument.start()
    gateway = start(binary, "run", "--config", f"{work}/g.toml", stderr=open(f"{work}/log", "w"))
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            break
        except OSError:
            time.sleep(0.05)
    watch = Watch(port)
    for name in instruments:
        check(f"{name}: good values", watch.until(name, is_good))
    for name, instrument in instruments.items():
        instrument.trouble = {"scale": 0.15, "gps": 0.4, "reader": 0.1}[name.split("-")[0]]
        instrument.late = name == "scale-tcp"
    time.sleep(seconds)
    for name, instrument in instruments.items():
        instrument.trouble, instrument.late = 0.0, False
    for name, instrument in instruments.items():
        check(f"{name}: good after {instrument.damaged} troubles", watch.until(name, is_good, 40))
    for name in ("scale-serial", "gps-tcp"):
        before = watch.count(name)
        instruments[name].silent = True
        check(f"{name}: bad when it falls silent", watch.until(name, is_bad, since=before))
        instruments[name].silent = False
        check(f"{name}: good when it speaks again", watch.until(name, is_good, 40))
    for name, instrument in instruments.items():
        with instrument.lock:
            before = watch.count(name)
            instrument.wire.pull()
            check(f"{name}: bad when it is unplugged", watch.until(name, is_bad, since=before))
            instrument.wire.put_in()
        check(f"{name}: good when it is back", watch.until(name, is_good, 40))
    total = 0
    for name, instrument in instruments.items():
        good = watch.good(name)
        wrong = [value for value in good if value not in instrument.said]
        total += len(good)
        check(f"{name}: of {len(good)} good values none is wrong", len(good) > 20 and not wrong, wrong[:5])
    print(f"  {total} good values, {sum(i.damaged for i in instruments.values())} troubles")
    gateway.send_signal(signal.SIGTERM)
    check("stops well", gateway.wait(20) == 0, gateway.returncode)
    for instrument in instruments.values():
        instrument.over = True
    if failures:
        print("  log:", work)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return len(failures) > 0


try:
    code = main()
finally:
    for process in running:
        stop(process)
sys.exit(code)
