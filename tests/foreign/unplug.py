#!/usr/bin/env python3
"""Adapters that are unplugged and devices that go and come back under load, again and again, while one bus is well.

usage: unplug.py IRONBRIDGE [--for SECONDS] [--csv FILE] [--hole]        (needs socat; pip: paho-mqtt)
Default 40 s; by hand 1800 and more. The file gets the memory, descriptors and threads of the gateway every few seconds.
--hole: one more device, in a network of its own that swallows every packet now and then (root, unshare, ip).

Each loss is followed by the same gateway, without a restart: values are bad meanwhile, right again within the wait
that the outage has earned, and the neighbour does not notice.
"""
import argparse, asyncio, collections, contextlib, json, os, random, shutil, signal, subprocess, sys, tempfile, threading, time, tty

import paho.mqtt.client as mqtt

import hostile
from bench import check, free_port, verdict, wait_port
from soak import identity

TIMEOUT = 0.2
START, UNITS = 100, (1, 2)
HERE, FAR = "10.9.0.1", "10.9.0.2"  # of the network with the hole, which only this process sees
SLACK = 3.0  # of a machine that is busy with other things
NEVER = 60  # seconds more than that are no matter of the machine


def run(*command):
    subprocess.run(command, check=True)


def dig():
    """A network behind ours; the process that keeps it."""
    keeper = start("unshare", "-n", "sleep", "infinity")
    time.sleep(0.5)
    run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(keeper.pid))
    run("ip", "addr", "add", f"{HERE}/30", "dev", "near")
    run("ip", "link", "set", "near", "up")
    for words in (f"addr add {FAR}/30 dev far", "link set far up", "link set lo up"):
        run("nsenter", "-t", str(keeper.pid), "-n", "ip", *words.split())
    return keeper


class Nowhere:
    def write(self, _):
        pass


async def device(kind, place):
    """A device without faults: serves a port, the far end of a line, or whoever it dials."""
    framing = "mbap" if kind in ("tcp", "steady", "hole") else "rtu"
    bus = hostile.Bus({"number": 1, "units": UNITS, "framing": framing, "carrier": "tcp", "timeout": 100, "seed": 1, "weights": {}}, Nowhere())
    loop = asyncio.get_running_loop()
    if kind == "line":
        line = os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(line)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(line, "rb", buffering=0, closefd=False))
        buffer = bytearray()
        while data := await reader.read(512):
            buffer += data
            bus.heard(buffer, lambda data: os.write(line, data), lambda: None)
    elif kind == "modem":
        while True:
            with contextlib.suppress(OSError):
                transport, protocol = await loop.create_connection(lambda: hostile.Stream(bus), "127.0.0.1", int(place))
                while not transport.is_closing():
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
    else:
        await loop.create_server(lambda: hostile.Stream(bus), FAR if kind == "hole" else "127.0.0.1", int(place))
        await asyncio.Event().wait()


