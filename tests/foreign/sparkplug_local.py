#!/usr/bin/env python3
"""The gateway as an edge node on its own broker (`url = "local:"`), before hosts that are not ours: pysparkplug, and a host application
of the Rust crate srad, which is built here. Beside it on the same broker an edge node of another make, npm's sparkplug-client; all
of it is heard by `ironbridge receive --format sparkplug` too.

usage: sparkplug_local.py IRONBRIDGE      (needs cargo; node and npm; pip: pymodbus paho-mqtt protobuf grpcio-tools)
"""
import json, os, shutil, signal, subprocess, sys, tempfile, threading, time

from bench import check, failures, free_port, wait_port
import sparkplug as others

HERE, TARGET, PATIENCE = others.HERE, others.TARGET, others.PATIENCE
MANIFEST = f"""[package]
name = "sparkplug-srad"
version = "0.0.0"
edition = "2024"
[[bin]]
name = "sparkplug-srad"
path = "{HERE}/sparkplug_srad.rs"
[dependencies]
srad = {{ version = "=0.5.0", default-features = false, features = ["app", "rumqtt-client"] }}
serde_json = "1"
tokio = {{ version = "1", features = ["macros", "rt-multi-thread", "sync"] }}
[workspace]
"""


def srad():
    """The program, or none."""
    home = f"{TARGET}/srad"
    os.makedirs(home, exist_ok=True)
    manifest = f"{home}/Cargo.toml"
    if not shutil.which("cargo"):
        return print("SKIPPED srad: cargo is not installed")
    if not os.path.exists(manifest) or open(manifest).read() != MANIFEST:
        open(manifest, "w").write(MANIFEST)
    done = subprocess.run(["cargo", "build", "-q", "--manifest-path", manifest, "--target-dir", f"{home}/target"], capture_output=True, text=True)
    if done.returncode:
        return print(f"SKIPPED srad: it cannot be built: {done.stderr[-600:]}")
    return f"{home}/target/debug/sparkplug-srad"


def edge():
    """npm's edge node: how it is started, or none."""
    if not (shutil.which("node") and shutil.which("npm")):
        return print("SKIPPED sparkplug-client: node or npm is not installed")
    if not os.path.isdir(f"{TARGET}/node_modules/sparkplug-client") and subprocess.run(
            ["npm", "install", "--prefix", TARGET, "--no-fund", "--no-audit", "sparkplug-client@3.2.4"], capture_output=True).returncode:
        return print("SKIPPED sparkplug-client: npm cannot install it")
    return ["node", f"{HERE}/sparkplug_edge.js"]


class Heard:
    """A program that says what it hears, a line of JSON each."""

    def __init__(self, command, **more):
        self.said, self.process = [], subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)
        threading.Thread(target=lambda: [self.said.append(json.loads(line)) for line in self.process.stdout if line.startswith("{")], daemon=True).start()

    def ask(self, **wish):
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()

    def of(self, kind, node="gw"):
        return [said for said in list(self.said) if said.get("kind") == kind and said.get("node") == node]

    def values(self, name, node="gw"):
        return [metric for said in list(self.said) if said.get("node") == node for metric in said.get("list", []) if metric[0] == name]


def config(home, plc, port):
    others.config(home, plc, port, "")
    text = open(f"{home}/ironbridge.toml").read()
    begin, _, end = text.partition(f'url = "mqtt://127.0.0.1:{port}"')
    before, _, after = begin.partition('listen = "127.0.0.1:')
    listener = f'listen = "127.0.0.1:{port}"\n' + after.split("\n", 1)[1]
    rule = '[[broker.acl]]\nuser = "anonymous"\nwrite = ["spBv1.0/+/NCMD/+", "spBv1.0/+/DCMD/+/+"]\n'
    open(f"{home}/ironbridge.toml", "w").write(before + listener.replace("[[bus]]", rule + "[[bus]]", 1) + 'url = "local:"\nprimary_host = "scada"' + end)


def births(host, alias):
    """All tags as they are, by srad's types."""
    birth = host.of("DBIRTH")[0]
    kinds = {"INT32": "Int32", "INT64": "Int64", "UINT64": "UInt64", "FLOAT": "Float", "DOUBLE": "Double", "BOOLEAN": "Boolean", "STRING": "String"}
    for tag, _, _, _, kind, wanted in others.TAGS:
        check(f"srad: type of {tag}", birth["births"].get(tag, [None])[0], kinds[kind])
        values = [metric[1] for metric in host.values(tag) if not metric[4]]
        if wanted is not None:
            check(f"srad: value of {tag}", values[0] if values and tag not in ("setpoint", "real") else wanted, lambda got, wanted=wanted: others.same(got, wanted))
    alias["setpoint"] = birth["births"]["setpoint"][1]


