#!/usr/bin/env python3
"""The status page against programs that are not ours: Prometheus' own parser (and promtool, if there is one) reads the
scrape, Prometheus itself (Debian: prometheus) takes it in and answers what the dashboard for Grafana asks, and visitors who
mean it badly come by: who sends a byte now and then, who takes no answer, a thousand at once.

usage: metrics.py IRONBRIDGE        (pip: prometheus-client)
"""
import json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time, urllib.error, urllib.parse, urllib.request

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
        subprocess.run([promtool, "check", "metrics"], input=classic(text), text=True, check=True)
    begun = time.monotonic()
    for _ in range(20):
        get(page, "/metrics")
    took = (time.monotonic() - begun) / 20
    print(f"scrape: {len(families)} families, {rows} rows, {len(text)} bytes, {took * 1000:.1f} ms with 10 000 tags")


def classic(text):
    """As promtool reads it, in the format before OpenMetrics: there a counter's help and type stand by its whole name."""
    counters = set(re.findall(r"^# TYPE (\S+) counter$", text, re.M))
    name = lambda found: found[1] + found[2] + ("_total" if found[2] in counters else "") + found[3]
    return re.sub(r"^(# (?:HELP|TYPE) )(\S+)(.*)$", name, text.replace("# EOF\n", ""), flags=re.M)


def asked_by_the_dashboard():
    def expressions(part):
        if isinstance(part, dict):
            yield from [part["expr"]] if "expr" in part else []
            part = list(part.values())
        for inner in part if isinstance(part, list) else []:
            yield from expressions(inner)
    dashboard = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../config/grafana-dashboard.json")
    with open(dashboard) as file:
        asked = list(expressions(json.load(file)))
    assert len(asked) > 20, asked
    for variable, value in {"$__rate_interval": "10s", "$__range": "1m", "$instance": ".+", "$job": ".+"}.items():
        asked = [one.replace(variable, value) for one in asked]
    return asked


def prometheus(page, home):
    """The real one scrapes once a second. It must find nothing to complain of, and have every figure that the dashboard shows."""
    if not shutil.which("prometheus"):
        print("SKIPPED the scrape by Prometheus: prometheus is not installed")
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(os.path.join(home, "prometheus.yml"), "w") as config:
        config.write("global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n  - job_name: ironbridge\n"
                     f"    static_configs: [{{ targets: ['127.0.0.1:{page}'] }}]\n")
    def ask(path, **arguments):
        status, text = get(port, f"/api/v1/{path}?" + urllib.parse.urlencode(arguments))
        return json.loads(text)["data"] if status == 200 else None
    log = open(os.path.join(home, "prometheus.log"), "w+")
    server = subprocess.Popen(["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", "--log.level=warn",
                               f"--web.listen-address=127.0.0.1:{port}"], cwd=home, stdout=log, stderr=log)
    try:
        until("Prometheus scrapes", lambda: (ask("query", query="count_over_time(up[1m]) >= 5") or {}).get("result"))
        target = ask("targets")["activeTargets"][0]
        assert (target["health"], target["lastError"]) == ("up", ""), target
        assert ask("query", query="min_over_time(up[1m])")["result"][0]["value"][1] == "1", "it was always taken in"
        known, asked = ask("label/__name__/values"), asked_by_the_dashboard()
        for one in asked:
            for name in re.findall(r"\b(?:ironbridge|process)_\w+", one):
                assert name in known, f"the dashboard shows {name}, which nobody counts"
            assert ask("query", query=one) is not None, f"Prometheus does not understand {one}"
        meta = ask("targets/metadata", match_target='{job="ironbridge"}')
        bare = [one["metric"] for one in meta if not one["help"] or one["type"] == "unknown"]
        assert not bare, f"without help or type: {bare}"
        took = ask("query", query="scrape_duration_seconds")["result"][0]["value"][1]
        print(f"prometheus: {len(known)} names, a scrape takes it {float(took) * 1000:.0f} ms, {len(asked)} expressions of the dashboard answered")
        said = open(log.name).read()
        assert "level=error" not in said and "level=warn" not in said, said
    finally:
        server.terminate()
        server.wait(30)


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
        prometheus(page, home)
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
