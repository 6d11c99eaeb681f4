#!/usr/bin/env python3
"""One of 500 devices gets another configuration while all are polled, stored and forwarded: the other 499 miss nothing.

Twenty Modbus servers with twenty-five units each (not ours; each notes when it was asked and by which connection) answer with a
number that grows with every poll. So a poll that was left out shows twice: as a hole in the notes of the server, and as a hole in
the numbers that the receiver got through store, uplink and a mosquitto. One device is changed by `ironbridge reload`, another one
by SIGHUP, a third file is wrong.

usage: reload.py IRONBRIDGE        (needs mosquitto; pip: paho-mqtt)
"""
import json, os, selectors, signal, socket, struct, subprocess, sys, tempfile, threading, time

SERVERS, UNITS, PERIOD = 20, 25, 1.0
DEVICES = SERVERS * UNITS


def plant(notes, listeners):
    """Answers function 3: the first register counts the polls of this unit, the others stand still."""
    out = open(notes, "w", buffering=1 << 12)
    chosen, pending, counts, conns = selectors.DefaultSelector(), {}, {}, 0
    for number, fd in enumerate(listeners):
        listener = socket.socket(fileno=fd)
        chosen.register(listener, selectors.EVENT_READ, (number, None))
    flushed = time.monotonic()
    while True:
        for key, _ in chosen.select(0.2):
            number, conn = key.data
            if conn is None:
                stream = key.fileobj.accept()[0]
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                conns += 1
                pending[stream] = b""
                chosen.register(stream, selectors.EVENT_READ, (number, conns))
                continue
            stream, now = key.fileobj, time.monotonic()
            try:
                data = stream.recv(4096)
            except OSError:
                data = b""
            if not data:
                chosen.unregister(stream)
                stream.close()
                continue
            pending[stream] += data
            while len(pending[stream]) >= 12:
                transaction, _, _, unit, function, first, count = struct.unpack(">HHHBBHH", pending[stream][:12])
                pending[stream] = pending[stream][12:]
                place = (number, unit)
                counts[place] = counts.get(place, 0) + 1
                out.write(f"{now:.4f} {number} {unit} {conn} {counts[place]}\n")
                words = [counts[place] % 65536 if register == 0 else 7 for register in range(first, first + count)]
                body = struct.pack(f">{count}H", *words)
                stream.sendall(struct.pack(">HHHBBB", transaction, 0, 3 + len(body), unit, function, len(body)) + body)
        if time.monotonic() - flushed > 0.2:
            out.flush()
            flushed = time.monotonic()


if sys.argv[1] == "plant":
    sys.exit(plant(sys.argv[2], [int(fd) for fd in sys.argv[3:]]))

import paho.mqtt.client as mqtt
from bench import check, free_port, verdict, wait_port

binary = os.path.realpath(sys.argv[1])


def config(work, ports, broker, changed=()):
    text = (f'[gateway]\nname = "hall"\ntopic = "hall/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
            f'[[broker.listener]]\nlisten = "127.0.0.1:0"\n'
            f'[[uplink]]\nname = "cloud"\nurl = "mqtt://127.0.0.1:{broker}"\nclient_id = "hall"\nstart = "oldest"\n')
    for server, port in enumerate(ports):
        text += f'[[bus]]\nname = "b{server}"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{port}"\n'
        for unit in range(1, UNITS + 1):
            name = f"d{server}-{unit}"
            text += f'[[device]]\nname = "{name}"\nbus = "b{server}"\nunit_id = {unit}\npoll = "{int(PERIOD * 1000)}ms"\n'
            text += '[[device.tag]]\nname = "n"\naddress = "holding:0"\ntype = "uint16"\n'
            text += "".join(f'[[device.tag]]\nname = "t{tag}"\naddress = "holding:{tag}"\ntype = "uint16"\ndeadband = 1.0\n' for tag in range(1, 8))
            text += '[[device.tag]]\nname = "added"\naddress = "holding:8"\ntype = "uint16"\ndeadband = 1.0\n' if name in changed else ""
    return text


class Receiver:
    """Everything that came, by its number."""

    def __init__(self, port):
        self.lock, self.values, self.numbers, self.again = threading.Lock(), {}, set(), 0
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="receiver", clean_session=False)
        self.client.on_message = self.note
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("hall/+/n", 1)
        self.client.subscribe("hall/+/+", 1)
        self.client.loop_start()

    def note(self, client, userdata, message):
        told = json.loads(message.payload)
        number = (told.get("stream"), told.get("epoch"), told.get("seq"))
        with self.lock:
            self.again += number in self.numbers
            if number[0] == "telemetry" and number not in self.numbers:
                self.numbers.add(number)
                _, device, tag = message.topic.split("/")
                if tag == "n" and told["quality"] == "good":
                    self.values.setdefault(device, []).append(told["value"])

    def holes(self):
        with self.lock:
            seqs = sorted(seq for _, _, seq in self.numbers)
            epochs = {epoch for _, epoch, _ in self.numbers}
            devices = {device: [now for before, now in zip(values, values[1:]) if now != before + 1] for device, values in self.values.items()}
        return len(epochs), seqs[-1] - seqs[0] + 1 - len(seqs), {device: holes for device, holes in devices.items() if holes}, seqs[0]