def drive(host):
    alias = {}
    births(host, alias)
    # the host came later than the first values
    late = lambda: [metric for metric in host.values("setpoint") if metric[3]]
    others.until("srad: what was stored before its birth is historical", late)
    newest, wrong = 0, []
    for said in list(host.said):
        for metric in [metric for metric in said.get("list", []) if said.get("node") == "gw" and metric[0] == "setpoint"]:
            wrong += [metric] if metric[3] and metric[2] > newest else []
            newest = max(newest, metric[2])
    check("srad: and no newer than what it was told before", wrong, [])
    before = len(host.of("DBIRTH"))
    host.ask(group="acme", node="gw", device=None)
    others.until("srad asks for births and gets them", lambda: len(host.of("DBIRTH")) > before)
    host.ask(group="acme", node="gw", device="plc", alias=alias["setpoint"], value=-42)
    others.until("srad writes by alias, and it comes back", lambda: any(metric[1] == -42 for metric in host.values("setpoint")))
    host.ask(group="acme", node="gw", device="plc", name="setpoint", value=500)
    host.ask(group="acme", node="gw", device="plc", name="minus", value=7)
    time.sleep(1)
    wrong = [any(metric[1] == value for metric in host.values(tag)) for tag, value in (("setpoint", 500), ("minus", 7))]
    check("srad: what is out of range or read-only is not written", wrong, [False, False])
    check("srad: no value that it cannot read", [said for said in host.said if said["kind"] == "ERROR"], [])
    stale = len(host.of("DSTALE"))
    check("srad: nothing it took for out of step", stale, 0)


def main():
    binary = os.path.abspath(sys.argv[1])
    python = others.environment("pysparkplug", "pysparkplug==0.6.1")
    rust, js = srad(), edge()
    if not python:
        return print("SKIPPED the local edge node: its host, pysparkplug, is not there")
    began = time.time()
    home, plc, port = tempfile.mkdtemp(prefix="sparkplug-local-"), free_port(), free_port()
    device = subprocess.Popen([sys.executable, "-c", others.PLC, str(plc)])
    wait_port(plc)
    config(home, plc, port)
    gateway = others.gateway(binary, home)
    processes = []
    try:
        wait_port(port)
        application = Heard([rust, str(port)]) if rust else None
        out = f"{home}/heard.ndjson"
        receiver = subprocess.Popen([binary, "receive", f"mqtt://127.0.0.1:{port}", "--format", "sparkplug", "--ndjson", out, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes += [receiver] + ([application.process] if application else [])
        if application:
            others.until("srad is there", lambda: any(said["kind"] == "READY" for said in application.said))
        tap, host = others.Tap(port), others.Host(python, port)
        processes.append(host.process)
        if not others.until("births on our own broker", lambda: len(host.of("DDATA")) > 3 and host.of("DBIRTH")):
            return print(open(f"{home}/log").read()[-3000:])
        others.drive("local", host)
        if application:
            others.until("srad has births and data", lambda: len(application.of("DDATA")) > 3 and application.of("DBIRTH"))
            drive(application)
        if js:
            node = Heard(js + [str(port)], env={**os.environ, "NODE_PATH": f"{TARGET}/node_modules"})
            processes.append(node.process)
            lines = lambda: [json.loads(line) for line in open(out) if line.endswith("\n")]
            ours = lambda name: [line["value"] for line in lines() if line["topic"] == f"acme/js/d/{name}"]
            others.until("receive: data of another make's edge node", lambda: len(ours("count")) > 5)
            check("receive: a text of it", set(ours("text")), {"Größe"})
            wish = others.schema().Payload(timestamp=int(time.time() * 1000))
            wish.metrics.add(name="wish", datatype=3, int_value=77)  # with its type: npm remembers none, and srad says none
            tap.client.publish("spBv1.0/acme/DCMD/js/d", wish.SerializeToString(), qos=1)
            others.until("a command reaches it through our broker", lambda: 77 in ours("wish"))
            births_seen = sum(topic == "spBv1.0/acme/NBIRTH/js" for topic, _ in tap.heard)
            node.process.stdin.close()
            others.until("its death is passed on", lambda: any(topic == "spBv1.0/acme/NDEATH/js" for topic, _ in tap.heard))
            check("npm's edge node was born", births_seen >= 1, True)
        receiver.send_signal(signal.SIGINT)
        report = json.loads(receiver.communicate(timeout=30)[0].splitlines()[-1])
        told = report["report"]["nodes"]["acme/gw"]
        check("receive: nothing of the gateway is missing", (told["missing"], report["report"]["broken"], told["births"] > 0), (0, {}, True))
        gateway.send_signal(signal.SIGTERM)
        check("ends", gateway.wait(30), 0)
        check("with a death on its own broker", any(topic == "spBv1.0/acme/NDEATH/gw" for topic, _ in tap.heard), True)
        tap.client.loop_stop()
    finally:
        for process in [*processes, gateway, device]:
            process.kill()
            process.wait(10)
        shutil.rmtree(home)
        print(f"  {time.time() - began:.0f} s without building")


if __name__ == "__main__":
    main()
    print("failed: " + ", ".join(failures) if failures else "all right")
    sys.exit(bool(failures))
