#!/usr/bin/env python3
"""Kills a virtual machine with the package at random moments and holds promises against facts (tests/power/run).

usage: cuts.py DEB ROOT WORK KILLS IRONBRIDGE

Outside of the machine, and never killed: the plant (simulated Modbus devices), a client that publishes numbers at QoS 1 which
are forwarded upstream, the upstream broker (mosquitto), and the receiver. The disk is a qcow2 image: what the machine wrote since
its last flush may be lost in part, as in a disk with a cache of its own. What is promised:

1. Each publish that was acknowledged to the client arrives upstream, however often the power goes, and exactly once.
2. No number of a stream is missing upstream; what the cut took was not acknowledged and has no number.
3. No number means two things.
4. The store is whole after each start, and the service comes up by itself. At least half of the starts live for long enough to be looked at.
5. Nothing that the plant answered is given up: no record says that numbers are lost.

An interrupt (SIGINT) makes the cut to come the last one: what was done so far is judged.
"""
import collections, hashlib, json, os, random, shutil, signal, socket, sqlite3, subprocess, sys, threading, time

from sender import Sender

deb, root, work, kills, ironbridge = sys.argv[1:4] + [int(sys.argv[4]), os.path.abspath(sys.argv[5])]
BOOT_MAX = 900  # s, emulated on a busy machine
DRAIN_MAX = 1200
STARTS = 3  # of the emulator, for one start of the machine: on a starved host it may fail before the first instruction of the system
TAGS = 50
processes = []
held = []  # ports


def free_port():
    """Stays bound, so that the system gives it to nobody else; with SO_REUSEADDR on both sides whoever is told its number may
    listen there, beside a socket that does not."""
    held.append(socket.socket())
    held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held[-1].bind(("127.0.0.1", 0))
    return held[-1].getsockname()[1]


def spawn(command, **more):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **more)  # a Ctrl-C is for us
    processes.append(process)
    return process


def wait_for(what, holds, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = holds()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"in vain for {seconds} s: {what}")


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def chroot(*command, **more):
    subprocess.run(["chroot", tree, *command], check=True, **more)


run = os.path.join(work, "run")
tree = os.path.join(work, "tree")
shutil.rmtree(run, ignore_errors=True)
shutil.rmtree(tree, ignore_errors=True)
os.makedirs(run)
door, upstream = free_port(), free_port()
log = open(f"{run}/outside.log", "wb")

