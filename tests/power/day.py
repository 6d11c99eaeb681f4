#!/usr/bin/env python3
"""Runs a virtual machine through a day of steps of its wall clock and holds promises against facts (tests/power/day).

usage: day.py DEB TREE WORK HOURS
       day.py WORK HOURS               judges again what lies there

The emulator counts instructions, a million of them for 4 ms of the machine's time, and skips the time in which the machine waits.
Everything that has to do with time is therefore in the machine: the package, the plant, the broker in the cloud and its listener
(tests/power/inside.py, where the day is told). Its ledgers are read from its disk when it is over. What is promised:

1. Each poll that the plant answered is upstream, each tag of it once, with the value that was read, in order.
2. Each time, of samples, events and the status, is right by the clock that somebody vouched for when it was sent, or marked
   (uncertain, cause clock) and not before this release; a sample is not marked once the time of that life of the machine was known.
3. No device is asked later than its period says, but for restarts that were ordered.
4. Nothing restarts by itself; memory, open files and the store's size do not creep; the log has few lines.
"""
import collections, datetime, json, os, resource, shutil, subprocess, sys, time

*given, work, hours = [os.path.abspath(path) for path in sys.argv[1:-1]] + [float(sys.argv[-1])]
HERE = os.path.dirname(os.path.abspath(__file__))
TAGS, PERIOD, LATE_MAX = 50, 10, 2.0
STORE_MAX = 8 << 20
AGE_MAX = max(3600, round(hours * 1200))  # s: longer than the uplink is away
AGE_SLACK = 3600  # and then some, until what is too old is gone
RELEASE = 1793491200.0  # no time before this is ever shown
SEEN_WITHIN, OFF_MAX = 4.0, 1.0  # s: until a step counts; between the plant's answer and the stamp
LINES_MAX = 60  # an hour
RSS_CREEP_MAX = 1024  # kB
SILENT_MAX = 1800  # s of this machine without a word from the other one

PLAN = f"""
[gateway]
name = "box"
data_dir = "/var/lib/ironbridge"
[store]
max_size = "{STORE_MAX >> 20}MiB"
max_age = "{AGE_MAX}s"
[[broker.listener]]
listen = "127.0.0.1:2883"
anonymous = "read"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:1883"
layout = "device"
start = "oldest"
[[bus]]
name = "plc-net"
type = "modbus-tcp"
endpoint = "127.0.0.1:5020"
"""
for unit in (1, 2):
    PLAN += f'[[device]]\nname = "plc-{unit}"\nbus = "plc-net"\nunit_id = {unit}\npoll = "{PERIOD}s"\n'
    PLAN += "".join(f'[[device.tag]]\nname = "t{tag:02}"\naddress = "holding:{2 * tag}"\ntype = "uint32"\n' for tag in range(TAGS))


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def furnish(log, deb, tree):
    """The package as apt installs it, its configuration, and who plays the world around it."""
    chroot = lambda *command: subprocess.run(["chroot", tree, *command], check=True, stdout=log, stderr=log)
    shutil.copy(deb, f"{tree}/var/tmp/package.deb")
    chroot("dpkg", "-i", "/var/tmp/package.deb")
    os.remove(f"{tree}/var/tmp/package.deb")
    write(f"{tree}/etc/ironbridge/ironbridge.toml", PLAN, 0o640)
    chroot("chgrp", "-R", "ironbridge", "/etc/ironbridge")
    write(f"{tree}/etc/mosquitto/conf.d/cloud.conf", "listener 1883 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    shutil.copy(f"{HERE}/inside.py", f"{tree}/usr/local/bin/inside.py")
    write(f"{tree}/etc/systemd/system/day.service",
          "[Unit]\nBefore=ironbridge.service\n[Service]\nType=notify\nNotifyAccess=all\nStateDirectory=day\nTimeoutStartSec=10min\n"
          f"ExecStart=/usr/bin/python3 -B /usr/local/bin/inside.py {hours}\nStandardOutput=file:/dev/ttyS1\nStandardError=file:/dev/ttyS1\n"
          "[Install]\nWantedBy=multi-user.target\n")
    chroot("sh", "-c", "systemctl disable mosquitto; systemctl enable day && systemctl mask serial-getty@ttyS0 serial-getty@ttyS1 getty@tty1 "
           "apt-daily.timer apt-daily-upgrade.timer")
    write(f"{tree}/etc/fstab", "/dev/pmem0 / ext4 errors=remount-ro 0 1\n")
    subprocess.run(["truncate", "-s", "2G", f"{work}/disk.raw"], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, f"{work}/disk.raw"], check=True)
    for start in ("vmlinuz-", "initrd.img-"):
        shutil.copy(os.path.join(tree, "boot", next(name for name in os.listdir(f"{tree}/boot") if name.startswith(start))), f"{work}/{start[:-1]}")


