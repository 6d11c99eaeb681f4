#!/usr/bin/env python3
"""Who is besieged: the plant and the two clients that siege.py has beside its attacks, each a process of its own.

usage: besieged.py plant PORT NOTES      a Modbus server; notes when each request came
       besieged.py witness PORT NOTES    two clients that talk to each other; notes each round trip
"""
import selectors, socket, struct, sys, time


def plant(port, notes):
    """A Modbus server that answers everything at once and notes when it was asked."""
    listener = socket.create_server(("127.0.0.1", port))
    out, value = open(notes, "w", buffering=1), 0
    chosen = selectors.DefaultSelector()
    chosen.register(listener, selectors.EVENT_READ)
    pending = {}
    while True:
        for key, _ in chosen.select():
            if key.fileobj is listener:
                stream = listener.accept()[0]
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pending[stream] = b""
                chosen.register(stream, selectors.EVENT_READ)
                continue
            stream = key.fileobj
            data = patiently(lambda: stream.recv(4096))  # who was killed has no good-bye
            if not data:
                chosen.unregister(stream)
                stream.close()
                continue
            pending[stream] += data
            while len(pending[stream]) >= 12:
                transaction, _, _, unit, function, first, count = struct.unpack(">HHHBBHH", pending[stream][:12])
                pending[stream] = pending[stream][12:]
                value = (value + 1) % 60000
                out.write(f"{time.monotonic():.4f} {unit} {first}\n")
                body = struct.pack(f">{count}H", *[value] * count)
                answer = struct.pack(">HHHBBB", transaction, 0, 3 + len(body), unit, function, len(body)) + body
                patiently(lambda: stream.sendall(answer))


def text(string):
    string = string.encode() if isinstance(string, str) else string
    return struct.pack(">H", len(string)) + string


def packet(first, body):
    length, head = len(body), bytes([first])
    while length > 0x7F:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length]) + body


def connect_packet(name, keep_alive=0):
    return packet(0x10, text("MQTT") + b"\4\2" + struct.pack(">H", keep_alive) + text(name))


def publish_packet(topic, payload, qos=0, retain=0, number=1):
    return packet(0x30 | qos << 1 | retain, text(topic) + (struct.pack(">H", number) if qos else b"") + payload)


def subscribe_packet(filters, qos=0):
    return packet(0x82, b"\0\1" + b"".join(text(filter) + bytes([qos]) for filter in filters))


def dial(port, first=b""):
    stream = socket.create_connection(("127.0.0.1", port), 10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(first)
    return stream


def packets(stream, buffer):
    """Whole packets as they come: first byte and body."""
    while True:
        place, length, shift = 1, 0, 0
        while place < len(buffer):
            length |= (buffer[place] & 0x7F) << shift
            shift += 7
            place += 1
            if buffer[place - 1] & 0x80 == 0:
                break
        else:
            place = None
        if place and len(buffer) >= place + length:
            yield buffer[0], buffer[place:place + length]
            buffer = buffer[place + length:]
            continue
        data = stream.recv(65536)
        if not data:
            return
        buffer += data


def witness(port, notes):
    """Two clients that talk to each other; every round trip is noted, and every one that did not come back in time."""
    hears, says = dial(port, connect_packet("witness-hears") + subscribe_packet(["witness"], 1)), dial(port, connect_packet("witness-says"))
    out, heard, said = open(notes, "w", buffering=1), packets(hears, b""), packets(says, b"")
    assert next(heard)[0] == 0x20 and next(heard)[0] == 0x90 and next(said)[0] == 0x20
    number = 0
    hears.settimeout(20), says.settimeout(20)
    while True:
        number += 1
        begun = time.monotonic()
        says.sendall(publish_packet("witness", str(number).encode(), 1))
        first, body = next(heard)
        if first >> 4 != 3 or body[11:] != str(number).encode():
            out.write(f"{begun:.4f} wrong\n")
        hears.sendall(b"\x40\2" + body[9:11])
        if next(said)[0] != 0x40:
            out.write(f"{begun:.4f} wrong\n")
        out.write(f"{begun:.4f} {time.monotonic() - begun:.5f}\n")
        time.sleep(max(0, 0.02 - (time.monotonic() - begun)))


def patiently(work):
    """Strangers are hung up on at any byte: that is the point."""
    try:
        return work()
    except (OSError, StopIteration):
        return None


if __name__ == "__main__":
    work = {"plant": plant, "witness": witness}[sys.argv[1]]
    patiently(lambda: work(int(sys.argv[2]), sys.argv[3]))
