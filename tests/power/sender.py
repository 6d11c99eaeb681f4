"""A machine in the plant: an MQTT 3.1.1 client over TLS that publishes numbers at QoS 1 and knows which were acknowledged."""
import socket, ssl, struct, threading, time

WINDOW = 20  # on their way at a time


def field(text):
    return struct.pack(">H", len(text)) + text


def packet(kind, body):
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


class Sender(threading.Thread):
    """Comes back as long as it is not told to stop. What was on its way when the connection broke is not sent again: it may have
    arrived, and nothing was promised."""

    def __init__(self, port, ca_file, password):
        super().__init__(daemon=True)
        self.port, self.password = port, password
        self.context = ssl.create_default_context(cafile=ca_file)
        self.stop = threading.Event()
        self.acknowledged, self.sent, self.connections = [], 0, 0
        self.newest = 0.0  # when the last acknowledgement came, by the monotonic clock

    def run(self):
        while not self.stop.is_set():
            try:
                self.connection()
            except (OSError, EOFError):
                time.sleep(0.2)

    def connection(self):
        with socket.create_connection(("127.0.0.1", self.port), 5) as plain, self.context.wrap_socket(plain, server_hostname="box") as link:
            link.settimeout(5)
            link.sendall(packet(0x10, field(b"MQTT") + b"\x04\xc2\x00\x3c" + field(b"machine-1") + field(b"machine") + field(self.password)))
            kind, body = self.read(link)
            if kind >> 4 != 2 or body[1] != 0:
                raise OSError(f"refused: {body.hex()}")
            self.connections += 1
            waiting = {}
            while not self.stop.is_set():
                while len(waiting) < WINDOW:
                    self.sent += 1
                    mid = self.sent % 65535 + 1
                    waiting[mid] = self.sent
                    link.sendall(packet(0x32, field(b"machines/one/count") + struct.pack(">H", mid) + b'{"n":%d}' % self.sent))
                kind, body = self.read(link)
                if kind >> 4 == 4:
                    self.acknowledged.append(waiting.pop(struct.unpack(">H", body)[0]))
                    self.newest = time.monotonic()
                time.sleep(0.001)

    @staticmethod
    def read(link):
        def exactly(size):
            found = b""
            while len(found) < size:
                part = link.recv(size - len(found))
                if not part:
                    raise EOFError
                found += part
            return found
        kind, size = exactly(2)
        return kind, exactly(size)  # CONNACK and PUBACK are short
