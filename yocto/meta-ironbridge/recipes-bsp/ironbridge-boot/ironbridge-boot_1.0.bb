SUMMARY = "Boot menu of an Ironbridge box with two systems"
DESCRIPTION = "GRUB settings for an EFI machine: starts the system in slot A or B, and the other one when a system \
               that was not marked as good does not come up."
SECTION = "bootloaders"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "\
    file://efi.mount \
    file://grub.cfg \
    file://grubenv \
"

S = "${UNPACKDIR}"

inherit deploy features_check systemd

REQUIRED_DISTRO_FEATURES = "systemd"

CVE_PRODUCT = "ironbridge"

PACKAGE_ARCH = "${MACHINE_ARCH}"

# How the kernel is called in /boot, and what else it is told.
IRONBRIDGE_KERNEL ?= "${KERNEL_IMAGETYPE}"
IRONBRIDGE_APPEND ?= "console=tty0 console=ttyS0,115200"

do_configure[noexec] = "1"

do_compile() {
    sed -e 's,@KERNEL@,${IRONBRIDGE_KERNEL},g' -e 's#@APPEND@#${IRONBRIDGE_APPEND}#g' \
        ${UNPACKDIR}/grub.cfg > ${B}/ironbridge-grub.cfg
}

do_install() {
    install -d ${D}/efi
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${UNPACKDIR}/efi.mount ${D}${systemd_system_unitdir}/efi.mount
}

do_deploy() {
    install -m 0644 ${B}/ironbridge-grub.cfg ${DEPLOYDIR}/ironbridge-grub.cfg
    install -m 0644 ${UNPACKDIR}/grubenv ${DEPLOYDIR}/ironbridge-grubenv
}
addtask deploy after do_compile before do_build

SYSTEMD_SERVICE:${PN} = "efi.mount"

FILES:${PN} += "\
    /efi \
    ${systemd_system_unitdir}/efi.mount \
"
