#!/usr/bin/env python3
"""The broker before judges that are not ours: Eclipse paho.mqtt.testing (3.1.1 and 5) and mosquitto's own broker tests,
each run against Ironbridge and against the installed mosquitto on the same machine, test by test.

usage: conformance.py IRONBRIDGE [--paho DIR] [--mosquitto DIR] [--only TEXT] [--jobs N] [--no-reference]

The suites are not part of this repository. To get them:
    git clone https://github.com/eclipse-paho/paho.mqtt.testing                     --paho DIR       or PAHO_TESTING
    git clone --branch v2.0.11 https://github.com/eclipse/mosquitto                 --mosquitto DIR  or MOSQUITTO_SOURCE

mosquitto's tests start their broker themselves; they find this script instead, which has `ironbridge broker import` make
a configuration of ours from the mosquitto.conf that they wrote, and runs Ironbridge with that. Two things in them are
changed, in a copy: a CONNACK of MQTT 5 is compared property by property, and what a broker says about its own limits
(Receive Maximum, Topic Alias Maximum, Maximum Packet Size) is its own business, where the tests expect mosquitto's
numbers, byte by byte; and an acknowledgement or DISCONNECT may come with a reason string.

Fails when a test is not passed here and has no reason in MISSES below, or when mosquitto passes more of a group.
"""
import argparse, concurrent.futures, itertools, json, os, pathlib, queue, re, shutil, signal, socket, subprocess, sys, tempfile, time

GROUPS = ("01", "02", "03", "04", "05", "07", "09", "10", "11", "12", "13")
TEST_MAX = 150  # seconds; the longest one waits for wills and expiry for about 40

REASONS = {
    "plugin": "loads a mosquitto plugin (a C library)",
    "option": "needs an option of mosquitto.conf that has no counterpart",
    "dollar": "$ topics belong to the gateway: no client writes there",
    "own": "the gateway's own retained topics are there as well",
    "choice": "the standard leaves it open, and Ironbridge chose otherwise",
    "suite": "the test itself is at fault",
}
# Test -> (reason, what exactly).
MISSES = {}

PATCH = '''

# --- appended: a CONNACK of MQTT 5 is compared by what it says, see tests/foreign/conformance.py
def _properties(data):
    sizes = {1: 1, 2: 4, 17: 4, 19: 2, 23: 1, 24: 4, 25: 1, 33: 2, 34: 2, 35: 2, 36: 1, 37: 1, 39: 4, 40: 1, 41: 1, 42: 1}
    found, place = [], 0
    while place < len(data):
        kind, start = data[place], place
        place += 1
        if kind in sizes:
            place += sizes[kind]
        else:
            for _ in range(2 if kind == 38 else 1):
                place += 2 + int.from_bytes(data[place:place + 2], "big")
        found.append((kind, data[start:place]))
    return found

_plain_expect = expect_packet

def expect_packet(sock, name, expected):
    welcome = expected[:1] == b"\\x20" and len(expected) > 5 and expected[3] < 128
    reasoned = expected[:1] in (b"\\x40", b"\\x50", b"\\x62", b"\\x70", b"\\xe0")
    if not welcome and not reasoned:
        return _plain_expect(sock, name, expected)
    def exactly(count):
        got = b""
        while len(got) < count:
            more = sock.recv(count - len(got))
            if not more:
                return got
            got += more
        return got
    head = exactly(2)
    got = head + (exactly(head[1]) if len(head) == 2 else b"")
    if reasoned:
        said = 3 if expected[:1] == b"\\xe0" else 5
        if [kind for kind, _ in _properties(got[said + 1:])] == [31]:
            got = bytes([got[0], said - 2]) + got[2:said]
        if packet_matches(name, got, expected):
            return True
        raise TestError
    own = (33, 34, 39)
    said = sorted(p for p in _properties(got[5:]) if p[0] not in own)
    wanted = [p for p in _properties(expected[5:]) if p[0] not in own]
    # One test cuts the assigned identifier off, since it cannot know it.
    same = len(said) == len(wanted) and all(s[0] == w[0] and (s[1] == w[1] or (w[0] == 18 and len(w[1]) < 12 and w[1][3:] == s[1][3:len(w[1])])) for s, w in zip(said, sorted(wanted)))
    if got[:1] + got[2:4] == expected[:1] + expected[2:4] and same:
        return True
    packet_matches(name, got, expected)
    raise TestError
'''


# ---------------------------------------------------------------- standing in for src/mosquitto

