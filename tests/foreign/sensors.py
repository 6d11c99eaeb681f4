#!/usr/bin/env python3
"""MQTT-SN clients that are not ours against Ironbridge: mqtt-sn-tools (C), mqttsn (Python, of the Eclipse project's own
client) and mqtt-sn-12 (Python), MQTT beside them by mosquitto's. All datagrams of the first go through a recorder; tshark
reads them and must not object. Then the Python codec behind a radio link that loses every fifth datagram: QoS 1 and 2 keep
what they promise.

Asleep: mqtt-sn-12 goes to sleep by its own function and takes what comes by its own loop. None of these clients wakes by
itself: that PINGREQ is its packet class with its client id, sent from here. Nor does it acknowledge QoS 1 by itself (1.0.9
compares the number with the flag): its own function for it is called from here; and its REGACK has no topic id above 32767: it
gets topics with lower ones. That PINGRESP comes last is seen in what its receiver got.

usage: sensors.py IRONBRIDGE     (needs mosquitto_sub, mosquitto_pub; pip: mqttsn; as far as they are there: pip: mqtt-sn-12,
                                  mqtt-sn-pub and mqtt-sn-sub in the PATH or in $MQTT_SN_TOOLS, tshark)
"""
import contextlib, io, os, pathlib, random, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time

from bench import free_port

PATIENCE = 30
failures = []


def check(name, ok, got=""):
    print(f"  {'ok  ' if ok else 'FAIL'} {name}" + ("" if ok else f": {got!r}"), flush=True)
    if not ok:
        failures.append(name)


def until(what, holds):
    end = time.time() + PATIENCE
    while time.time() < end:
        if holds():
            return True
        time.sleep(0.05)
    check(what, False, "in vain")
    return False


class Radio(threading.Thread):
    """Between sensors and the gateway: keeps what it carries, loses so much of it."""

    def __init__(self, gateway, loses=0.0, seed=1):
        super().__init__(daemon=True)
        self.gateway, self.loses, self.dice, self.kept, self.lost = gateway, loses, random.Random(seed), [], 0
        self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind(("127.0.0.1", 0))
        self.port = self.near.getsockname()[1]
        self.far = {}
        self.start()

    def run(self):
        while True:
            datagram, sensor = self.near.recvfrom(65536)
            if sensor not in self.far:
                self.far[sensor] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.far[sensor].connect(("127.0.0.1", self.gateway))
                threading.Thread(target=self.back, args=(sensor,), daemon=True).start()
            if self.carries(datagram, 40000, self.gateway):
                with contextlib.suppress(OSError):
                    self.far[sensor].send(datagram)

    def back(self, sensor):
        while True:
            try:
                datagram = self.far[sensor].recv(65536)
            except OSError:
                continue
            if self.carries(datagram, self.gateway, 40000):
                self.near.sendto(datagram, sensor)

    def carries(self, datagram, source, to):
        self.kept.append((time.time(), source, to, datagram))
        if self.dice.random() < self.loses:
            self.lost += 1
            return False
        return True

    def pcap(self, path):
        """As a capture of raw IPv4 (pcap-savefile(5), link type 101)."""
        with open(path, "wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
            for at, source, to, datagram in self.kept:
                udp = struct.pack(">HHHH", source, to, 8 + len(datagram), 0) + datagram
                local = socket.inet_aton("127.0.0.1")
                ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, local, local) + udp
                out.write(struct.pack("<IIII", int(at), int(at % 1 * 1e6), len(ip), len(ip)) + ip)


class Listener:
    """mosquitto_sub on everything, and what it has heard."""

    def __init__(self, port):
        self.lines = []
        command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", "sensors/#", "-t", "ab", "-t", "ready", "-q", "2", "-F", "%t|%p"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        until("mosquitto_sub listens", lambda: publish(port, "ready", "1", 0) and "ready|1" in self.lines)

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())


def publish(port, topic, payload, qos=1):
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-m", payload, "-q", str(qos)]
    return subprocess.run(command, timeout=PATIENCE).returncode == 0


def tool(name):
    home = os.environ.get("MQTT_SN_TOOLS")
    return shutil.which(name, path=home) if home else shutil.which(name)


