#!/usr/bin/env python3
"""Bad lines of every kind, for long: not one wrong value may have quality good.

Devices that misbehave in two of five answers (hostile.py, nothing of it is ours) on eight kinds of bus. Each value tells
for which question it was made; a subscriber looks at every one that is published, and what was stored is compared with
what was asked and when. Commands meanwhile: what is said to be done was done, once.

usage: soak.py IRONBRIDGE [--reads N] [--for SECONDS] [--buses N] [--only TYPE] [--seed N] [--keep]
       (needs openssl, for modbus-tls; pip: paho-mqtt)
--reads: questions on each kind of bus (default 2000; by hand: 100000). --for: no longer than this (default 25 s; then
what was read till then is judged). --buses: of each kind side by side.
"""
import argparse, bisect, calendar, collections, json, shutil, signal, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt

import hostile
from hostile import DONE, FAULTS, NOT_DONE, RECORD
from bench import check, failures, free_port, wait_port

SERIAL_TIMEOUT, NETWORK_TIMEOUT = 0.05, 0.03
# What stands in field.md, and what foreign lines do besides; the rest of 100 is answered well.
COMMON = {"late": 10, "flip": 5, "truncate": 5, "garbage": 5, "lost": 5, "twice": 3, "length": 2, "foreign": 2, "echo": 1,
          "echo and answer": 1, "pieces": 4, "exception": 1, "function": 1, "busy": 1}
NUMBERED = {**COMMON, "transaction": 3}
# type, framing, carrier, faults
TYPES = [
    ("modbus-tcp", "mbap", "tcp", NUMBERED),
    ("modbus-tls", "mbap", "tls", NUMBERED),
    ("modbus-udp", "mbap", "udp", NUMBERED),
    ("modbus-rtu", "rtu", "pty", COMMON),
    ("modbus-ascii", "ascii", "pty", COMMON),
    ("modbus-rtu-over-tcp", "rtu", "tcp", COMMON),
    ("modbus-ascii-over-tcp", "ascii", "tcp", COMMON),
    ("modbus-rtu-over-udp", "rtu", "udp", COMMON),
]
# Of the buses of one kind, in turn; the last are not for a line, the very last is only for who can tell answers apart.
HABITS = ["", 'delay_between_requests = "3ms"\ndelay_on_unit_change = "2ms"', "close_after_cycle = true", "max_connections = 3"]
UNITS = (1, 3, 7, 9)
STARTS = (100, 400, 700, 1000)  # blocks too far apart to be read as one
WRITTEN = {"one": (5000, "uint16", 0xFFFF), "two": (5010, "uint32", 0xFFFF_FFFF)}  # by functions 6 and 16


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


