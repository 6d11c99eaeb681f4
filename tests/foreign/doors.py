#!/usr/bin/env python3
"""Every door of the broker, opened with tools that are not ours: mosquitto_pub and _sub, openssl s_client, curl, paho, MQTT.js.

usage: doors.py IRONBRIDGE        (needs openssl and mosquitto-clients; pip: paho-mqtt; curl; node and npm for MQTT.js)

What is not there is SKIPPED, visibly.
"""
import os, shutil, signal, socket, ssl, stat, subprocess, sys, tempfile, time

from crowd import modules, mqtt_js, paho
from bench import check, free_port, verdict, wait_port

USER, PASSWORD = "hmi", "pass word"
JS_PASSWORD = "plain"


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def authority(work, name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650", "-subj", f"/CN={name}",
            "-keyout", f"{work}/{name}.key", "-out", f"{work}/{name}.crt")


def certificate(work, by, name, common_name, days=365, server=False, rsa=False):
    kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    openssl("req", "-newkey", *kind, "-nodes", "-subj", f"/CN={common_name}", "-keyout", f"{work}/{name}.key", "-out", f"{work}/{name}.csr")
    with open(f"{work}/{name}.ext", "w") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n" if server else "extendedKeyUsage=clientAuth\n")
    openssl("x509", "-req", "-in", f"{work}/{name}.csr", "-CA", f"{work}/{by}.crt", "-CAkey", f"{work}/{by}.key", "-CAcreateserial",
            "-days", str(days), "-extfile", f"{work}/{name}.ext", "-out", f"{work}/{name}.crt")
    os.chmod(f"{work}/{name}.key", 0o600)


def config(work, ports):
    tls = 'certificate = "server.crt", key = "server.key"'
    return f"""
[gateway]
name = "doors"
data_dir = "{work}/data"
[broker]
users_file = "users"
[[broker.listener]]
listen = "127.0.0.1:{ports['mqtts']}"
tls = {{ {tls}, client_ca = "clients.pem" }}
[[broker.listener]]
listen = "127.0.0.1:{ports['users']}"
tls = {{ {tls} }}
[[broker.listener]]
listen = "127.0.0.1:{ports['ws']}"
websocket = true
origins = ["https://hmi.example.com"]
[[broker.listener]]
listen = "127.0.0.1:{ports['wss']}"
websocket = true
tls = {{ {tls} }}
[[broker.listener]]
listen = "unix:{work}/mqtt.sock"
[[broker.acl]]
user = "cert:pump"
read = ["cli/#"]
write = ["cli/#"]
""" + "".join(f"""
[[broker.acl]]
user = "{user}"
read = ["#"]
write = ["#"]
""" for user in (USER, "js", f"cert:{USER}"))


def pub(*arguments):
    return subprocess.run(["mosquitto_pub", "-h", "localhost", "-V", "5", *arguments], capture_output=True, text=True, timeout=30)


def mosquitto(work, ports):
    print("mosquitto_pub and _sub with client certificates, and by the unix socket")
    own = lambda name: ["-p", str(ports["mqtts"]), "--cafile", f"{work}/ca.crt", "--cert", f"{work}/{name}.crt", "--key", f"{work}/{name}.key"]
    for version in ("311", "5"):
        reader = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-h", "localhost", "-V", version, "-t", "cli/+", "-q", "1", "-C", "50", "-W", "20", "-d", *own("pump")],
                                  stdout=subprocess.PIPE, text=True)
        while "Subscribed" not in (line := reader.stdout.readline()) and line:
            pass
        subprocess.run(["mosquitto_pub", "-h", "localhost", "-V", version, "-t", "cli/x", "-q", "1", "-l", *own("pump")],
                       input="".join(f"line {n}\n" for n in range(50)), text=True, timeout=30, check=False)
        seen = [line.strip() for line in reader.communicate(timeout=30)[0].splitlines() if line.startswith("line ")]
        check(f"-V {version}: 50 lines with a client certificate", seen, [f"line {n}" for n in range(50)])
    check("its rights end at its rules", "not authorized" in pub("-t", "other/x", "-m", "x", "-q", "1", *own("pump")).stderr.lower(), True)
    for name, why in (("foreign", "of another authority"), ("late", "that has ended")):
        check(f"no entry with a certificate {why}", pub("-t", "cli/x", "-m", "x", *own(name)).returncode != 0, True)
    without = ["-p", str(ports["mqtts"]), "--cafile", f"{work}/ca.crt"]
    check("no entry without one", pub("-t", "cli/x", "-m", "x", *without).returncode != 0, True)
    login = ["-u", USER, "-P", PASSWORD]
    check("a user by TLS", pub("-p", str(ports["users"]), "--cafile", f"{work}/ca.crt", "-t", "cli/x", "-m", "x", "-q", "2", *login).returncode, 0)
    check("a wrong password is told", "not authori" in (told := pub("-p", str(ports["users"]), "--cafile", f"{work}/ca.crt", "-t", "cli/x", "-m", "x", "-u", USER, "-P", "no")).stderr.lower() or "password" in told.stderr.lower(), True)
    if "--unix" in subprocess.run(["mosquitto_pub", "--help"], capture_output=True, text=True).stdout:
        check("a user by the unix socket", pub("--unix", f"{work}/mqtt.sock", "-t", "cli/x", "-m", "x", "-q", "2", *login).returncode, 0)
        check("nobody without a login", pub("--unix", f"{work}/mqtt.sock", "-t", "cli/x", "-m", "x", "-q", "1").returncode != 0, True)
    else:
        print("SKIPPED mosquitto_pub --unix: this one has none")
    check("the socket is for owner and group", stat.S_IMODE(os.stat(f"{work}/mqtt.sock").st_mode), 0o660)


