# Sourced by tests/systemd/run and tests/package/run: `debian_root` makes a Debian 12 root for containers, once, and names it
# in $root. The caller has a function `skip REASON` that ends it.
debian_root() {
    [ "$(id -u)" = 0 ] || skip "containers need root"
    command -v python3 >/dev/null 2>&1 || skip "python3 is not installed"
    local missing=() tool
    for tool in systemd-nspawn debootstrap nsenter; do command -v "$tool" >/dev/null 2>&1 || missing+=("$tool"); done
    if [ ${#missing[@]} -gt 0 ]; then
        command -v apt-get >/dev/null 2>&1 || skip "${missing[*]} not installed"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq systemd-container debootstrap util-linux; } >/dev/null 2>&1 \
            || skip "cannot install ${missing[*]}"
    fi

    root=target/systemd/root
    [ ! -e "$root/.complete" ] || return 0
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,python3 bookworm "$root" >"$root.log" 2>&1 \
        || skip "debootstrap cannot make a Debian 12 root: $(tail -n 1 "$root.log")"
    rm -f "$root"/var/cache/apt/archives/*.deb
    touch "$root/.complete"
}