def plans(options, work):
    for type, framing, carrier, weights in TYPES:
        if options.only and type not in options.only.split(",") or carrier == "tls" and not shutil.which("openssl"):
            continue
        numbered = framing == "mbap"
        for _ in range(max(1, options.buses // 3) if numbered else options.buses):  # these lose no time to silences
            number = plans.count = getattr(plans, "count", 0) + 1
            yield {"number": number, "type": type, "framing": framing, "carrier": carrier, "weights": weights, "units": UNITS,
                   "timeout": NETWORK_TIMEOUT if numbered else SERIAL_TIMEOUT, "seed": options.seed * 1000 + number,
                   "place": f"{work}/line-{number}" if carrier == "pty" else free_port()}


def configure(buses, work, port):
    text = [f'[gateway]\nname = "here"\ntopic = "p/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n[store]\nmax_size = "2GiB"\n'
            f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read"\n'
            '[[broker.acl]]\nuser = "anonymous"\nwrite = ["p/+/one/set", "p/+/two/set"]\n']
    for bus in buses:
        keys = f'endpoint = "127.0.0.1:{bus["place"]}"'
        if bus["carrier"] == "pty":
            keys = f'port = "{bus["place"]}"\nserial = "115200-8N1"'
        if bus["carrier"] == "tls":
            keys += f'\nca_file = "{work}/ca.pem"\ncertificate = "{work}/gateway.pem"\nkey = "{work}/gateway.key"\nserver_name = "plc.example"'
        habit = HABITS[bus["number"] % (2 if bus["carrier"] == "pty" else 4 if bus["framing"] == "mbap" else 3)]
        text.append(f'[[bus]]\nname = "b{bus["number"]}"\ntype = "{bus["type"]}"\nretries = 5\n{habit}\n'
                    f'response_timeout = "{round(bus["timeout"] * 1000)}ms"\n{keys}\n')
    for bus in buses:
        for unit in UNITS:
            text.append(f'[[device]]\nname = "{bus["number"]}-{unit}"\nbus = "b{bus["number"]}"\nunit_id = {unit}\npoll = "20ms"\n')
            text += [f'[[device.tag]]\nname = "{start}"\naddress = "holding:{start}"\ntype = "uint64"\n' for start in STARTS]
            text += [f'[[device.tag]]\nname = "{name}"\naddress = "holding:{address}"\ntype = "{kind}"\naccess = "write"\n'
                     for name, (address, kind, _) in WRITTEN.items()]
    with open(f"{work}/g.toml", "w") as f:
        f.write("".join(text))


def identity(value):
    """Bus, unit, address, number of the answer."""
    return value >> 56, value >> 48 & 0xFF, value >> 32 & 0xFFFF, value & 0xFFFF_FFFF


class Subscriber:
    """Looks at every value that is published while it runs."""

    def __init__(self, port):
        self.seen, self.wrong, self.results = collections.Counter(), [], collections.defaultdict(list)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_message = self.look
        self.client.on_connect = lambda *_: self.client.subscribe([("p/+/+", 0), ("p/+/+/set/result", 0)])
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def look(self, _client, _data, message):
        value = json.loads(message.payload)
        if message.topic.endswith("/set/result"):
            self.results[message.topic.removesuffix("/set/result")].append((time.time(), value["outcome"]))
            return
        device, start = message.topic.split("/")[1:]
        if start in WRITTEN:
            return
        self.seen[value["quality"]] += 1
        bus, unit = device.split("-")
        if value["quality"] == "bad":
            right = value["value"] is None
        else:
            right = value["quality"] == "good" and identity(value["value"])[:3] == (int(bus), int(unit), int(start))
        if not right:
            self.wrong.append((message.topic, value))


class Commander(threading.Thread):
    """Sends commands, each with a value of its own, one at a time to each tag."""

    def __init__(self, subscriber, buses):
        super().__init__(daemon=True)
        self.subscriber, self.over = subscriber, threading.Event()
        self.topics = [(f"p/{bus['number']}-{unit}/{name}", bus["number"], unit, name) for bus in buses for unit in UNITS for name in WRITTEN]
        self.sent = []  # bus, unit, address, value, when, and then when and what it is said to have come to

    def run(self):
        value, open_ones = 0, {}
        while not self.over.wait(0.005):
            place = value % len(self.topics)
            topic, bus, unit, name = self.topics[place]
            if topic in open_ones:
                row, count = open_ones[topic]
                results = self.subscriber.results[topic]
                if len(results) > count:
                    row += results[count]
                    del open_ones[topic]
                elif time.time() - row[4] < 40:
                    value += 1
                    continue
            value += 1
            address, _, most = WRITTEN[name]
            number = value * 7919 & most
            row = [bus, unit, address, number, time.time()]
            self.sent.append(row)
            open_ones[topic] = row, len(self.subscriber.results[topic])
            self.subscriber.client.publish(f"{topic}/set", str(number), qos=0)


def judge_commands(sent, questions, types):
    outcomes, wrong = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    for bus, unit, address, number, began, *end in sent:
        outcome = end[1] if end else "open"
        outcomes[types[bus]][outcome] += 1
        if not end:
            continue
        came = [row for row in questions.writes[bus, unit, address, number] if began - 0.01 <= row[0] <= end[0] + 0.01]
        done = sum(row[1] for row in came)
        # Only to a device that says that it is busy, and so has not done it, it is said once more.
        again = [row for row in came[:-1] if row[2] != "busy"]
        if outcome == "done" and done != 1 or outcome == "refused" and came or again:
            wrong[types[bus]].append((bus, unit, address, number, began, end, came))
    for type in outcomes:
        print(f"  {type}: commands {dict(outcomes[type])}")
        check(f"{type}: what is said to be done was done, nothing twice", wrong[type][:3], [])


def moment(text):
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1])


class Questions:
    """What the devices were asked, and when."""

    def __init__(self, path):
        self.answers, self.asked, self.faults = {}, collections.defaultdict(list), collections.defaultdict(collections.Counter)
        self.writes = collections.defaultdict(list)  # when, whether it was done, and the fault
        with open(path, "rb") as file:
            data = file.read()
        for bus, unit, address, number, fault, came, went in RECORD.iter_unpack(data[:len(data) - len(data) % RECORD.size]):
            if fault >= DONE:
                self.writes[bus, unit, address, number].append((came, fault < NOT_DONE, FAULTS[fault & ~NOT_DONE]))
                continue
            self.answers[bus, number] = (unit, address, came, went)
            self.asked[bus, unit, address].append(came)
            self.faults[bus][FAULTS[fault]] += 1
        for times in self.asked.values():
            times.sort()

    def judge(self, bus, unit, start, value, at):
        """Why this value is wrong; None when it is not."""
        said = identity(value)
        if said[:3] != (bus, unit, start):
            return "another register's"
        if (bus, said[3]) not in self.answers:
            return "no answer"
        came = self.answers[bus, said[3]][2]
        times = self.asked[bus, unit, start]
        later = bisect.bisect_right(times, came)
        # The stamps have whole milliseconds, rounded down.
        if later < len(times) and at > times[later] + 0.003:
            return f"an older question's: asked again {1000 * (at - times[later]):.1f} ms before it was taken"
        return None


