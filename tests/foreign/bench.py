"""The workbench of the checks in this directory: ports, what was found, clients. Nothing to be run by itself."""
import json, queue, shutil, socket, subprocess, sys, time

import paho.mqtt.client as mqtt

failures, late, held = [], [], []
LATE = 75  # exit code when nothing but times was missed: tests/foreign/run tries that once more, by itself


def check(name, got, wanted=True, timed=False):
    """`timed`: a busy machine breaks it as well as the product does. What is lost, wrong or never comes is not."""
    ok = wanted(got) if callable(wanted) else got == wanted
    print(f"  {'ok  ' if ok else 'LATE' if timed else 'FAIL'} {name}" + ("" if ok else f": got {str(got)[:500]!r}"), flush=True)
    if not ok:
        (late if timed else failures).append(name)


def outcome():
    """The exit code of a check."""
    return 1 if failures else LATE if late else 0


def free_port(kind=socket.SOCK_STREAM):
    """A port that nobody listens on. One of TCP stays bound here, so that the system gives it to nobody else; whoever asks for it by
    its number may listen there: SO_REUSEADDR on both sides, as all servers set it, allows that beside one that does not listen."""
    s = socket.socket(socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    if kind == socket.SOCK_STREAM:
        held.append(s)
    else:
        s.close()
    return port


def wait_port(port, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            return socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def verdict(work):
    """The last words of a check, and its exit code. What it worked with stays where something failed."""
    print(f"FAILED {failures + late}: see {work}" if outcome() else "PASSED", flush=True)
    if not outcome():
        shutil.rmtree(work)
    return outcome()


def sub(port, topic, count, version="311", seconds=10):
    out = subprocess.run(["mosquitto_sub", "-V", version, "-p", str(port), "-t", topic, "-v", "-C", str(count), "-W", str(seconds)],
                         capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in out.splitlines())


class Client:
    def __init__(self, port, version, name="tester/with+odd#id"):
        self.inbox = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
        self.client.on_message = lambda _c, _u, m: self.inbox.put(m)
        self.granted = queue.Queue()
        self.client.on_subscribe = lambda _c, _u, _mid, codes, *_: self.granted.put(codes)
        self.client.connect("127.0.0.1", port, keepalive=5)
        self.client.loop_start()

    def subscribe(self, topic, qos=1):
        self.client.subscribe(topic, qos)
        return self.granted.get(timeout=5)

    def get(self, seconds=5):
        try:
            return self.inbox.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def command(client, topic, payload, properties=None, retain=False):
    info = client.client.publish(topic, payload, qos=1, retain=retain, properties=properties)
    message = client.get()
    try:
        info.wait_for_publish(5)
    except (ValueError, RuntimeError):
        pass
    return json.loads(message.payload) if message else None