try:
    # Outside: plant, broker, receiver, and a witness of all that was published upstream.
    plan = f"""
[gateway]
name = "box"
data_dir = "/var/lib/ironbridge"
time_source = "system"
[broker]
users_file = "users"
[[broker.listener]]
listen = "0.0.0.0:8883"
tls = {{ certificate = "server.crt", key = "server.key" }}
[[broker.acl]]
user = "machine"
write = ["machines/#"]
[[forward]]
filter = "machines/#"
class = "event"
[[uplink]]
name = "cloud"
url = "mqtt://10.0.2.2:{upstream}"
[[bus]]
name = "plc-net"
type = "modbus-tcp"
endpoint = "10.0.2.2:502"
[[device]]
name = "plc"
bus = "plc-net"
unit_id = 1
poll = "500ms"
"""
    plan += "".join(f'[[device.tag]]\nname = "t{n}"\naddress = "holding:{n}"\ntype = "uint16"\n' for n in range(TAGS))
    write(f"{run}/plan.toml", plan)
    spawn([ironbridge, "simulate", "--config", f"{run}/plan.toml", "--write-config", f"{run}/simulated.toml"], stdout=log, stderr=log)
    wait_for("the plant", lambda: os.path.exists(f"{run}/simulated.toml"), 30)
    lines = open(f"{run}/simulated.toml").read().splitlines()
    plant = next(line for line in lines if line.strip().startswith("endpoint")).rsplit(":", 1)[1].strip(' "')
    write(f"{run}/mosquitto.conf", f"listener {upstream} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    spawn(["mosquitto", "-c", f"{run}/mosquitto.conf"], stdout=log, stderr=log)
    wait_for("the upstream broker", lambda: not subprocess.run(["mosquitto_pub", "-p", str(upstream), "-t", "x", "-m", "x"], capture_output=True).returncode, 30)
    receiver = spawn([ironbridge, "receive", f"mqtt://127.0.0.1:{upstream}", "--client-id", "lake", "--sqlite", f"{run}/lake.sqlite"],
                     stdout=log, stderr=log)
    witness = spawn(["mosquitto_sub", "-p", str(upstream), "-t", "#", "-q", "1", "-F", "%t %p"], stdout=subprocess.PIPE, stderr=log, text=True)
    meanings, twice = {}, collections.Counter()

    def listen():
        for line in witness.stdout:
            topic, _, payload = line.rstrip("\n").partition(" ")
            try:
                record = json.loads(payload)
            except ValueError:
                continue
            if isinstance(record, dict) and {"stream", "epoch", "seq"} <= record.keys() and "gap" not in topic and "status" not in topic:
                key = (record["stream"], record["epoch"], record["seq"])
                meaning = hashlib.sha256(line.encode()).digest()[:8]
                if meanings.setdefault(key, meaning) != meaning:
                    twice[key] += 1

    threading.Thread(target=listen, daemon=True).start()

    # Inside: the package as apt installs it, its configuration, a fixed address, and a witness after each start.
    subprocess.run(["cp", "-a", root, tree], check=True)
    shutil.copy(deb, f"{tree}/var/tmp/package.deb")
    chroot("dpkg", "-i", "/var/tmp/package.deb", stdout=log, stderr=log)
    os.remove(f"{tree}/var/tmp/package.deb")
    config = f"{tree}/etc/ironbridge"
    write(f"{config}/ironbridge.toml", plan.replace("10.0.2.2:502", f"10.0.2.2:{plant}"), 0o640)
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=box",
               "-addext", "subjectAltName=DNS:box", "-keyout", f"{config}/server.key", "-out", f"{config}/server.crt"]
    subprocess.run(openssl, check=True, capture_output=True)
    shutil.copy(f"{config}/server.crt", f"{run}/ca.crt")
    chroot("ironbridge", "passwd", "/etc/ironbridge/users", "machine", input=b"a-secret-of-the-plant\n", stdout=log, stderr=log)
    chroot("sh", "-c", "chgrp -R ironbridge /etc/ironbridge && find /etc/ironbridge -type f -exec chmod 640 {} + "
           "&& systemctl enable systemd-networkd && systemctl mask serial-getty@ttyS0 serial-getty@ttyS1 getty@tty1 apt-daily.timer apt-daily-upgrade.timer",
           stdout=log, stderr=log)
    write(f"{tree}/etc/systemd/network/wire.network", "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n")
    write(f"{tree}/etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n")
    write(f"{tree}/etc/systemd/system/witness.service",
          "[Unit]\nAfter=ironbridge.service\n[Service]\nType=oneshot\nUser=ironbridge\nSupplementaryGroups=dialout\n"
          "ExecStart=/bin/sh -c 'said=$(ironbridge store verify --dir /var/lib/ironbridge 2>&1); echo \"verify $? $said\" | tr \"\\\\n\" \" \" >/dev/ttyS1; echo >/dev/ttyS1'\n"
          "[Install]\nWantedBy=multi-user.target\n")
    chroot("systemctl", "enable", "witness.service", stdout=log, stderr=log)
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{run}/base.raw", "3G"], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, f"{run}/base.raw"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", f"{run}/disk.qcow2"], check=True)
    kernel, first = (os.path.join(tree, "boot", next(name for name in os.listdir(f"{tree}/boot") if name.startswith(start)))
                     for start in ("vmlinuz-", "initrd.img-"))
    accelerator = ["-accel", "kvm", "-cpu", "host"] if os.environ.get("KVM", "") == "1" else ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]

    def boot(number):
        return spawn(["qemu-system-x86_64", *accelerator, "-machine", "q35", "-m", "512", "-smp", "2", "-display", "none", "-no-reboot", "-nodefaults",
                      "-kernel", kernel, "-initrd", first, "-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check mitigations=off "
                      "nokaslr random.trust_cpu=on systemd.show_status=no",
                      "-drive", f"file={run}/disk.qcow2,format=qcow2,if=virtio,cache=writeback",
                      "-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{door}-:8883",
                      "-serial", f"file:{run}/console-{number}.log", "-serial", f"file:{run}/witness-{number}.log"], stdout=log, stderr=log)

    sender = Sender(door, f"{run}/ca.crt", b"a-secret-of-the-plant")
    sender.start()

    def verified(number):
        """What the witness said in this life of the machine, if it came to an end."""
        path = f"{run}/witness-{number}.log"
        text = open(path, errors="replace").read() if os.path.exists(path) else ""
        return text.strip() if text.endswith("\n") else None  # half a line is none

    verdicts, problems, seed = [], [], int(os.environ.get("SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    print(f"seed {seed}; {kills} kills, {'KVM' if 'kvm' in accelerator else 'emulated'}", flush=True)
    enough, done, repeated = threading.Event(), 0, 0
    signal.signal(signal.SIGINT, lambda *_: enough.set())
    for number in range(kills + 1):
        begun, before = time.monotonic(), len(sender.acknowledged)
        for attempt in range(STARTS):
            machine = boot(number)
            wait_for(f"an acknowledgement after start {number} (see {run}/console-{number}.log)",
                     lambda: len(sender.acknowledged) > before or machine.poll() is not None, BOOT_MAX)
            if machine.poll() is None:
                break
            # The clock of the emulated board, looked at before there is a disk: no word about the product.
            console = open(f"{run}/console-{number}.log", errors="replace").read()
            assert "IO-APIC + timer" in console and attempt + 1 < STARTS, f"the machine ended by itself, see {run}/console-{number}.log"
            repeated += 1
        up = time.monotonic() - begun
        if number == kills or enough.is_set():
            break
        # From right after the first acknowledgement to well into the load, sometimes before the witness is through.
        time.sleep(chance.uniform(0, 20) ** chance.choice((0.5, 1)))
        machine.send_signal(signal.SIGKILL)
        machine.wait()
        done += 1
        verdicts.append(verified(number))
        print(f"kill {number + 1}: first acknowledgement after {up:.0f} s, {len(sender.acknowledged)} in all, store: {verdicts[-1] or 'cut before it was looked at'}",
              flush=True)
    time.sleep(5)
    sender.stop.set()
    sender.join(30)
    promised = set(sender.acknowledged)

    def arrived():
        with sqlite3.connect(f"file:{run}/lake.sqlite?mode=ro", uri=True) as lake:
            rows = lake.execute("SELECT body FROM events WHERE topic = 'machines/one/count'").fetchall()
        return [json.loads(json.loads(body)["payload"])["n"] for (body,) in rows]

    def judged():
        said = subprocess.run([ironbridge, "receive", "--report", f"{run}/lake.sqlite", "--json"], capture_output=True, text=True)
        return json.loads(said.stdout)["report"]

    try:
        wait_for("all acknowledged publishes upstream", lambda: promised <= set(arrived()), DRAIN_MAX)
        wait_for("the last look at the store", lambda: verified(number), DRAIN_MAX)
        # Samples go on coming; what was owed while the machine was up and down is through when nothing is behind the newest.
        wait_for("all that was stored upstream", lambda: judged()["outstanding"] == 0, DRAIN_MAX)
    except AssertionError as error:
        problems.append(str(error))
    verdicts.append(verified(number))
    machine.send_signal(signal.SIGKILL)
    machine.wait()
    receiver.send_signal(signal.SIGTERM)
    receiver.wait(30)

    there = collections.Counter(arrived())
    report = judged()
    lost, again = promised - there.keys(), [n for n, times in there.items() if times > 1]
    looked = [said for said in verdicts if said]
    broken = [said for said in looked if not said.startswith("verify 0")]
    print(f"{done} kills, {repeated} starts repeated: {sender.sent} publishes sent, {len(promised)} acknowledged, {len(there)} arrived, of those acknowledged {len(lost)} lost, {len(again)} twice")
    print(f"upstream: {report['received']} records, {report['missing']} missing, {report['outstanding']} still to come, {report['declared_lost']} declared lost, {report['duplicates']} duplicates, "
          f"{len(report['streams'])} epochs; {sum(twice.values())} numbers with two meanings")
    print(f"store: looked at after {len(looked)} of {done + 1} starts, {len(broken)} times not whole")
    if done < kills:
        problems.append(f"interrupted after {done} of {kills} kills")
    problems += [f"acknowledged and lost: {sorted(lost)[:20]}"] * bool(lost) + [f"arrived twice: {again[:20]}"] * bool(again)
    problems += [f"missing upstream: {report['missing']}"] * (report["missing"] > 0) + [f"two meanings: {list(twice)[:5]}"] * bool(twice)
    problems += [f"given up: {report['declared_lost']} numbers"] * (report["declared_lost"] > 0)
    problems += [f"looked at the store after {len(looked)} of {done + 1} starts only"] * (2 * len(looked) < done + 1)
    problems += [f"store not whole: {said}" for said in broken[:1]] + ["no publish was acknowledged"] * (not promised)
    for line in problems:
        print(f"FAILED  {line}")
    print("what was acknowledged is there" if not problems else f"everything is left in {run}")
    sys.exit(1 if problems else 0)
finally:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    shutil.rmtree(tree, ignore_errors=True)
