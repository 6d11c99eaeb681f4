#!/usr/bin/env python3
"""MQTT over QUIC with a QUIC that is not ours (aioquic), MQTT of paho and mosquitto in it; and a gateway whose address
changes while it is connected, in network namespaces.

    paho -- TCP --> [aioquic client] == QUIC ==> listener of a gateway
    gateway, quic:// == QUIC ==> [aioquic server] -- TCP --> mosquitto
    gateway in a namespace, quic:// == veth, another address == > listener of a gateway, and aioquic's

usage: quic.py IRONBRIDGE        (needs openssl, mosquitto; pip: paho-mqtt aioquic; for the last part root, ip, unshare, nsenter)

What is not there is SKIPPED, visibly.
"""
import asyncio, os, shutil, signal, socket, subprocess, sys, tempfile, threading, time, urllib.request

import paho.mqtt.client as mqtt

from bench import check, failures, free_port, wait_port

NEAR, FAR, MOVED = "10.9.1.1", "10.9.1.2", "10.9.1.3"  # of namespaces that only this program sees
USER = "up"
COUNT = 200


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificates(work):
    key = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    openssl("req", "-x509", "-newkey", *key, "-nodes", "-days", "3650", "-subj", "/CN=authority", "-keyout", f"{work}/ca.key", "-out", f"{work}/ca.crt")
    openssl("req", "-newkey", *key, "-nodes", "-subj", "/CN=server", "-keyout", f"{work}/server.key", "-out", f"{work}/server.csr")
    with open(f"{work}/server.ext", "w") as file:
        file.write(f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{NEAR}\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", f"{work}/server.csr", "-CA", f"{work}/ca.crt", "-CAkey", f"{work}/ca.key", "-CAcreateserial",
            "-days", "365", "-extfile", f"{work}/server.ext", "-out", f"{work}/server.crt")
    os.chmod(f"{work}/server.key", 0o600)


async def carry(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    try:
        writer.write_eof()
    except (OSError, RuntimeError, NotImplementedError, AssertionError):
        pass


async def both(one, other):
    await asyncio.gather(carry(one[0], other[1]), carry(other[0], one[1]))
    for _, writer in (one, other):
        writer.close()


class Foreign(threading.Thread):
    """aioquic in a thread: a client behind a TCP port, or a server before one."""

    def __init__(self, serve):
        super().__init__(daemon=True)
        self.serve, self.ready, self.seen = serve, threading.Event(), []
        self.start()
        self.ready.wait(10)

    def run(self):
        async def work():
            await self.serve(self)
            self.ready.set()
            await asyncio.Event().wait()
        asyncio.run(work())


def foreign_client(work, to, port, alpn="mqtt"):
    """Whoever connects to this TCP port speaks to that QUIC listener."""
    from aioquic.asyncio import connect
    from aioquic.quic.configuration import QuicConfiguration

    async def serve(_):
        async def taken(reader, writer):
            configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn])
            configuration.load_verify_locations(f"{work}/ca.crt")
            try:
                async with connect("127.0.0.1", to, configuration=configuration) as protocol:
                    await both(await protocol.create_stream(), (reader, writer))
            except ConnectionError:
                writer.close()
        await asyncio.start_server(taken, "127.0.0.1", port)

    return Foreign(serve)


def foreign_server(work, at, to):
    """Whoever connects to this QUIC listener speaks to that TCP port."""
    from aioquic.asyncio import serve as listen
    from aioquic.quic.configuration import QuicConfiguration

    async def serve(self):
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["mqtt"], idle_timeout=600)
        configuration.load_cert_chain(f"{work}/server.crt", f"{work}/server.key")

        def stream(reader, writer):
            async def pump():
                self.seen.append(writer)
                await both((reader, writer), await asyncio.open_connection("127.0.0.1", to))
            asyncio.ensure_future(pump())
        await listen(*at, configuration=configuration, stream_handler=stream)

    return Foreign(serve)


class Subscriber:
    """Everything below n/, once each."""

    def __init__(self, port, **login):
        self.numbers, self.ready = set(), threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="subscriber")
        if login:
            self.client.username_pw_set(**login)
        self.client.on_connect = lambda client, *_: client.subscribe("n/#", 1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = lambda _c, _u, message: self.numbers.add(int(message.payload))
        self.client.connect("127.0.0.1", port, 20)
        self.client.loop_start()
        assert self.ready.wait(20), "subscribed"

    def has(self, count, within=60):
        until = time.time() + within
        while len(self.numbers) < count and time.time() < until:
            time.sleep(0.02)
        return self.numbers == set(range(count))


def publisher(port=None, path=None):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="publisher", transport="unix" if path else "tcp")
    client.username_pw_set(USER, USER)
    client.connect(path or "127.0.0.1", port or 1883, 20)
    client.loop_start()
    return client


