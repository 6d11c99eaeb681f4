#!/usr/bin/env python3
"""The status page against programs that are not ours: Prometheus' own parser (and promtool, if there is one) reads the
scrape, and visitors who mean it badly come by: who sends a byte now and then, who takes no answer, a thousand at once.

usage: metrics.py IRONBRIDGE        (pip: prometheus-client)
"""
import json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
except ImportError:
    print("SKIPPED metrics.py: prometheus-client is not installed")
    sys.exit(0)

CONFIG = """
[gateway]
name = "gw"
data_dir = "data"
[[broker.listener]]
listen = "127.0.0.1:0"
[status]
listen = "127.0.0.1:0"
anonymous = "read"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:9"
budget = ["20MiB/day"]
[[bus]]
name = 'li"ne'
type = "modbus-tcp"
endpoint = "127.0.0.1:9"
[[device]]
name = "plc"
bus = 'li"ne'
unit_id = 1
"""
TAGS = "".join(f'[[device.tag]]\nname = "t{n}"\naddress = "holding:{n}"\ntype = "uint16"\n' for n in range(10_000))


def until(what, holds, limit=60):
    begun = time.monotonic()
    while not (found := holds()):
        assert time.monotonic() - begun < limit, f"in vain: {what}"
        time.sleep(0.05)
    return found


def get(page, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()
    except OSError:
        return 0, ""


def well(page):
    """Answered within a moment; how long it took."""
    begun = time.monotonic()
    until("an answer", lambda: get(page, "/health")[0] == 200, limit=30)
    return time.monotonic() - begun


def scrape(page):
    status, text = get(page, "/metrics")
    assert status == 200, (status, text)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    rows = sum(len(family.samples) for family in families.values())
    assert any(sample.labels.get("bus") == 'li"ne' for sample in families["ironbridge_bus_requests"].samples)
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=True)
    begun = time.monotonic()
    for _ in range(20):
        get(page, "/metrics")
    took = (time.monotonic() - begun) / 20
    print(f"scrape: {len(families)} families, {rows} rows, {len(text)} bytes, {took * 1000:.1f} ms with 10 000 tags")


def connect(page):
    return socket.create_connection(("127.0.0.1", page), timeout=30)


def slow(page):
    """More than there are places, each sending a byte a second."""
    visitors = [connect(page) for _ in range(150)]
    begun, gone = time.monotonic(), 0
    while visitors and time.monotonic() - begun < 40:
        for visitor in list(visitors):
            try:
                visitor.sendall(b"G")
            except OSError:
                visitors.remove(visitor)
        time.sleep(1)
    assert not visitors, f"{len(visitors)} of those who never finish their request are still there"
    print(f"slow: all of 150 gone after {time.monotonic() - begun:.0f} s, then answered in {well(page):.2f} s")


def deaf(page):
    """Asks again and again and reads nothing."""
    visitor = connect(page)
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    visitor.settimeout(5)
    request, begun = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", time.monotonic()
    while time.monotonic() - begun < 60:
        try:
            visitor.sendall(request * 50)
        except TimeoutError:
            continue
        except OSError:
            print(f"deaf: cut off after {time.monotonic() - begun:.0f} s")
            return
    raise AssertionError("who reads nothing keeps his place")


def crowd(page):
    codes = []
    def visit():
        for _ in range(10):
            codes.append(get(page, "/health")[0])
    visitors = [threading.Thread(target=visit) for _ in range(100)]
    [visitor.start() for visitor in visitors]
    [visitor.join() for visitor in visitors]
    assert set(codes) <= {200, 0} and codes.count(200) > 500, {code: codes.count(code) for code in codes}
    print(f"crowd: {codes.count(200)} of 1000 answered, the others turned away")


def main(binary):
    home = tempfile.mkdtemp(prefix="metrics-")
    with open(os.path.join(home, "gw.toml"), "w") as config:
        config.write(CONFIG + TAGS)
    log = open(os.path.join(home, "log"), "w+")
    daemon = subprocess.Popen([binary, "run", "--config", "gw.toml"], cwd=home, stderr=log)
    try:
        found = until("the page", lambda: re.search(r"status page is open address=\S*?:(\d+) ", open(log.name).read()))
        page = int(found[1])
        until("judged", lambda: json.loads(get(page, "/health")[1] or "{}").get("ok"))
        scrape(page)
        slow(page)
        deaf(page)
        crowd(page)
        rss = re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{daemon.pid}/status").read())
        print(f"afterwards: {int(rss[1]) // 1024} MiB, answered in {well(page):.2f} s")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(home)


main(os.path.abspath(sys.argv[1]))
