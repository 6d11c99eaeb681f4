# Sourced by tests/power/run and tests/power/day: `machine_root` makes the root of a virtual Debian 12 with a kernel, once, and names
# it in $machine, below $here. Needs debian_root of tests/systemd/root.sh, and like it root and a function `skip REASON` that ends it.
machine_root() {
    here=target/power
    mkdir -p "$here/deb"
    machine=$here/root
    if [ ! -e "$machine/.complete" ]; then
        debian_root
        rm -rf "$machine"
        cp -a "$root" "$machine"
        rm "$machine/.complete"
        cp -L /etc/resolv.conf "$machine/etc/resolv.conf"
        # Only what this one machine needs goes into the first file system: it is unpacked at each boot.
        mkdir -p "$machine/etc/initramfs-tools/conf.d"
        printf 'MODULES=list\nCOMPRESS=lz4\n' >"$machine/etc/initramfs-tools/conf.d/small.conf"
        mkdir -p "$machine/etc/initramfs-tools" && printf 'virtio_pci\nvirtio_blk\next4\n' >"$machine/etc/initramfs-tools/modules"
        printf '#!/bin/sh\nexit 101\n' >"$machine/usr/sbin/policy-rc.d" && chmod 755 "$machine/usr/sbin/policy-rc.d"
        chroot "$machine" sh -c 'export DEBIAN_FRONTEND=noninteractive
            apt-get update -qq && apt-get install -y -qq --no-install-recommends initramfs-tools lz4 zstd udev linux-image-cloud-amd64' >"$machine.log" 2>&1 \
            || skip "cannot install a kernel: $(tail -n 1 "$machine.log")"
        rm "$machine/usr/sbin/policy-rc.d"
        rm -rf "$machine"/var/cache/apt/archives/*.deb "$machine"/var/lib/apt/lists/*
        touch "$machine/.complete"
    fi
}
