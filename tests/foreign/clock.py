#!/usr/bin/env python3
"""A wall clock that is wrong at boot, stepped by hours and back, and never set: against libfaketime, mosquitto and paho.

usage: clock.py IRONBRIDGE        (needs mosquitto, faketime; pip: pymodbus paho-mqtt)
"""
import datetime, glob, json, os, shutil, signal, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt

from bench import check, failures, free_port, sub, wait_port
from local import PLC

CONFIG = """
[gateway]
name = "box"
data_dir = "{dir}/data"
time_source = "file:{dir}/synchronised"
[[broker.listener]]
listen = "127.0.0.1:{local}"
anonymous = "read"
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
type = "int16"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{cloud}"
start = "oldest"
"""


class Box:
    def __init__(self, binary, library):
        self.binary, self.library = binary, library
        self.dir = tempfile.mkdtemp(prefix="clock-")
        self.ports = {name: free_port() for name in ("local", "plc", "cloud")}
        with open(f"{self.dir}/box.toml", "w") as file:
            file.write(CONFIG.format(dir=self.dir, **self.ports))
        self.received, self.lock = {}, threading.Lock()
        self.plc = subprocess.Popen([sys.executable, "-c", PLC, str(self.ports["plc"])], stderr=subprocess.DEVNULL)
        wait_port(self.ports["plc"])
        self.gateway = self.cloud = None

    def clock(self, offset):
        """The wall clock shows real time plus this, such as "-10d"; boot time runs on."""
        with open(f"{self.dir}/offset.new", "w") as file:
            file.write(offset)
        os.rename(f"{self.dir}/offset.new", f"{self.dir}/offset")

    def vouched(self, yes):
        path = f"{self.dir}/synchronised"
        open(path, "w").close() if yes else os.path.exists(path) and os.unlink(path)

    def start(self):
        env = dict(os.environ, LD_PRELOAD=self.library, FAKETIME_TIMESTAMP_FILE=f"{self.dir}/offset",
                   FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1")
        self.gateway = subprocess.Popen([self.binary, "run", "--config", f"{self.dir}/box.toml"], env=env,
                                        stderr=open(f"{self.dir}/log", "a"))
        wait_port(self.ports["local"])

    def kill(self):
        self.gateway.send_signal(signal.SIGKILL)
        self.gateway.wait()

    def start_cloud(self):
        with open(f"{self.dir}/mosquitto.conf", "w") as file:
            file.write(f"listener {self.ports['cloud']} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self.cloud = subprocess.Popen(["mosquitto", "-c", f"{self.dir}/mosquitto.conf"], stderr=subprocess.DEVNULL)
        wait_port(self.ports["cloud"])
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="watcher")
        self.client.on_message = self.note
        self.client.connect("127.0.0.1", self.ports["cloud"])
        self.client.subscribe("box/d/t", qos=1)
        self.client.loop_start()

    def note(self, _client, _user, message):
        sample = json.loads(message.payload)
        with self.lock:
            self.received[(sample["epoch"], sample["seq"])] = sample

    def until(self, what, wanted, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.lock:
                if wanted(self.received):
                    return
            time.sleep(0.1)
        failures.append(what)
        print(f"  FAIL {what}: not within {seconds} s")

    def local(self):
        return json.loads(sub(self.ports["local"], "box/d/t", 1)["box/d/t"])

    def close(self):
        for process in (self.gateway, self.cloud, self.plc):
            if process:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def seconds_off(sample):
    """How far the time of a sample is from real time now."""
    at = datetime.datetime.fromisoformat(sample["time"].replace("Z", "+00:00"))
    return (at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def eventually(box, wanted, seconds=15):
    end = time.monotonic() + seconds
    while not wanted(sample := box.local()) and time.monotonic() < end:
        time.sleep(0.3)
    return sample


def scenario(box):
    print("-- the clock is ten days late at boot, and nobody vouches for it")
    box.clock("-10d")
    box.start()
    sample = eventually(box, lambda s: s["value"] is not None)
    check("values are uncertain, cause clock", (sample["quality"], sample.get("cause")), ("uncertain", "clock"))
    check("never 1970", sample["time"][:4], lambda year: int(year) >= 2026)
    box.clock("+5h")
    time.sleep(3)
    check("a step that nobody vouches for is no fix", box.local()["quality"], "uncertain")

    print("-- kill -9, and the clock says 1970")
    box.kill()
    box.clock("-20700d")
    box.start()
    sample = eventually(box, lambda s: s["value"] is not None)
    check("still uncertain", sample["quality"], "uncertain")
    check("still not 1970", sample["time"][:4], lambda year: int(year) >= 2026)

    print("-- vouched for, but an hour early; then put right, backwards")
    box.clock("+1h")
    box.vouched(True)
    sample = eventually(box, lambda s: s["quality"] == "good")
    check("an hour early as told", round(seconds_off(sample) / 3600), 1)
    box.clock("+0")
    sample = eventually(box, lambda s: abs(seconds_off(s)) < 5)
    check("right at last", (sample["quality"], abs(seconds_off(sample)) < 5), ("good", True))

    print("-- kill -9 again, 1970 again, nobody vouches: the fix of this boot still counts")
    box.vouched(False)
    box.kill()
    box.clock("-20700d")
    box.start()
    sample = eventually(box, lambda s: s["value"] is not None)
    check("good, and right", (sample["quality"], abs(seconds_off(sample)) < 5), ("good", True))

    print("-- the link is up: everything that was taken, from the first second on")
    began = time.time()
    box.start_cloud()
    box.until("200 samples upstream", lambda received: len(received) >= 200, 60)
    with box.lock:
        samples = [box.received[key] for key in sorted(box.received, key=lambda key: key[1])]
    numbers = [sample["seq"] for sample in samples]
    check("from the first number, without a gap", numbers, list(range(1, len(numbers) + 1)))
    times = [sample["time"] for sample in samples]
    check("times keep the order of the numbers", times == sorted(times), True)
    check("all of them are right: none before this run, none after", (times[0], times[-1]),
          lambda ends: all(began - 120 < datetime.datetime.fromisoformat(end.replace("Z", "+00:00")).timestamp() < time.time() + 5
                           for end in ends))
    flagged = [sample for sample in samples if sample.get("cause") == "clock"]
    check("none is flagged any more", len(flagged), 0)


def main():
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime*.so.1") + glob.glob("/usr/lib/faketime/libfaketime*.so.1")
    libraries.sort(key=lambda path: "MT" not in path)
    if not libraries:
        print("SKIPPED clock.py: libfaketime is not installed")
        return
    box = Box(sys.argv[1], libraries[0])
    try:
        scenario(box)
        if failures:
            print(open(f"{box.dir}/log").read())
    finally:
        box.close()
    print(f"clock.py: {'FAILED ' + ', '.join(failures) if failures else 'all right'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