def verify(options, buses, work, binary, sent):
    questions = Questions(f"{work}/record")
    export = subprocess.Popen([binary, "store", "export", "--config", f"{work}/g.toml", "--format", "ndjson"], stdout=subprocess.PIPE)
    good, bad, wrong = collections.Counter(), collections.Counter(), collections.defaultdict(list)
    types = {bus["number"]: bus["type"] for bus in buses}
    judge_commands(sent, questions, types)
    for line in export.stdout:
        sample = json.loads(line)
        device, _, start = sample.get("topic", "").removeprefix("p/").partition("/")
        if not start.isdigit():
            continue
        bus, unit = map(int, device.split("-"))
        if sample["quality"] == "good":
            good[types[bus]] += 1
            why = questions.judge(bus, unit, int(start), sample["value"], moment(sample["time"]))
        else:
            bad[types[bus]] += 1
            why = None if sample["quality"] == "bad" and sample.get("value") is None else "not good, but a value"
        if why:
            wrong[types[bus]].append((sample, why))
    check("the export ends well", export.wait(), 0)
    for type in dict.fromkeys(types.values()):
        faults = collections.Counter()
        for number in (number for number in types if types[number] == type):
            faults += questions.faults[number]
        reads = sum(faults.values())
        print(f"  {type}: {reads} reads, {reads - faults['none']} with a fault; {good[type]} good values stored, {bad[type]} bad")
        if options.verbose:
            print("    " + ", ".join(f"{name} {faults[name]}" for name in FAULTS))
        check(f"{type}: no wrong value with quality good", wrong[type][:5], [])
        # Values are lost only to faults; a fifth of the reads is a third of what comes unharmed.
        check(f"{type}: values come all the same", good[type] > reads / 5, True)
    return sum(good.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--for", type=float, default=25, dest="seconds")
    parser.add_argument("--buses", type=int, default=6)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix="soak-")
    if shutil.which("openssl"):
        certificates(work)
    else:
        print("SKIPPED modbus-tls: openssl is not installed")
    buses, port = list(plans(options, work)), free_port()
    with open(f"{work}/plan.json", "w") as f:
        json.dump({"buses": buses, "work": work, "record": f"{work}/record"}, f)
    configure(buses, work, port)
    devices = subprocess.Popen([sys.executable, hostile.__file__, f"{work}/plan.json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    gateway = None
    try:
        check("the devices are there", devices.stdout.readline(), "ready\n")
        log = open(f"{work}/log", "w")
        gateway = subprocess.Popen([options.binary, "run", "--config", f"{work}/g.toml"], stderr=log)
        wait_port(port)
        subscriber = Subscriber(port)
        commander = Commander(subscriber, buses)
        commander.start()
        begun, counts = time.time(), [collections.Counter()]
        for line in devices.stdout:
            per_type = collections.Counter()
            for bus, count in zip(buses, json.loads(line)):
                per_type[bus["type"]] += count
            counts.append(per_type)
            if min(per_type.values()) >= options.reads or time.time() - begun > options.seconds:
                break
            if sys.stderr.isatty() or options.verbose and len(counts) % 40 == 0:
                print(f"\r  {time.time() - begun:.0f} s: {dict(per_type)}", file=sys.stderr)
        threading.Thread(target=lambda: collections.deque(devices.stdout, 0), daemon=True).start()
        commander.over.set()
        commander.join()
        elapsed = time.time() - begun
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(30), 0)
        devices.stdin.close()
        devices.wait(20)
        print(f"{sum(counts[-1].values())} reads in {elapsed:.0f} s, {len(buses)} buses; published: {dict(subscriber.seen)}")
        check("no wrong value is published", subscriber.wrong[:5], [])
        stored = verify(options, buses, work, options.binary, commander.sent)
        check("the subscriber has seen nearly all", subscriber.seen["good"] > 0.9 * stored, True)
    finally:
        check("the devices do not give up", devices.poll() in (None, 0), True)
        devices.kill()
        if gateway:
            gateway.kill()
    print("PASSED" if not failures else f"FAILED {failures}: see {work}")
    if not failures and not options.keep:
        shutil.rmtree(work)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
