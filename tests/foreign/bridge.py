#!/usr/bin/env python3
"""A bridge of ours beside a bridge of mosquitto's, in the same set-up: the link is cut, the bridge is killed with SIGKILL
while it is cut and again while it catches up. What was acknowledged to a publisher and never came to the subscriber on
the other side is lost.

    paho  o/n --> near broker === link === far broker --> paho, a session that persists       (out)
    paho, a session that persists <-- near broker === link === far broker <-- paho  i/n       (in)

The far broker is a mosquitto that is never killed. The near one is Ironbridge with [[bridge]]; a mosquitto with a
connection and persistence, as it comes; and one that saves on every change and has no bound on its queue. Each has its
own far broker, and all run side by side.

usage: bridge.py IRONBRIDGE [--seconds N] [--kills N]     (needs mosquitto; pip: paho-mqtt)
"""
import argparse, collections, os, shutil, socket, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt

from bench import free_port, wait_port

RATE = 150          # messages a second and direction
SETTLE_S = 40       # patience for what is still on its way at the end


class Link:
    """A TCP relay that can be cut: connections are closed, and new ones at once."""

    def __init__(self, target):
        self.target, self.is_up, self.pairs = target, True, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.server.accept()
            try:
                if not self.is_up:
                    raise OSError
                far = socket.create_connection(("127.0.0.1", self.target), 2)
            except OSError:
                near.close()
                continue
            self.pairs.append((near, far))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=ends, daemon=True).start()

    @staticmethod
    def carry(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        Link.close(source, sink)

    @staticmethod
    def close(*ends):
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.is_up = False
        for pair in self.pairs:
            self.close(*pair)
        self.pairs.clear()

    def mend(self):
        self.is_up = True


class Publisher(threading.Thread):
    """Numbers at QoS 1, one after the other; paho sends again what was not acknowledged."""

    def __init__(self, port, prefix):
        super().__init__(daemon=True)
        self.prefix, self.stopping = prefix, False
        self.acknowledged, self.on_the_way = set(), {}
        self.answered = collections.deque()     # filled by paho's thread, perhaps before publish() has returned
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"publisher-{prefix}", clean_session=True)
        self.client.on_publish = self.on_publish
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def on_publish(self, _client, _userdata, mid, _reason, _properties):
        self.answered.append(mid)

    def settle(self):
        while self.answered and self.answered[0] in self.on_the_way:
            self.acknowledged.add(self.on_the_way.pop(self.answered.popleft()))

    def run(self):
        number = 0
        while not self.stopping:
            self.settle()
            if self.client.is_connected() and len(self.on_the_way) < 20:
                number += 1
                message = self.client.publish(f"{self.prefix}/n", str(number), qos=1)
                self.on_the_way[message.mid] = number
            time.sleep(1 / RATE)

    def stop(self):
        self.stopping = True
        self.join()
        until = time.time() + 15
        while self.on_the_way and time.time() < until:
            time.sleep(0.05)
            self.settle()
        self.client.loop_stop()


