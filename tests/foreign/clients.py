#!/usr/bin/env python3
"""mosquitto's own clients, used as people use them, and the habits of MQTT Explorer, against Ironbridge. Where mosquitto is
installed the same is asked of both, and the answers must be the same: nothing is expected that it does not do itself.

usage: clients.py IRONBRIDGE      (needs mosquitto_sub, mosquitto_pub, mosquitto_rr; mosquitto if it is there)
"""
import json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, time

from bench import free_port

PATIENCE = 30
failures = []


class Broker:
    """One of the two, and its clients."""

    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        until = time.time() + PATIENCE
        while time.time() < until:
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"FAIL {name} does not come up")

    def start(self, tool, *arguments, **how):
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | how
        return subprocess.Popen([f"mosquitto_{tool}", "-h", "127.0.0.1", "-p", str(self.port), *arguments], **how)

    def run(self, tool, *arguments, text=None):
        done = self.start(tool, *arguments, **({"stdin": subprocess.PIPE} if text is not None else {}))
        said, _ = done.communicate(text, timeout=PATIENCE)
        return done.returncode, said

    def listen(self, *arguments):
        """A mosquitto_sub whose subscription stands: it sees a word said on a topic of its own."""
        word = f"ready/{os.urandom(4).hex()}"
        client = self.start("sub", "-t", word, *arguments, "-F", "%t|%p|%q|%r")
        os.set_blocking(client.stdout.fileno(), True)
        until = time.time() + PATIENCE
        prod = subprocess.Popen(["sh", "-c", f"while :; do mosquitto_pub -h 127.0.0.1 -p {self.port} -t {word} -m ready; sleep 0.1; done"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            while time.time() < until:
                line = client.stdout.readline()
                if line.startswith(word):
                    return client, word
                if not line:
                    raise SystemExit(f"FAIL {self.name}: mosquitto_sub ended with {client.wait()}")
        finally:
            os.killpg(prod.pid, signal.SIGTERM)
            prod.wait()
        raise SystemExit(f"FAIL {self.name}: mosquitto_sub hears nothing")

    def lines(self, client, word, count):
        found = []
        while len(found) < count:
            line = client.stdout.readline()
            if not line:
                break
            if not line.startswith(word):
                found.append(line.rstrip("\n"))
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


# ---------------------------------------------------------------- what people do

def retained(broker):
    for n in range(5):
        broker.run("pub", "-t", f"kept/{n}", "-m", str(n), "-r", "-q", "1")
    only = broker.run("sub", "-t", "kept/#", "--retained-only", "-W", "20", "-F", "%t %p %r")
    counted = broker.run("sub", "-t", "kept/#", "-C", "3", "-F", "%p")
    stale = broker.run("sub", "-t", "kept/#", "-R", "-W", "2")
    broker.run("sub", "-t", "kept/#", "--remove-retained", "--retained-only", "-W", "20")
    left = broker.run("sub", "-t", "kept/#", "-W", "2")
    return sorted(only[1].splitlines()), counted[0], len(counted[1].splitlines()), stale, left


def exits(broker):
    late = broker.run("sub", "-t", "nothing/here", "-W", "1")
    silent = broker.run("sub", "-t", "nothing/here", "-E", "-q", "2")
    bad = broker.run("pub", "-t", "a/+/b", "-m", "x")[0]
    return late, silent, bad


def versions(broker):
    client, word = broker.listen("-t", "versions", "-q", "2", "-V", "5")
    for version in ("31", "311", "5"):
        for qos in "012":
            broker.run("pub", "-V", version, "-i", f"v{version}{qos}", "-t", "versions", "-m", f"{version} {qos}", "-q", qos)
    lines = broker.lines(client, word, 9)
    client.terminate()
    client.wait()
    return sorted(lines)


def properties(broker):
    wanted = ["-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", "answers/here", "-D", "publish",
              "correlation-data", "c7", "-D", "publish", "payload-format-indicator", "1", "-D", "publish", "message-expiry-interval",
              "3600", "-D", "publish", "user-property", "b", "1", "-D", "publish", "user-property", "a", "2", "-D", "publish",
              "user-property", "b", "3"]
    broker.run("pub", "-V", "5", "-t", "props", "-m", "x", "-r", "-q", "1", *wanted)
    return broker.run("sub", "-V", "5", "-t", "props", "-C", "1", "-W", "20", "-D", "subscribe", "subscription-identifier", "77",
                      "-F", "%C|%R|%D|%F|%P|%S|%q|%r")


def requests(broker):
    """mosquitto_rr: a request with a response topic, and one that nobody answers."""
    found = []
    for version in ("5", "311"):
        client, word = broker.listen("-t", "question", "-q", "1")
        asked = broker.start("rr", "-V", version, "-t", "question", "-e", f"answer/{version}", "-m", "how much?", "-q", "1", "-W", "20")
        found += broker.lines(client, word, 1)
        broker.run("pub", "-V", version, "-t", f"answer/{version}", "-m", "42", "-q", "1")
        found.append((asked.communicate(timeout=PATIENCE)[0], asked.returncode))
        client.terminate()
        client.wait()
    found.append(broker.run("rr", "-V", "5", "-t", "nobody", "-e", "answer/none", "-m", "?", "-W", "1"))
    return found


def sessions(broker):
    """Somebody who comes back finds what was sent in the meantime, in order."""
    found = []
    for flags in (["-c", "-V", "311"], ["-c", "-V", "5", "-x", "3600"]):
        name = f"lasting-{flags[2]}"
        broker.run("sub", *flags, "-i", name, "-t", f"{name}/#", "-q", "2", "-E")
        text = "".join(f"{n}\n" for n in range(50))
        for qos in "12":
            broker.run("pub", "-t", f"{name}/{qos}", "-q", qos, "-l", text=text)
        said = broker.run("sub", *flags, "-i", name, "-t", f"{name}/#", "-q", "2", "-C", "100", "-W", "20", "-F", "%q %p")[1]
        found.append(said.splitlines() == [f"{qos} {n}" for qos in "12" for n in range(50)])
    return found


sessions.wanted = [True, True]  # mosquitto 2.0.11 breaks off in MQTT 5: more than Receive Maximum at once


def wills(broker):
    client, word = broker.listen("-t", "wills/#", "-q", "1")
    for n, flags in enumerate((["-V", "311"], ["-V", "5"])):
        dying, _ = broker.listen("-i", f"dying-{n}", "--will-topic", f"wills/{n}", "--will-payload", "gone", "--will-qos", "1", *flags)
        dying.kill()
        dying.wait()
    lines = broker.lines(client, word, 2)
    client.terminate()
    client.wait()
    return lines


def shared(broker):
    clients = [broker.listen("-t", "$share/group/jobs", "-q", "1", "-V", "5") for _ in range(2)]
    broker.run("pub", "-t", "jobs", "-q", "1", "-l", text="".join(f"{n}\n" for n in range(40)))
    time.sleep(1)  # for one that would come twice
    found = []
    for client, word in clients:
        client.terminate()
        found.append([line for line in client.communicate(timeout=PATIENCE)[0].splitlines() if not line.startswith(word)])
    return sorted(line for lines in found for line in lines), all(found)


def explorer(broker):
    """`#` and `$SYS/#` on one connection, as MQTT Explorer does: names only."""
    broker.run("pub", "-t", "plant/a", "-m", "1", "-r")
    names = set()
    until = time.time() + 25  # both tell their figures every ten seconds
    while time.time() < until and not any("load/messages/received/15min" in name for name in names):
        said = broker.run("sub", "-t", "#", "-t", "$SYS/#", "-W", "3", "-F", "%t")[1]
        names |= set(said.splitlines())
    return names


CHECKS = [retained, exits, versions, properties, requests, sessions, wills, shared]

# Not in ours: no allocator of ours counts.
NOT_TOLD = ("$SYS/broker/heap/",)


def main():
    if not shutil.which("mosquitto_rr"):
        print("SKIPPED clients.py: mosquitto's clients are not installed")
        return 0
    work = pathlib.Path(tempfile.mkdtemp(prefix="clients-"))
    port = free_port()
    config = work / "ironbridge.toml"
    config.write_text(f"""[gateway]
name = "judged"
topic = "gateway/{{device}}/{{tag}}"
data_dir = {json.dumps(str(work))}
[[broker.listener]]
listen = "127.0.0.1:{port}"
anonymous = "read-write"
""")
    brokers = [Broker("ours", [sys.argv[1], "run", "--config", str(config)], port)]
    mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if mosquitto:
        port = free_port()
        conf = work / "mosquitto.conf"
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        brokers.append(Broker("mosquitto", [mosquitto, "-c", str(conf)], port))
    else:
        print("SKIPPED the comparison: mosquitto is not installed")
    try:
        for check in CHECKS:
            found = [check(broker) for broker in brokers]
            same = found[0] == getattr(check, "wanted", found[-1])
            print(f"  {'ok  ' if same else 'FAIL'} {check.__name__}" + ("" if same else f"\n       ours      {found[0]}\n       mosquitto {found[1]}"))
            if not same:
                failures.append(check.__name__)
        names = [explorer(broker) for broker in brokers]
        missing = sorted(name for name in (names[1] - names[0] if mosquitto else set()) if not name.startswith(NOT_TOLD))
        told = sum(name.startswith("$SYS/") for name in names[0])
        good = not missing and told > 40 and "plant/a" in names[0]
        print(f"  {'ok  ' if good else 'FAIL'} explorer: {told} topics in $SYS; missing {missing}")
        if not good:
            failures.append("explorer")
    finally:
        for broker in brokers:
            broker.stop()
    shutil.rmtree(work)
    print(f"FAILED: {' '.join(failures)}" if failures else "PASSED")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