def live(log, life):
    """Runs the machine until it switches itself off, or on again (that is another emulator: its board may not come back after a reset)."""
    machine = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-icount", "shift=2,align=off,sleep=off", "-smp", "1", "-cpu", "max,la57=off", "-machine", "q35,nvdimm=on",
         "-m", "512M,slots=2,maxmem=4G", "-rtc", "base=2024-08-01T03:00:00,clock=vm", "-display", "none", "-nodefaults", "-nic", "none", "-no-reboot",
         "-object", f"memory-backend-file,id=disk,share=on,mem-path={work}/disk.raw,size=2G", "-device", "nvdimm,memdev=disk,id=nv0",
         "-kernel", f"{work}/vmlinuz", "-initrd", f"{work}/initrd.img", "-append", "root=/dev/pmem0 rw console=ttyS0 quiet panic=-1 no_timer_check "
         "tsc=reliable mitigations=off nokaslr random.trust_cpu=on systemd.show_status=no",
         "-serial", f"file:{work}/console-{life}.log", "-serial", f"file:{work}/told-{life}.log"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        seen, heard_at = 0, time.monotonic()
        while True:
            over = machine.poll() is not None
            text = open(f"{work}/told-{life}.log", errors="replace").read() if os.path.exists(f"{work}/told-{life}.log") else ""
            if len(text) > seen:
                print(text[seen:].replace("\r", ""), end="", flush=True)
                seen, heard_at = len(text), time.monotonic()
            if over:
                break
            if time.monotonic() - heard_at > SILENT_MAX:
                raise SystemExit(f"FAILED  the machine says nothing, see {work}/console-{life}.log")
            time.sleep(0.5)
    finally:
        if machine.poll() is None:
            machine.kill()
            machine.wait()


def ledger(name, words):
    """Lines of a ledger: life, time since boot, and the rest in so many words."""
    with open(f"{work}/day/{name}") as file:
        for line in file:
            life, at, *rest = line.rstrip("\n").split(" ", 1 + words)
            yield (life, float(at), *rest)


