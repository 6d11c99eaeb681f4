#!/usr/bin/env python3
"""What a Debian user expects of the package, tried in a real Debian 12. usage: install.py FIRST.deb SECOND.deb ROOT (tests/package/run)"""
import json, os, sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "systemd"))
from machine import CannotBoot, Machine

UNIT = "ironbridge.service"
CONFIG = "/etc/ironbridge/ironbridge.toml"
RSS_MAX = 20_000  # kB, idle
# apt as it is, but without a network: what is only recommended is not there.
APT = "DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 --no-install-recommends -y -q"

first, second, root = sys.argv[1:4]
failures = []

PLANT = """
[gateway]
name = "box"
[[bus]]
name = "plc-net"
type = "modbus-tcp"
endpoint = "10.0.0.1:502"
[[device]]
name = "pump-1"
bus = "plc-net"
unit_id = 1
poll = "200ms"
[[device.tag]]
name = "pressure"
address = "holding:100"
type = "float32"
unit = "bar"
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


def state():
    return m.show(UNIT, "ActiveState")


def get(path):
    """Status and body of a page."""
    script = f"""
import urllib.request, urllib.error
try:
    answer = urllib.request.urlopen('http://127.0.0.1:8080{path}', timeout=5)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
"""
    done = m.run(f'python3 -c "{script}"', check=False).stdout.split("\n", 1)
    return (int(done[0]), done[1].strip()) if len(done) == 2 else (0, "")


def values():
    """What a local client gets who subscribes to everything of the pump."""
    done = m.run("python3 /srv/tests/retained.py 'box/#'", check=False)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def good():
    return json.loads(values().get("box/pump-1/pressure", "{}")).get("quality") == "good"


def newest():
    status = json.loads(m.run("ironbridge store status --json --dir /var/lib/ironbridge").stdout)
    return max([stream["last"] for stream in status["streams"] if stream["stream"] == "telemetry"] + [0])


try:
    m = Machine(root, {os.path.dirname(first): "/srv/deb", "tests/package": "/srv/tests"})
except CannotBoot as why:
    print(f"SKIPPED the package in a real Debian: no container can be booted here: {why}")
    sys.exit(0)
first, second = (f"/srv/deb/{os.path.basename(path)}" for path in (first, second))

try:
    @prove("it is installed, enabled, started, and serves this machine only")
    def _():
        said = m.run(f"{APT} install {first} 2>&1").stdout
        assert "arning" not in said.replace("debconf: delaying", "") and "rror" not in said, said
        m.wait_for("a gateway that is ready", lambda: state() == "active", 30)
        assert m.run(f"systemctl is-enabled {UNIT}").stdout.strip() == "enabled"
        assert get("/health")[0] == 200, get("/health")
        assert "<html" in get("/")[1].lower()
        listening = {line.split()[1] for line in m.run("cat /proc/net/tcp /proc/net/tcp6").stdout.splitlines() if " 0A " in line}
        doors = sorted((address[:-5], int(address[-4:], 16)) for address in listening)
        assert doors == [("0100007F", 1883), ("0100007F", 8080)], doors

    @prove("owners and modes keep others out")
    def _():
        modes = m.run(f"stat -c '%a %U:%G' /etc/ironbridge {CONFIG} /var/lib/ironbridge").stdout.split("\n")[:3]
        assert modes == ["2750 root:ironbridge", "640 root:ironbridge", "750 ironbridge:ironbridge"], modes
        assert "dialout" in m.run("id -nG ironbridge").stdout

    @prove("manual, completions, examples and bill of materials are there")
    def _():
        for path in ("man/man1/ironbridge.1.gz", "man/man5/ironbridge.toml.5.gz", "bash-completion/completions/ironbridge",
                     "zsh/vendor-completions/_ironbridge", "fish/vendor_completions.d/ironbridge.fish",
                     "doc/ironbridge/examples/ironbridge.toml", "doc/ironbridge/examples/drop-ins/serial.conf",
                     "doc/ironbridge/ironbridge.cdx.json", "doc/ironbridge/copyright", "doc/ironbridge/NOTICES.gz", "doc/ironbridge/changelog.gz"):
            m.run(f"test -s /usr/share/{path}")
        m.run("ironbridge check --config /usr/share/doc/ironbridge/examples/pump-station.toml && dpkg --verify ironbridge")

    @prove(f"idle it takes less than {RSS_MAX} kB")
    def _():
        taken = int(m.run(f"grep VmRSS /proc/{pid()}/status").stdout.split()[1])
        assert taken < RSS_MAX, f"{taken} kB"
        return f"{taken} kB"

    @prove("one file edited, one restart: values over MQTT and on the page")
    def _():
        m.write("/srv/plant.toml", PLANT)
        m.run("systemd-run --quiet --unit plant ironbridge simulate --config /srv/plant.toml --write-config /srv/simulated.toml")
        m.wait_for("the simulated plant", lambda: m.run("test -s /srv/simulated.toml", check=False).returncode == 0, 20)
        m.run(f"grep -v '^data_dir' /srv/simulated.toml > {CONFIG} && ironbridge check && systemctl restart {UNIT}")
        m.wait_for("a good value over MQTT", good, 30)
        tags = json.loads(get("/api/tags?device=pump-1")[1])["tags"]
        assert [(tag["tag"], tag["quality"], tag["unit"]) for tag in tags] == [("pressure", "good", "bar")], tags
        return values()["box/pump-1/pressure"]

    @prove("a reload goes on polling, and a wrong file changes nothing")
    def _():
        before = pid()
        m.run(f"systemctl reload {UNIT}")
        m.run(f"cp {CONFIG} /srv/right.toml && echo 'nonsense = 1' >> {CONFIG}")
        assert m.run(f"systemctl reload {UNIT}", check=False).returncode != 0, "it is told that the file is wrong"
        m.wait_for("the refusal", lambda: m.journal(f"_SYSTEMD_UNIT={UNIT} -p err -g 'reload refused'"))
        assert pid() == before and good()
        m.run(f"cat /srv/right.toml > {CONFIG} && systemctl reload {UNIT}")

    @prove("an upgrade keeps configuration and samples, and runs the new program")
    def _():
        before, kept, number = pid(), m.run(f"md5sum {CONFIG}; stat -c '%a %U:%G' {CONFIG}").stdout, newest()
        m.run(f"{APT} install {second}")
        m.wait_for("the new process", lambda: state() == "active" and pid() not in ("0", before))
        assert m.run(f"md5sum {CONFIG}; stat -c '%a %U:%G' {CONFIG}").stdout == kept
        m.wait_for("newer samples in the same store", lambda: newest() > number and good(), 30)
        verdict = m.run("ironbridge store verify --dir /var/lib/ironbridge", check=False)
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr

    @prove("an upgrade over a configuration that is wrong leaves the running program alone, and says so")
    def _():
        before = pid()
        m.run(f"cp {CONFIG} /srv/right.toml && echo 'nonsense = 1' >> {CONFIG}")
        told = m.run(f"{APT} --reinstall install {second}")
        assert "NOT RESTARTED" in told.stdout + told.stderr and "nonsense" in told.stdout + told.stderr, told
        assert (pid(), state()) == (before, "active")
        m.run(f"cat /srv/right.toml > {CONFIG} && systemctl restart {UNIT}")
        m.wait_for("good values again", good, 30)

    @prove("so does one over a file that only root may read, which the gateway could not start with")
    def _():
        before, fragment = pid(), "/etc/ironbridge/ironbridge.d/site.toml"
        m.run(f"mkdir -p {os.path.dirname(fragment)}")
        m.write(fragment, "[[device]]\nname = 'pump-2'\nbus = 'plc-net'\nunit_id = 2\n"
                "[[device.tag]]\nname = 'x'\naddress = 'holding:0'\ntype = 'uint16'\n", mode="600")
        m.run("ironbridge check")  # right for root, that is
        told = m.run(f"{APT} --reinstall install {second}")
        assert "NOT RESTARTED" in told.stdout + told.stderr and fragment in told.stdout + told.stderr, told
        assert (pid(), state()) == (before, "active")
        m.run(f"rm -r {os.path.dirname(fragment)} && {APT} --reinstall install {second}")
        m.wait_for("the new process, and good values", lambda: pid() not in ("0", before) and good(), 30)

    @prove("who disabled it is not overruled by an upgrade")
    def _():
        m.run(f"systemctl disable --now {UNIT} && {APT} --reinstall install {second}")
        assert m.run(f"systemctl is-enabled {UNIT}", check=False).stdout.strip() == "disabled"
        assert state() == "inactive", state()
        m.run(f"systemctl enable --now {UNIT}")

    @prove("remove stops it, and leaves configuration and samples")
    def _():
        number = newest()
        m.run(f"{APT} remove ironbridge")
        assert m.run("pidof ironbridge", check=False).stdout.split() == [m.show("plant", "MainPID")], "only the simulated plant is left"
        m.run(f"test -s {CONFIG} && test ! -e /usr/bin/ironbridge && test ! -e /usr/lib/systemd/system/{UNIT}")
        m.run(f"{APT} install {first}")
        m.wait_for("a gateway that goes on where it was", lambda: state() == "active" and newest() > number, 30)

    @prove("a factory reset makes it as it was delivered, credentials too, and does not say so while a secret stays")
    def _():
        secrets, drop_ins = "/etc/ironbridge/secrets", f"/etc/systemd/system/{UNIT}.d"
        m.run(f"mkdir -p {secrets} {drop_ins} && cp {CONFIG} /srv/used.toml && cp {CONFIG} {CONFIG}~ && touch /etc/ironbridge/gw.crt")
        m.write(f"{secrets}/gateway.key", "owner's key")
        m.write("/srv/cloud.password", "owner's password")
        m.write(f"{drop_ins}/credentials.conf", f"[Service]\nLoadCredential=gateway.key:{secrets}/gateway.key\n")
        m.write(f"{drop_ins}/lent.conf", "[Service]\nLoadCredential=cloud.password:/srv/cloud.password\n")
        m.write("/srv/cloud.toml", "[[uplink]]\nname = 'cloud'\nurl = 'mqtts://127.0.0.1:1'\ncertificate = '../gw.crt'\nusername = 'box'\n"
                "key = '$CREDENTIALS_DIRECTORY/gateway.key'\npassword_file = '$CREDENTIALS_DIRECTORY/cloud.password'\n")
        m.run(f"mkdir -p /etc/ironbridge/ironbridge.d && cp /srv/cloud.toml /etc/ironbridge/ironbridge.d/cloud.toml && systemctl daemon-reload")
        reset = lambda: m.run("ironbridge factory-reset --yes 2>&1", check=False)
        told = reset()
        assert told.returncode == 75 and "running" in told.stdout, told.stdout
        m.run(f"systemctl stop {UNIT}")
        told = reset()
        assert told.returncode == 1 and "done" not in told.stdout.splitlines(), told.stdout
        for stays in ("/srv/cloud.password", f"{drop_ins}/lent.conf", f"{CONFIG}~"):
            assert f"stays  {stays} (" in told.stdout, told.stdout
        m.run(f"test ! -e {secrets}/gateway.key && test ! -e {drop_ins}/credentials.conf && test ! -e /etc/ironbridge/gw.crt")
        m.run(f"rm /srv/cloud.password {drop_ins}/lent.conf {CONFIG}~")
        told = reset()
        assert told.returncode == 0 and told.stdout.splitlines()[-1] == "done", told.stdout
        m.run(f"cmp {CONFIG} /usr/share/ironbridge/ironbridge.toml && rmdir {drop_ins} {secrets} /etc/ironbridge/ironbridge.d")
        assert m.run(f"stat -c '%a %U:%G' {CONFIG}").stdout.strip() == "640 root:ironbridge"
        assert m.run("find /etc/ironbridge /var/lib/ironbridge -type f").stdout.split() == [CONFIG]
        m.run(f"systemctl daemon-reload && systemctl start {UNIT}")
        m.wait_for("a gateway as on its first day", lambda: state() == "active" and get("/health")[0] == 200, 30)

    @prove("purge leaves nothing but the user")
    def _():
        m.run("touch /etc/ironbridge/server.key; systemctl stop plant")
        m.run(f"{APT} purge ironbridge")
        left = m.run("find / -xdev \\( -path /proc -o -path /sys -o -path /srv -o -path /var/log \\) -prune -o -iname '*ironbridge*' -print").stdout
        assert left.strip() == "", left
        assert m.run(f"systemctl show {UNIT} -p LoadState --value").stdout.strip() in ("not-found", ""), "the unit"
        assert "ironbridge" in m.run("getent passwd ironbridge").stdout
        assert m.run("dpkg -l ironbridge", check=False).returncode != 0

    @prove("purge touches neither a data disk nor what is behind a link, and says so")
    def _():
        drop_ins, examples = f"/etc/systemd/system/{UNIT}.d", "/usr/share/doc/ironbridge/examples/drop-ins"
        m.run(f"{APT} install {first} && systemctl stop {UNIT}")
        m.run(f"mkdir -p {drop_ins} /data/ironbridge /srv/linked && touch /data/ironbridge/tail /srv/linked/tail")
        m.run(f"cp {examples}/data-disk.conf {drop_ins}/ && rm -rf /var/lib/ironbridge && ln -s /srv/linked /var/lib/ironbridge")
        told = m.run(f"{APT} purge ironbridge 2>&1").stdout
        for place in ("/data/ironbridge", "/srv/linked", drop_ins):
            assert f"LEFT: {place};" in told, told
        m.run("test -e /data/ironbridge/tail && test -e /srv/linked/tail && test ! -e /etc/ironbridge")

    @prove("purge touches no disk that is mounted at or below the directory of the samples, and says so")
    def _():
        samples = "/var/lib/ironbridge"
        for disk in (samples, f"{samples}/store"):
            m.run(f"rm -rf {samples}; {APT} install {first} && systemctl stop {UNIT}")
            m.run(f"mkdir -p {disk} && mount -t tmpfs disk {disk} && touch {disk}/tail {samples}/beside")
            told = m.run(f"{APT} purge ironbridge 2>&1").stdout
            assert f"LEFT: {samples};" in told, told
            m.run(f"test -e {disk}/tail && test ! -e /etc/ironbridge")
            beside = m.run(f"test -e {samples}/beside", check=False).returncode == 0
            assert beside == (disk == samples), m.run(f"ls -lR {samples}").stdout  # of what is not on the disk nothing stays
            m.run(f"umount {disk}")

except KeyboardInterrupt:
    failures.append("interrupted")
finally:
    m.end()

print(f"{len(failures)} of the proofs failed" if failures else "the package does what a Debian user expects")
sys.exit(1 if failures else 0)
