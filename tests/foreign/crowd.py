#!/usr/bin/env python3
"""The broker among its real clients: mosquitto_pub, _sub and _rr, paho, MQTT.js (and so the habits of MQTT Explorer),
Node-RED, and a thousand that only sit there.

usage: crowd.py IRONBRIDGE [--long]        (needs mosquitto-clients; pip: paho-mqtt; node and npm for MQTT.js)

--long adds Node-RED, which npm has to fetch first (some 100 MB). What is not there is SKIPPED, visibly.
"""
import json, os, queue, resource, shutil, signal, socket, subprocess, sys, tempfile, time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench import check, free_port, verdict, wait_port

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.abspath(os.path.join(HERE, "../../target/foreign"))
DEVICES, TAGS, IDLE = 20, 500, 1000


def config(port, websocket, work):
    """A plant of ten thousand tags, and doors for everybody: browsers and their like need a login."""
    text = f'[gateway]\nname = "crowd"\ntopic = "plant/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n[broker]\nmax_connections = 1200\n'
    text += f'users_file = "{work}/users"\n[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read-write"\n'
    text += f'[[broker.listener]]\nlisten = "127.0.0.1:{websocket}"\nwebsocket = true\n'
    text += '[[broker.acl]]\nuser = "anonymous"\nwrite = ["#"]\n[[broker.acl]]\nuser = "web"\nread = ["#"]\nwrite = ["#"]\n'
    for device in range(DEVICES):
        text += (f'[[bus]]\nname = "line-{device}"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{5020 + device}"\n'
                 f'[[device]]\nname = "d{device}"\nbus = "line-{device}"\nunit_id = 1\npoll = "2s"\n')
        text += "".join(f'[[device.tag]]\nname = "t{tag}"\naddress = "holding:{tag}"\ntype = "uint16"\n' for tag in range(TAGS))
    return text


def rss(process):
    return int(next(line for line in open(f"/proc/{process.pid}/status") if line.startswith("VmRSS")).split()[1])


