#!/usr/bin/env python3
"""The promise of the product, against programs that are not ours.

A pymodbus server is the PLC, a mosquitto with TLS and client certificates is the cloud, paho is the receiver. Between
gateway and cloud stands a relay that cuts the link and swallows it silently; the cloud is restarted without its memory;
the gateway is killed with SIGKILL again and again. Then: every (stream, epoch, seq) must have arrived, in order.

usage: outage.py IRONBRIDGE [--samples N] [--kills N]     (needs mosquitto, openssl; pip: pymodbus paho-mqtt)
"""
import argparse, collections, datetime, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time

import paho.mqtt.client as mqtt

from bench import check, free_port, verdict, wait_port

TAGS = 200
PERIOD_MS = 100
PAUSE_MAX = 10 * PERIOD_MS / 1000   # s between two polls while the gateway lives
RESTART_MAX = 10                    # s between two polls, a kill between them
PLC = """
import asyncio, sys
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import SimData, SimDevice, DataType
async def main():
    regs = [SimData(0, values=list(range(%d)), datatype=DataType.UINT16)]
    bits = [SimData(0, values=[False] * 8, datatype=DataType.BITS)]
    await ModbusTcpServer(SimDevice(1, (bits, bits, regs, regs)), address=("127.0.0.1", int(sys.argv[1]))).serve_forever()
asyncio.run(main())
""" % TAGS