def translate(binary, conf, port, data):
    """A mosquitto.conf, or a port, in our words."""
    head = ["[gateway]", 'name = "judged"', 'topic = "gateway/{device}/{tag}"', f"data_dir = {json.dumps(str(data))}", ""]
    if not conf:
        door = ["[[broker.listener]]", f'listen = "127.0.0.1:{port}"', 'anonymous = "read-write"', ""]
        return "\n".join(head + door)
    return "\n".join(head) + subprocess.run([binary, "broker", "import", conf], stdout=subprocess.PIPE, text=True, check=True).stdout


def stand_in(binary, arguments):
    """Runs Ironbridge as the mosquitto that a test asked for."""
    conf = arguments[arguments.index("-c") + 1] if "-c" in arguments else None
    port = arguments[arguments.index("-p") + 1] if "-p" in arguments else None
    kept = None
    if conf:
        found = re.search(r"^persistence_file (\S+)", pathlib.Path(conf).read_text(), re.M)
        kept = pathlib.Path(found.group(1)) if found else None
    # Tests that want a fresh broker remove mosquitto's file, so such a file stands for our directory.
    data = pathlib.Path(f"{kept}.dir").resolve() if kept else pathlib.Path(tempfile.mkdtemp(prefix="judged-"))
    if kept and not kept.exists():
        shutil.rmtree(data, ignore_errors=True)
        kept.write_text("")
    data.mkdir(exist_ok=True)
    config = data / "judged.toml"
    config.write_text(translate(binary, conf, port, data))
    child = subprocess.Popen([binary, "run", "--config", str(config)])

    def pass_on(number, _frame):
        if number == signal.SIGHUP:
            config.write_text(translate(binary, conf, port, data))
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = child.wait()
    if not kept:
        shutil.rmtree(data, ignore_errors=True)
    sys.exit(code)


# ---------------------------------------------------------------- the judges

PORTS = itertools.count(21000 + os.getpid() % 9000)


def free_ports(count):
    """Ports that are free now, and far from those the system hands out."""
    found = []
    while len(found) < count:
        with socket.socket() as s:
            try:
                port = next(PORTS)
                s.bind(("127.0.0.1", port))
                found.append(port)
            except OSError:
                pass
    return found


def mosquitto_tests(source, only):
    listed = (source / "test/broker/test.py").read_text()
    tests = re.findall(r"^\s*\((\d), '\./([^']+)'\)", listed, re.M)
    return [(int(ports), name) for ports, name in tests if name[:2] in GROUPS and (source / "test/broker" / name).exists() and only in name]


