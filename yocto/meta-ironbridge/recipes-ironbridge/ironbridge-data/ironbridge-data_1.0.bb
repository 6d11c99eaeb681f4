SUMMARY = "Data partition of an Ironbridge box"
DESCRIPTION = "Mounts the partition named `data` and puts store and configuration on it, so that both survive an \
               exchange of the read-only root."
SECTION = "base"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "\
    file://data.mount \
    file://etc-ironbridge.mount \
    file://ironbridge-seed \
    file://ironbridge-seed.service \
    file://var-lib-ironbridge.mount \
"

S = "${UNPACKDIR}"

inherit allarch features_check systemd

REQUIRED_DISTRO_FEATURES = "systemd"

CVE_PRODUCT = "ironbridge"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}/data
    install -d ${D}${libexecdir}/ironbridge
    install -m 0755 ${UNPACKDIR}/ironbridge-seed ${D}${libexecdir}/ironbridge/seed
    install -d ${D}${systemd_system_unitdir}
    for unit in data.mount etc-ironbridge.mount var-lib-ironbridge.mount ironbridge-seed.service; do
        install -m 0644 ${UNPACKDIR}/$unit ${D}${systemd_system_unitdir}/$unit
    done
    sed -i -e 's,@LIBEXECDIR@,${libexecdir},g' ${D}${systemd_system_unitdir}/ironbridge-seed.service
}

SYSTEMD_SERVICE:${PN} = "\
    data.mount \
    etc-ironbridge.mount \
    ironbridge-seed.service \
    var-lib-ironbridge.mount \
"

FILES:${PN} += "\
    /data \
    ${libexecdir}/ironbridge/seed \
    ${systemd_system_unitdir}/*.mount \
    ${systemd_system_unitdir}/ironbridge-seed.service \
"

# A partition that a power cut left untidy is put right before it is mounted.
RDEPENDS:${PN} += "e2fsprogs-e2fsck ironbridge"
