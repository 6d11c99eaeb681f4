#!/usr/bin/env python3
"""What happens in the virtual machine of tests/power/day, by a program that is its plant, its cloud's ear and the one who moves the clock.

usage: inside.py HOURS      run by systemd as day.service, in each life of the machine

The plant is a Modbus TCP server with two units: each read gets a number of its own, and every register follows from it. The ear is
subscribed to the broker in the machine (mosquitto), which the uplink publishes to. Everything is noted with the time since boot,
which no step of the wall clock moves, in /var/lib/day: polls, heard, steps, story, figures, and the journal of each life. Lines of figures come by the serial
port too.
"""
import glob, json, os, socket, struct, subprocess, sys, threading, time, urllib.error, urllib.request

HOURS = float(sys.argv[1])
HERE = "/var/lib/day"
RIGHT = 1796472000.0  # 2026-12-05T12:00:00Z: what it is when the clock is set first
UNITS, REGISTERS = (1, 2), 100
MARKER = "/run/systemd/timesync/synchronized"  # what systemd-timesyncd leaves when it has set the clock
LIFE = open("/proc/sys/kernel/random/boot_id").read().strip()[:8]


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ledger:
    """Lines that survive this program."""

    def __init__(self, name):
        self.file, self.lock = open(f"{HERE}/{name}", "a"), threading.Lock()

    def note(self, *words):
        with self.lock:
            self.file.write(f"{LIFE} {now():.3f} {' '.join(map(str, words))}\n")
            self.file.flush()


def mixed(number):
    """Each number another one, and no two alike: values that say which poll and tag they are of, and do not compress to nothing."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ number >> shift) * factor % 2**32
    return number ^ number >> 16


def exactly(link, size):
    found = b""
    while len(found) < size:
        part = link.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


class Plant(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.ledger, self.counts = Ledger("polls"), dict.fromkeys(UNITS, 0)
        with open(f"{HERE}/polls") as file:  # of the life before
            for line in file:
                _, _, unit, count = line.split()
                self.counts[int(unit)] = int(count)
        self.listener = socket.create_server(("127.0.0.1", 5020))

    def run(self):
        while True:
            link = self.listener.accept()[0]
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, link):
        try:
            while True:
                head = exactly(link, 7)
                size, unit = struct.unpack(">HB", head[4:])
                function, first, count = struct.unpack(">BHH", exactly(link, size - 1))
                assert function == 3 and first + count <= REGISTERS, (function, first, count)
                self.counts[unit] += 1
                poll = self.counts[unit]
                values = b"".join(struct.pack(">I", mixed(poll * 64 + tag)) for tag in range(REGISTERS // 2))
                body = values[2 * first:2 * (first + count)]
                self.ledger.note(unit, poll)
                link.sendall(head[:4] + struct.pack(">HBBB", len(body) + 3, unit, function, len(body)) + body)
        except (OSError, EOFError):
            link.close()


class Ear(threading.Thread):
    """An MQTT 3.1.1 client with a session of its own, at QoS 1, on #."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ledger, self.subscribed = Ledger("heard"), threading.Event()

    def run(self):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", 1883), 10) as link:
                    self.listen(link)
            except (OSError, EOFError):
                time.sleep(5)

    def listen(self, link):
        field = lambda text: struct.pack(">H", len(text)) + text
        packet = lambda kind, body: bytes([kind, len(body)]) + body
        link.sendall(packet(0x10, field(b"MQTT") + b"\x04\x00\x00\x00" + field(b"ear")) + packet(0x82, b"\x00\x01" + field(b"#") + b"\x01"))
        link.settimeout(None)
        while True:
            kind, size, shift = exactly(link, 1)[0], 0, 0
            while True:
                byte = exactly(link, 1)[0]
                size, shift = size | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
            body = exactly(link, size)
            if kind >> 4 == 9:
                self.subscribed.set()
            if kind >> 4 != 3:
                continue
            length = struct.unpack(">H", body[:2])[0]
            topic, rest = body[2:2 + length].decode(), body[2 + length:]
            if kind & 6:
                mid, rest = rest[:2], rest[2:]
            self.ledger.note(topic, rest.decode())
            if kind & 6:
                link.sendall(b"\x40\x02" + mid)  # what is noted is acknowledged


steps, figures, story = Ledger("steps"), Ledger("figures"), Ledger("story")


def tell(words):
    story.note(words)
    with open("/dev/ttyS1", "w") as serial:
        serial.write(f"{now() / 3600:6.2f} h  {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}  {words}\n")


def shows(wall, vouched, words):
    """The wall clock is set, as `date --set` and NTP do it; without somebody who vouches for it, it is no time."""
    if not vouched and os.path.exists(MARKER):
        os.unlink(MARKER)
    time.clock_settime(time.CLOCK_REALTIME, wall)
    steps.note(f"{time.time() - now():.3f}", int(vouched))
    if vouched:
        os.makedirs(os.path.dirname(MARKER), exist_ok=True)
        open(MARKER, "w").close()
    tell(words)


def step(seconds, words):
    shows(time.time() + seconds, True, words)


def systemctl(*words):
    subprocess.run(["systemctl", *words], check=True)


def daemon():
    said = subprocess.run(["systemctl", "show", "ironbridge", "-p", "MainPID", "-p", "NRestarts"], capture_output=True, text=True).stdout
    shown = dict(line.split("=") for line in said.split())
    return int(shown["MainPID"]), int(shown["NRestarts"])