def run_mosquitto_tests(source, tests, broker, jobs, work):
    """Each test once; one that failed beside others is run again by itself, so that load is not what is judged."""
    work.mkdir(parents=True)
    shutil.copytree(source / "test", work / "test")
    (work / "src").mkdir()
    (work / "src/mosquitto").symlink_to(broker)
    if broker.name != "mosquitto":
        with open(work / "test/mosq_test.py", "a") as f:
            f.write(PATCH)
    ports = queue.Queue()
    for port in free_ports(jobs * 2):
        ports.put(port)

    def one(test):
        count, name = test
        mine = [ports.get() for _ in range(count)]
        try:
            done = subprocess.run([sys.executable, f"./{name}", *map(str, mine)], cwd=work / "test/broker", timeout=TEST_MAX,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            good, said = done.returncode == 0, done.stdout
        except subprocess.TimeoutExpired as late:
            good, said = False, (late.stdout or b"") + b"\nnot finished in time"
        (work / f"{name}.log").write_bytes(said)
        for port in mine:
            ports.put(port)
        return name, good

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = dict(pool.map(one, tests))
    for test in tests:
        if not found[test[1]]:
            found[test[1]] = one(test)[1]
    return found


def wait_port(port):
    until = time.time() + 20
    while time.time() < until:
        try:
            return socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def run_paho(source, script, broker, only, jobs, work):
    """Each test once, with a broker of its own; one that failed is run again by itself: some of them take it for granted
    that a SUBSCRIBE on one connection is dealt with before a PUBLISH on another."""
    work.mkdir(parents=True, exist_ok=True)
    folder = source / "interoperability"
    names = re.findall(r"^    def (test\w+)", (folder / script).read_text(), re.M)
    label = {"client_test.py": "3.1.1", "client_test5.py": "5"}[script]
    names = [name for name in names if only in f"{label} {name}"]

    def one(name):
        [port] = free_ports(1)
        conf = work / f"{script}.{name}.conf"
        # What the suite expects of its broker: a keep alive of at most 60 s; a filter that may not be subscribed to.
        text = f"port {port}\nallow_anonymous true\nmax_keepalive 60\n"
        if name == "test_subscribe_failure":
            rules = work / f"{script}.{name}.acl"
            rules.write_text("topic readwrite TopicA/#\n")
            text += f"acl_file {rules}\n"
        conf.write_text(text)
        with open(work / f"{script}.{name}.broker.log", "w") as log:
            running = subprocess.Popen([broker, "-c", str(conf)], stdout=log, stderr=log, cwd=work)
        try:
            wait_port(port)
            # It reads its options by itself and leaves the rest to unittest, in its own way each.
            call = f"import sys,runpy; sys.path.insert(0,'.'); import {script[:-3]} as t, unittest; t.host='localhost'; t.port={port}; " + PAHO_NAMES + f"; unittest.main(t, argv=['x','Test.{name}'])"
            try:
                done = subprocess.run([sys.executable, "-c", call], cwd=folder, timeout=TEST_MAX, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                good, said = done.returncode == 0, done.stdout
            except subprocess.TimeoutExpired as late:
                good, said = False, (late.stdout or b"") + b"\nnot finished in time"
            (work / f"{script}.{name}.log").write_bytes(said)
        finally:
            running.terminate()
            running.wait(20)
        return good

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(names, pool.map(one, names)))
    return {f"{label} {name}": good or one(name) for name, good in found.items()}


PAHO_NAMES = (
    "t.topics=('TopicA','TopicA/B','Topic/C','TopicA/C','/TopicA'); "
    "t.wildtopics=('TopicA/+','+/C','#','/#','/+','+/+','TopicA/#'); "
    "t.nosubscribe_topics=('test/nosubscribe',); t.topic_prefix='client_test5/'"
)


# ---------------------------------------------------------------- the verdict

def table(title, ours, reference):
    """Prints a suite's results; returns the tests that failed without a reason."""
    print(f"\n{title}")
    unexplained = []
    word = lambda good: "-" if good is None else "passed" if good else "FAILED"
    for name in ours:
        beside = reference.get(name)
        miss = ""
        if not ours[name]:
            reason, detail = MISSES.get(name, (None, ""))
            miss = f"  {REASONS[reason]}: {detail}" if reason else ""
            if not reason and beside is not False:
                unexplained.append(name)
                miss = "  NO REASON"
        elif name in MISSES:
            miss = "  (has a reason in MISSES that it no longer needs)"
        print(f"  {name:52} {word(ours[name])}  {word(beside)}{miss}")
    count = lambda found: f"{sum(map(bool, found.values()))} of {len(found)}"
    print(f"  {'':52} ours {count(ours)}, mosquitto {count(reference) if reference else 'not run'}")
    return unexplained


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--paho", default=os.environ.get("PAHO_TESTING"))
    parser.add_argument("--mosquitto", default=os.environ.get("MOSQUITTO_SOURCE"))
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--no-reference", action="store_true")
    options = parser.parse_args()
    reference = None if options.no_reference else shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if not reference and not options.no_reference:
        print("SKIPPED the reference: mosquitto is not installed")
    work = pathlib.Path(tempfile.mkdtemp(prefix="conformance-"))
    # What the tests start as mosquitto.
    ours = work / "ironbridge-as-mosquitto"
    ours.write_text(f"#!/bin/sh\nexec {sys.executable} {pathlib.Path(__file__).resolve()} --stand-in {pathlib.Path(options.binary).resolve()} \"$@\"\n")
    ours.chmod(0o755)
    brokers = {"ours": ours} | ({"mosquitto": pathlib.Path(reference)} if reference else {})
    unexplained = []
    if options.paho:
        for script in ("client_test.py", "client_test5.py"):
            source = pathlib.Path(options.paho)
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                runs = {name: pool.submit(run_paho, source, script, broker, options.only, options.jobs, work / f"paho-{name}") for name, broker in brokers.items()}
                found = {name: run.result() for name, run in runs.items()}
            unexplained += table(f"paho.mqtt.testing, {script}", found["ours"], found.get("mosquitto", {}))
    else:
        print("SKIPPED paho.mqtt.testing: git clone https://github.com/eclipse-paho/paho.mqtt.testing, then PAHO_TESTING=…")
    if options.mosquitto:
        source = pathlib.Path(options.mosquitto)
        tests = mosquitto_tests(source, options.only)
        found = {name: run_mosquitto_tests(source, tests, broker, options.jobs, work / f"mosquitto-{name}") for name, broker in brokers.items()}
        unexplained += table("mosquitto, test/broker", found["ours"], found.get("mosquitto", {}))
    else:
        print("SKIPPED mosquitto's tests: git clone --branch v2.0.11 https://github.com/eclipse/mosquitto, then MOSQUITTO_SOURCE=…")
    if unexplained:
        print(f"FAILED without a reason: {' '.join(unexplained)}; logs in {work}")
        return 1
    print("PASSED")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stand-in"]:
        stand_in(sys.argv[2], sys.argv[3:])
    sys.exit(main())