def publish(client, numbers, patience=20):
    """Each acknowledged before the next."""
    for number in numbers:
        client.publish(f"n/{number % 7}", str(number), qos=1).wait_for_publish(patience)


def gateway(binary, work, name, listeners, more="", inside=None):
    home = f"{work}/{name}"
    os.makedirs(home)
    subprocess.run([binary, "passwd", f"{home}/users", USER], input=USER + "\n", text=True, check=True, capture_output=True)
    with open(f"{home}/password", "w") as file:
        file.write(USER)
    os.chmod(f"{home}/password", 0o600)
    status = free_port()
    with open(f"{home}/ironbridge.toml", "w") as file:
        file.write(f"""
[gateway]
name = "{name}"
data_dir = "{home}/data"
time_source = "system"
[status]
listen = "127.0.0.1:{status}"
anonymous = "read"
[broker]
users_file = "users"
[[broker.acl]]
user = "{USER}"
read = ["#"]
write = ["#"]
{listeners}
{more}
""")
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    process = subprocess.Popen([*enter, binary, "run", "--config", f"{home}/ironbridge.toml"], stderr=open(f"{home}/log", "w"))
    until = time.time() + 20
    while "listening for MQTT clients" not in open(f"{home}/log").read() and time.time() < until:
        time.sleep(0.05)
    return process, [*enter, sys.executable, "-c", f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{status}/metrics').read().decode())"]


def figure(ask, name):
    text = subprocess.run(ask, capture_output=True, text=True).stdout
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), None)


def quic(work, address):
    return f'[[broker.listener]]\nlisten = "{address}"\nquic = true\ntls = {{ certificate = "{work}/server.crt", key = "{work}/server.key" }}\n'


def uplink(work, url):
    return (f'[[forward]]\nfilter = "n/#"\n[[uplink]]\nname = "far"\nurl = "{url}"\nca_file = "{work}/ca.crt"\n'
            f'username = "{USER}"\npassword_file = "password"\nkeep_alive = "20s"\n')


def by_aioquic(binary, work, ends):
    print("aioquic and paho as a client of our listener")
    udp, tcp, wrong = free_port(socket.SOCK_DGRAM), free_port(), free_port()
    process, ask = gateway(binary, work, "door", quic(work, f"127.0.0.1:{udp}"))
    ends.append(process)
    foreign_client(work, udp, tcp)
    foreign_client(work, udp, wrong, alpn="h3")
    subscriber = Subscriber(tcp, username=USER, password=USER)
    writer = publisher(tcp)
    publish(writer, range(COUNT))
    check(f"{COUNT} publishes of QoS 1, there and back", subscriber.has(COUNT), True)
    large = threading.Event()
    subscriber.client.on_message = lambda _c, _u, message: len(message.payload) == 500_000 and large.set()
    writer.publish("n/large", b"x" * 500_000, qos=1).wait_for_publish(20)
    check("half a megabyte in one message", large.wait(20), True)
    for client in (writer, subscriber.client):
        client.disconnect()
    until = time.time() + 10
    while figure(ask, "ironbridge_broker_clients ") != 0 and time.time() < until:
        time.sleep(0.1)
    check("DISCONNECT ends it", figure(ask, "ironbridge_broker_clients "), 0)
    with socket.create_connection(("127.0.0.1", wrong)) as refused:
        refused.settimeout(20)
        try:
            answer = refused.recv(1)
        except ConnectionError:
            answer = b""
        check("another ALPN is refused", answer, b"")


def to_aioquic(binary, work, ends):
    print("our uplink, aioquic as the server, mosquitto behind it")
    udp, tcp, local = free_port(socket.SOCK_DGRAM), free_port(), free_port()
    with open(f"{work}/mosquitto.conf", "w") as file:
        file.write(f"listener {tcp} 127.0.0.1\nallow_anonymous true\n")
    ends.append(subprocess.Popen(["mosquitto", "-c", f"{work}/mosquitto.conf"], stderr=subprocess.DEVNULL))
    wait_port(tcp)
    subscriber = Subscriber(tcp)
    foreign_server(work, ("127.0.0.1", udp), tcp)
    process, ask = gateway(binary, work, "up", f'[[broker.listener]]\nlisten = "127.0.0.1:{local}"\n', uplink(work, f"quic://127.0.0.1:{udp}"))
    ends.append(process)
    publish(publisher(local), range(COUNT))
    check(f"{COUNT} numbers through it, none missing", subscriber.has(COUNT), True)
    check("in one session", figure(ask, "ironbridge_uplink_sessions_total"), 1)


def run(*command):
    subprocess.run(command, check=True)