def start(*command):
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def stop(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Plug:
    """One bus and what is at its end; can be pulled."""

    def __init__(self, kind, work):
        self.kind, self.work, self.processes = kind, work, []
        self.place = f"{work}/by-id-adapter" if kind == "line" else free_port()
        self.outages, self.turn = [], 0
        self.keeper = dig() if kind == "hole" else None

    def keys(self):
        if self.kind == "line":
            return f'type = "modbus-rtu"\nport = "{self.place}"\nserial = "115200-8N1"'
        if self.kind == "modem":
            return f'type = "modbus-rtu-over-tcp"\nlisten = "127.0.0.1:{self.place}"\nallow = ["127.0.0.0/8"]'
        if self.kind == "hole":
            return f'type = "modbus-tcp"\nendpoint = "{FAR}:{self.place}"'
        name = {"serial server": "modbus-rtu-over-tcp"}.get(self.kind, "modbus-tcp")
        return f'type = "{name}"\nendpoint = "127.0.0.1:{self.place}"'

    def plug(self):
        place = str(self.place)
        if self.kind == "line":
            near, place = f"{self.work}/near-{self.turn}", f"{self.work}/far-{self.turn}"
            self.processes.append(start("socat", f"pty,raw,echo=0,link={near}", f"pty,raw,echo=0,link={place}"))
            if not until(lambda: os.path.exists(near) and os.path.exists(place), 30):
                raise TimeoutError(f"socat makes no line in {self.work}")
        within = ["nsenter", "-t", str(self.keeper.pid), "-n"] if self.keeper else []
        self.processes.append(start(*within, sys.executable, __file__, "--device", self.kind, place))
        if self.kind == "line":
            os.symlink(os.readlink(near), self.place + ".new")
            os.replace(self.place + ".new", self.place)
        if self.kind not in ("line", "modem", "hole"):
            wait_port(self.place)

    def pull(self):
        """Pulls it; how to put it back, and the longest wait that an outage of so many seconds earns."""
        self.turn += 1
        # Waits double from 0.5 s, each at least half of that: after an outage of s the present one is 2 s + 0.5 at most.
        backoff = lambda outage: min(30, 2 * outage + 0.5) + TIMEOUT
        if self.keeper:
            route = ["nsenter", "-t", str(self.keeper.pid), "-n", "ip", "route"]
            run(*route, "add", "blackhole", f"{HERE}/32")
            # Whoever tries next, the system with what it has not got rid of or we with a probe.
            return (lambda: run(*route, "del", "blackhole", f"{HERE}/32")), lambda outage: min(62, 2 * outage + 4)
        if self.turn % 3 == 0 and self.kind != "line":
            for process in self.processes:
                os.kill(process.pid, signal.SIGSTOP)  # connected, and not a byte comes

            def release():
                for process in self.processes:
                    os.kill(process.pid, signal.SIGCONT)

            # Units are down after two timeouts; probes after 2 s, doubling; the line is opened anew after a minute.
            return release, lambda outage: min(62, outage + 2) + 4 * TIMEOUT
        while self.processes:
            stop(self.processes.pop())
        if self.kind == "line":
            os.remove(self.place)  # as udev does it
            if self.turn % 2:
                os.symlink(f"{self.work}/nowhere", self.place)  # not to the old name, which soon is another's
        return self.plug, (lambda outage: 2.0) if self.kind == "modem" else backoff


class Watcher:
    """When each bus last had a good value, a bad one; how many there were."""

    def __init__(self, port):
        self.good, self.bad, self.count, self.wrong = {}, {}, collections.Counter(), []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_message = self.look
        self.client.on_connect = lambda *_: self.client.subscribe("p/#")
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def look(self, _client, _data, message):
        bus, unit = message.topic.split("/")[1].split("-")
        value = json.loads(message.payload)
        if value["quality"] == "good":
            self.good[bus] = time.time()
            self.count[bus] += 1
            if identity(value["value"])[1:3] != (int(unit), START):
                self.wrong.append((message.topic, value))
        elif value["quality"] == "bad" and value["value"] is None:
            if value["cause"] != "starting":
                self.bad[bus] = time.time()
                self.count[bus, "bad"] += 1
        else:
            self.wrong.append((message.topic, value))


Outage = collections.namedtuple("Outage", "turn seconds fell back_after limit in_time returned")


def until(condition, seconds):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def torment(name, plug, watcher, over, longest):
    try:
        pull_and_plug(name, plug, watcher, over, longest)
    except BaseException as gone:  # also SystemExit, which ends a thread without a word
        check(f"{name}: whoever pulls it goes on", repr(gone), None)


def pull_and_plug(name, plug, watcher, over, longest):
    chance = random.Random(name)
    while not over.wait(chance.uniform(2, 5)):
        pulled, outage = time.time(), chance.uniform(0.5, longest)
        put_back, bound = plug.pull()
        fell = until(lambda: watcher.bad.get(name, 0) > pulled, outage)
        time.sleep(max(0, pulled + outage - time.time()))
        put_back()
        back = time.time()
        limit = bound(back - pulled)
        good = lambda: watcher.good.get(name, 0) > back
        in_time = until(good, limit + SLACK)
        returned = in_time or until(good, NEVER)
        plug.outages.append(Outage(plug.turn, round(outage, 1), fell, round(time.time() - back, 2), round(limit, 1), in_time, returned))


def figures(pid):
    with open(f"/proc/{pid}/status") as status:
        rows = dict(line.split(":", 1) for line in status)
    return int(rows["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(rows["Threads"])


def mean(rows):
    return sum(rows) / len(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--for", type=float, default=40, dest="seconds")
    parser.add_argument("--csv")
    parser.add_argument("--hole", action="store_true")
    options = parser.parse_args()
    if not shutil.which("socat"):
        print("SKIPPED unplug.py: socat is not installed")
        return 0
    work = tempfile.mkdtemp(prefix="unplug-")
    kinds = ["line", "tcp", "serial server", "modem", "steady"]
    if options.hole:
        run("ip", "link", "set", "lo", "up")
        kinds.append("hole")
    plugs = {kind.replace(" ", ""): Plug(kind, work) for kind in kinds}
    port = free_port()
    with open(f"{work}/g.toml", "w") as f:
        f.write(f'[gateway]\nname = "here"\ntopic = "p/{{device}}/{{tag}}"\ndata_dir = "{work}/data"\n'
                f'[[broker.listener]]\nlisten = "127.0.0.1:{port}"\nanonymous = "read"\n')
        for name, plug in plugs.items():
            f.write(f'[[bus]]\nname = "{name}"\nresponse_timeout = "{round(TIMEOUT * 1000)}ms"\n{plug.keys()}\n')
        for name in plugs:
            for unit in UNITS:
                f.write(f'[[device]]\nname = "{name}-{unit}"\nbus = "{name}"\nunit_id = {unit}\npoll = "50ms"\n'
                        f'[[device.tag]]\nname = "value"\naddress = "holding:{START}"\ntype = "uint64"\n')
    gateway, over, samples = None, threading.Event(), []
    try:
        for plug in plugs.values():
            plug.plug()
        log = open(f"{work}/log", "w")
        gateway = subprocess.Popen([options.binary, "run", "--config", f"{work}/g.toml"], stderr=log)
        wait_port(port)
        watcher = Watcher(port)
        check("all is well at first", until(lambda: len(watcher.good) == len(plugs), 15), True)
        for counter in [key for key in watcher.count if isinstance(key, tuple)]:
            del watcher.count[counter]
        begun, longest = time.time(), 4 if options.seconds < 120 else 20
        threads = [threading.Thread(target=torment, args=(name, plug, watcher, over, longest)) for name, plug in plugs.items() if name != "steady"]
        for thread in threads:
            thread.start()
        steady, silence = 0, 0.0
        while time.time() - begun < options.seconds and gateway.poll() is None:
            time.sleep(0.5)
            silence = max(silence, time.time() - watcher.good["steady"])
            if not samples or time.time() - begun - samples[-1][0] > (5 if options.seconds > 120 else 1):
                samples.append((round(time.time() - begun), *figures(gateway.pid), watcher.count["steady"]))
        over.set()
        for thread in threads:
            thread.join()
        for name, plug in plugs.items():
            if name == "steady":
                continue
            worst = max((outage.back_after for outage in plug.outages), default=0)
            print(f"  {name}: {len(plug.outages)} outages, back after {worst} s at worst")
            # Fewer than three say nothing, or whoever pulls the plugs has given up.
            check(f"{name}: it was pulled at least three times", len(plug.outages), lambda count: count >= 3)
            check(f"{name}: back, each time", [outage for outage in plug.outages if not outage.returned], [])
            check(f"{name}: back in time, each time", [outage for outage in plug.outages if not outage.in_time], [], timed=True)
            unnoticed = [outage for outage in plug.outages if outage.seconds > 2 and not outage.fell]
            check(f"{name}: bad while it is away", unnoticed, [])
        check("not one value is wrong", watcher.wrong[:5], [])
        check("the neighbour never has a bad value", watcher.count["steady", "bad"], 0)
        check("the neighbour is never silent for long", silence, lambda silence: silence < 2, timed=silence < 10)
        check("the gateway still runs", gateway.poll(), None)
        # What is there after a sixth has settled: the first and the last sixth of the rest.
        rest = samples[len(samples) // 6:]
        part = max(1, len(rest) // 6)
        (memory, descriptors, tasks), (memory_last, descriptors_last, tasks_last) = (
            tuple(mean([row[column] for row in rows]) for column in (1, 2, 3)) for rows in (rest[:part], rest[-part:]))
        print(f"  memory {memory:.0f} kB, then {memory_last:.0f} kB; descriptors {descriptors:.1f}, then {descriptors_last:.1f}; "
              f"threads {tasks:.1f}, then {tasks_last:.1f}; {watcher.count['steady']} values of the neighbour, at most {silence:.1f} s apart")
        check("memory stays", memory_last < memory * 1.1 + 1024, True)
        check("descriptors stay", descriptors_last < descriptors + 3, True)
        check("threads stay", tasks_last < tasks + 3, True)
        if options.csv:
            with open(options.csv, "w") as f:
                f.write("seconds,rss_kb,descriptors,threads,steady_values\n")
                f.writelines(",".join(map(str, row)) + "\n" for row in samples)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(30), 0)
    finally:
        over.set()
        for plug in plugs.values():
            for process in plug.processes + ([plug.keeper] if plug.keeper else []):
                stop(process)
        if gateway:
            gateway.kill()
    return verdict(work)


if __name__ == "__main__":
    if sys.argv[1] == "--device":
        asyncio.run(device(*sys.argv[2:4]))
    elif "--hole" in sys.argv and "IRONBRIDGE_HOLE" not in os.environ:
        os.environ["IRONBRIDGE_HOLE"] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    else:
        sys.exit(main())
