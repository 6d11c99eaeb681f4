SUMMARY = "What RAUC knows about an Ironbridge box"
DESCRIPTION = "The two slots, the boot loader, and the certificates whose bundles are accepted."
SECTION = "base"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "file://system.conf"

S = "${UNPACKDIR}"

inherit features_check

REQUIRED_DISTRO_FEATURES = "rauc systemd"

CVE_PRODUCT = "ironbridge"

PACKAGE_ARCH = "${MACHINE_ARCH}"

# Bundles for other boxes are refused.
IRONBRIDGE_COMPATIBLE ?= "ironbridge-${MACHINE}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

# There is no key to fall back on: a box that accepts what everybody can sign is worse than none.
do_install() {
    if [ ! -f "${RAUC_KEYRING_FILE}" ]; then
        bbfatal "RAUC_KEYRING_FILE must name the certificates whose bundles this box accepts (a PEM file, absolute path)"
    fi
    install -d ${D}${nonarch_libdir}/rauc
    sed -e 's,@COMPATIBLE@,${IRONBRIDGE_COMPATIBLE},g' -e 's,@LIBDIR@,${nonarch_libdir},g' \
        ${UNPACKDIR}/system.conf > ${D}${nonarch_libdir}/rauc/system.conf
    install -m 0644 ${RAUC_KEYRING_FILE} ${D}${nonarch_libdir}/rauc/ironbridge-keyring.pem
}
do_install[file-checksums] += "${@'${RAUC_KEYRING_FILE}:False' if d.getVar('RAUC_KEYRING_FILE') else ''}"

FILES:${PN} += "${nonarch_libdir}/rauc"

RPROVIDES:${PN} += "virtual-rauc-conf"
RCONFLICTS:${PN} = "rauc-conf"
