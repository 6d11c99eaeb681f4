#!/usr/bin/env python3
"""The broker before judges that are not ours: Eclipse paho.mqtt.testing (3.1.1 and 5) and mosquitto's own broker tests,
each run against Ironbridge and against the installed mosquitto on the same machine, test by test.

usage: conformance.py IRONBRIDGE [--paho DIR] [--mosquitto DIR] [--only TEXT] [--jobs N] [--no-reference]

The suites are not part of this repository. To get them:
    git clone https://github.com/eclipse-paho/paho.mqtt.testing                     --paho DIR       or PAHO_TESTING
    git clone --branch v2.0.11 https://github.com/eclipse/mosquitto                 --mosquitto DIR  or MOSQUITTO_SOURCE

mosquitto's tests start their broker themselves; they find this script instead, which has `ironbridge broker import` make
a configuration of ours from the mosquitto.conf that they wrote, and runs Ironbridge with that. Their library (PATCH
below, in a copy) is more tolerant in what the standard leaves to a broker, and in nothing else: a CONNACK of MQTT 5 is
compared property by property (where a test expects the beginning of one: those), its own limits aside (session expiry,
Receive Maximum, Topic Alias Maximum, Maximum Packet Size: the tests expect mosquitto's numbers, byte by byte); an answer
may have a reason string; where the connection is to be closed, CONNACK or DISCONNECT may say why before; and what the
gateway itself tells everybody (`ironbridge/…`) is let by. After a SIGHUP a test goes on when the import has been made
anew and read.

Fails when a test is not passed here and has no reason in MISSES below. mosquitto runs with the same tests as they are.
"""
import argparse, concurrent.futures, contextlib, itertools, json, os, pathlib, queue, re, shutil, signal, socket, subprocess, sys, tempfile, threading

from bench import wait_port

GROUPS = ("01", "02", "03", "04", "05", "07", "09", "10", "11", "12", "13")
TEST_MAX = 150  # seconds; the longest one waits for wills and expiry for about 40

REASONS = {
    "plugin": "loads a mosquitto plugin (a C library)",
    "option": "needs an option of mosquitto.conf that has no counterpart",
    "dollar": "$ topics belong to the gateway: no client writes there",
    "choice": "the standard leaves it open, and Ironbridge chose otherwise",
    "standard": "the test wants what the standard forbids",
    "numbers": "the test wants mosquitto's own numbers",
    "client": "the client of the test cannot read it",
}
# Test -> (reason, what exactly).
MISSES = {
    "5 test_subscribe_failure": ("choice", "it wants 0x80; Ironbridge says 0x87, not authorized"),
    "5 test_dollar_topics": ("client", "a PUBACK with a reason string (0x87 on a $ topic)"),
    "02-subpub-qos1-oversize-payload.py": ("standard", "0x95 in a PUBACK, which has no such code (3.4.2-1, table 3-4); Ironbridge says 0x97"),
    "03-publish-dollar-v5.py": ("dollar", "0x87 instead of 0x10"),
    "04-retain-check-source-persist.py": ("choice", "a name without a password is nobody"),
    "04-retain-check-source-persist-diff-port.py": ("choice", "a name without a password is nobody; users and rules count for all listeners"),
    "04-retain-upgrade-outgoing-qos.py": ("standard", "a QoS above the publisher's (3.8.4-8)"),
    "07-will-delay.py": ("standard", "a will that outlives its session (3.1.3.2.2: it is sent when the session ends)"),
    "07-will-delay-reconnect.py": ("standard", "a will that outlives its session (3.1.3.2.2)"),
    "07-will-delay-recover.py": ("standard", "a will that outlives its session (3.1.3.2.2)"),
    "07-will-takeover.py": ("standard", "no will at a takeover although its delay is 0 (3.1.4-3)"),
    "09-acl-access-variants.py": ("choice", "a name without a password is nobody; rules give and never deny"),
    "09-acl-change.py": ("choice", "a name without a password is nobody"),
    "09-acl-empty-file.py": ("choice", "a filter that may not be read is refused in SUBACK, not accepted and left silent"),
    "09-extended-auth-change-username.py": ("plugin", "enhanced authentication"),
    "09-extended-auth-multistep-reauth.py": ("plugin", "enhanced authentication"),
    "09-extended-auth-multistep.py": ("plugin", "enhanced authentication"),
    "09-extended-auth-single.py": ("plugin", "enhanced authentication"),
    "09-plugin-auth-acl-pub.py": ("plugin", "rules"),
    "09-plugin-auth-acl-sub-denied.py": ("plugin", "rules"),
    "09-plugin-auth-acl-sub.py": ("plugin", "rules"),
    "09-plugin-auth-context-params.py": ("plugin", "client parameters"),
    "09-plugin-auth-defer-unpwd-success.py": ("plugin", "users"),
    "09-plugin-auth-msg-params.py": ("plugin", "message parameters"),
    "09-plugin-auth-unpwd-success.py": ("plugin", "users"),
    "09-plugin-auth-v2-unpwd-success.py": ("plugin", "users"),
    "09-plugin-publish.py": ("plugin", "publishing"),
    "10-listener-mount-point.py": ("option", "mount_point"),
    "11-persistent-subscription-no-local.py": ("numbers", "the packet identifier of the first message after a restart"),
    "12-prop-assigned-client-identifier.py": ("numbers", "it compares the first bytes of CONNACK, which are limits"),
    "12-prop-maximum-packet-size-publish-qos1.py": ("standard", "a packet of 21 bytes to a client that takes 20 (2.1.4 counts the head)"),
    "12-prop-maximum-packet-size-publish-qos2.py": ("standard", "a packet of 21 bytes to a client that takes 20 (2.1.4 counts the head)"),
    "13-malformed-subscribe-v5.py": ("standard", "0x81 for a SUBSCRIBE without a filter (3.8.3-2: a protocol error)"),
    "13-malformed-unsubscribe-v5.py": ("choice", "a filter that is none is refused in UNSUBACK, the connection stays"),
    "13-malformed-publish-v5.py": ("choice", "0x81 for packet identifier 0, as it wants itself of SUBSCRIBE, and 0x90 for a topic with a wildcard"),
}