def tools(radio, mqtt, heard):
    pub, sub = tool("mqtt-sn-pub"), tool("mqtt-sn-sub")
    if not pub or not sub:
        return print("  SKIPPED mqtt-sn-tools: neither in the PATH nor in $MQTT_SN_TOOLS")
    at = ["-h", "127.0.0.1", "-p", str(radio.port)]
    for number, more in enumerate((["-q", "0"], ["-q", "1"], ["-q", "1", "--fe", "--wlnid", "7"], ["-q", "1", "-r"])):
        how, payload = " ".join(more), f"tool-{number}"
        said = subprocess.run([pub, *at, "-t", "sensors/tool", "-m", payload, *more], timeout=PATIENCE, capture_output=True, text=True)
        check(f"mqtt-sn-pub {how}", said.returncode == 0, said.stdout + said.stderr)
        until(f"what it published with {how}", lambda: f"sensors/tool|{payload}" in heard.lines)
    subprocess.run([pub, *at, "-T", "1", "-m", "predefined", "-q", "1"], timeout=PATIENCE)
    until("a predefined topic", lambda: "sensors/known|predefined" in heard.lines)
    subprocess.run([pub, *at, "-T", "1", "-m", "unasked", "-q", "-1"], timeout=PATIENCE)
    until("QoS -1", lambda: "sensors/known|unasked" in heard.lines)
    subprocess.run([pub, *at, "-t", "ab", "-m", "short", "-q", "1"], timeout=PATIENCE)
    until("a short topic", lambda: "ab|short" in heard.lines)
    for arguments, topic in ((["-t", "orders/+/x"], "orders/1/x"), (["-T", "1"], "sensors/known"), (["-t", "orders/name", "-q", "1"], "orders/name")):
        client = subprocess.Popen([sub, *at, *arguments, "-v", "-1"], stdout=subprocess.PIPE, text=True)
        end = time.time() + PATIENCE
        while client.poll() is None and time.time() < end:
            publish(mqtt, topic, "for you")
            time.sleep(0.1)
        client.kill()
        said = client.communicate()[0]
        check(f"mqtt-sn-sub {' '.join(arguments)}", "for you" in said, said)


def python_client(radio, mqtt, heard):
    from mqttsn.client import Callback, Client

    class Inbox(Callback):
        def __init__(self):
            super().__init__()
            self.got = []

        def message_arrived(self, topic_name, payload, qos, retained, msgid):
            self.got.append((payload, qos))
            return True

    inbox, client = Inbox(), Client(b"python-1", host="127.0.0.1", port=radio.port)
    with contextlib.redirect_stdout(io.StringIO()):
        client.register_callback(inbox)
        client.connect()
        granted = [client.subscribe(topic, qos)[0] for topic, qos in (("orders/python", 2), ("orders/name", 1))]  # it knows no REGISTER of a gateway
    check("the Python client may subscribe", granted == [0, 0], granted)
    with contextlib.redirect_stdout(io.StringIO()):
        topic = client.register(b"sensors/python")
        for qos in (0, 1, 2):
            client.publish(topic, f"python-{qos}", qos=qos)
            until(f"its QoS {qos}", lambda: f"sensors/python|python-{qos}" in heard.lines)
    for qos, topic in ((1, "orders/name"), (2, "orders/python")):
        publish(mqtt, topic, f"down-{qos}", qos)
    until("what it has subscribed to", lambda: len(inbox.got) == 2)
    check("payloads and QoS as published", sorted(inbox.got) == [(f"down-{q}".encode(), q) for q in (1, 2)], inbox.got)


def sleeper(radio, mqtt):
    try:
        from mqttsn12 import MqttSnConstants as names
        from mqttsn12.client.MqttSnClient import MqttSnClient, MqttSnListener
        from mqttsn12.packets import PingReqPacket, PublishPacket
    except ImportError:
        return print("  SKIPPED a sleeping client: the Python package mqtt-sn-12 is not installed")
    names = getattr(names, "MqttSnConstants", names)
    order = []

    class Client(MqttSnClient):
        def receive_packet(self, blocking):
            buffer = super().receive_packet(blocking)
            if buffer is not None:
                order.append(buffer[3] if buffer[0] == 1 else buffer[1])
                if order[-1] == names.TYPE_PUBLISH:
                    packet = PublishPacket()
                    packet.decode(buffer)
                    self.send_puback(packet, names.ACCEPTED)
            return buffer

    class Inbox(MqttSnListener):
        def __init__(self):
            self.got = []

        def message_arrived(self, message):
            self.got.append((message.get_topic_name(), bytes(message.get_payload()).decode()))

    def connected(name, clean):
        client = Client()
        client.set_client_id(name)
        client.set_clean_session(clean)
        client.set_keep_alive(60)
        client.set_timeout(PATIENCE)
        client.open("127.0.0.1", radio.port)
        client.send_connect()
        return client

    scout, topics = connected("scout-1", True), []
    while len(topics) < 4:
        topic = f"orders/asleep/{len(order)}"
        if 0 < scout.send_register(topic) <= 32767:
            topics.append(topic)
    scout.send_disconnect()
    scout.close()
    inbox, client = Inbox(), connected("sleeper-1", False)
    client.send_subscribe("orders/asleep/+", 1, inbox)
    for night in range(3):
        client.send_disconnect(600)
        order.clear()
        sent = [(topics[n % 4], f"{night}-{n}") for n in range(25)]
        for topic, payload in sent:
            publish(mqtt, topic, payload)
        end = time.time() + 1
        while time.time() < end:
            client.polling()
            time.sleep(0.01)
        check(f"night {night}: nothing comes while it sleeps", not order, order)
        ping = PingReqPacket()
        ping.client_id = "sleeper-1"
        client.send_packet(ping.encode())
        until("PINGRESP", lambda: client.polling() or names.TYPE_PINGRESP in order)
        # At QoS 1 a message may come twice: on a busy machine an acknowledgement takes longer than `retry`.
        check(f"night {night}: all of it at one wake, in order", list(dict.fromkeys(inbox.got)) == sent, inbox.got)
        check(f"night {night}: PINGRESP comes once and last", order.count(names.TYPE_PINGRESP) == 1 and order[-1] == names.TYPE_PINGRESP, order)
        inbox.got.clear()
    client.send_disconnect()
    client.close()


