#!/usr/bin/env python3
"""Modbus devices that misbehave, in Python's own words: every framing, every carrier, every fault of a bad line.

Serves blocks of four registers: bus and unit, address, and a number that is another one in each answer, so that a value
tells to which question it belongs. Takes writes of one and two registers (functions 6 and 16), or does not. Writes down
each question (RECORD below). Knows nothing of the gateway.

usage: hostile.py PLAN.json        (runs until its standard input is closed, then prints what it did, as JSON)
"""
import asyncio, contextlib, fcntl, json, os, random, ssl, struct, sys, time, tty

# bus, unit, address, number of the answer (or what was to be written), kind of fault (+ DONE or NOT_DONE: a write);
# when the question came, when the answer's last byte went (0: never)
RECORD = struct.Struct("<BBHIBdd")
DONE, NOT_DONE = 0x80, 0xC0
BLOCK = 4
WRITABLE = 5000
FAULTS = ["none", "late", "flip", "truncate", "garbage", "lost", "twice", "transaction", "length", "foreign", "echo",
          "echo and answer", "pieces", "exception", "function", "busy"]


def table():
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
        rows.append(value)
    return rows


TABLE = table()


def crc(data):
    """CRC-16 of Modbus, low byte first."""
    value = 0xFFFF
    for byte in data:
        value = value >> 8 ^ TABLE[(value ^ byte) & 0xFF]
    return struct.pack("<H", value)


class Mbap:
    numbered = True

    @staticmethod
    def take(buffer):
        """The first question in the buffer: transaction, unit, PDU."""
        if len(buffer) < 8:
            return None
        transaction, protocol, length = struct.unpack(">HHH", buffer[:6])
        if protocol or not 2 <= length <= 254:
            buffer.clear()
            return None
        if len(buffer) < 6 + length:
            return None
        frame = bytes(buffer[:6 + length])
        del buffer[:6 + length]
        return frame, transaction, frame[6], frame[7:]

    @staticmethod
    def frame(transaction, unit, pdu):
        return struct.pack(">HHHB", transaction & 0xFFFF, 0, 1 + len(pdu), unit) + pdu


class Rtu:
    numbered = False

    @staticmethod
    def take(buffer):
        while len(buffer) >= 8:
            length = 9 + buffer[6] if buffer[1] in (15, 16) else 8
            if length > len(buffer) and length < 256:
                return None
            frame = bytes(buffer[:length])
            if len(frame) == length and crc(frame[:-2]) == frame[-2:]:
                del buffer[:length]
                return frame, None, frame[0], frame[1:-2]
            del buffer[:1]
        return None

    @staticmethod
    def frame(_, unit, pdu):
        body = bytes([unit]) + pdu
        return body + crc(body)


class Ascii:
    numbered = False

    @staticmethod
    def take(buffer):
        end = buffer.find(b"\r\n")
        if end < 0:
            return None
        frame = bytes(buffer[buffer.find(b":"):end + 2])
        del buffer[:end + 2]
        try:
            body = bytes.fromhex(frame[1:-2].decode("ascii"))
        except ValueError:
            return None
        return (frame, None, body[0], body[1:-1]) if len(body) > 3 and sum(body) & 0xFF == 0 else None

    @staticmethod
    def frame(_, unit, pdu):
        body = bytes([unit]) + pdu
        return b":" + (body + bytes([-sum(body) & 0xFF])).hex().upper().encode() + b"\r\n"


class Pulse:
    """When this program was last known to be awake: on a busy machine a question may have waited since then."""

    last = 0.0

    @classmethod
    async def beat(cls):
        while True:
            cls.last = time.time()
            await asyncio.sleep(0.002)

    @classmethod
    def before(cls, moment):
        return cls.last if cls.last and moment - cls.last > 0.005 else moment


