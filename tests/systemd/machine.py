"""A Debian machine with a real systemd and journald, thrown away at the end: systemd-nspawn with an overlay in memory and a
network of its own that has nothing but loopback."""
import json, os, signal, subprocess, tempfile, time


class CannotBoot(Exception):
    pass


class Machine:
    def __init__(self, root, binds):
        """binds: {path here: path there}, read only."""
        self.log = tempfile.TemporaryFile()
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--volatile=overlay",
                   "--machine=ironbridge-test", f"--directory={root}", "--boot"]
        command += [f"--bind-ro={here}:{there}" for here, there in binds.items()]
        self.nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.leader = None
        try:
            self.wait_for("a booted systemd", self._is_up, 120)
        except CannotBoot:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace").strip().splitlines()[-3:]
            raise CannotBoot(" / ".join(said) or "it ended without a word")
        except BaseException:
            self.end()
            raise

    def _is_up(self):
        if self.nspawn.poll() is not None:
            raise CannotBoot("it ended")
        # Looked up anew each time: the first child is only a step on the way to the machine's systemd.
        children = open(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read().split()
        self.leader = children[0] if children else None
        return self.leader and self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def run(self, script, check=True, timeout=180):
        """A shell command in the machine."""
        inside = ["nsenter", "-t", self.leader, "-m", "-u", "-i", "-n", "-p", "--", "env", "-i", "PATH=/usr/bin:/usr/sbin", "LC_ALL=C"]
        # In a group of its own: `kill 0` in there would be the end of whoever tests.
        done = subprocess.run([*inside, "sh", "-c", script], capture_output=True, text=True, timeout=timeout, start_new_session=True)
        if check and done.returncode:
            raise AssertionError(f"{script}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path, text, mode="644"):
        inside = ["nsenter", "-t", self.leader, "-m", "--", "sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode} {path}"]
        subprocess.run(inside, input=text, text=True, check=True)

    def show(self, unit, *properties):
        lines = self.run(f"systemctl show {unit} -p {','.join(properties)}").stdout.splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return values[properties[0]] if len(properties) == 1 else values

    def journal(self, matches):
        """Entries as dictionaries."""
        lines = self.run(f"journalctl --sync; journalctl -o json --no-pager {matches}").stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @staticmethod
    def wait_for(what, holds, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = holds()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"in vain for {seconds} s: {what}")

    def end(self):
        if self.nspawn.poll() is None:
            self.nspawn.send_signal(signal.SIGTERM)  # powers it off
            try:
                self.nspawn.wait(20)
            except subprocess.TimeoutExpired:
                if self.leader:
                    os.kill(int(self.leader), signal.SIGKILL)
                self.nspawn.kill()
                self.nspawn.wait()