def s_client(work, ports):
    print("openssl s_client")
    def talk(*arguments):
        done = subprocess.run(["openssl", "s_client", "-connect", f"localhost:{ports['users']}", "-CAfile", f"{work}/ca.crt", "-verify_return_error", *arguments],
                              input="", capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr
    for version in ("1_2", "1_3"):
        check(f"TLS {version}: verified", "Verify return code: 0 (ok)" in talk(f"-tls{version}", "-alpn", "mqtt"), True)
    check("ALPN mqtt is taken", "ALPN protocol: mqtt" in talk("-alpn", "mqtt"), True)
    for version in ("1", "1_1"):
        said = talk(f"-tls{version}", "-cipher", "DEFAULT@SECLEVEL=0")
        check(f"TLS {version}: refused with an alert", "Cipher is (NONE)" in said and "alert" in said.lower(), True)


def curl(ports):
    if not shutil.which("curl"):
        return print("SKIPPED curl: not installed")
    print("curl")
    def status(*headers):
        arguments = [part for header in headers for part in ("-H", header)]
        done = subprocess.run(["curl", "-s", "-i", "-N", "--http1.1", "-m", "2", *arguments, f"http://localhost:{ports['ws']}/mqtt"], capture_output=True)
        return done.stdout.split(b"\r\n")[0].decode()
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: mqtt"]
    check("an upgrade", status(*upgrade), "HTTP/1.1 101 Switching Protocols")
    check("a listed page", status(*upgrade, "Origin: https://hmi.example.com").split()[1], "101")
    check("a page from elsewhere", status(*upgrade, "Origin: https://evil.example").split()[1], "403")
    check("a browser that is lost", status().split()[1], "426")


def python(work, ports):
    def login(client):
        client.username_pw_set(USER, PASSWORD)
    def secured(client):
        login(client)
        client.tls_set(f"{work}/ca.crt")
    def with_certificate(client):
        client.tls_set(f"{work}/ca.crt", f"{work}/all.crt", f"{work}/all.key")
    paho(ports["users"], host="localhost", prepare=secured)
    paho(ports["ws"], "websockets", "localhost", login)
    paho(ports["wss"], "websockets", "localhost", secured)
    paho(1883, "unix", f"{work}/mqtt.sock", login)
    print("paho with a client certificate")
    paho(ports["mqtts"], host="localhost", prepare=with_certificate)


def javascript(work, ports):
    if folder := modules("mqtt@5"):
        os.environ["NODE_EXTRA_CA_CERTS"] = f"{work}/ca.crt"
        for scheme, port in (("mqtts", "users"), ("ws", "ws"), ("wss", "wss")):
            mqtt_js(folder, f"{scheme}://js:{JS_PASSWORD}@localhost:{ports[port]}" + ("/mqtt" if "ws" in scheme else ""))


def crowded(work, ports):
    print("two hundred half-open handshakes at each door")
    held = []
    for door in ("mqtts", "users", "ws", "wss"):
        for n in range(200):
            held.append(stream := socket.create_connection(("127.0.0.1", ports[door]), 10))
            stream.sendall([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\nHo", b"G"][n % 3])
    begun = time.time()
    done = pub("-p", str(ports["users"]), "--cafile", f"{work}/ca.crt", "-t", "cli/x", "-m", "x", "-q", "1", "-u", USER, "-P", PASSWORD)
    check(f"the next client gets in ({time.time() - begun:.1f} s)", done.returncode, 0)
    for stream in held:
        stream.close()


def renewed(work, ports, gateway):
    print("certificates replaced while clients are connected")
    stays = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-h", "localhost", "-V", "5", "-t", "cli/+", "-C", "1", "-W", "30", "-d", "-p", str(ports["mqtts"]),
                              "--cafile", f"{work}/ca.crt", "--cert", f"{work}/pump.crt", "--key", f"{work}/pump.key"], stdout=subprocess.PIPE, text=True)
    goes = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-h", "localhost", "-V", "5", "-t", "cli/+", "-W", "30", "-d", "-p", str(ports["mqtts"]),
                             "--cafile", f"{work}/ca.crt", "--cert", f"{work}/second.crt", "--key", f"{work}/second.key"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while "CONNACK (0)" not in (line := goes.stdout.readline()) and line:
        pass
    while "Subscribed" not in (line := stays.stdout.readline()) and line:
        pass
    before = ssl.get_server_certificate(("localhost", ports["users"]))
    certificate(work, "ca", "server", "localhost", server=True, rsa=True)
    shutil.copy(f"{work}/ca.crt", f"{work}/clients.pem")
    gateway.send_signal(signal.SIGHUP)
    lines = []
    while "DISCONNECT" not in (line := goes.stdout.readline()) and line:
        lines.append(line)
    check("whose authority has gone is told and goes", "DISCONNECT (135)" in line or "received DISCONNECT" in line, True)
    goes.kill()
    # Each listener reads its own files, one after the other.
    until = time.monotonic() + 10
    while (after := ssl.get_server_certificate(("localhost", ports["users"]))) == before and time.monotonic() < until:
        time.sleep(0.05)
    check("the next handshake shows the new one", before != after, True)
    done = pub("-p", str(ports["users"]), "--cafile", f"{work}/ca.crt", "-t", "cli/x", "-m", "still here", "-q", "1", "-u", USER, "-P", PASSWORD)
    check("a client by the new certificate", done.returncode, 0)
    check("who was connected before still is", "still here" in stays.communicate(timeout=40)[0], True)


def main():
    binary = os.path.abspath(sys.argv[1])
    if not (shutil.which("mosquitto_sub") and shutil.which("openssl")):
        print("SKIPPED doors.py: mosquitto-clients or openssl is not installed")
        return 0
    work = tempfile.mkdtemp(prefix="doors-")
    ports = {name: free_port() for name in ("mqtts", "users", "ws", "wss")}
    for name in ("ca", "second-ca", "foreign-ca"):
        authority(work, name)
    certificate(work, "ca", "server", "localhost", server=True)
    for by, name, common_name, days in (("ca", "pump", "pump", 365), ("ca", "all", USER, 365), ("second-ca", "second", "pump", 365),
                                        ("foreign-ca", "foreign", "pump", 365), ("ca", "late", "pump", -1)):
        certificate(work, by, name, common_name, days)
    with open(f"{work}/clients.pem", "w") as file:
        file.write(open(f"{work}/ca.crt").read() + open(f"{work}/second-ca.crt").read())
    for user, password in ((USER, PASSWORD), ("js", JS_PASSWORD)):
        subprocess.run([binary, "passwd", f"{work}/users", user], input=password + "\n", text=True, check=True, capture_output=True)
    plan = f"{work}/ironbridge.toml"
    with open(plan, "w") as file:
        file.write(config(work, ports))
    checked = subprocess.run([binary, "check", "--config", plan], capture_output=True, text=True)
    check("check finds nothing wrong", (checked.returncode, "!" in checked.stdout), (0, False))
    gateway = subprocess.Popen([binary, "run", "--config", plan], stderr=open(f"{work}/log", "w"))
    try:
        for port in ports.values():
            wait_port(port)
        mosquitto(work, ports)
        s_client(work, ports)
        curl(ports)
        python(work, ports)
        javascript(work, ports)
        crowded(work, ports)
        renewed(work, ports, gateway)
        lines = open(f"{work}/log").read().splitlines()
        check("no panic, no error in the log", [line for line in lines if "panicked" in line or " ERROR " in line], [])
        check(f"a quiet log ({len(lines)} lines)", len(lines) < 400, True)
        gateway.send_signal(signal.SIGTERM)
        check("SIGTERM ends it with 0", gateway.wait(20), 0)
        check("the socket is gone", os.path.exists(f"{work}/mqtt.sock"), False)
    finally:
        gateway.kill()
    return verdict(work)


if __name__ == "__main__":
    sys.exit(main())
