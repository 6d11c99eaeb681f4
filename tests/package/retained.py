"""The retained messages of a filter, as a local MQTT 3.1.1 client without a login gets them. usage: retained.py FILTER [PORT]"""
import socket, struct, sys, time


def field(text):
    return struct.pack(">H", len(text)) + text


def packet(kind, body):
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


def read(size):
    found = b""
    while len(found) < size:
        connection.settimeout(max(until - time.monotonic(), 0.01))
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


connection = socket.create_connection(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 1883), 5)
connection.sendall(packet(0x10, field(b"MQTT") + b"\x04\x02\x00\x1e" + field(b"retained")))
connection.sendall(packet(0x82, b"\x00\x01" + field(sys.argv[1].encode()) + b"\x00"))
# They come at once; what comes later are new values, and those go on for ever.
until = time.monotonic() + 2
try:
    while True:
        kind, size, shift = read(1)[0], 0, 0
        while True:
            digit = read(1)[0]
            size, shift = size | (digit & 0x7F) << shift, shift + 7
            if digit < 0x80:
                break
        body = read(size)
        if kind >> 4 == 3 and kind & 1:
            end = 2 + struct.unpack(">H", body[:2])[0]
            print(body[2:end].decode(), body[end:].decode())
except (TimeoutError, EOFError):
    pass