class Bus:
    """One bus with all its units. `send`, `close`: of the connection on which a question came."""

    def __init__(self, plan, record):
        self.number, self.units = plan["number"], plan["units"]
        self.framing = {"mbap": Mbap, "rtu": Rtu, "ascii": Ascii}[plan["framing"]]
        self.datagrams = plan["carrier"] == "udp"
        self.timeout = plan["timeout"]
        self.record, self.count = record, 0
        self.chance = random.Random(plan["seed"])
        self.weights = list(plan["weights"].items())
        self.speaking = asyncio.Lock() if self.framing.numbered and not self.datagrams else contextlib.nullcontext()

    def fault(self):
        roll = self.chance.random() * 100
        for name, weight in self.weights:
            roll -= weight
            if roll < 0:
                return name
        return "none"

    def heard(self, buffer, send, close):
        while question := self.framing.take(buffer):
            self.asked(*question, send, close)

    def asked(self, frame, transaction, unit, pdu, send, close):
        came = time.time()
        if unit not in self.units:
            return
        fault = self.fault()
        function, address, number = struct.unpack(">BHH", pdu[:5])
        kind = FAULTS.index(fault)
        if function == 3 and number == BLOCK:
            self.count += 1
            number = self.count
            right = bytes([3, 2 * BLOCK]) + struct.pack(">BBHI", self.number, unit, address, number)
        elif function in (6, 16):
            if fault == "echo" and function == 6:
                kind, fault = 0, "none"  # no other answer than that
            done = self.chance.random() < 0.5 if fault == "lost" else fault not in ("exception", "echo", "busy")
            kind |= DONE if done else NOT_DONE
            number = number if function == 6 else struct.unpack(">I", pdu[6:])[0]
            right = pdu[:5]
        elif function == 3 and address >= WRITABLE:  # whether the line echoes is found out by a read before the first write
            kind, right = NOT_DONE, bytes([3, 2 * number]) + bytes(2 * number)
        else:
            raise SystemExit(f"not a question for these devices: {pdu.hex()}")
        reply = lambda transaction=transaction, unit=unit, pdu=right: self.framing.frame(transaction, unit, pdu)
        entry = [self.number, unit, address, number, kind, came, 0.0]
        since = Pulse.before(came)
        plan = getattr(self, "_" + fault.replace(" ", "_"))(frame, transaction, unit, reply, right)
        asyncio.get_running_loop().create_task(self.answer(plan, entry, since, send, close))

    async def answer(self, plan, entry, since, send, close):
        """Sends pieces, each this many seconds after the question; nothing that would leave the model (a slow machine)."""
        whole = contextlib.nullcontext() if len(plan) < 2 or plan[-1][0] > self.timeout else self.speaking
        async with whole:
            for at, piece in plan:
                wait = entry[5] + at - time.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                if whole is not self.speaking and isinstance(self.speaking, asyncio.Lock):
                    async with self.speaking:  # where no check sum would tell, nothing comes between the pieces of another
                        pass
                if piece is None:
                    close()
                # A late one goes in time to be over when its unit is asked again, any other well before the timeout.
                elif self.framing.numbered or time.time() - since < (2 if at > self.timeout else 0.8) * self.timeout:
                    send(piece)
                    entry[6] = time.time()
        self.record.write(RECORD.pack(*entry))

    def _none(self, frame, transaction, unit, reply, right):
        return [(0, reply())]

    def _late(self, frame, transaction, unit, reply, right):
        latest = 4 if self.framing.numbered else 1.9
        return [(self.timeout * self.chance.uniform(1.001, latest), reply())]

    def _flip(self, frame, transaction, unit, reply, right):
        data = bytearray(reply())
        bit = self.chance.randrange(56 if self.framing.numbered else 8 * len(data))  # no check sum behind the header
        data[bit // 8] ^= 1 << bit % 8
        return [(0, bytes(data))]

    def _truncate(self, frame, transaction, unit, reply, right):
        data = reply()
        torn = [(0, data[:self.chance.randrange(1, len(data))])]
        # In a numbered stream only the end of the connection tears a frame.
        return torn + [(0, None)] if self.framing.numbered and not self.datagrams else torn

    def _garbage(self, frame, transaction, unit, reply, right):
        noise = self.chance.randbytes(self.chance.randrange(1, 12))
        return [(0, noise), (0, reply())] if self.datagrams and self.chance.random() < 0.5 else [(0, noise + reply())]

    def _lost(self, frame, transaction, unit, reply, right):
        return []

    def _twice(self, frame, transaction, unit, reply, right):
        if self.framing.numbered and self.chance.random() < 0.5:
            return [(0, reply()), (self.chance.uniform(0, 3) * self.timeout, reply())]
        return [(0, reply()), (0, reply())] if self.datagrams else [(0, reply() + reply())]

    def _transaction(self, frame, transaction, unit, reply, right):
        wrong = self.chance.choice([transaction - 1, transaction + 1, transaction - 7, transaction ^ 0x8000, 0])
        return [(0, reply(transaction=wrong))]

    def _length(self, frame, transaction, unit, reply, right):
        count = self.chance.choice([0, 2, 3, 5, 125])
        if right[0] != 3:  # of a write: too little of it, or somebody else's
            return [(0, reply(pdu=self.chance.choice([right[:3], right + b"\0", right[:2] + bytes([right[2] ^ 1]) + right[3:]])))]
        return [(0, reply(pdu=bytes([3, 2 * count]) + self.chance.randbytes(2 * count)))]

    def _foreign(self, frame, transaction, unit, reply, right):
        other = self.chance.choice([u for u in [*self.units, 200] if u != unit])
        first = [(0, reply(unit=other))]
        return first + [(0.002, reply())] if self.chance.random() < 0.5 else first

    def _echo(self, frame, transaction, unit, reply, right):
        return [(0, frame)]

    def _echo_and_answer(self, frame, transaction, unit, reply, right):
        return [(0, frame), (0.001, reply())] if self.datagrams else [(0, frame + reply())]

    def _pieces(self, frame, transaction, unit, reply, right):
        data, plan, at = reply(), [], 0.0
        while data:
            part = self.chance.randrange(1, len(data) + 1)
            plan.append((at, data[:part]))
            data, at = data[part:], at + self.chance.uniform(0, 0.005)
        return plan

    def _exception(self, frame, transaction, unit, reply, right):
        return [(0, reply(pdu=bytes([right[0] | 0x80, self.chance.choice([4, 5, 10, 11])])))]

    def _busy(self, frame, transaction, unit, reply, right):
        return [(0, reply(pdu=bytes([right[0] | 0x80, 6])))]

    def _function(self, frame, transaction, unit, reply, right):
        return [(0, reply(pdu=bytes([right[0] ^ 7]) + right[1:]))]


class Stream(asyncio.Protocol):
    def __init__(self, bus):
        self.bus, self.buffer = bus, bytearray()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        self.bus.heard(self.buffer, self.send, self.transport.close)

    def send(self, data):
        if not self.transport.is_closing():
            self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, bus):
        self.bus = bus

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.bus.heard(bytearray(data), lambda answer: self.transport.sendto(answer, peer), lambda: None)