def measure():
    """One line of figures: of the process, of its store, and how many lines it has logged."""
    pid, restarts = daemon()
    found = {"pid": pid, "restarts": restarts}
    if pid:
        try:
            status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
            found |= {"rss_kb": int(status["VmRSS"].split()[0]), "peak_kb": int(status["VmHWM"].split()[0]), "threads": int(status["Threads"]),
                      "files": len(os.listdir(f"/proc/{pid}/fd"))}
        except (OSError, KeyError):
            pass  # it has just ended
    paths = [path for path in glob.glob("/var/lib/ironbridge/**", recursive=True) if os.path.isfile(path)]
    found["store_bytes"] = sum(os.stat(path).st_blocks * 512 for path in paths)
    said = subprocess.run(["journalctl", "-b", "-u", "ironbridge", "-q", "-o", "short-monotonic"], capture_output=True, text=True).stdout
    found["lines"] = len(said.splitlines())  # of this life
    with open(f"{HERE}/journal-{LIFE}", "w") as file:
        file.write(said)
    found["health"] = health()
    figures.note(json.dumps(found))
    return found


def health():
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=10) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
    except OSError as error:
        return [0, str(error)]


def reboot():
    measure()
    tell("the machine is restarted; its own clock is still of two years ago")
    systemctl("reboot")
    time.sleep(3600)


def first_life(_hours):
    """The clock is of two years ago; nobody can say better, and for a while nobody can be told."""
    yield 0.15, lambda: (tell("the uplink can be made"), systemctl("start", "mosquitto"))
    yield 0.4, lambda: shows(RIGHT, True, "the clock is set for the first time, two years and more forwards")
    yield 0.6, lambda: shows(RIGHT - 3 * 365 * 86400, False, "a clock of three years ago, for which nobody vouches")
    yield 0.62, lambda: (tell("kill -9"), os.kill(daemon()[0], 9))
    yield 0.8, lambda: shows(RIGHT + now() - 0.4 * 3600, True, "the clock is right again")
    yield 0.82, lambda: (tell("the service is restarted"), systemctl("restart", "ironbridge"))
    yield 0.9, reboot


def second_life(_hours):
    """Nobody ever knows what time it is, and nobody can be told."""
    yield 0.2, reboot


def third_life(hours):
    """In hours since the third boot; the first is for what was left, in the others the uplink has always the same to do."""
    end = hours - 1.1
    day = lambda part: 1 + part * (end - 1)
    midnight = lambda: (int(time.time()) // 86400 + 1) * 86400
    yield 0.2, lambda: shows(RIGHT + 7200, True, "the clock is set for the first time in this life")
    yield 0.3, lambda: (tell("the uplink can be made"), systemctl("start", "mosquitto"))
    yield day(0.05), lambda: step(3 * 3600, "three hours forwards")
    yield day(0.1), lambda: step(-90, "90 s backwards")
    yield day(0.15), lambda: step(1800, "half an hour forwards")
    yield day(0.2), lambda: shows(midnight() + 1, True, "over midnight in one step")
    yield day(0.22), lambda: step(-90, "90 s backwards, into the day before")
    yield day(0.25), lambda: (tell("the uplink is gone"), systemctl("stop", "mosquitto"))
    yield day(0.3), lambda: step(-90, "90 s backwards, without an uplink")
    yield day(0.4), lambda: shows(RIGHT - 3 * 365 * 86400, False, "a clock of three years ago, for which nobody vouches")
    yield day(0.42), lambda: shows(RIGHT + 86400 + now(), True, "right again")
    yield day(0.45), lambda: step(1800, "half an hour forwards, without an uplink")
    yield day(0.5), lambda: (tell("the uplink is back"), systemctl("start", "mosquitto"))
    yield day(0.6), lambda: shows(midnight() - 5, True, "five seconds before midnight")
    yield day(0.6) + 10 / 3600, lambda: step(-6, "the last seconds of the day once more")
    yield day(0.7), lambda: step(-86400, "a day backwards")
    yield day(0.75), lambda: step(86400, "and forwards")
    for minute in range(12):
        yield day(0.85) + minute / 60, lambda: step(-0.4, "0.4 s backwards")
    yield end, lambda: (measure(), tell("the end"), systemctl("stop", "ironbridge"), time.sleep(10), tell("stopped"))


def main():
    os.makedirs(os.path.dirname(MARKER), exist_ok=True)
    plant = Plant()
    plant.start()
    ear = Ear()
    ear.start()
    lives = Ledger("lives")
    lives.note("begins")
    life = sum(1 for _ in open(f"{HERE}/lives"))
    if life == 1:
        # Nothing may be published before somebody listens: the ear's session is in the broker's file from here on.
        systemctl("start", "mosquitto")
        ear.subscribed.wait(60)
        systemctl("stop", "mosquitto")
    subprocess.run(["systemd-notify", "--ready"], check=True)
    steps.note(f"{time.time() - now():.3f}", 0)
    tell(f"life {life} of the machine")
    todo = [(at * 3600, action) for at, action in (first_life, second_life, third_life)[life - 1](HOURS)]
    shown = 0
    while todo:
        measure_at = (int(now()) // 600 + 1) * 600
        at = min(todo[0][0], measure_at)
        time.sleep(max(0, at - now()))
        if at == todo[0][0]:
            todo.pop(0)[1]()
        if at == measure_at:
            found = measure()
            if at >= shown + 3600:
                shown = at
                tell(json.dumps(found | {"health": found["health"][0]}))
    systemctl("poweroff")


if __name__ == "__main__":
    main()
