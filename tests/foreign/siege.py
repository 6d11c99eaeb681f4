#!/usr/bin/env python3
"""The broker besieged: nothing that strangers do may slow polling, hold up other clients, fill memory or the log.

usage: siege.py IRONBRIDGE [SECONDS_OF_EACH_ATTACK] [NAME_OF_ATTACK…]       (standard library only; openssl for TLS)

Beside each attack a plant is polled (a Modbus server in a process of its own notes when each request came) and two clients
talk to each other at QoS 1, fifty times a second (in another process, with the round trips noted). The gateway is watched:
memory (under a ceiling of 256 MiB where this user may set one), lines of log, open files. `fuzz` with 180 seconds is the
three-minute mutation fuzz. Prints a table; what is judged stands at its end.
"""
import os, random, resource, shutil, signal, socket, ssl, struct, subprocess, sys, tempfile, threading, time

from bench import check, free_port, verdict, wait_port
from besieged import connect_packet, dial, packet, packets, patiently, publish_packet, subscribe_packet, text

HERE = os.path.dirname(os.path.abspath(__file__))
CEILING = 256 << 20
PERIOD = 0.25            # seconds between two polls
UNITS, TAGS = 4, 250     # a thousand tags
CLIENTS = 1000


class Gateway:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        self.port, self.tls, self.websocket, self.plant_port = (free_port() for _ in range(4))
        plan = f"{work}/plan.toml"
        self.write(plan)
        subprocess.run([binary, "check", "--config", plan], check=True, stdout=subprocess.DEVNULL)
        self.log = f"{work}/log"
        self.process = subprocess.Popen([binary, "run", "--config", plan], stderr=open(self.log, "w"), preexec_fn=self.ceiling())
        wait_port(self.port)

    def write(self, plan):
        config = (f'[gateway]\nname = "siege"\ntopic = "plant/{{device}}/{{tag}}"\ndata_dir = "{self.work}/data"\n[broker]\nmax_connections = 1200\n'
                  f'[[broker.listener]]\nlisten = "127.0.0.1:{self.port}"\nanonymous = "read-write"\n'
                  '[[broker.acl]]\nuser = "anonymous"\nwrite = ["#"]\n'
                  f'[[bus]]\nname = "line"\ntype = "modbus-tcp"\nendpoint = "127.0.0.1:{self.plant_port}"\n')
        if shutil.which("openssl"):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9", "-subj", "/CN=localhost",
                                    "-keyout", f"{self.work}/key.pem", "-out", f"{self.work}/cert.pem"], capture_output=True, check=True)
            os.chmod(f"{self.work}/key.pem", 0o600)
            config += f'[[broker.listener]]\nlisten = "127.0.0.1:{self.tls}"\ntls = {{ certificate = "{self.work}/cert.pem", key = "{self.work}/key.pem" }}\n'
        else:
            print("SKIPPED TLS: openssl is not installed")
            self.tls = None
        config += f'[[broker.listener]]\nlisten = "127.0.0.1:{self.websocket}"\nwebsocket = true\n'
        for unit in range(1, UNITS + 1):
            config += f'[[device]]\nname = "d{unit}"\nbus = "line"\nunit_id = {unit}\npoll = "{int(PERIOD * 1000)}ms"\n'
            config += "".join(f'[[device.tag]]\nname = "t{tag}"\naddress = "holding:{tag}"\ntype = "uint16"\n' for tag in range(TAGS))
        with open(plan, "w") as file:
            file.write(config)

    def ceiling(self):
        """Beyond it the kernel kills: that would show."""
        group = f"/sys/fs/cgroup/memory/siege-{os.getpid()}"
        try:
            os.mkdir(group)
            with open(f"{group}/memory.limit_in_bytes", "w") as file:
                file.write(str(CEILING))
        except OSError:
            print(f"SKIPPED the ceiling of {CEILING >> 20} MiB: no right to set one; memory is measured all the same")
            return None
        self.group = group

        def enter():
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
        return enter

    def memory(self, what="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(next(line for line in status if line.startswith(what)).split()[1]) << 10

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def lines(self):
        with open(self.log) as log:
            return log.read().splitlines()


def in_threads(count, until, work):
    def run(place):
        while time.monotonic() < until:
            patiently(lambda: work(place))
    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def quiet(gateway, until):
    time.sleep(max(0, until - time.monotonic()))


def storm(gateway, until):
    """Connects as fast as four threads can: whole, half and empty."""
    def one(place):
        whole = connect_packet(f"storm-{place}")
        stream = dial(gateway.port, random.choice([whole, whole[:7], b"", whole + b"\xe0\0", whole + b"\xff\xff"]))
        stream.close()
    in_threads(4, until, one)


def crowd(gateway, until):
    """A thousand that subscribe and publish, then stay until the time is over. Who is hung up on comes again, as clients do."""
    def come(number):
        whole = connect_packet(f"crowd-{number}") + subscribe_packet([f"crowd/{number}", "plant/d1/t0"], 1)
        return patiently(lambda: dial(gateway.port, whole + publish_packet(f"crowd/{number}", b"x" * 500, 1)))

    def is_served(stream):
        stream.settimeout(10)
        kinds = set()
        for first, _ in packets(stream, b""):
            kinds.add(first >> 4)
            if {2, 9, 3, 4} <= kinds:
                return stream
        return None
    streams, again = {}, 0
    for _ in range(4):
        coming = {number: come(number) for number in range(CLIENTS) if streams.get(number) is None}
        streams |= {number: stream and patiently(lambda: is_served(stream)) for number, stream in coming.items()}
        missing = sum(stream is None for stream in streams.values())
        if not missing:
            break
        again += missing
        time.sleep(0.5)  # as clients do; the connect rate is limited
    quiet(gateway, until)
    print(f"    {again} came again")
    check(f"a crowd of {CLIENTS}: each is served", sum(stream is not None for stream in streams.values()), CLIENTS)


def half_open(gateway, until):
    """Connections that begin: a TLS hello, an upgrade, a CONNECT, nothing; and do not go on. New ones all the time."""
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(32)
    doors = [(gateway.port, [b"", b"\x10", connect_packet("half")[:-1]])]
    doors += [(gateway.tls, [b"", hello, hello[:3]])] if gateway.tls else []
    doors += [(gateway.websocket, [b"", b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"])]
    streams = []
    while time.monotonic() < until:
        port, beginnings = random.choice(doors)
        streams.append(patiently(lambda: dial(port, random.choice(beginnings))))
        if len(streams) > 900:
            old = streams.pop(0)
            if old:
                old.close()
        time.sleep(0.002)
    entered = patiently(lambda: dial(gateway.port, connect_packet("beside-them")).recv(4))
    check("among connections that are half open one more gets in", entered, b"\x20\2\0\0")


def deaf(gateway, until):
    """Forty that subscribe and never read, and messages of a megabyte."""
    filters = ["deaf/#"]
    streams = [dial(gateway.port, connect_packet(f"deaf-{number}") + subscribe_packet(filters, number % 3)) for number in range(40)]
    writer, number = dial(gateway.port, connect_packet("megabytes")), 0
    writer.settimeout(20)
    answers, payload = packets(writer, b""), b"x" * ((1 << 20) - 100)
    next(answers)
    while time.monotonic() < until:
        number += 1
        writer.sendall(publish_packet("deaf/x", payload, 1, 0, number % 60000 + 1))
        next(answers)
        if number % 10 == 0:  # in place of those that were given up
            streams += [s for s in [patiently(lambda: dial(gateway.port, connect_packet(f"deaf-{number}") + subscribe_packet(filters, 1)))] if s]
    print(f"    {number} messages of 1 MB")


def subscribe_flood(gateway, until):
    """Filters of every form, as many as a client may have, again and again, and all that they match."""
    def one(place):
        stream = dial(gateway.port, connect_packet(f"flood-{place}"))
        stream.settimeout(5)
        drain = threading.Thread(target=lambda: patiently(lambda: [None for _ in iter(lambda: stream.recv(65536), b"")]), daemon=True)
        drain.start()
        for n in range(100):
            if time.monotonic() > until:
                break
            levels = [random.choice(["+", "plant", "d1", "t0", f"x{n}"]) for _ in range(8)]
            stream.sendall(subscribe_packet([f"{'/'.join(levels)}/{k}/#" for k in range(100)] + ["#", "plant/#", "$SYS/#"]))
        stream.close()
        drain.join()
    in_threads(3, until, one)


def retained_flood(gateway, until):
    """Retained messages on ever new topics."""
    def one(place):
        stream = dial(gateway.port, connect_packet(f"retain-{place}"))
        stream.settimeout(10)
        number, answers = 0, packets(stream, b"")
        next(answers)
        while time.monotonic() < until:
            burst = range(number, number + 32)
            number += 32
            stream.sendall(b"".join(publish_packet(f"flood/{place}/{n}", b"y" * 5000, 1, 1, n % 60000 + 1) for n in burst))
            for _ in burst:
                next(answers)
    in_threads(3, until, one)


def no_files(gateway, until):
    """Not one more file than it has open, then connections."""
    soft, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (gateway.files() + 6, hard))
    streams = []
    while time.monotonic() < until:
        streams.append(patiently(lambda: dial(gateway.port, connect_packet(f"file-{len(streams)}"))))
        if len(streams) > 100:
            old = streams.pop(0)
            if old:
                old.close()
        time.sleep(0.01)
    for stream in filter(None, streams):
        stream.close()
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    entered = None
    deadline = time.monotonic() + 10
    while entered != b"\x20\2\0\0" and time.monotonic() < deadline:
        entered = patiently(lambda: dial(gateway.port, connect_packet("afterwards")).recv(4))
    check("files again: one more gets in", entered, b"\x20\2\0\0")


UPGRADE = (b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")


def frame(payload):
    """A masked binary frame, all in one, masked with zeros."""
    length = len(payload)
    head = bytes([0x82, 0x80 | length]) if length < 126 else struct.pack(">BBH", 0x82, 0x80 | 126, length)
    return head + bytes(4) + payload


def reach(gateway, port, conversation):
    """Says it at the door, through what that door has before MQTT, or now and then without."""
    if port == gateway.port or random.random() < 0.2:
        return dial(port, conversation)
    if port == gateway.websocket:
        spoiled = bytearray(UPGRADE + frame(conversation[:60000]))
        if random.random() < 0.3:
            spoiled[random.randrange(len(spoiled))] = random.randrange(256)
        return dial(port, bytes(spoiled))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = context.wrap_socket(dial(port))
    stream.sendall(conversation)
    return stream


def fuzz(gateway, until):
    """Conversations of tests/fuzz, spoiled, at every door."""
    folder = f"{HERE}/../fuzz/corpus/conversation"
    seeds = [open(f"{folder}/{name}", "rb").read() for name in sorted(os.listdir(folder))]
    five = packet(0x10, text("MQTT") + b"\5\2\0\x3c\0" + text("wild"))
    whole = [{0: connect_packet("wild"), 3: b""}.get(seed[0] % 4, five) + seed[1:] for seed in seeds]
    ports, rounds = [port for port in (gateway.port, gateway.port, gateway.port, gateway.tls, gateway.websocket) if port], [0] * 4

    def one(place):
        conversation = bytearray(random.choice(whole))
        for _ in range(random.randrange(6)):
            at = random.randrange(len(conversation) + 1)
            how = random.randrange(5)
            if how == 0 and at < len(conversation):
                conversation[at] = random.randrange(256)
            elif how == 1 and at < len(conversation):
                conversation[at] ^= 1 << random.randrange(8)
            elif how == 2:
                conversation.insert(at, random.randrange(256))
            elif how == 3:
                del conversation[at:at + random.randrange(1, 4)]
            else:
                other = random.choice(whole)
                conversation[at:at] = other[random.randrange(len(other)):]
        rounds[place] += 1
        with reach(gateway, random.choice(ports), bytes(conversation)) as stream:
            if random.random() < 0.5:
                stream.settimeout(5)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65536):
                    pass
    in_threads(4, until, one)
    print(f"    {sum(rounds)} spoiled conversations")


ATTACKS = [quiet, storm, crowd, half_open, deaf, subscribe_flood, retained_flood, no_files, fuzz, quiet]


def read_notes(path, begun, ended):
    with open(path) as file:
        rows = [line.split() for line in file.read().splitlines()[:-1]]
    return [row for row in rows if begun <= float(row[0]) <= ended]


def lateness(notes, begun, ended):
    """How long after its turn the latest poll came, and polls that were left out."""
    latest, asked, units = 0.0, 0, {}
    for row in read_notes(notes, begun, ended):
        units.setdefault((row[1], row[2]), []).append(float(row[0]))
        asked += 1
    for times in units.values():
        for before, after in zip(times, times[1:]):
            latest = max(latest, after - before - PERIOD)
    return latest, asked


def main():
    binary = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5
    wanted = sys.argv[3:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    work = tempfile.mkdtemp(prefix="siege-")
    beside, gateway = [], Gateway(binary, work)

    def start(*arguments):
        beside.append(subprocess.Popen([sys.executable, f"{HERE}/besieged.py", *map(str, arguments)]))
    try:
        start("plant", gateway.plant_port, f"{work}/polls")
        start("witness", gateway.port, f"{work}/trips")
        deadline = time.monotonic() + 30
        while not all(os.path.exists(f"{work}/{notes}") and os.path.getsize(f"{work}/{notes}") for notes in ("polls", "trips")):
            if time.monotonic() > deadline:
                sys.exit("nothing is polled, or nobody is served, before any attack")
            time.sleep(0.1)
        print(f"{'':<16} {'trip p50':>9} {'p99':>9} {'worst':>9} {'polls':>7} {'latest':>9} {'RSS':>8} {'log':>6}")
        trip_max, late_max = 1000.0, 2 * PERIOD
        for attack in [attack for attack in ATTACKS if not wanted or attack.__name__ in wanted or attack is quiet]:
            lines, begun = len(gateway.lines()), time.monotonic()
            attack(gateway, begun + seconds)
            ended = time.monotonic()
            time.sleep(0.5)
            trips = sorted(float(row[1]) for row in read_notes(f"{work}/trips", begun, ended) if row[1] != "wrong")
            latest, polls = lateness(f"{work}/polls", begun, ended)
            said = len(gateway.lines()) - lines
            if gateway.process.poll() is not None or not trips:
                check(f"{attack.__name__}: alive, and other clients are served", (gateway.process.poll(), len(trips)), None)
                break
            figures = [1000 * trips[len(trips) * part // 100 if part < 100 else -1] for part in (50, 99, 100)]
            print(f"{attack.__name__:<16} {figures[0]:>6.1f} ms {figures[1]:>6.1f} ms {figures[2]:>6.1f} ms {polls:>7} {1000 * latest:>6.0f} ms "
                  f"{gateway.memory() >> 20:>4} MiB {said:>6}")
            if attack is quiet:  # on a machine that is busy already everything takes longer
                trip_max, late_max = max(trip_max, 20 * figures[2]), max(late_max, 2 * PERIOD + 2 * latest)
            check(f"{attack.__name__}: polls are punctual", latest, lambda latest: latest < late_max)
            check(f"{attack.__name__}: others wait for less than {trip_max:.0f} ms", figures[2], lambda worst: worst < trip_max)
            check(f"{attack.__name__}: a quiet log", said, lambda said: said < 120 + 2 * (ended - begun))
        peak = gateway.memory("VmHWM") if gateway.process.poll() is None else CEILING
        print(f"    at most {peak >> 20} MiB")
        check("memory below its ceiling", peak, lambda peak: peak < CEILING)
        check("the two talked on", [one.poll() for one in beside], [None, None])
        check("no message went wrong", [row for row in read_notes(f"{work}/trips", 0, 1e12) if row[1] == "wrong"], [])
        check("no panic", [line for line in gateway.lines() if "panicked" in line], [])
        gateway.process.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.process.wait(20), 0)
    finally:
        for process in [*beside, gateway.process]:
            process.kill()
            process.wait()
        if getattr(gateway, "group", None):
            patiently(lambda: os.rmdir(gateway.group))
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
