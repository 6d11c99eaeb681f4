#!/usr/bin/env python3
"""Attacked from outside: what somebody with a network cable and an evening tries on every open port of a gateway.

Connects and silence, port scanners, half a TLS hello, TLS 1.0 and 1.1, certificates of nobody, floods of headers and bytes, slow
loris, path tricks, wrong Host and Origin, guessed passwords, stolen cookies, forged posts, names that are scripts or lines of a
log, and one protocol spoken inside another. Beside all of it a plant is polled. At the end: the gateway is alive, polls were
punctual, memory and files are what they were, the log is quiet and whole, and no secret was seen anywhere.

usage: attack.py IRONBRIDGE        (needs openssl; nmap if there is one; else standard library only)
"""
import base64, json, os, re, resource, shutil, signal, socket, ssl, subprocess, sys, tempfile, threading, time

from besieged import connect_packet, packet, patiently, publish_packet, text
from bench import check, free_port, verdict, wait_port

HERE = os.path.dirname(os.path.abspath(__file__))
binary = os.path.realpath(sys.argv[1])
if not shutil.which("openssl"):
    print("SKIPPED: openssl is not installed, so the gateway was not attacked from outside")
    sys.exit(0)

PASSWORD, VIEWER = "canary-9f2c-password", "canary-77aa-viewer"
PERIOD = 0.25
EVIL = "<script>alert(1)</script>\"'\n<3>forged: line\x1b[31m\r"


def outside():
    """An address of this machine that is not loopback; packets to it never leave the machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            own = s.getsockname()[0]
        except OSError:
            return None
    return None if own.startswith("127.") or own == "0.0.0.0" else own


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def authority(work, name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "99", "-subj", f"/CN={name}",
            "-keyout", f"{work}/{name}.key", "-out", f"{work}/{name}.crt")


def certificate(work, by, name, server=False, days="99"):
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=pump", "-keyout", f"{work}/{name}.key", "-out", f"{work}/{name}.csr")
    with open(f"{work}/{name}.ext", "w") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n" if server else "extendedKeyUsage=clientAuth\n")
    openssl("x509", "-req", "-in", f"{work}/{name}.csr", "-CA", f"{work}/{by}.crt", "-CAkey", f"{work}/{by}.key", "-CAcreateserial",
            "-days", days, "-extfile", f"{work}/{name}.ext", "-out", f"{work}/{name}.crt")
    os.chmod(f"{work}/{name}.key", 0o600)


class Gateway:
    def __init__(self, work):
        self.work = work
        names = ("mqtt", "mqtts", "ws", "page", "secured", "plant")
        self.ports = {name: free_port() for name in names}
        for name in ("ca", "foreign"):
            authority(work, name)
        certificate(work, "ca", "server", server=True)
        certificate(work, "ca", "pump")
        certificate(work, "ca", "late", days="-1")
        certificate(work, "foreign", "stranger")
        for user, password in (("hmi", PASSWORD), ("viewer", VIEWER)):
            subprocess.run([binary, "passwd", f"{work}/users", user], input=password + "\n", text=True, check=True, capture_output=True)
        self.processes = [self.start("plain", f'"127.0.0.1:{self.ports["page"]}"', "", True),
                          self.start("secured", f'"0.0.0.0:{self.ports["secured"]}"', f'tls = {{ certificate = "{work}/server.crt", key = "{work}/server.key" }}', False)]
        for name in names[:-1]:
            wait_port(self.ports[name])

    def start(self, name, page, tls, with_broker):
        """Two gateways: one with a page in the clear on loopback and all doors of the broker, one whose page is for everybody."""
        work, ports = self.work, self.ports
        config = f"""