PATCH = '''

# --- appended: what a broker may say in its own way, see tests/foreign/conformance.py
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

_plain_connect, _plain_socket = do_client_connect, socket.socket

class _Socket(_plain_socket):
    __slots__ = ()

    def _exactly(self, count):
        got = b""
        while len(got) < count:
            more = _plain_socket.recv(self, count - len(got))
            if not more:
                break
            got += more
        return got

    def _packet(self):
        head = self._exactly(2)
        return head + (self._exactly(head[1]) if len(head) == 2 and head[1] < 128 else b"")

    def _skip_own(self):
        # PUBLISH, at any QoS, on a topic of the gateway.
        while True:
            seen = _plain_socket.recv(self, 64, socket.MSG_PEEK)
            if seen[:1] not in (b"\\x30", b"\\x31") or b"ironbridge/" not in seen[:16]:
                return seen
            self._packet()

    def recv(self, count, *flags):
        seen = self._skip_own()
        if count and seen[:1] == b"\\xe0":
            said = self._packet()
            if _plain_socket.recv(self, 1) == b"":
                return b""
            raise TestError
        return _plain_socket.recv(self, count, *flags)

import signal
_plain_start = start_broker

class _Broker(subprocess.Popen):
    def send_signal(self, number):
        super().send_signal(number)
        until = time.time() + 30
        while number == signal.SIGHUP and not os.path.exists(f"reloaded.{self.pid}") and time.time() < until:
            time.sleep(0.05)

def start_broker(*args, **kwargs):
    broker = _plain_start(*args, **kwargs)
    broker.__class__ = _Broker
    return broker

def do_client_connect(*args, **kwargs):
    sock = _plain_connect(*args, **kwargs)
    sock.__class__ = _Socket
    return sock

def expect_packet(sock, name, expected):
    sock.__class__ = _Socket
    kind = expected[:1]
    if kind == b"":
        try:
            got = sock._skip_own() and sock._packet()
            refused = got[:1] == b"\\x20" and got[3] != 0 or got[:1] == b"\\xe0"
            if got == b"" or refused and _plain_socket.recv(sock, 1) == b"":
                return True
        except ConnectionResetError:
            return True
        packet_matches(name, got, expected)
        raise TestError
    sock._skip_own()
    welcome = kind == b"\\x20" and len(expected) > 4 and expected[1] == len(expected) - 2
    cut = kind == b"\\x20" and len(expected) > 5 and expected[1] > len(expected) - 2
    own = (17, 31, 33, 34, 39)
    reasoned = kind in (b"\\x40", b"\\x50", b"\\x62", b"\\x70", b"\\xe0")
    if reasoned:
        got = sock._packet()
        said = 3 if kind == b"\\xe0" else 5
        if got[:1] == kind and [kind for kind, _ in _properties(got[said + 1:])] == [31]:
            got = bytes([got[0], said - 2]) + got[2:said]
    elif welcome:
        got = sock._packet()
        said = sorted(p for p in _properties(got[5:]) if p[0] not in own)
        wanted = sorted(p for p in _properties(expected[5:]) if p[0] not in own)
        if got[:1] + got[2:4] == expected[:1] + expected[2:4] and said == wanted:
            return True
    elif cut:
        got = sock._packet()
        said = [p for _, p in _properties(got[5:])]
        wanted = [p for kind, p in _properties(expected[5:]) if kind not in own]
        if got[2:4] == expected[2:4] and all(any(mine.startswith(p) for mine in said) for p in wanted):
            return True
    else:
        got = _plain_socket.recv(sock, len(expected))
    if packet_matches(name, got, expected):
        return True
    raise TestError
'''


# ---------------------------------------------------------------- standing in for src/mosquitto

