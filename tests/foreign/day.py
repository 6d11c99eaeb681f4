#!/usr/bin/env python3
"""A day in minutes, by a wall clock that does everything wall clocks do: 1970 at boot, an hour too early, stepped by hours in both
directions, kill -9 and 1970 again, a second that comes twice at midnight, a new day, the old one again, the day after.

The real program under libfaketime, which shows it another wall clock; its boot-time clock and its timers run as they are (a
program whose timers ran faster than its sockets would prove nothing). A plant notes when it answered with which number, so for
every record at the receiver it is known when it was taken and what the wall clock showed then. Judged: each number is received,
none twice that was acknowledged; every time is what a right clock showed when it was taken or sent; what nobody vouched for is
flagged, and never 1970; a step is no storm of events and log lines; a budget of a day begins anew with the day, once, and not for
a step backwards.

usage: day.py IRONBRIDGE [SECONDS_PER_HOUR]        (needs mosquitto, faketime; pip: paho-mqtt)      about four minutes
"""
import bisect, datetime, glob, json, os, shutil, signal, subprocess, sys, tempfile, threading, time, urllib.request

import paho.mqtt.client as mqtt

from bench import check, failures, free_port, wait_port

HERE = os.path.dirname(os.path.abspath(__file__))
HOUR = float(sys.argv[2]) if len(sys.argv) > 2 else 6.0
# A step is seen at the next look, a second later; then a sample may still be on its way.
SEEN_WITHIN, OFF_MAX = 3.0, 1.5
UNIX_OF_MONOTONIC = time.time() - time.monotonic()

CONFIG = """
[gateway]
name = "box"
data_dir = "{dir}/data"
time_source = "file:{dir}/synchronised"
[store]
commit_interval = "200ms"
[status]
listen = "127.0.0.1:{page}"
anonymous = "read"
[[broker.listener]]
listen = "127.0.0.1:{local}"
[[bus]]
name = "plc"
type = "modbus-tcp"
endpoint = "127.0.0.1:{plc}"
[[device]]
name = "d"
bus = "plc"
unit_id = 1
poll = "100ms"
[[device.tag]]
name = "t"
address = "holding:2"
type = "uint16"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{cloud}"
start = "oldest"
budget = ["20MiB/day"]
"""