def dig():
    """A network behind ours; the process that keeps it."""
    run("ip", "link", "set", "lo", "up")
    keeper = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
    while os.readlink(f"/proc/{keeper.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.05)
    run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(keeper.pid))
    run("ip", "addr", "add", f"{NEAR}/24", "dev", "near")
    run("ip", "link", "set", "near", "up")
    for words in (f"addr add {FAR}/24 dev far", "link set far up", "link set lo up"):
        run("nsenter", "-t", str(keeper.pid), "-n", "ip", *words.split())
    return keeper


def moving(binary, work, ends, name, url, subscriber):
    """A gateway in a namespace; its interface loses its address and gets another, there and back."""
    keeper = ends[0]
    process, ask = gateway(binary, work, name, f'[[broker.listener]]\nlisten = "unix:{work}/{name}.sock"\n', uplink(work, url), inside=keeper.pid)
    ends.append(process)
    writer = publisher(path=f"{work}/{name}.sock")
    publish(writer, range(50))
    check("numbers arrive", subscriber.has(50), True)
    done, old = 50, FAR
    for moves, new in enumerate((MOVED, FAR, MOVED), start=1):
        ip = lambda *words: run("nsenter", "-t", str(keeper.pid), "-n", "ip", "addr", *words, "dev", "far")
        ip("del", f"{old}/24")
        publish(writer, range(done, done + 20))    # into the store, while there is no way out
        time.sleep(2)
        ip("add", f"{new}/24")
        publish(writer, range(done + 20, done + 50))
        done, old = done + 50, new
        check(f"now from {new}, nothing missing", subscriber.has(done), True)
        deadline = time.monotonic() + 60  # the values may go out there before it is noticed
        while (counted := figure(ask, "ironbridge_uplink_quic_moves_total")) != moves and time.monotonic() < deadline:
            time.sleep(0.2)
        check("the move was counted", counted, moves)
    check("the same session all the time", figure(ask, "ironbridge_uplink_sessions_total"), 1)
    back = f"{MOVED}/24"
    run("nsenter", "-t", str(keeper.pid), "-n", "ip", "addr", "del", back, "dev", "far")
    run("nsenter", "-t", str(keeper.pid), "-n", "ip", "addr", "add", f"{FAR}/24", "dev", "far")
    process.send_signal(signal.SIGTERM)
    check("SIGTERM ends it with 0", process.wait(40), 0)


def inside(binary):
    """In a namespace of our own."""
    work, ends = tempfile.mkdtemp(prefix="quic-"), []
    certificates(work)
    try:
        ends.append(dig())
        print("the address of the gateway's interface changes: our listener")
        port = free_port()
        plain = f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\n'
        process, _ = gateway(binary, work, "other-end", plain + quic(work, f"{NEAR}:14567"))
        ends.append(process)
        subscriber = Subscriber(port, username=USER, password=USER)
        moving(binary, work, ends, "rover", f"quic://{NEAR}", subscriber)
        print("the same, aioquic at the other end")
        tcp = free_port()
        with open(f"{work}/mosquitto.conf", "w") as file:
            file.write(f"listener {tcp} 127.0.0.1\nallow_anonymous true\n")
        ends.append(subprocess.Popen(["mosquitto", "-c", f"{work}/mosquitto.conf"], stderr=subprocess.DEVNULL))
        wait_port(tcp)
        foreign_server(work, (NEAR, 14568), tcp)
        moving(binary, work, ends, "second-rover", f"quic://{NEAR}:14568", Subscriber(tcp))
    finally:
        tidy(work, ends)


def tidy(work, ends):
    for end in reversed(ends):
        end.kill()
        end.wait()
    if failures:
        print(f"left in {work}")
    else:
        shutil.rmtree(work)


def main():
    if sys.argv[1] == "--inside":
        inside(sys.argv[2])
        return 1 if failures else 0
    binary = os.path.abspath(sys.argv[1])
    if missing := [tool for tool in ("openssl", "mosquitto") if not shutil.which(tool)]:
        print(f"SKIPPED quic.py: {', '.join(missing)} not installed")
        return 0
    try:
        import aioquic  # noqa: F401
    except ImportError:
        print("SKIPPED quic.py: aioquic is not installed (pip)")
        return 0
    work, ends = tempfile.mkdtemp(prefix="quic-"), []
    certificates(work)
    try:
        by_aioquic(binary, work, ends)
        to_aioquic(binary, work, ends)
    finally:
        tidy(work, ends)
    if os.geteuid() or subprocess.run(["unshare", "-n", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"], capture_output=True).returncode:
        print("SKIPPED the change of address: no right to make network namespaces")
    elif subprocess.run(["unshare", "-n", sys.executable, __file__, "--inside", binary]).returncode:
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