def translate(binary, conf, port, data):
    """A mosquitto.conf, or a port, in our words."""
    head = ["[gateway]", 'name = "judged"', 'topic = "gateway/{device}/{tag}"', f"data_dir = {json.dumps(str(data))}", "[status]", 'listen = "off"', ""]
    if not conf:
        door = ["[[broker.listener]]", f'listen = "127.0.0.1:{port}"', 'anonymous = "read-write"', ""]
        return "\n".join(head + door)
    for users in re.findall(r"^password_file (\S+)", pathlib.Path(conf).read_text(), re.M):
        pathlib.Path(users).chmod(0o600)  # ours are not for everybody to read
    return "\n".join(head) + subprocess.run([binary, "broker", "import", conf], stdout=subprocess.PIPE, text=True, check=True).stdout


def listen_for_reloads(heard):
    """Makes a file where a test waits for it, see PATCH."""
    reloading = False
    while True:
        with contextlib.suppress(TimeoutError):
            said = heard.recv(4096)
            if reloading and b"READY=1" in said:
                pathlib.Path(f"reloaded.{os.getpid()}").touch()
                reloading = False
            reloading |= b"RELOADING=1" in said


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
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # what a daemon tells systemd
    told = data / "notify"
    with contextlib.suppress(FileNotFoundError):
        told.unlink()
    heard.bind(str(told))
    heard.settimeout(20)
    child = subprocess.Popen([binary, "run", "--config", str(config)], env=os.environ | {"NOTIFY_SOCKET": str(told)})
    threading.Thread(target=listen_for_reloads, args=(heard,), daemon=True).start()

    def pass_on(number, _frame):
        if number == signal.SIGHUP and pathlib.Path(conf or "").is_file():
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
    library = work / "test/mosq_test.py"
    # A broker may take its time to come up: on a busy machine two seconds are not enough for anybody.
    library.write_text(library.read_text().replace("range(0, 20)", "range(0, 300)"))
    (work / "src").mkdir()
    (work / "src/mosquitto").symlink_to(broker)
    if broker.name != "mosquitto":
        library.write_text(library.read_text() + PATCH)
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
        if not found[test[1]] and (broker.name == "mosquitto" or test[1] not in MISSES):
            found[test[1]] = one(test)[1]
    return found


def run_paho(source, script, broker, only, jobs, work):
    """Each test once, with a broker of its own; one that failed beside others is run again by itself. They run from a copy
    in which the second client's SUBACK is waited for as well: the tests wait for the first one's twice, and then rely on
    one connection's SUBSCRIBE being dealt with before another one's PUBLISH."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / script.removesuffix(".py")
    shutil.copytree(source / "interoperability", folder)
    text = (folder / script).read_text()
    (folder / script).write_text(re.sub(r"(bclient\.subscribe\([^\n]*\n\s*self\.waitfor\(callback)\.subscribeds", r"\g<1>2.subscribeds", text))
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
    again = lambda name: (broker.name == "mosquitto" or f"{label} {name}" not in MISSES) and one(name)
    return {f"{label} {name}": good or again(name) for name, good in found.items()}


PAHO_NAMES = (
    "t.topics=('TopicA','TopicA/B','Topic/C','TopicA/C','/TopicA'); "
    "t.wildtopics=('TopicA/+','+/C','#','/#','/+','+/+','TopicA/#'); "
    "t.nosubscribe_topics=('test/nosubscribe',); t.topic_prefix='client_test5/'"
)


# ---------------------------------------------------------------- the verdict

def table(title, ours, reference):
    """Prints a suite's results, test by test and group by group; returns the tests that failed without a reason."""
    print(f"\n{title}")
    unexplained = []
    word = lambda good: "-" if good is None else "passed" if good else "FAILED"
    for name in ours:
        miss = ""
        if not ours[name]:
            reason, detail = MISSES.get(name, (None, ""))
            miss = f"  {REASONS[reason]}: {detail}" if reason else "  NO REASON"
            if not reason:
                unexplained.append(name)
        elif name in MISSES:
            miss = "  (has a reason in MISSES that it no longer needs)"
        print(f"  {name:52} {word(ours[name])}  {word(reference.get(name))}{miss}")
    group = lambda name: name.split(" ")[0] if " " in name else name[:2]
    print(f"\n  {'group':6} {'tests':>5} {'ours':>5} {'mosquitto':>9}")
    for kind in [*dict.fromkeys(map(group, ours)), ""]:
        of = [name for name in ours if not kind or group(name) == kind]
        theirs = sum(bool(reference.get(name)) for name in of) if reference else "not run"
        print(f"  {kind or 'all':6} {len(of):5} {sum(ours[name] for name in of):5} {theirs:>9}")
    reasons = [MISSES[name][0] for name in ours if not ours[name] and name in MISSES]
    for reason in dict.fromkeys(reasons):
        print(f"  {reasons.count(reason):3} {REASONS[reason]}")
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
    # mosquitto started by root becomes a user of its own, who must be able to read and write here.
    os.umask(0)
    work = pathlib.Path(tempfile.mkdtemp(prefix="conformance-"))
    work.chmod(0o777)
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
    print("PASSED" if options.paho or options.mosquitto else "SKIPPED conformance.py: neither suite is here")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stand-in"]:
        stand_in(sys.argv[2], sys.argv[3:])
    sys.exit(main())