def make_pki(d):
    def run(*a):
        subprocess.run(["openssl", *a], cwd=d, check=True, capture_output=True)
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=test ca",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem")
    for name, ext in (("server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth"), ("gateway", "extendedKeyUsage=clientAuth")):
        open(f"{d}/{name}.ext", "w").write(ext)
        run("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    for f in os.listdir(d):
        os.chmod(f"{d}/{f}", 0o644)
    os.chmod(f"{d}/gateway.key", 0o600)  # the gateway refuses a key that everybody may read; mosquitto's user must read its own


class Relay(threading.Thread):
    """TCP relay: up, cut (closed at once), hole (accepts, swallows, says nothing)."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.mode, self.pairs = target, "up", []
        self.server = socket.socket()
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server.bind(("127.0.0.1", 0))
        self.server.listen(16)
        self.port = self.server.getsockname()[1]

    def run(self):
        while True:
            conn, _ = self.server.accept()
            if self.mode == "cut":
                conn.close()
                continue
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        try:
            while self.mode == "hole":
                time.sleep(0.05)
            up = socket.create_connection(("127.0.0.1", self.target), 2)
        except OSError:
            conn.close()
            return
        self.pairs.append((conn, up))
        threading.Thread(target=self.pump, args=(conn, up), daemon=True).start()
        self.pump(up, conn)

    def pump(self, a, b):
        try:
            while data := a.recv(65536):
                while self.mode == "hole":
                    time.sleep(0.02)
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def set(self, mode):
        self.mode = mode
        if mode == "cut":
            for pair in self.pairs:
                for s in pair:
                    try:
                        s.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
            self.pairs.clear()


class Receiver:
    """Everything that reached the cloud, by (stream, epoch)."""

    def __init__(self, port):
        self.seen = collections.defaultdict(dict)   # (stream, epoch) -> seq -> time
        self.duplicates = self.disorder = self.good = self.bad = self.total = 0
        self.newest = {}
        self.moments = []                           # times of good values of tag t0, to see whether polling ever paused
        self.gaps, self.lock = [], threading.Lock()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="receiver", clean_session=False)
        self.client.on_connect = lambda c, *_: c.subscribe("up/#", qos=1)
        self.client.on_message = self.on_message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def on_message(self, _client, _userdata, m):
        record = json.loads(m.payload)
        if m.topic.endswith("/gap"):
            self.gaps.append(record)
        if "seq" not in record:
            return
        key = (record["stream"], record["epoch"])
        with self.lock:
            self.total += 1
            if record["seq"] in self.seen[key]:
                self.duplicates += 1
                return
            if record["seq"] < self.newest.get(key, 0):
                self.disorder += 1
            self.newest[key] = max(self.newest.get(key, 0), record["seq"])
            self.seen[key][record["seq"]] = record.get("time")
            if m.topic.startswith("up/plant/"):
                tag = int(m.topic.rsplit("/t", 1)[1])
                if record["quality"] != "good":
                    return
                self.good += 1
                self.bad += record["value"] != tag
                if tag == 0:
                    self.moments.append(datetime.datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp())

    def polled_since(self, moment):
        with self.lock:
            return max(self.moments, default=0) > moment


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("binary")
    ap.add_argument("--samples", type=int, default=100_000)
    ap.add_argument("--kills", type=int, default=10)
    args = ap.parse_args()
    for tool in ("mosquitto", "openssl"):
        if not shutil.which(tool):
            print(f"SKIPPED outage.py: {tool} is not installed")
            return 0
    work = tempfile.mkdtemp(prefix="outage-")
    os.chmod(work, 0o755)                        # mosquitto, started by root, becomes another user
    make_pki(work)
    plc_port, tls_port, plain_port, local_port = (free_port() for _ in range(4))
    open(f"{work}/mosquitto.conf", "w").write(
        f"listener {plain_port} 127.0.0.1\nallow_anonymous true\nlistener {tls_port} 127.0.0.1\nallow_anonymous true\n"
        f"cafile {work}/ca.pem\ncertfile {work}/server.pem\nkeyfile {work}/server.key\nrequire_certificate true\n"
        "per_listener_settings false\nmax_queued_messages 0\nmax_inflight_messages 1000\npersistence false\n")
    relay = Relay(tls_port)
    relay.start()
    open(f"{work}/gateway.toml", "w").write(
        f'[gateway]\nname = "outage"\ntopic = "plant/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
        f'[[broker.listener]]\nlisten = "127.0.0.1:{local_port}"\nanonymous = "read"\n'
        f'[[uplink]]\nname = "cloud"\nurl = "mqtts://localhost:{relay.port}"\nca_file = "ca.pem"\ncertificate = "gateway.pem"\n'
        f'key = "gateway.key"\ntopic_prefix = "up/"\nkeep_alive = "5s"\n'
        f'[[bus]]\nname = "net"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{plc_port}"\n'
        f'[[device]]\nname = "plc"\nbus = "net"\nunit_id = 1\npoll = "{PERIOD_MS}ms"\n'
        + "".join(f'[[device.tag]]\nname = "t{n}"\naddress = "holding:{n}"\ntype = "uint16"\n' for n in range(TAGS)))
    plc = subprocess.Popen([sys.executable, "-c", PLC, str(plc_port)])
    wait_port(plc_port)
    start_cloud = lambda: subprocess.Popen(["mosquitto", "-c", f"{work}/mosquitto.conf"], stderr=open(f"{work}/mosquitto.log", "a"))
    cloud = start_cloud()
    wait_port(plain_port)
    receiver = Receiver(plain_port)
    log = open(f"{work}/gateway.log", "a")
    start_gateway = lambda: subprocess.Popen([args.binary, "run", "--config", f"{work}/gateway.toml"], stderr=log)
    gateway = start_gateway()
    wait_port(local_port)
    began, wanted = time.time(), args.samples
    stored = lambda: sum(max(s) for s in receiver.seen.values() if s)
    print(f"work in {work}; {TAGS} tags every {PERIOD_MS} ms")
    step_seconds = wanted / (TAGS * 1000 / PERIOD_MS) / (args.kills + 4)
    steps = ["cut", "cloud", "hole"] + ["kill"] * args.kills
    random.shuffle(steps)
    interruptions, restarts = 0, []
    for step in steps:
        time.sleep(step_seconds * random.uniform(0.5, 1.5))
        interruptions += 1
        print(f"{time.time() - began:6.1f}s  {step:6s} received {receiver.total} duplicates {receiver.duplicates}", flush=True)
        if step == "kill":
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()
            restarts.append(time.time())
            gateway = start_gateway()
            wait_port(local_port)
        else:
            relay.set("hole" if step == "hole" else "cut")
            time.sleep(2)
            if step == "cloud":          # the receiver has drained by now: kill the cloud and its memory
                cloud.kill()
                cloud.wait()
                time.sleep(3)
                cloud = start_cloud()
                wait_port(plain_port)
                time.sleep(2)            # the receiver is back before the first message
            time.sleep(12 if step == "hole" else 3)
            if step == "hole":
                relay.set("cut")         # what was swallowed is gone
            relay.set("up")
    while (stored() < wanted or not receiver.polled_since(max(restarts, default=0))) and time.time() - began < 900:
        time.sleep(0.5)
    enough = stored()
    polled_until = time.time()
    gateway.send_signal(signal.SIGTERM)
    code = gateway.wait(30)
    time.sleep(1)
    status = json.loads(subprocess.run([args.binary, "store", "status", "--dir", f"{work}/data", "--json"], capture_output=True, text=True, check=True).stdout)
    # One more run without the PLC, so that whatever the stop's deadline left is sent.
    plc.kill()
    gateway = start_gateway()
    until, last = time.time() + 60, -1
    while time.time() < until and last != receiver.total:
        last = receiver.total
        time.sleep(4)
    gateway.send_signal(signal.SIGTERM)
    gateway.wait(30)
    time.sleep(1)
    missing = 0
    for stream in status["streams"]:
        seen = receiver.seen.get((stream["stream"], stream["epoch"]), {})
        missing += sum(1 for seq in range(1, stream["last"] + 1) if seq not in seen)
    # Up to the stop itself: a gateway that never polls again makes its longest pause at the end.
    moments = [*sorted(m for m in receiver.moments if m < polled_until), polled_until]
    pauses = [round(b - a, 2) for a, b in zip(moments, moments[1:])
              if b - a > (RESTART_MAX if any(a - 1.5 <= r <= b for r in restarts) else PAUSE_MAX)]
    per_epoch = {key: len(seen) for key, seen in receiver.seen.items()}
    holes = sum(max(s) - len(s) for s in receiver.seen.values() if s)
    print(json.dumps({"received": receiver.total, "distinct": sum(per_epoch.values()), "missing": missing, "holes": holes,
                      "duplicates": receiver.duplicates, "per_interruption": round(receiver.duplicates / max(1, interruptions)),
                      "out_of_order": receiver.disorder, "good_values": receiver.good, "wrong_good_values": receiver.bad, "gap_records": len(receiver.gaps),
                      "polling_pauses": pauses,
                      "streams": len(per_epoch), "stop_exit_code": code, "seconds": round(time.time() - began)}))
    cloud.kill()
    receiver.client.loop_stop()
    check(f"{wanted} samples came before the stop", enough, lambda count: count >= wanted)
    check("nearly all of them good", receiver.good, lambda good: good >= 0.9 * wanted)
    check("a good value is a right one", receiver.bad, 0)
    check("none is missing, below the last or between", (missing, holes), (0, 0))
    check("in order", receiver.disorder, 0)
    check("no gap record", receiver.gaps, [])
    check("polling never stops", pauses, lambda pauses: max(pauses, default=0) < 30)
    check("nor pauses", pauses, [], timed=True)
    check("SIGTERM ends it with 0", code, 0)
    return verdict(work)


sys.exit(main())
