#!/usr/bin/env python3
"""Who may what: a mosquitto with password file and ACL file, and ours with what `broker import` makes of them, side by side.

Every user tries every login, every publish, every subscription and every will on both. Ours may never allow more; where it
allows less, or says it otherwise, the reason must be one of those below.

usage: access.py IRONBRIDGE        (needs mosquitto, mosquitto_passwd; pip: paho-mqtt)
"""
import os, re, shutil, socket, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench import free_port

binary = os.path.realpath(sys.argv[1])
for tool in ["mosquitto", "mosquitto_passwd"]:
    if not shutil.which(tool):
        print(f"SKIPPED: no {tool}")
        sys.exit(0)

PASSWORDS = {"hmi": "hmi pass", "logger": "log:ger", "root": "toor"}
ACL = """
topic read public/#
topic readwrite guests/in
topic read $SYS/broker/uptime
user hmi
topic readwrite machines/+/cmd
topic read machines/#
topic write orders/#
topic deny orders/secret
user logger
topic read #
topic read $SYS/#
user root
topic readwrite #
topic readwrite $SYS/#
pattern readwrite u/%u/#
pattern write c/%c/out
pattern read c/%c/in
"""
TOPICS = ["public/a", "guests/in", "guests/out", "machines/1/cmd", "machines/1/state", "orders/1", "orders/secret",
          "u/hmi/x", "u/logger/x", "u//x", "c/id/in", "c/id/out", "c/other/out", "free/topic", "free/set", "$SYS/broker/uptime",
          "$mine/x", "ironbridge/gw/status"]
FILTERS = ["#", "+/+", "public/#", "machines/#", "machines/+/cmd", "orders/#", "u/hmi/#", "u/+/x", "$SYS/#", "c/id/#",
           "$share/g/machines/#", "$share/g/#"]
USERS = [None, "hmi", "logger", "root"]

# What differs, and why. (what, does it concern this case?, reason)
REASONS = [
    ("publish", lambda user, topic: topic.startswith(("$", "ironbridge/")), "belongs to the gateway: nobody else writes there"),
    ("will", lambda user, topic: topic.startswith(("$", "ironbridge/")), "belongs to the gateway: nobody else writes there"),
    ("publish", lambda user, topic: user == "hmi" and topic == "orders/1", "deny: the rule it takes from is left out whole, and named"),
    ("will", lambda user, topic: user == "hmi" and topic == "orders/1", "deny: the rule it takes from is left out whole, and named"),
    ("read", lambda user, topic: topic.startswith("$mine/"), "nobody can publish there"),
    ("read", lambda user, topic: topic.startswith("ironbridge/"), "nobody else can publish there"),
    ("subscribe", lambda user, path: True, "what is covered in part is refused; mosquitto accepts it and holds messages back"),
    ("login", lambda user, how: how in ("wrong", "unknown", "empty"), "0x86 is what MQTT 5 has for it; mosquitto says 0x87"),
]


class Client:
    """One paho client that is connected, or was refused."""

    def __init__(self, port, user, password=None, id="id", will=None):
        self.seen, self.codes, self.cond, self.connack = [], {}, threading.Condition(), None
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, id, protocol=mqtt.MQTTv5)
        if user is not None:
            self.client.username_pw_set(user, password)
        if will:
            properties = Properties(PacketTypes.WILLMESSAGE)
            self.client.will_set(will, "will", 1, False, properties)
        self.client.on_connect = lambda c, u, f, code, p: self.note(connack=code.value)
        self.client.on_message = lambda c, u, m: self.note(message=(m.topic, m.payload))
        self.client.on_publish = lambda c, u, mid, code, p: self.note(mid=mid, code=code.value)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.note(mid=mid, code=codes[0].value)
        self.client.reconnect_delay_set(60, 60)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.wait("CONNACK", lambda: self.connack is not None)

    def note(self, connack=None, message=None, mid=None, code=None):
        with self.cond:
            if connack is not None:
                self.connack = connack
            if message:
                self.seen.append(message)
            if mid is not None:
                self.codes[mid] = code
            self.cond.notify_all()

    def wait(self, what, holds):
        with self.cond:
            assert self.cond.wait_for(holds, 20), f"in vain: {what}"

    def publish(self, topic, payload):
        mid = self.client.publish(topic, payload, 1).mid
        self.wait("PUBACK", lambda: mid in self.codes)
        return self.codes[mid]

    def subscribe(self, path):
        mid = self.client.subscribe(path, 1)[1]
        self.wait("SUBACK", lambda: mid in self.codes)
        return self.codes[mid]

    def lose(self):
        self.client.socket().shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


def allowed(code):
    return code < 0x80