def mosquitto_clients(port):
    print("mosquitto_pub, mosquitto_sub, mosquitto_rr")
    for version in ("311", "5"):
        for qos in "012":
            sub = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-V", version, "-p", str(port), "-t", "cli/+", "-q", qos, "-C", "200", "-W", "20", "-d"],
                                   stdout=subprocess.PIPE, text=True)
            while "Subscribed" not in (line := sub.stdout.readline()) and line:
                pass
            subprocess.run(["mosquitto_pub", "-V", version, "-p", str(port), "-t", "cli/x", "-q", qos, "-l"],
                           input="".join(f"line {n}\n" for n in range(200)), text=True, timeout=30, check=False)
            seen = [line.strip() for line in sub.communicate(timeout=30)[0].splitlines() if line.startswith("line ")]
            check(f"-V {version} -q {qos}: 200 lines in order", seen, [f"line {n}" for n in range(200)])
    answer = subprocess.Popen(["mosquitto_sub", "-V", "5", "-p", str(port), "-t", "ask", "-C", "1", "-W", "20", "-F", "%R|%D|%p"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    asked = subprocess.Popen(["mosquitto_rr", "-V", "5", "-p", str(port), "-t", "ask", "-e", "answers/rr", "-m", "how much?", "-W", "20",
                              "-D", "publish", "correlation-data", "id-7"], stdout=subprocess.PIPE, text=True)
    where = answer.communicate(timeout=30)[0].strip().split("|")
    check("mosquitto_rr: the question with where to answer", where, ["answers/rr", "id-7", "how much?"])
    subprocess.run(["mosquitto_pub", "-V", "5", "-p", str(port), "-t", where[0] or "answers/rr", "-m", "42", "-D", "publish", "correlation-data", "id-7"], check=False)
    check("mosquitto_rr: the answer", asked.communicate(timeout=30)[0].strip(), "42")


def paho(port, transport="tcp", host="127.0.0.1", prepare=lambda client: None):
    for version, label in ((mqtt.MQTTv311, "3.1.1"), (mqtt.MQTTv5, "5")):
        print(f"paho {label} over {transport}")
        inbox, granted = queue.Queue(), queue.Queue()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"paho/{label}", protocol=version, transport=transport)
        if transport == "websockets":
            client.username_pw_set("web", "secret")
        client.on_message = lambda _c, _u, message: inbox.put(message)
        client.on_subscribe = lambda *given: granted.put(given[3])
        prepare(client)
        client.connect(host, port, keepalive=10)
        client.loop_start()
        client.subscribe("py/#", 2)
        granted.get(timeout=10)
        properties = None
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [("k", "v"), ("k", "w")]
            properties.ContentType, properties.CorrelationData = "text/plain", b"\0\1"
        for n in range(300):
            client.publish(f"py/{n % 7}", str(n), qos=n % 3, properties=properties)
        seen = []
        while len(seen) < 300:
            try:
                seen.append(inbox.get(timeout=10))
            except queue.Empty:
                break
        check("300 messages of every QoS, each once", sorted(int(message.payload) for message in seen), list(range(300)))
        by_topic = {}
        for message in seen:
            by_topic.setdefault((message.topic, message.qos), []).append(int(message.payload))
        check("in order on each topic and QoS", [of for of in by_topic.values() if of != sorted(of)], [])
        if properties:
            got = seen[0].properties
            check("properties as they were", (got.UserProperty, got.ContentType, got.CorrelationData), ([("k", "v"), ("k", "w")], "text/plain", b"\0\1"))
        client.disconnect()
        client.loop_stop()


def modules(*names):
    """The folder of node's modules, once these are in it."""
    if not (shutil.which("node") and shutil.which("npm")):
        return print(f"SKIPPED {' '.join(names)}: node or npm is not installed")
    folder = f"{TARGET}/node_modules"
    if not all(os.path.isdir(f"{folder}/{name.split('@')[0]}") for name in names):
        install = subprocess.run(["npm", "install", "--prefix", TARGET, "--no-fund", "--no-audit", *names], capture_output=True)
        if install.returncode:
            return print(f"SKIPPED {' '.join(names)}: npm cannot install it")
    return folder


def node(*arguments):
    done = subprocess.run(["node", f"{HERE}/crowd.js", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return {"error": done.stdout + done.stderr}


def mqtt_js(folder, url):
    print(f"MQTT.js at {url.split(':')[0]}")
    for version in (4, 5):
        result = node(folder, url, "round", version)
        wanted = [["js/kept", 10, 1, True], ["js/will", 4, 1, False], ["js/é/0", 1, 0, False], ["js/é/1", 100, 1, False], ["js/é/2", 10000, 2, False]]
        check(f"version {version}: every QoS, retained, a will", (result.get("granted"), result.get("seen", result)), ([2], wanted))


def explorer(folder, url):
    print("MQTT Explorer's habits: # and $SYS/# at once")
    result = node(folder, url, "explore", DEVICES * TAGS, 12)
    print(f"    {result}")
    check("every tag", result.get("tags", 0), lambda tags: tags >= DEVICES * TAGS)
    check("soon", result.get("complete"), lambda took: took is not None and took < 10_000, timed=True)
    check("$SYS is there", result.get("sys", 0) > 5, True)
    check("values go on coming and it is not thrown out", (result.get("messages", 0) > 1.5 * DEVICES * TAGS, result.get("closed")), (True, False))


def idle(port, gateway):
    print(f"{IDLE} clients that only sit there")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        return print(f"SKIPPED: only {hard} file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    before, clients = rss(gateway), []
    for n in range(IDLE):
        client = socket.create_connection(("127.0.0.1", port), 10)
        name = f"idle-{n}".encode()
        client.sendall(bytes([0x10, 12 + len(name)]) + b"\0\4MQTT\4\2\0\0\0" + bytes([len(name)]) + name)
        client.sendall(bytes([0x82, 11, 0, 1, 0, 6]) + b"idle/#" + b"\1")
        clients.append(client)
    answered = sum(client.recv(4, socket.MSG_WAITALL) == b"\x20\2\0\0" and client.recv(5, socket.MSG_WAITALL) == b"\x90\3\0\1\1" for client in clients)
    check("each is served", answered, IDLE)
    each = (rss(gateway) - before) / IDLE
    print(f"    {each:.1f} kB each, {rss(gateway)} kB in all")
    check("they cost little", each < 32, True)
    for client in clients:
        client.close()


FLOW = [
    {"id": "f", "type": "tab", "label": "crowd"},
    {"id": "in", "type": "mqtt in", "z": "f", "topic": "plant/d0/t1", "qos": "2", "datatype": "json", "broker": "b", "nl": False, "rap": True, "rh": 0, "wires": [["fn"]]},
    {"id": "fn", "type": "function", "z": "f", "func": "msg.payload = {seen: msg.payload.quality}; msg.topic = 'node-red/answer'; return msg;", "outputs": 1, "wires": [["out"]]},
    {"id": "out", "type": "mqtt out", "z": "f", "topic": "", "qos": "1", "retain": "false", "broker": "b", "wires": []},
    {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "clientid": "node-red", "autoConnect": True, "usetls": False, "protocolVersion": "5",
     "keepalive": "60", "cleansession": True, "birthTopic": "node-red/status", "birthPayload": "up", "birthQos": "0", "willTopic": "node-red/status", "willPayload": "down", "willQos": "0"},
]


def node_red(port, work):
    print("Node-RED")
    folder = modules("node-red@4")
    if not folder:
        return
    home = f"{work}/node-red"
    os.mkdir(home)
    flow = [dict(node, port=str(port)) if node["type"] == "mqtt-broker" else node for node in FLOW]
    with open(f"{home}/flows.json", "w") as file:
        json.dump(flow, file)
    red = subprocess.Popen(["node", f"{folder}/node-red/red.js", "--userDir", home, "--port", str(free_port()), "flows.json"],
                           stdout=open(f"{work}/node-red.log", "w"), stderr=subprocess.STDOUT)
    try:
        sub = ["mosquitto_sub", "-p", str(port), "-t", "node-red/answer", "-C", "3", "-W", "60"]
        answers = subprocess.run(sub, capture_output=True, text=True).stdout.splitlines()
        check("a flow that reads a tag and writes another topic", [json.loads(answer) for answer in answers], [{"seen": "good"}] * 3)
    finally:
        red.kill()
        red.wait()


def main():
    binary, long = sys.argv[1], "--long" in sys.argv
    if not shutil.which("mosquitto_rr"):
        print("SKIPPED crowd.py: mosquitto-clients is not installed")
        return 0
    work = tempfile.mkdtemp(prefix="crowd-")
    port, websocket = free_port(), free_port()
    plan, sim = f"{work}/plan.toml", f"{work}/sim.toml"

    subprocess.run([binary, "passwd", f"{work}/users", "web"], input="secret\n", text=True, check=True)
    with open(plan, "w") as file:
        file.write(config(port, websocket, work))
    subprocess.run([binary, "check", "--config", plan], check=True, stdout=subprocess.DEVNULL)
    plant = subprocess.Popen([binary, "simulate", "--config", plan, "--write-config", sim], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not os.path.exists(sim) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    gateway = subprocess.Popen([binary, "run", "--config", sim], stderr=open(f"{work}/log", "w"))
    try:
        wait_port(port)
        mosquitto_clients(port)
        paho(port)
        paho(websocket, "websockets")
        if folder := modules("mqtt@5"):
            mqtt_js(folder, f"mqtt://127.0.0.1:{port}")
            mqtt_js(folder, f"ws://web:secret@127.0.0.1:{websocket}/mqtt")
            explorer(folder, f"mqtt://127.0.0.1:{port}")
        idle(port, gateway)
        if long:
            node_red(port, work)
        lines = open(f"{work}/log").read().splitlines()
        check("no panic, no error in the log", [line for line in lines if "panicked" in line or " ERROR " in line], [])
        check(f"a quiet log ({len(lines)} lines)", len(lines) < 400, True)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
    finally:
        plant.kill()
        gateway.kill()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