def mixed(number):
    """As in inside.py, which waits for devices when it is imported."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ number >> shift) * factor % 2**32
    return number ^ number >> 16


def since_1970(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def judge():
    problems, table = [], []

    def held(what, facts, fine):
        table.append((what, facts))
        if not fine:
            problems.append(f"{what}: {facts}")

    polls = [(life, at, int(unit), int(count)) for life, at, unit, count in ledger("polls", 2)]
    taken = {(unit, count): (life, at) for life, at, unit, count in polls}
    lives = list(dict.fromkeys(life for life, *_ in polls))
    steps = [(life, at, float(offset), vouched == "1") for life, at, offset, vouched in ledger("steps", 2)]
    story = [(life, at, words) for life, at, words in ledger("story", 1)]
    figures = [(life, at, json.loads(words)) for life, at, words in ledger("figures", 1)]
    ordered = [(life, at) for life, at, words in story if words in ("kill -9", "the service is restarted", "the end") or words.startswith("the machine is")]
    table.append(("lives of the machine, hours", ", ".join(f"{max(at for other, at, *_ in polls if other == life) / 3600:.2f}" for life in lives)))
    table.append(("steps of the wall clock", f"{len(steps) - len(lives)}, of these {sum(not vouched for *_, vouched in steps) - len(lives)} that nobody vouched for"))

    def possible_time(topic, told, heard, at):
        """Is an event's time marked, or one of a life of the machine, as its clock was known when it was heard? Is a status of now, or
        the last word of an earlier life, which waited at the broker?"""
        if told.get("cause") == "clock" or "time" not in told:  # the last will has none
            return since_1970(told.get("time", "2100-01-01T00:00:00Z")) >= RELEASE
        shown = since_1970(told["time"])
        for life in lives[:lives.index(heard) + 1]:
            known = [offset for other, when, offset, vouched in steps if other == life and vouched and (life != heard or when <= at)]
            end = max(when for other, when, *_ in polls if other == life)
            now = (at - SEEN_WITHIN, at) if life == heard else (end, end + SEEN_WITHIN)
            since, until = now if topic.endswith("/status") else (0, end)
            if any(since - OFF_MAX <= shown - offset <= until + OFF_MAX for offset in known[-2:]):
                return True
        return False

    # 1. What was read against what was heard.
    keys, again, changed, there, wrong_values, foreign = {}, 0, [], collections.Counter(), [], collections.Counter()
    newest, out_of_order, marked, wrong_times, wrongly_marked = {}, [], 0, [], []
    redated = bracketed = 0
    wrong_words = []
    asked = {mixed(poll * 64 + tag): (poll, tag) for poll in {poll for _, poll in taken} for tag in range(TAGS)}
    messages = 0
    gaps = []
    for life, at, topic, payload in ledger("heard", 2):
        if not topic.startswith("box/plc-"):
            foreign[topic] += 1
            if topic.endswith("/gap"):
                gaps.append(payload)
            if topic.endswith(("/event", "/status")):
                wrong_words += [(topic, f"heard {life} {at}", payload[:300])] * (not possible_time(topic, json.loads(payload), life, at))
            continue
        messages += 1
        unit, told = int(topic[-1]), json.loads(payload)
        shown = since_1970(told["time"])
        values = {name: (value, None) for name, value in told.get("values", {}).items()}
        values |= {name: (value, cause) for name, (value, cause) in told.get("uncertain", {}).items()}
        names = sorted([*values, *told.get("bad", {})])
        if len(names) != told["count"]:
            problems.append(f"count is not that of the names: {payload[:200]}")
        for place, name in enumerate(names):
            key = (told["stream"], told["epoch"], told["seq"] + place)
            meaning = (unit, name, *values.get(name, (None, None))[:1])
            if key in keys:
                again += 1
                changed += [key] * (keys[key] != meaning)
                continue
            keys[key] = meaning
            if name not in values:
                continue
            value, cause = values[name]
            poll, tag = asked.get(value, (0, 0))
            if (unit, poll) not in taken or name != f"t{tag:02}":
                wrong_values.append((topic, name, value))
                continue
            there[unit, poll, tag] += 1
            out_of_order += [(unit, tag, poll)] * (newest.get((unit, tag), 0) >= poll)
            newest[unit, tag] = max(poll, newest.get((unit, tag), 0))
            if place:
                continue  # the time is that of the message
            # 2. Its time, by the steps of the life in which it was taken, as far as they were made when it was sent.
            origin, moment = taken[unit, poll]
            known = [(when, offset) for other, when, offset, vouched in steps if other == origin and vouched and (origin != life or when <= at)]
            long_known = [offset for when, offset in known if origin != life or when <= at - SEEN_WITHIN]
            if cause == "clock":
                marked += 1
                wrongly_marked += [payload[:120]] * bool(long_known)
                wrong_times += [(payload[:90], "before the release")] * (shown < RELEASE)
                # Of a life that never had the time it is said what the life after it knows: when it was over at the latest.
                after = [offset for other, when, offset, vouched in steps if other == life != origin and vouched and when <= at - SEEN_WITHIN]
                if after:
                    bracketed += 1
                    until = since_1970(told.get("time_until", told["time"]))
                    wrong_times += [(payload[:120], f"until {after[-1]}")] * (shown > until or abs(until - after[-1]) > OFF_MAX)
            else:
                possible = long_known[-1:] + [offset for when, offset in known if origin == life and when > at - SEEN_WITHIN]
                off = min((abs(shown - moment - offset) for offset in possible), default=None)
                if off is None or off > OFF_MAX:
                    wrong_times.append((payload[:90], f"{origin} {moment}", f"heard {life} {at}", off))
                first = next((when for other, when, _, vouched in steps if other == origin and vouched), 0)
                redated += moment < first
    missing = [(unit, poll, tag) for unit, poll in taken for tag in range(TAGS) if not there[unit, poll, tag]]
    twice = [what for what, times in there.items() if times > 1]
    # Between the plant's answer and the commit a second may pass: what the kill took had no number.
    kill = [(life, at) for life, at, words in story if words == "kill -9"]
    lost = sorted({(unit, poll) for unit, poll, _ in missing})
    excused = [one for one in lost if any(life == taken[one][0] and -1 < at - taken[one][1] < 3 for life, at in kill)]
    numbers = collections.defaultdict(list)
    for stream, epoch, seq in keys:
        numbers[stream, epoch].append(seq)
    holes = sum(max(seqs) - min(seqs) + 1 - len(seqs) for seqs in numbers.values())
    held("polls that the plant answered", f"{len(polls)} of {TAGS} tags", polls)
    held("heard upstream", f"{messages} messages, {len(keys)} samples, {len(keys) - sum(there.values())} of them without a value", messages)
    held("samples missing", f"{len(missing)}" + f", of {len(excused)} polls less than 3 s before kill -9" * bool(excused), lost == excused)
    held("samples twice, by their number", f"{len(twice)} ({again} repeated on the wire)", not twice and not changed)
    held("wrong values", len(wrong_values), not wrong_values)
    held("out of order", len(out_of_order), not out_of_order)
    held("numbers missing, epochs, gap records", f"{holes}, {len(numbers)}, {len(gaps)}", not holes and len(numbers) == 1 and not gaps)
    held("times that are not right", len(wrong_times), not wrong_times)
    held("times of events and of the status that are not right", len(wrong_words), not wrong_words)
    table.append(("messages marked: uncertain, cause clock", f"{marked}, of these {bracketed} with the latest time it can have been"))
    table.append(("taken before the clock was known, sent with the right time", redated))
    held("marked although the clock was known", len(wrongly_marked), not wrongly_marked)

    # 3. When the devices were asked.
    gap_max, over, restart_max = 0, [], 0
    for unit in (1, 2):
        mine = [(life, at) for life, at, other, _ in polls if other == unit]
        for (life, before), (other, after) in zip(mine, mine[1:]):
            if life != other:
                continue
            if any(which == life and before <= at <= after for which, at in ordered):
                restart_max = max(restart_max, after - before)
                continue
            gap_max = max(gap_max, after - before)
            over += [(unit, life, before, after - before)] * (after - before > PERIOD + LATE_MAX)
    held("longest time between two polls", f"{gap_max:.3f} s of {PERIOD} s, {len(over)} too late", not over)
    held("the same over a restart that was ordered", f"{restart_max:.1f} s", restart_max < 30)

    # 4. The process.
    long = [(at, found) for life, at, found in figures if life == lives[-1] and at >= 3600 and "rss_kb" in found]
    held("processes in the last life from its first hour on", len({found["pid"] for _, found in long}), len({found["pid"] for _, found in long}) == 1)
    held("restarts by systemd", ", ".join(str(max(found["restarts"] for other, _, found in figures if other == life)) for life in lives) + " (one was ordered)",
         [max(found["restarts"] for other, _, found in figures if other == life) for life in lives] == [1] + [0] * (len(lives) - 1))
    for what, name, creep in (("resident kB", "rss_kb", RSS_CREEP_MAX), ("open files", "files", 1), ("threads", "threads", 2)):
        middle = lambda some: sorted(found[name] for _, found in some)[len(some) // 2]
        first, last = middle(long[:6]), middle(long[-6:])
        held(f"{what}: first hour, last hour, most", f"{first}, {last}, {max(found[name] for _, found in long)}", last - first <= creep)
    size = lambda some: max((found["store_bytes"] for _, found in some), default=0)
    full = AGE_MAX + AGE_SLACK
    filling, level = [one for one in long if one[0] <= full], [one for one in long if one[0] > full]
    held("store, bytes: most until it is as old as may be, most then, last", f"{size(filling)}, {size(level)}, {size(long[-1:])} (of {STORE_MAX})",
         size(level) <= 1.1 * size(filling) and size(long) <= STORE_MAX)
    lines = collections.defaultdict(list)  # of each hour: how many there were so far
    for life, at, found in figures:
        lines[life, int((at - 1) // 3600)].append(found["lines"])
    hourly = [max(some) - max(lines.get((life, hour - 1), [0])) for (life, hour), some in lines.items()]
    held("log lines: in all, most in an hour", f"{sum(hourly)}, {max(hourly)}", max(hourly) <= LINES_MAX)
    journal = "".join(open(f"{work}/day/journal-{life}", errors="replace").read() for life in lives)
    odd = [line for line in journal.splitlines() if "panicked" in line or "atchdog" in line]
    held("panics, words of the watchdog", len(odd), not odd)
    health = collections.Counter(str(found["health"][0]) for _, _, found in figures)
    table.append(("/health, every ten minutes", ", ".join(f"{code}: {times}" for code, times in health.items())))
    table.append(("other messages upstream", ", ".join(f"{times} {topic}" for topic, times in foreign.items())))
    for name, some in (("missing", [one for one in lost if one not in excused]), ("wrong values", wrong_values), ("out of order", out_of_order), ("times", wrong_times), ("times of words", wrong_words), ("marked", wrongly_marked),
                       ("late", over), ("journal", odd), ("gap records", gaps)):
        if some:
            print(f"{name}: {some[:5]}")
    return problems, table


def main():
    if given:
        begun = time.monotonic()
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        with open(f"{work}/log", "wb") as log:
            furnish(log, *given)
            for life in (1, 2, 3):
                live(log, life)
        subprocess.run(["debugfs", "-R", f"rdump /var/lib/day {work}", f"{work}/disk.raw"], check=True, capture_output=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{hours:g} hours in {time.monotonic() - begun:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a processor")
    problems, table = judge()
    width = max(len(what) for what, _ in table)
    for what, facts in table:
        print(f"{what:<{width}}  {facts}")
    for line in problems:
        print(f"FAILED  {line}")
    print("the day was an ordinary one" if not problems else f"everything is left in {work}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
