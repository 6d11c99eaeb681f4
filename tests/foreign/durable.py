#!/usr/bin/env python3
"""kill -9 of the gateway, fifty times, under the load of paho clients whose sessions last: nothing acknowledged is lost,
nothing of QoS 2 comes twice, nothing is out of order, no retained message is stale.

usage: durable.py IRONBRIDGE [--kills 50]        (pip: paho-mqtt)
"""
import collections, os, random, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench import check, failures, free_port, wait_port


class Client(mqtt.Client):
    """paho 2.2 forgets at its second attempt to reconnect that a PUBREC has come (`resend_pubrel` becomes `publish`), and
    publishes anew what the broker has completed already."""

    def _messages_reconnect_reset_out(self):
        released = [message for message in self._out_messages.values() if message.state == mqtt.mqtt_ms_resend_pubrel]
        super()._messages_reconnect_reset_out()
        for message in released:
            message.state = mqtt.mqtt_ms_resend_pubrel


def client(name, version, port, clean=False):
    """One whose session lasts; paho keeps its side of it."""
    made = Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version,
                  **({} if version == mqtt.MQTTv5 else {"clean_session": clean}))
    made.reconnect_delay_set(0.05, 0.2)
    made.max_inflight_messages_set(0)
    made.max_queued_messages_set(0)
    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if clean else 3600
        made.connect_async("127.0.0.1", port, 60, clean_start=clean, properties=properties)
    else:
        made.connect_async("127.0.0.1", port, 60)
    return made


class Sender:
    """Publishes numbers; knows which of them were acknowledged."""

    def __init__(self, topic, qos, version, port, retain=False):
        self.topic, self.qos, self.retain = topic, qos, retain
        self.next, self.done, self.mids, self.acks = 1, 0, {}, collections.deque()
        self.client = client(f"sender/{topic}", version, port)
        self.client.on_publish = self.acknowledged
        self.client.loop_start()

    def acknowledged(self, _client, _data, mid, reason, _properties):
        # 0x92: PUBREL had been dealt with before the kill, PUBCOMP had not come through.
        if getattr(reason, "is_failure", False) and reason.value != 0x92:
            check(f"{self.topic} is taken", str(reason), "Success")
        self.acks.append(mid)

    def settle(self):
        while self.acks:
            del self.mids[self.acks.popleft()]
            self.done += 1

    def fill(self):
        self.settle()
        while self.next - self.done < 30 and self.client.is_connected():
            info = self.client.publish(self.topic, str(self.next), self.qos, self.retain)
            self.mids[info.mid] = self.next
            self.next += 1

    def floor(self):
        """All up to this are acknowledged."""
        self.settle()
        return min(self.mids.values(), default=self.next) - 1


class Reader:
    def __init__(self, name, qos, version, port):
        self.seen, self.subscribed, self.present, self.again = {}, threading.Event(), [], 0
        self.client, self.qos = client(name, version, port), qos
        self.client.on_connect = self.connected
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self.message
        self.client.loop_start()

    def connected(self, made, _data, flags, _reason, _properties):
        self.present.append(flags.session_present)
        if not self.subscribed.is_set():
            made.subscribe("load/#", self.qos)

    def message(self, _client, _data, message):
        self.again += message.dup
        self.seen.setdefault(message.topic, []).append(int(message.payload))


def newest(port):
    """What a newcomer finds retained."""
    found, looked = [], threading.Event()
    looker = client("look", mqtt.MQTTv5, port, clean=True)
    looker.on_connect = lambda made, *_: made.subscribe("load/kept", 0)

    def take(_client, _data, message):
        found.append(int(message.payload))
        looked.set()

    looker.on_message = take
    looker.loop_start()
    looked.wait(20)
    looker.disconnect()
    looker.loop_stop()
    return found[0] if found else -1