def read_notes(path):
    with open(path) as file:
        return [(float(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in (line.split() for line in file.read().split("\n")[:-1]) if len(row) == 5]


def gaps(notes, begun, ended):
    """For each unit the longest time between two polls that touches this window, and the connections it was asked by."""
    units = {}
    for at, server, unit, conn in notes:
        units.setdefault((server, unit), []).append((at, conn))
    longest, conns = {}, {}
    for place, polls in units.items():
        pairs = [(before, after) for (before, _), (after, _) in zip(polls, polls[1:]) if after >= begun and before <= ended]
        longest[place] = max((after - before for before, after in pairs), default=99)
        conns[place] = {conn for at, conn in polls if begun - 3 * PERIOD <= at <= ended}
    return longest, conns


def main():
    work = tempfile.mkdtemp(prefix="reload-")
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(SERVERS)]
    ports = [listener.getsockname()[1] for listener in listeners]
    fds = [listener.fileno() for listener in listeners]
    broker, plan, processes = free_port(), f"{work}/plan.toml", []

    def start(*command, **more):
        processes.append(subprocess.Popen(command, **more))
        return processes[-1]

    def write(text):
        with open(f"{plan}.new", "w") as file:
            file.write(text)
        os.rename(f"{plan}.new", plan)

    def window(name, seconds, act):
        """Acts in the middle of a while, and judges all but the device that was touched."""
        begun = time.monotonic()
        time.sleep(2 * PERIOD)
        touched, took = act()
        time.sleep(seconds)
        ended = time.monotonic()
        time.sleep(PERIOD + 0.5)
        longest, conns = gaps(read_notes(f"{work}/notes"), begun, ended)
        others = {place: gap for place, gap in longest.items() if place != touched}
        worst = max(others.values())
        late = [place for place, gap in others.items() if gap > 1.7 * PERIOD]
        print(f"    {name}: {1000 * took:.0f} ms; the longest of {len(others)} others went {1000 * worst:.0f} ms without a poll of {PERIOD:.0f} s")
        check(f"{name}: all {len(others)} others are there", len(others), DEVICES - (touched is not None))
        check(f"{name}: nobody else misses a poll", late, [], timed=True)  # by the plant's own clock, which a busy machine stops too
        check(f"{name}: nobody else is connected anew", [place for place in others if len(conns[place]) != 1], [])

    def said(since):
        with open(f"{work}/log") as file:
            return file.read().splitlines()[since:]

    try:
        with open(f"{work}/mosquitto.conf", "w") as file:
            file.write(f"listener {broker} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        start("mosquitto", "-c", f"{work}/mosquitto.conf", stderr=subprocess.DEVNULL)
        wait_port(broker)
        receiver = Receiver(broker)
        start(sys.executable, __file__, "plant", f"{work}/notes", *map(str, fds), pass_fds=fds)
        write(config(work, ports, broker))
        gateway = start(binary, "run", "--config", plan, stderr=open(f"{work}/log", "w"))
        deadline = time.monotonic() + 60
        while len({row[1:3] for row in read_notes(f"{work}/notes")} if os.path.exists(f"{work}/notes") else ()) < DEVICES:
            if time.monotonic() > deadline:
                sys.exit("not all devices are polled, before anything was reloaded")
            time.sleep(0.5)
        time.sleep(3)

        window("nothing", 3, lambda: (None, 0.0))

        def by_command():
            write(config(work, ports, broker, {"d7-13"}))
            at, lines = time.monotonic(), len(said(0))
            done = subprocess.run([binary, "reload", "--config", plan], capture_output=True, text=True, timeout=60)
            took = time.monotonic() - at
            told = [line for line in done.stdout.splitlines() if " changed" in line or " added" in line or " removed" in line]
            check("ironbridge reload: only that device", (done.returncode, told), (0, ["device d7-13 changed: 1 tags added"]))
            check("ironbridge reload: no bus begins anew", [line for line in said(lines) if "bus begins" in line or "bus ends" in line], [])
            return (7, 13), took

        def by_signal():
            write(config(work, ports, broker, {"d7-13", "d19-25"}))
            at, lines = time.monotonic(), len(said(0))
            gateway.send_signal(signal.SIGHUP)
            while not any("configuration changed" in line for line in said(lines)) and time.monotonic() - at < 30:
                time.sleep(0.01)
            return (19, 25), time.monotonic() - at

        def wrong():
            write(config(work, ports, broker).replace("unit_id = 3\n", "unit_id = 300\n", 1))
            at = time.monotonic()
            done = subprocess.run([binary, "reload", "--config", plan], capture_output=True, text=True, timeout=60)
            took = time.monotonic() - at
            check("a wrong file: refused, and why", (done.returncode, "unit_id" in done.stderr), (78, True))
            return None, took

        window("ironbridge reload", 4, by_command)
        window("SIGHUP", 4, by_signal)
        window("a wrong file", 2, wrong)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(40), 0)
        time.sleep(1)
        last, quiet = -1, 0
        while quiet < 3:
            quiet = quiet + 1 if len(receiver.numbers) == last else 0
            last = len(receiver.numbers)
            time.sleep(0.3)
        epochs, missing, holes, first = receiver.holes()
        print(f"    {len(receiver.numbers)} records received, {receiver.again} twice")
        check("one epoch, from its first number, none is missing", (epochs, first, missing), (1, 1, 0))
        check("every poll of every device came to the receiver", holes, {})
        polled = {}
        for at, server, unit, _ in read_notes(f"{work}/notes"):
            polled[f"d{server}-{unit}"] = polled.get(f"d{server}-{unit}", 0) + 1
        # The last one may have been on the wire when it stopped.
        short = {device: (count, len(receiver.values.get(device, []))) for device, count in polled.items() if count - len(receiver.values.get(device, [])) > 1}
        check("as many as were asked", short, {})
        check("no panic", [line for line in said(0) if "panicked" in line], [])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
