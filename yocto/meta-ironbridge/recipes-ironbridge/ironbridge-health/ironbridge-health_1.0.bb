SUMMARY = "Is this Ironbridge box well, and does an update hold"
DESCRIPTION = "Asks the gateway's /health, and keeps a freshly installed system on trial until the gateway has been \
               well on it for a minute: otherwise the box restarts and its boot loader returns to the system before."
SECTION = "base"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

SRC_URI = "\
    file://ironbridge-health \
    file://ironbridge-health.conf \
    file://ironbridge-trial \
    file://ironbridge-trial.service \
    file://watchdog.conf \
"

S = "${UNPACKDIR}"

inherit allarch features_check systemd

REQUIRED_DISTRO_FEATURES = "systemd"

CVE_PRODUCT = "ironbridge"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${libexecdir}/ironbridge
    install -m 0755 ${UNPACKDIR}/ironbridge-health ${D}${libexecdir}/ironbridge/health
    install -m 0755 ${UNPACKDIR}/ironbridge-trial ${D}${libexecdir}/ironbridge/trial
    install -d ${D}${nonarch_libdir}/ironbridge
    install -m 0644 ${UNPACKDIR}/ironbridge-health.conf ${D}${nonarch_libdir}/ironbridge/health.conf
    install -d ${D}${nonarch_libdir}/systemd/system.conf.d
    install -m 0644 ${UNPACKDIR}/watchdog.conf ${D}${nonarch_libdir}/systemd/system.conf.d/50-ironbridge-watchdog.conf
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${UNPACKDIR}/ironbridge-trial.service ${D}${systemd_system_unitdir}/ironbridge-trial.service
    sed -i -e 's,@LIBEXECDIR@,${libexecdir},g' -e 's,@LIBDIR@,${nonarch_libdir},g' \
        ${D}${systemd_system_unitdir}/ironbridge-trial.service ${D}${libexecdir}/ironbridge/health
}

SYSTEMD_SERVICE:${PN} = "ironbridge-trial.service"

FILES:${PN} += "\
    ${libexecdir}/ironbridge/health \
    ${libexecdir}/ironbridge/trial \
    ${nonarch_libdir}/ironbridge/health.conf \
    ${nonarch_libdir}/systemd/system.conf.d/50-ironbridge-watchdog.conf \
    ${systemd_system_unitdir}/ironbridge-trial.service \
"

RDEPENDS:${PN} += "curl ironbridge"