def serve_pty(bus, link):
    """The far end of a serial line: a pty of our own, its other side linked where the gateway looks for it."""
    ours, theirs = os.openpty()
    tty.setraw(ours), tty.setraw(theirs)
    fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_NONBLOCK)
    if os.path.islink(link):
        os.remove(link)
    os.symlink(os.ttyname(theirs), link)
    buffer = bytearray()

    def readable():
        try:
            buffer.extend(os.read(ours, 4096))
        except (BlockingIOError, OSError):
            return
        bus.heard(buffer, send, lambda: None)

    def send(data):
        try:
            os.write(ours, data)
        except BlockingIOError:
            pass

    asyncio.get_running_loop().add_reader(ours, readable)
    return theirs  # kept open: a line does not hang up when the gateway closes it


async def serve(plan, record):
    loop, buses, kept = asyncio.get_running_loop(), [], []
    for row in plan["buses"]:
        bus = Bus(row, record)
        buses.append(bus)
        if row["carrier"] == "pty":
            kept.append(serve_pty(bus, row["place"]))
        elif row["carrier"] == "udp":
            kept.append(await loop.create_datagram_endpoint(lambda bus=bus: Datagrams(bus), ("127.0.0.1", row["place"])))
        else:
            context = None
            if row["carrier"] == "tls":
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=plan["work"] + "/ca.pem")
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_cert_chain(plan["work"] + "/plc.pem", plan["work"] + "/plc.key")
            kept.append(await loop.create_server(lambda bus=bus: Stream(bus), "127.0.0.1", row["place"], ssl=context))
    over = asyncio.Event()
    loop.add_reader(0, lambda: os.read(0, 100) or over.set())

    async def report():
        while True:
            await asyncio.sleep(0.5)
            print(json.dumps([bus.count for bus in buses]), flush=True)

    reporting, beating = loop.create_task(report()), loop.create_task(Pulse.beat())
    print("ready", flush=True)
    await over.wait()
    reporting.cancel(), beating.cancel()
    record.flush()


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    with open(plan["record"], "wb") as record:
        asyncio.run(serve(plan, record))