class Subscriber:
    def __init__(self, port, prefix):
        self.seen, self.arrivals = set(), 0
        self.ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"subscriber-{prefix}", clean_session=False)
        self.client.on_connect = lambda client, *_: client.subscribe(f"{prefix}/#", qos=1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self.on_message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def on_message(self, _client, _userdata, message):
        self.arrivals += 1
        self.seen.add(int(message.payload))


def mosquitto(home, name, text):
    config = f"{home}/{name}.conf"
    os.makedirs(f"{home}/{name}")
    open(config, "w").write(f"allow_anonymous true\nuser root\nlog_type error\npersistence true\npersistence_location {home}/{name}/\n{text}")
    return [shutil.which("mosquitto"), "-c", config]


class Setup(threading.Thread):
    """One near broker, its link and its far broker, through the whole story."""

    def __init__(self, name, home, near, options):
        super().__init__()
        self.label, self.options, self.home = name, options, home
        self.far_port, self.near_port = free_port(), free_port()
        self.far = subprocess.Popen(mosquitto(home, "far", f"listener {self.far_port} 127.0.0.1\nmax_queued_messages 0\n"),
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.link = Link(self.far_port)
        self.command = near(home, self.near_port, self.link.port)
        self.process, self.rows = None, []

    def begin(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=open(f"{self.home}/log", "a"))
        wait_port(self.near_port)

    def kill(self):
        self.process.kill()
        self.process.wait()
        time.sleep(0.3)
        self.begin()

    def run(self):
        wait_port(self.far_port)
        self.begin()
        ways = [("out", self.near_port, self.far_port, "o"), ("in", self.far_port, self.near_port, "i")]
        listening = [Subscriber(to, prefix) for _, _, to, prefix in ways]
        for subscriber in listening:
            subscriber.ready.wait(15)
        self.first_crossing(ways, listening)
        publishers = [Publisher(at, prefix) for _, at, _, prefix in ways]
        for publisher in publishers:
            publisher.start()
        time.sleep(2)
        for _ in range(self.options.kills):
            self.link.cut()
            time.sleep(self.options.seconds)
            self.kill()
            time.sleep(2)
            self.link.mend()
            time.sleep(2)
            self.kill()      # while it catches up
            time.sleep(2)
        for publisher in publishers:
            publisher.stop()
        until = time.time() + SETTLE_S
        while time.time() < until and any(p.acknowledged - s.seen for p, s in zip(publishers, listening)):
            time.sleep(0.1)
        for (way, *_), publisher, subscriber in zip(ways, publishers, listening):
            lost = len(publisher.acknowledged - subscriber.seen)
            self.rows.append((way, len(publisher.acknowledged), lost, subscriber.arrivals - len(subscriber.seen)))
        for subscriber in listening:
            subscriber.client.loop_stop()

    def first_crossing(self, ways, listening):
        """Publishing begins when the bridge stands in both directions: number 0 has come over it."""
        for (_, at, _, prefix), subscriber in zip(ways, listening):
            client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
            client.connect("127.0.0.1", at)
            client.loop_start()
            until = time.time() + 30
            while 0 not in subscriber.seen:
                if time.time() > until:
                    sys.exit(f"{self.label}: the bridge does not connect")
                client.publish(f"{prefix}/n", "0", qos=1)
                time.sleep(0.2)
            client.loop_stop()
            client.disconnect()

    def end(self):
        for process in (self.process, self.far):
            if process:
                process.kill()
                process.wait()


def ironbridge(binary):
    def near(home, port, to):
        open(f"{home}/ironbridge.toml", "w").write(f'''
[gateway]
name = "near"
data_dir = "{home}/data"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read-write"
[[bridge]]
name = "far"
url = "mqtt://127.0.0.1:{to}"
[[bridge.topic]]
filter = "o/#"
[[bridge.topic]]
filter = "i/#"
direction = "in"
''')
        return [binary, "run", "--config", f"{home}/ironbridge.toml"]
    return near


def mosquitto_bridge(more):
    def near(home, port, to):
        return mosquitto(home, "near", f"listener {port} 127.0.0.1\n{more}\nconnection far\naddress 127.0.0.1:{to}\n"
                         "cleansession false\nrestart_timeout 1\ntry_private true\nbridge_protocol_version mqttv311\n"
                         "topic o/# out 1\ntopic i/# in 1\n")
    return near


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ironbridge")
    parser.add_argument("--seconds", type=float, default=8, help="how long the link is cut each time")
    parser.add_argument("--kills", type=int, default=2, help="how often it is cut; two kills each time")
    options = parser.parse_args()
    if not shutil.which("mosquitto"):
        print("SKIPPED: no mosquitto")
        return 0
    home = tempfile.mkdtemp(prefix="bridge-")
    nears = [
        ("Ironbridge", ironbridge(os.path.realpath(options.ironbridge))),
        ("mosquitto, as it comes", mosquitto_bridge("")),
        ("mosquitto, saving every change", mosquitto_bridge("max_queued_messages 0\nautosave_on_changes true\nautosave_interval 1")),
    ]
    setups = []
    try:
        for place, (name, near) in enumerate(nears):
            os.makedirs(f"{home}/{place}")
            setups.append(Setup(name, f"{home}/{place}", near, options))
        for setup in setups:
            setup.start()
        for setup in setups:
            setup.join()
    finally:
        for setup in setups:
            setup.end()
    print(f"{'near broker':32} {'way':4} {'acknowledged':>12} {'lost':>6} {'twice':>6}")
    for setup in setups:
        for way, acknowledged, lost, twice in setup.rows:
            print(f"{setup.label:32} {way:4} {acknowledged:12} {lost:6} {twice:6}")
    ours = setups[0].rows
    failed = len(ours) != 2 or any(lost or acknowledged < 100 for _, acknowledged, lost, _ in ours)
    shutil.rmtree(home) if not failed else print(f"FAILED: logs in {home}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