def measure(port):
    """All answers of one broker."""
    found = {}
    for user, password, how in [("hmi", "hmi pass", "right"), ("hmi", "wrong", "wrong"), ("nobody", "x", "unknown"), ("hmi", "", "empty"), (None, None, "none")]:
        client = Client(port, user, password)
        found["login", user, how] = client.connack
        client.end()
    root = Client(port, "root", PASSWORDS["root"], "observer")
    assert root.subscribe("#") < 0x80
    for user in USERS:
        client = Client(port, user, PASSWORDS.get(user))
        for topic in TOPICS:
            mark = f"{user} {topic}".encode()
            client.publish(topic, mark)
            root.publish("mark", mark)
            root.wait("the mark", lambda: ("mark", mark) in root.seen)
            found["publish", user, topic] = (topic, mark) in root.seen
        client.end()
        for topic in TOPICS:
            client = Client(port, user, PASSWORDS.get(user))
            code = client.subscribe(topic)
            client.subscribe("u/hmi/end" if user == "hmi" else "public/end")
            mark = f"read {user} {topic}".encode()
            root.publish(topic, mark)
            if user is None or user == "hmi" or user == "logger" or user == "root":
                root.publish("u/hmi/end" if user == "hmi" else "public/end", mark)
                client.wait("the end", lambda: any(payload == mark and topic.endswith("/end") for topic, payload in client.seen))
            seen = [payload for at, payload in client.seen if at == topic]
            found["read", user, topic] = bool(seen)
            client.end()
        client = Client(port, user, PASSWORDS.get(user))
        for path in FILTERS:
            found["subscribe", user, path] = allowed(client.subscribe(path))
        client.end()
        for topic in TOPICS:
            before = root.seen.count((topic, b"will"))
            Client(port, user, PASSWORDS.get(user), "willing", topic).lose()
            # Whoever comes with the same id comes after the will.
            Client(port, user, PASSWORDS.get(user), "willing").end()
            mark = f"will {user} {topic}".encode()
            root.publish("mark", mark)
            root.wait("the mark", lambda: ("mark", mark) in root.seen)
            found["will", user, topic] = root.seen.count((topic, b"will")) > before
    root.end()
    return found


def listens(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.05)


home = tempfile.mkdtemp()
ports = {"mosquitto": free_port(), "ours": free_port()}
running = []
try:
    passwords = os.path.join(home, "passwords")
    open(passwords, "w").close()
    os.chmod(passwords, 0o600)
    for name, password in PASSWORDS.items():
        subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True, capture_output=True)
    open(os.path.join(home, "rules"), "w").write(ACL)
    conf = os.path.join(home, "mosquitto.conf")
    as_root = "user root\n" if os.geteuid() == 0 else ""
    open(conf, "w").write(f"listener {ports['mosquitto']} 127.0.0.1\nallow_anonymous true\n{as_root}"
                          f"password_file {passwords}\nacl_file {home}/rules\n")
    told = subprocess.run([binary, "broker", "import", conf, "--out-dir", home], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    page = open(os.path.join(home, "broker.toml")).read().replace(f":{ports['mosquitto']}\"", f":{ports['ours']}\"")
    open(os.path.join(home, "ironbridge.toml"), "w").write(f'[gateway]\nname = "gw"\ndata_dir = "data"\n{page}')
    log = open(os.path.join(home, "log"), "w")
    running.append(subprocess.Popen(["mosquitto", "-c", conf], stdout=log, stderr=log))
    running.append(subprocess.Popen([binary, "run", "--config", os.path.join(home, "ironbridge.toml")], stdout=log, stderr=log))
    found = {}
    for broker, port in ports.items():
        listens(port)
        found[broker] = measure(port)
    bad, reasons = 0, {}
    for case, theirs in found["mosquitto"].items():
        ours = found["ours"][case]
        if ours == theirs:
            continue
        what, user, place = case
        reason = next((reason for of, concerns, reason in REASONS if of == what and concerns(user, place)), None)
        wider = ours is True or what == "login" and ours == 0
        if wider or reason is None:
            bad += 1
            print(f"FAILED {what} {user} {place}: mosquitto {theirs}, ours {ours}")
        else:
            reasons.setdefault((what, reason), []).append(f"{user or 'anonymous'} {place}")
    for (what, reason), cases in sorted(reasons.items()):
        print(f"{what}: {reason}\n    {'; '.join(cases)}")
    named = re.findall(r"rules:\d+: .*LEFT OUT WHOLE", told.stderr)
    if len(named) != 1:
        bad += 1
        print(f"FAILED the import does not name the rule that deny took along: {told.stderr}")
    same = sum(found["ours"][case] == theirs for case, theirs in found["mosquitto"].items())
    print(f"{'FAILED' if bad else 'ok'}: {same} of {len(found['mosquitto'])} answers are mosquitto's, none of the others is wider")
    sys.exit(1 if bad else 0)
finally:
    for process in running:
        process.terminate()
        process.wait(10)
    shutil.rmtree(home)