def main():
    binary, kills = os.path.abspath(sys.argv[1]), 50
    if "--kills" in sys.argv:
        kills = int(sys.argv[sys.argv.index("--kills") + 1])
    home, port = tempfile.mkdtemp(), free_port()
    with open(f"{home}/ironbridge.toml", "w", encoding="utf-8") as out:
        out.write(f'''[gateway]
name = "gw"
data_dir = "{home}/data"
[broker]
session_max_size = "512MiB"
sessions_max_size = "1GiB"
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read-write"
[[bus]]
name = "line"
type = "modbus-tcp"
endpoint = "127.0.0.1:9"
[[device]]
name = "plc"
bus = "line"
unit_id = 1
[[device.tag]]
name = "t"
address = "holding:0"
type = "uint16"
''')

    def start():
        started = subprocess.Popen([binary, "run", "--config", f"{home}/ironbridge.toml"], cwd=home,
                                   stdout=subprocess.DEVNULL, stderr=open(f"{home}/log", "ab"))
        wait_port(port)
        return started

    gateway = start()
    try:
        run(gateway, start, port, kills)
    finally:
        if failures:
            print(f"the gateway's log is {home}/log")


def run(gateway, start, port, kills):
    readers = {name: Reader(name, qos, version, port) for name, qos, version in (
        ("once/5", 2, mqtt.MQTTv5), ("once/311", 2, mqtt.MQTTv311), ("least/5", 1, mqtt.MQTTv5), ("away/311", 2, mqtt.MQTTv311))}
    check("all are subscribed", [reader.subscribed.wait(20) for reader in readers.values()], [True] * len(readers))
    away = readers["away/311"]
    away.client.disconnect()
    away.client.loop_stop()
    kept = Sender("load/kept", 1, mqtt.MQTTv5, port, retain=True)
    senders = [kept, Sender("load/one", 1, mqtt.MQTTv311, port), Sender("load/two", 2, mqtt.MQTTv5, port),
               Sender("load/two/311", 2, mqtt.MQTTv311, port)]
    stale = []
    for _ in range(kills):
        until = time.monotonic() + random.uniform(0.05, 0.8)
        while time.monotonic() < until or kept.floor() < 1:
            for sender in senders:
                sender.fill()
            time.sleep(0.002)
        gateway.kill()
        gateway.wait()
        floor = kept.floor()
        gateway = start()
        now = newest(port)
        if now < floor:
            stale.append((now, floor))
    check(f"{kills} kills: no retained message is older than what was acknowledged", stale, [])
    deadline = time.monotonic() + 120
    while any(sender.floor() + 1 < sender.next for sender in senders) and time.monotonic() < deadline:
        time.sleep(0.05)
    check("everything is acknowledged in the end", [len(sender.mids) for sender in senders], [0] * len(senders))
    away.client.reconnect()
    away.client.loop_start()
    wanted = {sender.topic: list(range(1, sender.next)) for sender in senders}
    for name, reader in readers.items():
        while time.monotonic() < deadline and any(numbers[-1] not in reader.seen.get(topic, [])[-500:] for topic, numbers in wanted.items()):
            time.sleep(0.05)
        for topic, numbers in wanted.items():
            seen = reader.seen.get(topic, [])
            once = list(dict.fromkeys(seen))
            check(f"{name} has all {len(numbers)} of {topic}, in order", once == numbers, True)
            if "two" in topic and "least" not in name:
                check(f"{name} has none of {topic} twice", len(seen) - len(once), 0)
        check(f"{name}: its session was there after each kill", all(reader.present[1:]), True)
    print(f"{kills} kills, {sum(map(len, wanted.values()))} messages acknowledged, "
          f"{sum(reader.again for reader in readers.values())} deliveries came again")
    for each in list(readers.values()) + senders:
        each.client.disconnect()
        each.client.loop_stop()
    gateway.terminate()
    check("it ends in order", gateway.wait(timeout=30), 0)


if __name__ == "__main__":
    main()
    sys.exit(1 if failures else 0)