def lossy(gateway, heard):
    """The codec is theirs, the patience is ours."""
    from mqttsn.lib import connects, names, publishes, registers
    from mqttsn.lib.helpers import unpack_packet

    radio = Radio(gateway, 0.2, 7)
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.connect(("127.0.0.1", radio.port))
    line.settimeout(0.1)

    def ask(packet, kinds, number=None):
        end = time.time() + PATIENCE
        while time.time() < end:
            line.send(packet.pack())
            with contextlib.suppress(TimeoutError):
                while True:
                    answer, _ = unpack_packet(line.recv(4096), None)
                    if answer.mh.msg_type in kinds and (number is None or answer.msg_id == number):
                        return answer
        raise SystemExit(f"FAIL no answer to {packet}")

    with contextlib.redirect_stdout(io.StringIO()):
        hello = connects.Connects()
        hello.client_id, hello.clean_session, hello.keepalive_timer = b"python-lossy", False, 60
        ask(hello, [names.CONNACK])
        name = registers.Registers()
        name.topic_name, name.msg_id = b"sensors/lossy", 1
        topic = ask(name, [names.REGACK], 1).topic_id
        for n in range(100):
            packet = publishes.Publishes()
            packet.topic_id, packet.msg_id, packet.data, packet.flags.qos = topic, n + 2, f"{n}", 1 + n % 2
            if n % 2 == 0:
                ask(packet, [names.PUBACK], n + 2)
                continue
            ask(packet, [names.PUBREC], n + 2)
            release = publishes.Pubrels()
            release.msg_id = n + 2
            ask(release, [names.PUBCOMP], n + 2)
    until("all of it", lambda: "sensors/lossy|99" in heard.lines)
    got = [int(line.split("|")[1]) for line in heard.lines if line.startswith("sensors/lossy|")]
    check("nothing is missing", set(got) == set(range(100)), sorted(set(range(100)) - set(got)))
    check("at QoS 2 nothing is twice", all(got.count(n) == 1 for n in range(1, 100, 2)), got)
    check("the link was bad", radio.lost > 30, radio.lost)


def dissect(radio, home):
    tshark = shutil.which("tshark")
    if not tshark:
        return print("  SKIPPED tshark: not installed")
    path = home / "sensors.pcap"
    radio.pcap(path)
    command = [tshark, "-r", str(path), "-d", f"udp.port=={radio.gateway},mqttsn", "-T", "fields", "-e", "mqttsn.msg.type", "-e", "_ws.malformed"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    rows = [line.split("\t") for line in said.stdout.splitlines()]
    check(f"tshark reads all of {len(radio.kept)} datagrams", len(rows) == len(radio.kept) and all(row[0] for row in rows), said.stderr[:300])
    check("and objects to none", not [row for row in rows if len(row) > 1 and row[1]], rows)


def main():
    binary = os.path.realpath(sys.argv[1])
    try:
        import mqttsn.client  # noqa: F401
    except ImportError:
        return print("SKIPPED sensors.py: the Python package mqttsn is not installed")
    home = pathlib.Path(tempfile.mkdtemp())
    mqtt, gateway = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    (home / "ironbridge.toml").write_text(f"""
[gateway]
name = "gw"
data_dir = "data"
[status]
listen = "off"
[[broker.listener]]
listen = "127.0.0.1:{mqtt}"
anonymous = "read-write"
[[broker.listener]]
listen = "udp:127.0.0.1:{gateway}"
protocol = "mqtt-sn"
anonymous = "read-write"
mqtt_sn = {{ retry = "300ms", retries = 20, publish_user = "beacons" }}
[[broker.listener.topic]]
id = 1
name = "sensors/known"
[[broker.acl]]
user = "sensor:beacons"
write = ["sensors/known"]
""")
    log = open(home / "log", "wb")
    daemon = subprocess.Popen([binary, "run", "--config", str(home / "ironbridge.toml")], cwd=home, stdout=log, stderr=log)
    heard = None
    try:
        until("the gateway is up", lambda: not socket.socket().connect_ex(("127.0.0.1", mqtt)))
        heard = Listener(mqtt)
        radio = Radio(gateway)
        tools(radio, mqtt, heard)
        python_client(radio, mqtt, heard)
        sleeper(radio, mqtt)
        dissect(radio, home)
        lossy(gateway, heard)
        check("it runs on", daemon.poll() is None)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(PATIENCE)
        if heard:
            heard.process.kill()
        if failures:
            print((home / "log").read_text()[-3000:])
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(f"FAIL sensors.py: {len(failures)}" if failures else 0)


if __name__ == "__main__":
    main()