[gateway]
name = "{name}"
topic = "acme/{{device}}/{{tag}}"
data_dir = "{work}/{name}"
[broker]
users_file = "{work}/users"
[[broker.acl]]
user = "hmi"
read = ["#"]
write = ["acme/pump/speed/set", "client/#"]
operate = ["pump"]
[[broker.acl]]
user = "viewer"
read = ["acme/#"]
[status]
listen = {page}
{tls}
{'anonymous = "read"' if with_broker else ''}
[[bus]]
name = "line"
type = "modbus-tcp"
endpoint = "127.0.0.1:{ports['plant']}"
[[device]]
name = "pump"
bus = "line"
unit_id = {1 if with_broker else 2}
poll = "{int(PERIOD * 1000)}ms"
[[device.tag]]
name = "speed"
address = "holding:1"
type = "uint16"
access = "read-write"
[[device.tag]]
name = "<b onmouseover=alert(2)>"
address = "holding:2"
type = "uint16"
unit = "<i>"
"""
        doors = [f'listen = "127.0.0.1:{ports["mqtt"]}"\nanonymous = "read"\n',
                 f'listen = "0.0.0.0:{ports["mqtts"]}"\ntls = {{ certificate = "{work}/server.crt", key = "{work}/server.key", client_ca = "{work}/ca.crt" }}\n',
                 f'listen = "127.0.0.1:{ports["ws"]}"\nwebsocket = true\norigins = ["https://hmi.example.com"]\n']
        config += "".join("[[broker.listener]]\n" + door for door in (doors if with_broker else [f'listen = "127.0.0.1:0"\n']))
        plan = f"{work}/{name}.toml"
        with open(plan, "w") as file:
            file.write(config)
        subprocess.run([binary, "check", "--config", plan], check=True, stdout=subprocess.DEVNULL)
        return subprocess.Popen([binary, "run", "--config", plan], stderr=open(f"{work}/{name}.log", "wb"))

    def log(self):
        return b"".join(open(f"{self.work}/{name}.log", "rb").read() for name in ("plain", "secured")).decode("utf-8", "replace")

    def figure(self, what):
        total = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/status") as status:
                total += int(next(line for line in status if line.startswith(what)).split()[1])
        return total << 10

    def files(self):
        return sum(len(os.listdir(f"/proc/{process.pid}/fd")) for process in self.processes)


def dial(port, host="127.0.0.1", seconds=10):
    stream = socket.create_connection((host, port), seconds)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def unverified(stream, **identity):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity:
        context.load_cert_chain(identity["certificate"], identity["key"])
    return context.wrap_socket(stream, server_hostname="localhost")


def rest(stream, most=1 << 20):
    """What comes until the other side hangs up, or is silent for too long."""
    got = b""
    try:
        while len(got) < most and (part := stream.recv(65536)):
            got += part
    except OSError:
        pass
    return got


def say(port, data, host="127.0.0.1", tls=False, seconds=10):
    """Says it in one go and reads the answer. Who is hung up on in the middle reads what came until then."""
    with dial(port, host, seconds) as stream:
        stream = unverified(stream) if tls else stream
        try:
            stream.sendall(data)
        except OSError:
            pass
        return rest(stream)


def http(port, path, method="GET", headers=(), body=b"", host="127.0.0.1", tls=False, name="localhost"):
    """Status, headers, body of one request, written by hand: no library straightens anything."""
    head = f"{method} {path} HTTP/1.1\r\n" + (f"Host: {name}\r\n" if name is not None else "") + "Connection: close\r\n"
    head += "".join(f"{key}: {value}\r\n" for key, value in headers) + (f"Content-Length: {len(body)}\r\n" if body else "")
    answer = say(port, head.encode("latin-1") + b"\r\n" + body, host, tls)
    first, _, told = answer.partition(b"\r\n\r\n")
    lines = first.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/1.") else 0
    return status, {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}, told


def silence(gateway, held):
    print("connects and silence, half of a hello, slow loris")
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(20)
    for name, port in gateway.ports.items():
        if name == "plant":
            continue
        for beginning in (b"", b"\x10", b"G", hello, hello[:3], b"GET / HTTP/1.1\r\nHost: x\r\n"):
            for _ in range(4):
                stream = patiently(lambda: dial(port))
                if stream:
                    patiently(lambda: stream.sendall(beginning))
                    held.append(stream)
    loris = [dial(gateway.ports["page"]) for _ in range(20)]
    for stream in loris:
        stream.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nX: ")

    def drip(begun=time.monotonic()):
        open_ones = list(loris)
        while open_ones and time.monotonic() - begun < 25:
            for stream in list(open_ones):
                try:
                    stream.sendall(b"x")
                    stream.settimeout(0.001)
                    if stream.recv(100) == b"":
                        open_ones.remove(stream)
                except TimeoutError:
                    pass
                except OSError:
                    open_ones.remove(stream)
            time.sleep(0.4)
        drip.left, drip.took = len(open_ones), time.monotonic() - begun
    drip.thread = threading.Thread(target=drip, daemon=True)
    drip.thread.start()
    check("the page answers somebody else meanwhile", http(gateway.ports["page"], "/health")[0], 200)
    return drip


PROBES = [b"\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"OPTIONS / HTTP/1.0\r\n\r\n", b"OPTIONS / RTSP/1.0\r\n\r\n", b"HELP\r\n", b"\x80\0\0\x28\x72\xfe\x1d\x13\0\0\0\0\0\0\0\2\0\1\x86\xa0",
          b"\0\x1e\0\6\1\0\0\1\0\0\0\0\0\0\7version\4bind\0\0\x10\0\3", b"\3\0\0\x0b\x06\xe0\0\0\0\0\0", b"\0\0\0\xa4\xffSMBr\0\0\0\0", b"\x16\3\0\0S\1\0\0O\3\0", b"\x05\4\0\1\2\x80",
          b"SIP/2.0\r\n", b"stats\r\n", b"\x6c\0\x0b\0\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x10\xff\xff\xff\x7f", b"\xff" * 5000, b"\0" * 5000]


def scanners(gateway):
    print("port scanners")
    ports = [port for name, port in gateway.ports.items() if name != "plant"]
    if shutil.which("nmap"):
        done = subprocess.run(["nmap", "-sV", "-Pn", "-n", "--version-intensity", "5", "-p", ",".join(map(str, ports)), "127.0.0.1"], capture_output=True, text=True, timeout=120)
        check("nmap -sV comes to an end", done.returncode, 0)
    else:
        print("  SKIPPED nmap: not installed; its usual probes were sent by hand")
    shown = []

    def probe(port):
        shown.extend(patiently(lambda: say(port, one, seconds=0.3)) or b"" for one in PROBES)
    threads = [threading.Thread(target=probe, args=(port,)) for port in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("every probe came back", len(shown), len(ports) * len(PROBES))
    shown = b"".join(shown)
    check("no answer names a version", re.findall(rb"(?i)ironbridge/[0-9]|hyper|rustls|server: ", shown), [])


def old_tls(gateway):
    print("old TLS and certificates of nobody")
    for name in ("mqtts", "secured"):
        for version in ("-tls1", "-tls1_1"):
            done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.ports[name]}", version, "-cipher", "DEFAULT@SECLEVEL=0"], input="", capture_output=True, text=True, timeout=20)
            check(f"{name}: {version} is refused", "Cipher is (NONE)" in done.stdout and "alert" in done.stderr.lower())
    work, connect = gateway.work, connect_packet("pump")

    def enter(**identity):
        with dial(gateway.ports["mqtts"]) as stream:
            try:
                stream = unverified(stream, **identity)
                stream.sendall(connect)
                return stream.recv(4)
            except OSError:
                return b""
    own = lambda name: {"certificate": f"{work}/{name}.crt", "key": f"{work}/{name}.key"}
    check("the right certificate gets in", enter(**own("pump")), b"\x20\2\0\0")
    for name, identity in (("no", {}), ("an ended", own("late")), ("a foreign", own("stranger"))):
        check(f"{name} certificate does not", enter(**identity), b"")


def floods(gateway):
    print("floods of headers and bytes")
    port = gateway.ports["page"]
    many = [(f"X-{n}", "x") for n in range(5000)]
    check("5000 headers", http(port, "/", headers=many)[0], lambda status: status in (0, 400, 431))
    check("a header of a megabyte", http(port, "/", headers=[("X", "x" * (1 << 20))])[0], lambda status: status in (0, 400, 431))
    check("a path of a megabyte", http(port, "/" + "x" * (1 << 20))[0], lambda status: status in (0, 400, 414, 431))
    huge = [("Content-Type", "application/json"), ("Content-Length", str(1 << 40))]
    check("a body that says it has a terabyte", http(port, "/api/login", "POST", huge)[0], lambda status: status in (0, 400, 403, 408, 413))
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    endless = b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 160
    check("a body in endless chunks", say(port, endless)[9:12], lambda status: status in (b"", b"400", b"403", b"413"))
    deep = b'{"user":' + b"[" * 60000
    status, _, _ = http(port, "/api/login", "POST", [("Content-Type", "application/json")], deep)
    check("JSON of 60000 brackets", status, lambda status: status in (0, 400, 403, 413))
    pipelined = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    check("2000 requests in one go end", len(say(port, pipelined, seconds=3)), lambda size: size < 2 << 20)


OWN_PATHS = {"/", "/style.css", "/script.js"}
TRICKS = ["/../../../../etc/passwd", "/..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/%252e%252e/etc/passwd", "/..\\..\\etc\\passwd", "//etc/passwd", "///", "/./", "/.%00/",
          "/%00", "/script.js%00.html", "/script.js/..", "/style.css/../../users", "/users", "/.git/config", "/ironbridge.toml", "/server.key", "/data/store", "/api", "/api/", "/api/status/", "/API/STATUS",
          "/api/../api/status", "/api//status", "/api/status%2f", "/api/status;x=1/..", "/%c0%ae%c0%ae/etc/passwd", "/\xff\xfe", "/api/history?device=../../etc/passwd&tag=%00",
          "/api/tags?device=%27%20OR%201=1--", "/api/tags?from=99999999999999999999&count=-1", "/api/tags?count=999999999", "http://localhost/api/status", "http://evil.example/", "*", "", "/ HTTP/1.1\r\nX: y", "?", "#"]


def paths(gateway):
    print("path tricks")
    for name, tls in (("page", False), ("secured", True)):
        wrong = []
        for path in TRICKS:
            status, _, body = http(gateway.ports[name], path, tls=tls)
            answered = path.startswith("/api/") and "?" in path or path in ("?", "#", "/ HTTP/1.1\r\nX: y")
            if b"root:" in body or b"PRIVATE" in body or b"$argon2" in body or status >= 500 or status == 200 and not answered:
                wrong.append((path, status, body[:60]))
        check(f"{name}: {len(TRICKS)} paths that are none of ours", wrong, [])
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get"):
            status = http(gateway.ports[name], "/api/status", method, tls=tls)[0]
            check(f"{name}: {method} is refused", status, lambda status: status in (400, 404, 405, 421))


def hosts(gateway):
    print("names that are not ours")
    port = gateway.ports["page"]
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost@evil.example", "evil.example#localhost", "", None):
        check(f"Host {name!r}", http(port, "/api/status", name=name)[0], lambda status: status in (400, 421))
    two = http(port, "/api/status", headers=[("Host", "evil.example")])[0]
    check("two hosts", two, lambda status: status in (400, 421))
    said = http(port, "/api/status", headers=[("X-Forwarded-Host", "evil.example"), ("Forwarded", "host=evil.example")])[2]
    check("what a proxy would say changes nothing", b"evil.example" in said, False)
    status, told, _ = http(port, "/api/status", headers=[("Origin", "https://evil.example")])
    check("no other origin may read an answer", [key for key in told if key.startswith("access-control")], [])


def strangers(gateway):
    own = outside()
    if not own:
        return print("SKIPPED from another address: this machine has none but loopback")
    print(f"from {own}, without a login")
    port = gateway.ports["secured"]
    for spoof in ((), (("X-Forwarded-For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"))):
        status, _, body = http(port, "/health", headers=spoof, host=own, tls=True)
        check("/health says ok or not ok, no more", (status in (200, 503), body), lambda got: got[0] and got[1] in (b"ok\n", b"not ok\n"))
        for path in ("/metrics", "/api/status", "/api/tags", "/api/history?device=pump&tag=speed"):
            status, _, body = http(port, path, headers=spoof, host=own, tls=True)
            check(f"{path} asks for a login", (status, b"pump" in body), (401, False))
    session = json.loads(http(port, "/api/session", host=own, tls=True)[2])
    check("the session of a stranger names nobody", (session["user"], session["operate"]), (None, []))
    check("HTTP in the clear is not spoken there", say(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", own), lambda got: not got.startswith(b"HTTP"))
    basic = base64.b64encode(f"viewer:{VIEWER}".encode()).decode()
    check("a login sees the metrics", http(port, "/metrics", headers=[("Authorization", f"Basic {basic}")], host=own, tls=True)[0], 200)


class Browser:
    def __init__(self, port):
        self.port = port
        _, told, body = http(port, "/api/session")
        self.cookie, self.token = told["set-cookie"].split(";")[0], json.loads(body)["csrf"]

    def post(self, path, body, cookie=None, token=None, origin="own", kind="application/json"):
        headers = [("Content-Type", kind), ("Cookie", self.cookie if cookie is None else cookie), ("X-CSRF-Token", self.token if token is None else token)]
        headers += [("Origin", "http://localhost" if origin == "own" else origin)] if origin else []
        return http(self.port, path, "POST", headers, json.dumps(body).encode())

    def log_in(self, user, password):
        status, told, _ = self.post("/api/login", {"user": user, "password": password})
        if status == 200:
            before, self.cookie = self.cookie, told["set-cookie"].split(";")[0]
            check(f"{user}: the session has a name that nobody knew before", before != self.cookie)
            check(f"{user}: no script and no other site gets at the cookie", all(word in told["set-cookie"] for word in ("HttpOnly", "SameSite=Strict")))
            _, _, body = http(self.port, "/api/session", headers=[("Cookie", self.cookie)])
            self.token = json.loads(body)["csrf"]
        return status


def forged(gateway):
    print("stolen cookies and forged posts")
    hmi, viewer = Browser(gateway.ports["page"]), Browser(gateway.ports["page"])
    check("hmi logs in", hmi.log_in("hmi", PASSWORD), 200)
    check("viewer logs in", viewer.log_in("viewer", VIEWER), 200)
    poll = ("/api/command/poll", {"device": "pump"})
    check("its own page may", hmi.post(*poll)[0], 200)
    check("a user without the right may not", viewer.post(*poll)[0], 403)
    check("the cookie from another origin", hmi.post(*poll, origin="https://evil.example")[0], 403)
    check("the cookie from a sandbox", hmi.post(*poll, origin="null")[0], 403)
    check("the cookie without the token", hmi.post(*poll, token="")[0], 403)
    check("the cookie with somebody else's token", hmi.post(*poll, token=viewer.token)[0], 403)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        check(f"a form of another site ({kind!r})", hmi.post(*poll, kind=kind)[0], 415)
    check("commands by GET", http(gateway.ports["page"], poll[0] + "?device=pump", headers=[("Cookie", hmi.cookie)])[0], lambda status: status in (404, 405))
    given = "ironbridge=" + "a" * 64
    check("a session that somebody chose beforehand", Browser.post(hmi, *poll, cookie=given, token=hmi.token)[0], 403)
    check("a login from another page", hmi.post("/api/login", {"user": "viewer", "password": VIEWER}, origin="https://evil.example")[0], 403)
    return hmi, viewer


def guess(gateway):
    print("guessed passwords")
    browser, lines, begun = Browser(gateway.ports["page"]), gateway.log().count("\n"), time.monotonic()
    took, refused = [], 0
    while time.monotonic() - begun < 6:
        at = time.monotonic()
        status = browser.post("/api/login", {"user": "hmi", "password": f"guess-{len(took)}"})[0]
        took.append(time.monotonic() - at)
        refused += status in (401, 429, 503)
    check("each guess is refused", refused, len(took))
    check(f"{len(took)} guesses in 6 s: it gets slower", len(took), lambda count: count < 60)
    log = gateway.log()
    check("guesses are in the audit trail", 'audit="login_refused"' in log)
    check("and do not flood it", log.count("\n") - lines, lambda lines: lines < 40)
    check("what was guessed is not", "guess-" in log, False)


def names(gateway, hmi):
    print("names that are scripts, or lines of a log")
    port = gateway.ports["mqtt"]
    for user in (EVIL, "hmi\0", "../../users", "%u", "é" * 200):
        # clean session, user and password, keep alive 0
        connect = packet(0x10, text("MQTT") + b"\4\xc2\0\0" + text(EVIL[:60]) + text(user) + text("wrong"))
        patiently(lambda: say(port, connect, seconds=3))
        patiently(lambda: Browser(gateway.ports["page"]).post("/api/login", {"user": user, "password": "wrong"}))
    anonymous = patiently(lambda: say(port, connect_packet(EVIL) + publish_packet(EVIL, EVIL.encode(), 1) + b"\xe0\0", seconds=2))
    check("a client with such a name is answered or hung up on", anonymous, lambda got: got in (None, b"") or got[:1] == b"\x20")
    # As hmi: a topic and a payload that are a page.
    login = packet(0x10, text("MQTT") + b"\4\xc2\0\0" + text("x" + EVIL) + text("hmi") + text(PASSWORD))
    patiently(lambda: say(port, login + publish_packet("client/" + EVIL, EVIL.encode(), 1, 1) + b"\xe0\0", seconds=2))
    hmi.post("/api/command/write", {"device": EVIL, "tag": EVIL, "value": EVIL})
    hmi.post("/api/command/poll", {"device": EVIL})
    for path in ("/api/status", "/api/tags", "/health", "/metrics", "/"):
        status, told, body = http(gateway.ports["page"], path, headers=[("Cookie", hmi.cookie)])
        kind = told.get("content-type", "")
        strict = told.get("x-content-type-options") == "nosniff" and "default-src 'none'" in told.get("content-security-policy", "")
        page = kind.startswith("text/html")
        check(f"{path}: no browser takes it for more than it is", (status, strict, page and b"alert(" in body), (200, True, False))
        if kind.startswith("application/json"):
            check(f"{path}: is JSON all the same", json.loads(body) is not None)
        if path == "/metrics":
            lines = [line for line in body.decode().splitlines() if not re.fullmatch(r"#.*|[a-z_]+(\{([a-z_]+=\"(\\.|[^\"\\])*\",?)*\})? [0-9.eE+-]+|[a-z_]+(\{.*\})? (NaN|\+Inf)", line)]
            check("/metrics: each line is one", lines, [])
    forged_lines = [line for line in gateway.log().splitlines() if line.startswith(("<3>", "forged", "\x1b"))]
    check("nobody writes lines of his own into the log", (forged_lines, "\x1b[31m" in gateway.log()), ([], False))


def smuggle(gateway):
    print("one protocol inside another")
    ws, page, mqtt = (gateway.ports[name] for name in ("ws", "page", "mqtt"))
    upgrade = ("GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n")
    is_open = lambda more, data=b"": patiently(lambda: say(ws, (upgrade + more + "\r\n").encode() + data, seconds=2)) or b""
    check("an upgrade of our own page is taken", is_open("Origin: https://hmi.example.com\r\n"), lambda got: got.startswith(b"HTTP/1.1 101"))
    check("that of another page is not", is_open("Origin: https://evil.example\r\n"), lambda got: b" 101 " not in got[:20])
    check("nor one with two origins", is_open("Origin: https://evil.example\r\nOrigin: https://hmi.example.com\r\n"), lambda got: b" 101 " not in got[:20])
    second = b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for more in ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Content-Length: +5\r\n", "X: a\r\n b\r\n"):
        got = is_open(more, second)
        check(f"a second request behind {more.split(':')[0]}", got.count(b"HTTP/1."), lambda count: count <= 1)
    check("an unmasked frame is hung up on", is_open("", b"\x82\x0e" + connect_packet("ws")), lambda got: b"\x20\2\0\0" not in got)
    check("a frame of 2^62 bytes too", len(is_open("", b"\x82\xff\x3f" + b"\xff" * 11)), lambda size: size < 1000)
    connect = connect_packet("in-between")
    check("MQTT at the page", patiently(lambda: say(page, connect, seconds=3)) or b"", lambda got: got[:1] != b"\x20")
    check("HTTP at the broker", patiently(lambda: say(mqtt, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds=3)) or b"", lambda got: b"HTTP" not in got)
    check("MQTT at the websocket", patiently(lambda: say(ws, connect, seconds=3)) or b"", lambda got: got[:1] != b"\x20")
    for first in (b"Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"):
        got = say(page, b"POST /api/logout HTTP/1.1\r\nHost: localhost\r\n" + first + b"GET /api/status HTTP/1.1\r\nHost: evil.example\r\n\r\n", seconds=3)
        check(f"smuggled behind {first.split(b':')[0].decode()}", b'"gateway"' in got, False)


def secrets(gateway, hmi):
    print("secrets")
    with open(f"{gateway.work}/users") as file:
        hashes = re.findall(r"\$argon2id\$\S+", file.read())
    with open(f"{gateway.work}/server.key") as file:
        key = file.read().split("\n")[1]
    seen = gateway.log()
    for path in ("/api/status", "/api/tags", "/metrics", "/health", "/", "/script.js", "/style.css"):
        seen += http(gateway.ports["page"], path, headers=[("Cookie", hmi.cookie)])[2].decode("utf-8", "replace")
    for process in gateway.processes:
        seen += open(f"/proc/{process.pid}/cmdline").read()
    for secret in (PASSWORD, VIEWER, *hashes, key, hmi.cookie.split("=")[1], hmi.token):
        check(f"{secret[:9]}… is nowhere", secret in seen, False)


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    work, begun = tempfile.mkdtemp(prefix="attack-"), time.monotonic()
    gateway = Gateway(work)
    plant = subprocess.Popen([sys.executable, f"{HERE}/besieged.py", "plant", str(gateway.ports["plant"]), f"{work}/polls"])
    held = []
    try:
        deadline = time.monotonic() + 30
        while not os.path.exists(f"{work}/polls") or len(open(f"{work}/polls").readlines()) < 20:
            if time.monotonic() > deadline:
                sys.exit("nothing is polled before any attack")
            time.sleep(0.1)
        time.sleep(1)
        before, memory, files, lines = time.monotonic(), gateway.figure("VmRSS"), gateway.files(), gateway.log().count("\n")
        drip = silence(gateway, held)
        old_tls(gateway)
        scanners(gateway)
        floods(gateway)
        paths(gateway)
        hosts(gateway)
        strangers(gateway)
        hmi, viewer = forged(gateway)
        smuggle(gateway)
        names(gateway, hmi)
        guess(gateway)
        drip.thread.join()
        print("afterwards")
        check(f"slow loris was cut off ({drip.took:.0f} s)", drip.left, 0)
        secrets(gateway, hmi)
        for stream in held:
            stream.close()
        ended = time.monotonic()
        check("both gateways are alive", [process.poll() for process in gateway.processes], [None, None])
        with open(f"{work}/polls") as file:
            rows = [line.split() for line in file.read().splitlines()[:-1]]
        for unit in ("1", "2"):
            times = [float(row[0]) for row in rows if row[1] == unit and before <= float(row[0]) <= ended]
            latest = max((after - earlier - PERIOD for earlier, after in zip(times, times[1:])), default=99)
            check(f"unit {unit}: {len(times)} polls, the latest {1000 * latest:.0f} ms late", latest, lambda latest: latest < 1.5, timed=latest < 10)
        said = gateway.log().count("\n") - lines
        check(f"a quiet log: {said} lines in {ended - before:.0f} s", said, lambda said: said < 400)
        check("no panic", [line for line in gateway.log().splitlines() if "panicked" in line], [])
        grown = gateway.figure("VmHWM") - memory
        check(f"memory: {memory >> 20} MiB, at most {grown >> 20} MiB more", grown, lambda grown: grown < 64 << 20)
        deadline = time.monotonic() + 20
        while gateway.files() > files + 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        check("no connection is left behind", gateway.files(), lambda left: left <= files + 4)
        for process in gateway.processes:
            process.send_signal(signal.SIGTERM)
        check("SIGTERM ends them with 0", [process.wait(20) for process in gateway.processes], [0, 0])
    finally:
        for process in [plant, *gateway.processes]:
            process.kill()
            process.wait()
    print(f"{time.monotonic() - begun:.0f} s")
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