class Box:
    def __init__(self, binary, library):
        self.binary, self.library, self.gateway = binary, library, None
        self.dir = tempfile.mkdtemp(prefix="day-")
        self.ports = {name: free_port() for name in ("local", "plc", "cloud", "page")}
        with open(f"{self.dir}/box.toml", "w") as file:
            file.write(CONFIG.format(dir=self.dir, **self.ports))
        with open(f"{self.dir}/mosquitto.conf", "w") as file:
            file.write(f"listener {self.ports['cloud']} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self.beside = [subprocess.Popen([sys.executable, f"{HERE}/besieged.py", "plant", str(self.ports["plc"]), f"{self.dir}/polls"]),
                       subprocess.Popen(["mosquitto", "-c", f"{self.dir}/mosquitto.conf"], stderr=subprocess.DEVNULL)]
        wait_port(self.ports["cloud"])
        wait_port(self.ports["plc"])
        self.lock, self.samples, self.events, self.twice = threading.Lock(), {}, [], 0
        self.offsets = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="watcher")
        self.client.on_message = self.note
        self.client.connect("127.0.0.1", self.ports["cloud"])
        self.client.subscribe([("box/d/t", 1), ("ironbridge/#", 1)])
        self.client.loop_start()

    def note(self, _client, _user, message):
        told = json.loads(message.payload)
        with self.lock:
            if message.topic != "box/d/t":
                return self.events.append((time.monotonic(), message.topic, told))
            key = (told["epoch"], told["seq"])
            self.twice += key in self.samples
            self.samples.setdefault(key, (time.monotonic(), told))

    def shows(self, wall, vouched=True):
        """From now on the wall clock shows this (seconds since 1970), and goes on from there; what nobody vouches for is no time."""
        offset = round(wall - time.time())
        with open(f"{self.dir}/offset.new", "w") as file:
            file.write(f"{offset:+d}")
        os.rename(f"{self.dir}/offset.new", f"{self.dir}/offset")
        self.offsets += [(time.monotonic(), offset)] if vouched else []

    def wall(self):
        return time.time() + self.offsets[-1][1]

    def vouched(self, yes):
        path = f"{self.dir}/synchronised"
        open(path, "w").close() if yes else os.path.exists(path) and os.unlink(path)

    def start(self):
        env = dict(os.environ, LD_PRELOAD=self.library, FAKETIME_TIMESTAMP_FILE=f"{self.dir}/offset", FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1")
        self.gateway = subprocess.Popen([self.binary, "run", "--config", f"{self.dir}/box.toml"], env=env, stderr=open(f"{self.dir}/log", "a"))
        wait_port(self.ports["page"])

    def kill(self):
        self.gateway.kill()
        self.gateway.wait()

    def spent(self):
        """Bytes of this day, as the page shows them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['page']}/api/status", timeout=10) as answer:
            return json.load(answer)["uplinks"][0]["budgets"][0]["used_bytes"]

    def lines(self):
        with open(f"{self.dir}/log") as file:
            return file.read().splitlines()

    def close(self):
        for process in [*self.beside, self.gateway]:
            if process:
                process.kill()
                process.wait()


def rest(hours=1.0):
    time.sleep(HOUR * hours)


def the_day(box):
    midnight = (int(time.time()) // 86400 + 2) * 86400
    at = lambda hours: midnight + hours * 3600
    print("1970 at boot, and nobody vouches for it")
    box.shows(1000, False)
    box.start()
    rest()
    print("the clock is set: half past midnight; then hour by hour, now and then backwards")
    box.vouched(True)
    box.shows(at(0.5))
    rest()
    for hour in (1.5, 2.5, 3.5, 4.5, 5.5, 2.5, 3.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5):
        box.shows(at(hour))
        rest()
    print("kill -9; 1970 again until somebody vouches: what was known in this boot still counts")
    box.vouched(False)
    box.kill()
    box.shows(1000, False)
    box.start()
    rest()
    box.shows(at(12.5))
    box.vouched(True)
    rest()
    for hour in (13.5, 17.5, 16.5, 18.5, 19.5, 20.5, 21.5, 22.5):
        box.shows(at(hour))
        rest()
    print("midnight, with a second that comes twice")
    box.shows(at(24) - HOUR)
    rest(0.8)
    before = box.spent()
    while box.wall() < at(24):
        time.sleep(0.02)
    box.shows(at(24) - 1)
    rest(1.2)
    after = box.spent()
    print(f"    bytes of the day: {before} before midnight, {after} after it")
    check("a new day has a new budget", (before > 20_000, after < before / 4), (True, True))
    print("the old day again, then on: no third budget")
    box.shows(at(23.5))
    rest()
    again = box.spent()
    check("a step back into the old day is no new budget", again, lambda again: again >= after)
    box.shows(at(36))
    rest()
    noon = box.spent()
    check("nor is the way back to this day", noon, lambda noon: noon >= again)
    box.shows(at(48.2))
    rest()
    check("the day after is one", box.spent(), lambda spent: spent < noon)


def judge(box, lines_of_steps):
    with open(f"{box.dir}/polls") as file:
        asked = [float(line.split()[0]) for line in file.read().splitlines() if line.count(" ") == 2]
    with box.lock:
        samples = [box.samples[key] for key in sorted(box.samples, key=lambda key: key[1])]
        keys, events = sorted(box.samples, key=lambda key: key[1]), list(box.events)
    seqs, values = [seq for _, seq in keys], [told["value"] for _, told in samples if told["value"] is not None]
    print(f"    {len(asked)} polls, {len(samples)} records, {box.twice} came twice, {len(events)} events, {len(box.offsets)} steps of the clock")
    check("each number is there, from the first", (seqs[0], seqs[-1] - seqs[0] + 1), (1, len(seqs)))
    check("one epoch: no step makes another", len({epoch for epoch, _ in keys}), 1)
    # What the kill took was not committed yet: less than a second of polls, and no number.
    holes = [(before, now) for before, now in zip(values, values[1:]) if now != before + 1]
    check("every poll is a record, but for the moment of the kill", (len(holes), sum(now - before for before, now in holes)), lambda got: got[0] <= 1 and got[1] < 15)
    marks = [at for at, _ in box.offsets]
    wrong, flagged, not_flagged = [], 0, []
    for arrived, told in samples:
        if told["value"] is None:
            continue
        taken = asked[told["value"] - 1]
        shown = datetime.datetime.fromisoformat(told["time"].replace("Z", "+00:00")).timestamp()
        if told.get("cause") == "clock":
            flagged += 1
            if shown < 1.79e9:
                not_flagged.append(told)
            continue
        first = max(0, bisect.bisect_right(marks, taken - SEEN_WITHIN) - 1)
        last = bisect.bisect_right(marks, arrived)
        if not any(abs(shown - (taken + UNIX_OF_MONOTONIC + offset)) < OFF_MAX for _, offset in box.offsets[first:last]):
            wrong.append((told, datetime.datetime.fromtimestamp(taken + UNIX_OF_MONOTONIC, datetime.timezone.utc).isoformat(), box.offsets[first:last]))
    check("every time is what the clock showed", wrong[:3], [])
    check(f"{flagged} that nobody vouched for are flagged, and none is of 1970", not_flagged, [])
    kinds = {}
    for _, topic, told in events:
        if topic.endswith("/event"):
            kinds[(told.get("event"), told.get("state"))] = kinds.get((told.get("event"), told.get("state")), 0) + 1
    print(f"    events: {kinds}")
    check("no storm of events", max(kinds.values(), default=0), lambda most: most <= 4)
    check("no gap was declared", [told for _, topic, told in events if topic.endswith("/gap")], [])
    steps = len(box.offsets)
    check(f"no storm of lines: {lines_of_steps} for {steps} steps", lines_of_steps, lambda lines: lines < 3 * steps + 60)
    check("no panic", [line for line in box.lines() if "panicked" in line], [])


def main():
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime*.so.1") + glob.glob("/usr/lib/faketime/libfaketime*.so.1")
    libraries.sort(key=lambda path: "MT" not in path)
    if not libraries or not shutil.which("mosquitto"):
        print("SKIPPED day.py: libfaketime or mosquitto is not installed")
        return 0
    box, begun = Box(os.path.realpath(sys.argv[1]), libraries[0]), time.monotonic()
    try:
        the_day(box)
        box.gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", box.gateway.wait(40), 0)
        time.sleep(1)
        judge(box, len(box.lines()))
    finally:
        box.close()
    print(f"day.py: {'FAILED ' + ', '.join(failures) + ': see ' + box.dir if failures else f'PASSED in {time.monotonic() - begun:.0f} s'}")
    if not failures:
        shutil.rmtree(box.dir)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
