#!/usr/bin/env python3
"""A consumer of `format = "batch"` in plain Python, to copy from: MQTT in, one JSON object per record out.

It knows nothing of Ironbridge but config/ironbridge-batch.proto, where every field and every rule is explained.
usage: batch_consumer.py PORT [HOST [FILTER]]     (pip: paho-mqtt protobuf zstandard grpcio-tools)
"""
import collections, hashlib, importlib, io, itertools, json, pathlib, struct, sys, tempfile, zlib
import zstandard
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "config" / "ironbridge-batch.proto"
CAUSES = [None, "starting", "timeout", "exception", "range", "nan", "stale", "clock", "config", "transport", "protocol"]
RAW_MAX = 8 << 20                                    # more is no batch of ours, but somebody's bomb

def compiled_schema():
    """A program of yours would do this when it is built: protoc --python_out=. ironbridge-batch.proto"""
    sys.path.insert(0, out := tempfile.mkdtemp())
    if protoc.main(["protoc", f"-I{PROTO.parent}", f"--python_out={out}", PROTO.name]) != 0:
        sys.exit("the schema does not compile")
    return importlib.import_module("ironbridge_batch_pb2")

def as_bits(new, old, value):
    return struct.unpack(new, struct.pack(old, value))[0]

def value_of(kind, n, ulps):
    """What the number n means, by the kind of its cell."""
    k = kind % 16
    if kind < 4: return [None, bool(n), n, n % 2**64][kind]
    if kind < 6: return as_bits("<f", "<I", n) if kind == 4 else as_bits("<d", "<q", n)
    if kind < 48: return n / 10**k if kind < 32 else n * float(f"1e-{k}")
    if kind < 64: return as_bits("<f", "<f", n / 10**k)
    return as_bits("<d", "<q", as_bits("<q", "<d", n / 10**k) + next(ulps))

def runs(pairs):                                     # code, length, code, length ... to one code per cell
    return itertools.chain.from_iterable(itertools.repeat(*pair) for pair in zip(pairs[::2], pairs[1::2]))

class Consumer:
    def __init__(self):
        self.schema, self.tags = compiled_schema(), {}  # (gateway, id) -> (entry, its fingerprint); keep it on disk
        self.waiting = collections.deque(maxlen=1000)   # batches whose tags are not known yet; keep them on disk

    def feed(self, payload):                         # to the records that can be read now, also of batches that waited
        raw = zstandard.ZstdDecompressor(max_window_size=RAW_MAX).stream_reader(io.BytesIO(payload)).read(RAW_MAX + 1)
        frame = self.schema.Frame.FromString(raw)
        if len(raw) > RAW_MAX or zlib.crc32(frame.content) != frame.crc:
            raise ValueError("not a batch, or damaged")
        batch = self.schema.Content.FromString(frame.content)
        if batch.version != 1:
            raise ValueError(f"a batch of version {batch.version}: this program is too old")
        for tag in batch.dictionary:
            text = "\0".join([str(tag.id), tag.device, tag.name, tag.topic, tag.type])
            self.tags[batch.gateway, tag.id] = tag, hashlib.sha256(text.encode()).digest()[:8]
        self.waiting.append(batch)
        for batch in [self.waiting.popleft() for _ in range(len(self.waiting))]:
            known = [self.tags.get((batch.gateway, tag)) for tag in itertools.accumulate(batch.tags)]
            whole = None not in known and hashlib.sha256(b"".join(short for _, short in known)).digest()[:8]
            if whole and (not known or int.from_bytes(whole, "little") == batch.fingerprint):
                yield from self.records(batch, [tag for tag, _ in known])
            else:
                self.waiting.append(batch)              # never guess: another batch will bring the entries

    def polls(self, batch):                          # (ticks, columns) in order; None instead of columns: an event
        follow = lambda steps: itertools.accumulate(steps, lambda before, step: before + 1 + step, initial=-1)
        places = itertools.islice(follow(batch.shape_columns), 1, None)
        shapes = [list(itertools.islice(places, size)) for size in batch.shape_sizes] + [None]
        times = itertools.accumulate(batch.poll_times, initial=batch.base)
        return [(ticks, shapes[shape]) for ticks, shape in list(zip(times, follow(batch.poll_shapes)))[1:]]

    def columns(self, batch, counts):                # for each column an iterator of (value, quality, cause)
        qualities, kinds, texts = runs(batch.qualities), runs(batch.kinds), iter(batch.texts)
        starts, steps, ulps = iter(batch.starts), iter(batch.steps), iter(batch.ulps)
        for column in range(len(batch.tags)):
            n, cells = None, []
            for quality, kind in itertools.islice(zip(qualities, kinds), counts[column]):
                if kind not in (0, 6):
                    n = next(starts) if n is None else (n + next(steps) + 2**63) % 2**64 - 2**63
                value = None if kind == 0 else next(texts) if kind == 6 else value_of(kind, n, ulps)
                cells.append((value, ["good", "uncertain", "bad"][quality >> 6], CAUSES[quality & 63]))
            yield iter(cells)

    def records(self, batch, tags):
        polls, stream = self.polls(batch), self.schema.Stream.Name(batch.stream).lower()
        columns = list(self.columns(batch, collections.Counter(c for _, poll in polls for c in poll or ())))
        seqs, events = itertools.count(batch.first), iter(batch.events)
        for ticks, poll in polls:
            for column in [None] if poll is None else poll:
                key = dict(gateway=batch.gateway, stream=stream, epoch=batch.epoch, seq=next(seqs))
                if poll is None:
                    yield dict(key, topic=(event := next(events)).topic, **json.loads(event.body))
                else:
                    sample = zip(("value", "quality", "cause"), next(columns[column]))
                    yield dict(key, topic=tags[column].topic, **dict(sample), time=ticks / batch.ticks_per_second)

if __name__ == "__main__":
    from paho.mqtt import subscribe
    port, host, filter = (sys.argv[1:] + [None, None])[:3]
    consumer = Consumer()
    show = lambda _client, _, message: [print(json.dumps(record)) for record in consumer.feed(message.payload)]
    subscribe.callback(show, filter or "ironbridge/+/batch", qos=1, hostname=host or "127.0.0.1", port=int(port))
