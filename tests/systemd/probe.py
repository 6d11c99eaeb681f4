"""Run with the sandbox of the unit: what an intruder would try first. Prints what was allowed; nothing is expected."""
import mmap, os, resource, signal, socket, struct, time

allowed = []


def forbidden(what, attempt, *errors):
    try:
        attempt()
    except (OSError, ValueError) as error:
        if errors and not isinstance(error, errors):
            allowed.append(f"{what}: another error, {error}")
    else:
        allowed.append(what)


def write(path):
    return lambda: open(path, "w").close()


forbidden("writing to /usr", write("/usr/bin/x"))
forbidden("writing to /etc", write("/etc/ironbridge/x"))
forbidden("writing to /home", write("/home/x"))
forbidden("writing to /run", write("/run/x"))
forbidden("the kernel's memory", lambda: open("/dev/mem", "rb"))
forbidden("the kernel's log", lambda: open("/dev/kmsg", "rb"))
forbidden("/proc/sys", lambda: os.listdir("/proc/sys"))
forbidden("processes of others", lambda: os.listdir("/proc/1"))
forbidden("setting the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
forbidden("becoming root", lambda: os.setuid(0))
forbidden("chroot", lambda: os.chroot("/"))
forbidden("a device of one's own", lambda: os.mknod("/var/lib/ironbridge/null", 0o600 | 0o020000, os.makedev(1, 3)))
forbidden("real-time priority", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
forbidden("raising a limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
forbidden("memory to write and execute", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
forbidden("raw packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
forbidden("bluetooth", lambda: socket.socket(31, socket.SOCK_RAW, 1))
forbidden("killing systemd", lambda: os.kill(1, signal.SIGTERM))


def set_user_id():
    path = "/var/lib/ironbridge/setuid"
    write(path)()
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


forbidden("a set-user-id file", set_user_id)

# And what must go all the same.
socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4).close()
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
open("/var/lib/ironbridge/own", "w").close()
os.unlink("/var/lib/ironbridge/own")
print("\n".join(allowed) or "nothing")
