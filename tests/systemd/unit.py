#!/usr/bin/env python3
"""What unit file and program promise each other, tried in a real systemd. usage: unit.py IRONBRIDGE ROOT (tests/systemd/run)"""
import json, re, sys, time

from machine import CannotBoot, Machine

UNIT = "ironbridge.service"
CONFIG = "/etc/ironbridge/ironbridge.toml"
MATCH = f"_SYSTEMD_UNIT={UNIT} SYSLOG_IDENTIFIER=ironbridge"
TAGS = 400

binary, root = sys.argv[1:3]
failures = []


def plan():
    """A busy bus, one whose device is dead, and a serial line that is not there."""
    text = f"""
[gateway]
name = "box"
data_dir = "/var/lib/ironbridge"
[[broker.listener]]
listen = "127.0.0.1:1883"
anonymous = "read"
[[bus]]
name = "plc-net"
type = "modbus-tcp"
endpoint = "10.0.0.1:502"
[[bus]]
name = "far-net"
type = "modbus-tcp"
endpoint = "10.0.0.2:502"
[[device]]
name = "dead"
bus = "far-net"
unit_id = 9
poll = "200ms"
[[device.tag]]
name = "x"
address = "holding:0"
type = "uint16"
[[device]]
name = "busy"
bus = "plc-net"
unit_id = 1
poll = "50ms"
"""
    return text + "".join(f'[[device.tag]]\nname = "t{n}"\naddress = "holding:{n}"\ntype = "uint16"\n' for n in range(TAGS))


SERIAL = """
[[bus]]
name = "rs485-1"
type = "modbus-rtu"
port = "/dev/ttyS77"
serial = "19200-8E1"
[[device]]
name = "meter"
bus = "rs485-1"
unit_id = 1
[[device.tag]]
name = "power"
address = "holding:0"
type = "uint16"
"""


def prove(name):
    def decorate(f):
        try:
            said = f()
            print(f"ok      {name}" + (f": {said}" if said else ""), flush=True)
        except Exception as error:  # every kind is a failure of this proof, and the next is tried
            failures.append(name)
            print(f"FAILED  {name}: {error}", flush=True)
        return f
    return decorate


def pid():
    return m.show(UNIT, "MainPID")


def up_again(before):
    m.wait_for("another process that is ready", lambda: m.show(UNIT, "ActiveState") == "active" and pid() not in ("0", before))


def newest():
    """The last number of the stream telemetry."""
    status = json.loads(m.run("ironbridge store status --json --dir /var/lib/ironbridge").stdout)
    return max([stream["last"] for stream in status["streams"] if stream["stream"] == "telemetry"] + [0])


def verify():
    verdict = m.run("ironbridge store verify --dir /var/lib/ironbridge", check=False)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


try:
    m = Machine(root, {binary: "/usr/bin/ironbridge", "systemd": "/srv/systemd", "tests/systemd": "/srv/tests"})
except CannotBoot as why:
    print(f"SKIPPED the unit in a real systemd: no container can be booted here: {why}")
    sys.exit(0)

try:
    @prove("user, directories and unit are installed without a complaint")
    def _():
        m.run("""cp /srv/systemd/ironbridge.service /usr/lib/systemd/system/
            cp /srv/systemd/ironbridge.sysusers /usr/lib/sysusers.d/ironbridge.conf
            cp /srv/systemd/ironbridge.tmpfiles /usr/lib/tmpfiles.d/ironbridge.conf
            systemd-sysusers && systemd-tmpfiles --create ironbridge.conf && systemctl daemon-reload""")
        assert "dialout" in m.run("id -nG ironbridge").stdout
        assert m.run("stat -c %a:%U:%G /etc/ironbridge").stdout.strip() == "2750:root:ironbridge"
        said = m.run(f"systemd-analyze verify --man=no {UNIT} 2>&1; true").stdout
        assert said.strip() == "", said
        level = m.run(f"systemd-analyze security --threshold=13 {UNIT} 2>&1 | tail -n 1").stdout
        assert "1.3" in level, level
        return level.strip(" →\n")

    @prove("the examples of drop-ins are understood")
    def _():
        place = f"/run/systemd/system/{UNIT}.d"
        m.run(f"mkdir -p {place} && cp /srv/systemd/drop-ins/*.conf {place}/ && rm {place}/restart-steps.conf")  # needs systemd 254
        said = m.run(f"systemd-analyze verify --man=no {UNIT} 2>&1; rm -r {place}").stdout
        assert said.strip() == "", said

    # The plant: simulated in the same machine.
    m.write("/srv/plan.toml", plan())
    m.run("systemd-run --quiet --unit plant ironbridge simulate --config /srv/plan.toml --write-config /srv/simulated.toml --dead dead")
    m.wait_for("the simulated plant", lambda: m.run(f"cp /srv/simulated.toml {CONFIG}", check=False).returncode == 0, 20)
    m.write("/etc/ironbridge/ironbridge.d/serial.toml", SERIAL)
    m.run("chgrp -R ironbridge /etc/ironbridge")

    @prove("ready means that local clients are served")
    def _():
        m.run(f"systemctl start {UNIT}")
        m.run("python3 -c \"import socket; socket.create_connection(('127.0.0.1', 1883), 1)\"")
        state = m.show(UNIT, "ActiveState", "StatusText", "WatchdogUSec")
        assert state["ActiveState"] == "active" and state["WatchdogUSec"] == "1min", state
        m.wait_for("a status", lambda: "3 devices on 3 buses" in m.show(UNIT, "StatusText"))
        return m.show(UNIT, "StatusText")

    @prove("the process has no rights to give away")
    def _():
        status = dict(line.split(":", 1) for line in m.run(f"cat /proc/{pid()}/status").stdout.splitlines())
        assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1", status
        assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")), status
        assert m.run(f"stat -c %U /proc/{pid()}").stdout.strip() == "ironbridge"

    @prove("what an intruder would try is denied")
    def _():
        unit = m.run(f"cat /usr/lib/systemd/system/{UNIT}").stdout
        unit = re.sub(r"(?m)^(ExecStart)=.*$", r"\1=/usr/bin/python3 /srv/tests/probe.py", unit)
        unit = re.sub(r"(?m)^(Type=notify|WatchdogSec|ExecReload|Restart\w*|NotifyAccess|RuntimeDirectory\w*)\b.*$", "", unit)
        m.write("/etc/systemd/system/probe.service", unit.replace("[Service]", "[Service]\nType=oneshot"))
        m.run("systemctl daemon-reload")
        m.run("systemctl start probe; true")
        said = [entry["MESSAGE"] for entry in m.journal("_SYSTEMD_UNIT=probe.service")]
        assert said == ["nothing"], said

    @prove("a local program comes in by a socket of its own group, which reads nothing of the gateway's")
    def _():
        m.write("/etc/ironbridge/ironbridge.d/local.toml", '[[broker.listener]]\nlisten = "unix:/run/ironbridge-clients/mqtt.sock"\n')
        m.run(f"chgrp ironbridge /etc/ironbridge/ironbridge.d/local.toml && systemctl reload {UNIT}")
        place = "/run/ironbridge-clients/mqtt.sock"
        m.wait_for("the socket", lambda: m.run(f"stat -c %a:%U:%G {place}", check=False).stdout.strip() == "660:ironbridge:ironbridge-clients")
        m.run("useradd --system member --groups ironbridge-clients; useradd --system stranger; true")
        come = f"python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{place}\")'"
        codes = {who: [m.run(f"setpriv --reuid {who} --regid {who} --init-groups {what}", check=False).returncode for what in (come, "ls /etc/ironbridge")]
                 for who in ("member", "stranger")}
        m.run(f"rm /etc/ironbridge/ironbridge.d/local.toml && systemctl reload {UNIT}")
        assert codes["member"][0] == 0 and 0 not in codes["member"][1:] + codes["stranger"], codes

    @prove("fields and priorities survive in the journal")
    def _():
        line = m.wait_for("a warning of the bus", lambda: m.journal(f"{MATCH} BUS=rs485-1 -p warning"))
        assert line[0]["PRIORITY"] == "4" and line[0]["MESSAGE"].startswith("bus has no connection"), line[0]
        assert "ERROR" in line[0] and line[0]["SYSLOG_IDENTIFIER"] == "ironbridge", line[0]
        started = m.journal(f"{MATCH} GATEWAY=box")
        assert started and started[0]["PRIORITY"] == "6" and started[0]["TAGS"] == str(TAGS + 2), started
        assert not m.journal(f"{MATCH} BUS=rs485-1 -p err"), "a missing port is no error of ours"

    @prove("what goes on is not logged again and again")
    def _():
        # A dead device is asked all the time, a missing port opened all the time, thousands of values come.
        time.sleep(15)
        since = m.run("date +%s").stdout.strip()
        time.sleep(20)
        lines = [entry["MESSAGE"] for entry in m.journal(f"{MATCH} --since @{since}")]
        assert len(lines) <= 4, lines
        return f"{len(lines)} lines in 20 s"

    @prove("a journal that was restarted goes on with fields and all")
    def _():
        m.run("systemctl restart systemd-journald && systemctl reload ironbridge.service")
        told = m.wait_for("a line", lambda: m.journal(f"{MATCH} AUDIT=access_reloaded"))
        assert told[-1]["PRIORITY"] == "6" and told[-1]["RULES"] == "0", told

    @prove("a journal that stands still holds neither clients nor a reload up, and gets every line when it goes on")
    def _():
        m.write(f"/etc/systemd/system/{UNIT}.d/loud.conf", "[Service]\nEnvironment=RUST_LOG=ironbridge=debug\n")
        m.run(f"systemctl daemon-reload && systemctl restart {UNIT}")
        since = m.run("date +%s").stdout.strip()
        m.run("systemctl kill -s STOP systemd-journald")
        try:
            time.sleep(20)  # some hundred polls, each with its line; the socket of the journal holds fewer
            begun = newest()
            for _ in range(3):
                m.run(f"kill -HUP {pid()}; timeout 10 ironbridge reload", timeout=20)
                m.run("python3 -c \"import socket; s = socket.create_connection(('127.0.0.1', 1883), 5); s.settimeout(5); "
                      "s.sendall(bytes.fromhex('100d00044d5154540402003c000161')); assert s.recv(4)[3] == 0\"")
            m.wait_for("more samples", lambda: newest() > begun)
        finally:
            m.run("systemctl kill -s CONT systemd-journald")
        m.run(f"rm /etc/systemd/system/{UNIT}.d/loud.conf; systemctl daemon-reload")
        reloads = lambda: m.journal(f"{MATCH} _PID={pid()} AUDIT=access_reloaded")
        m.wait_for("a line of every reload", lambda: len(reloads()) >= 3)
        assert reloads()[-1]["PRIORITY"] == "6", reloads()
        lines = [entry["MESSAGE"] for entry in m.journal(f"{MATCH} --since @{since}")]
        assert len(lines) > 200 and not [line for line in lines if "lines are lost" in line], len(lines)
        m.run(f"systemctl restart {UNIT}")
        return f"{len(lines)} lines"

    @prove("a restart within a boot keeps the boot's token")
    def _():
        before, token = pid(), m.run("cat /run/ironbridge/boot-token").stdout
        m.run(f"systemctl restart {UNIT}")
        assert pid() != before and len(token) == 32 and m.run("cat /run/ironbridge/boot-token").stdout == token, token

    @prove("kill -9 starts it again, with a store that is whole")
    def _():
        before = pid()
        m.run(f"kill -9 {before}")
        up_again(before)
        assert m.show(UNIT, "NRestarts") == "1"
        verify()

    @prove("a process that stands still is killed by the watchdog and started again")
    def _():
        m.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", "[Service]\nWatchdogSec=6s\n")
        m.run(f"systemctl daemon-reload && systemctl restart {UNIT}")
        before, begun = pid(), time.monotonic()
        time.sleep(10)
        assert pid() == before, "it is fed in time"
        m.run(f"kill -STOP {before}")
        up_again(before)
        told = [entry["MESSAGE"] for entry in m.journal(f"UNIT={UNIT}")]
        assert any("Watchdog timeout" in line for line in told), told[-5:]
        assert any("result 'watchdog'" in line for line in told), told[-5:]
        m.run(f"rm /etc/systemd/system/{UNIT}.d/quick.conf && systemctl daemon-reload && systemctl restart {UNIT}")

    @prove("credentials come by drop-in, and nobody else can read them")
    def _():
        m.run("printf 'one-secret\\n' | ironbridge passwd /srv/users hmi")
        m.write("/etc/ironbridge/ironbridge.d/users.toml", '[broker]\nusers_file = "$CREDENTIALS_DIRECTORY/users"\n')
        m.write(f"/etc/systemd/system/{UNIT}.d/credentials.conf", "[Service]\nLoadCredential=users:/srv/users\n")
        m.run(f"systemctl daemon-reload && systemctl restart {UNIT}")
        read = m.wait_for("the users", lambda: m.journal(f"{MATCH} USERS=1"))
        assert read[-1]["MESSAGE"].startswith("users file read"), read
        hidden = m.run(f"setpriv --reuid=65534 --regid=65534 --clear-groups cat /run/credentials/{UNIT}/users", check=False)
        assert hidden.returncode != 0, hidden.stdout

    @prove("a reload is waited for, and a bad file changes nothing")
    def _():
        before = pid()
        m.write("/etc/ironbridge/ironbridge.d/acl.toml", '[[broker.acl]]\nuser = "hmi"\nread = ["#"]\n')
        m.run(f"systemctl reload {UNIT}")
        m.wait_for("the new rules", lambda: m.journal(f"{MATCH} AUDIT=access_reloaded RULES=1"))
        m.wait_for("ready again", lambda: m.show(UNIT, "ActiveState") == "active")
        m.write("/etc/ironbridge/ironbridge.d/acl.toml", '[[broker.acl]]\nuzer = "hmi"\n')
        assert m.run(f"systemctl reload {UNIT}", check=False).returncode != 0, "a wrong file is a reload that failed"
        refused = m.wait_for("the refusal", lambda: m.journal(f"{MATCH} -p err -g 'reload refused'"))
        assert "uzer" in refused[-1]["PROBLEM"], refused
        assert pid() == before and m.show(UNIT, "ActiveState") == "active"

    @prove("a configuration that is wrong is not tried again and again")
    def _():
        before = m.show(UNIT, "NRestarts")
        m.run(f"kill -9 {pid()}")  # the file is still the bad one
        m.wait_for("the end", lambda: m.show(UNIT, "ActiveState") == "failed")
        time.sleep(4)
        state = m.show(UNIT, "ActiveState", "ExecMainStatus", "NRestarts", "Result")
        assert state["ExecMainStatus"] == "78" and state["ActiveState"] == "failed", state
        assert int(state["NRestarts"]) <= int(before) + 1, state
        said = [entry for entry in m.journal(f"_SYSTEMD_UNIT={UNIT} _TRANSPORT=stdout") if "acl.toml" in entry["MESSAGE"]]
        assert said and said[-1]["PRIORITY"] == "3", f"the reason stands in the journal, as an error: {said}"
        m.run(f"rm /etc/ironbridge/ironbridge.d/acl.toml; systemctl start {UNIT}")

    @prove("a program that ends badly again and again begins later each time")
    def _():
        m.run(f"systemctl restart {UNIT}")
        for _ in range(3):
            before = pid()
            m.run(f"kill -9 {before}")
            m.wait_for("the next process", lambda: pid() not in ("0", before) and m.journal(f"{MATCH} _PID={pid()}"))
        waits = m.wait_for("a pause", lambda: m.journal(f"{MATCH} SECONDS=2 -p warning"))
        assert "waiting before the next start" in waits[-1]["MESSAGE"], waits
        m.wait_for("the start", lambda: m.show(UNIT, "ActiveState") == "active")
        m.run(f"systemctl restart {UNIT}")
        assert m.run("cat /run/ironbridge/short-lives").stdout.startswith("0 "), "an orderly end is none of them"

    @prove("a stop under load loses nothing and is in time")
    def _():
        m.wait_for("some load", lambda: newest() > 20_000, 120)
        begun = time.monotonic()
        m.run(f"systemctl stop {UNIT}")
        took = time.monotonic() - begun
        state = m.show(UNIT, "Result", "ExecMainStatus", "ActiveState", "NRestarts")
        assert (state["Result"], state["ExecMainStatus"], state["ActiveState"]) == ("success", "0", "inactive"), state
        said = m.journal(f"{MATCH} CLASS=telemetry -g 'everything polled is committed'")[-1]
        assert newest() == int(said["SEQ"]), (newest(), said)
        verify()
        return f"{said['SEQ']} records, stopped in {took:.1f} s"

    @prove("a disk that comes late, or goes for a moment, brings the gateway with it")
    def _():
        mount = "var-lib-ironbridge.mount"
        m.write(f"/run/systemd/system/{mount}", "[Unit]\nBindsTo=disk.service\nAfter=disk.service\n"
                "[Mount]\nWhat=/srv/disk/data\nWhere=/var/lib/ironbridge\nType=none\nOptions=bind\n")
        m.write("/run/systemd/system/disk.service", "[Unit]\nConditionPathExists=/srv/disk\n[Service]\nType=exec\nExecStart=sleep infinity\n")
        m.run(f"systemctl daemon-reload && systemctl enable {UNIT}")
        assert m.run(f"systemctl start {UNIT}", check=False).returncode != 0 and m.show(UNIT, "ActiveState") != "active"
        m.run(f"install -d -o ironbridge -g ironbridge -m 750 /srv/disk/data && systemctl start {mount}")
        m.wait_for("the gateway after a late disk", lambda: m.show(UNIT, "ActiveState") == "active")
        assert m.run("ls /srv/disk/data/store").stdout, "its data lie on the disk"
        m.run("systemctl kill -s KILL disk.service")
        m.wait_for("the end of its mount", lambda: m.show(mount, "ActiveState") != "active" and m.show(UNIT, "ActiveState") != "active")
        m.run(f"systemctl reset-failed; systemctl start {mount}")
        m.wait_for("the gateway after the disk is back", lambda: m.show(UNIT, "ActiveState") == "active")
        m.run(f"systemctl stop {UNIT} {mount} disk.service; systemctl disable {UNIT}; rm /run/systemd/system/{mount} /run/systemd/system/disk.service; systemctl daemon-reload")

except KeyboardInterrupt:
    failures.append("interrupted")
finally:
    m.end()

print(f"{len(failures)} of the proofs failed" if failures else "unit and program keep what they promise each other")
sys.exit(1 if failures else 0)
