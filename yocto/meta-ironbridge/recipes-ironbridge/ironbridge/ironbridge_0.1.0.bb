SUMMARY = "PLC-to-MQTT edge appliance"
DESCRIPTION = "Polls field devices, publishes every tag on its own MQTT broker, keeps every sample that must reach \
               the cloud and bridges upstream over TLS whenever a link is there."
SECTION = "net"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=33cb3e1c1b295712884e2be97fb3d2d9"

# The program is built from the tree this layer lies in, so that recipe, list of crates and source are always of one
# version. A layer that was copied elsewhere names the tree in IRONBRIDGE_SOURCE.
IRONBRIDGE_SOURCE ?= "${THISDIR}/../../../.."
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext - the source is not beside the recipe
FILESEXTRAPATHS:prepend := "${IRONBRIDGE_SOURCE}:"

require ${BPN}-crates.inc

SRC_URI += "\
    file://Cargo.toml;subdir=${BP} \
    file://Cargo.lock;subdir=${BP} \
    file://LICENSE;subdir=${BP} \
    file://config;subdir=${BP} \
    file://src;subdir=${BP} \
    file://systemd;subdir=${BP} \
    file://tests;subdir=${BP} \
    file://ironbridge.toml \
    file://run-ptest \
"

inherit cargo cargo-update-recipe-crates features_check ptest-cargo systemd useradd

REQUIRED_DISTRO_FEATURES = "systemd"

CVE_PRODUCT = "ironbridge"

# An appliance carries neither the simulated cloud nor its broker, nor doors that few plants have: `PACKAGECONFIG:append =
# " mqtt-sn quic demo"` brings them back, each by its name.
PACKAGECONFIG ??= ""
PACKAGECONFIG[demo] = "--features demo"
PACKAGECONFIG[mqtt-sn] = "--features mqtt-sn"
PACKAGECONFIG[quic] = "--features quic"
CARGO_BUILD_FLAGS:append = " --no-default-features"

# Cargo runs outside the source tree and so does not see its .cargo/config.toml.
export LIBSQLITE3_FLAGS = "-DHAVE_FDATASYNC=1 -USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE -USQLITE_ENABLE_STAT4 -USQLITE_ENABLE_DBSTAT_VTAB -USQLITE_ENABLE_COLUMN_METADATA -USQLITE_SOUNDEX -DSQLITE_OMIT_JSON -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_DEPRECATED -DSQLITE_OMIT_SHARED_CACHE"

# SQLite and zstd are those the crates bring: the store's promises were proven on exactly that SQLite and these flags,
# and both are linked into the tests the same way.
oe_cargo_fix_env:append() {
    unset LIBSQLITE3_SYS_USE_PKG_CONFIG ZSTD_SYS_USE_PKG_CONFIG
}

do_install:append() {
    # As ironbridge.tmpfiles has it: keys and passwords may come to lie beside the configuration.
    install -d -m 2750 -g ironbridge ${D}${sysconfdir}/ironbridge
    install -m 0640 -g ironbridge ${UNPACKDIR}/ironbridge.toml ${D}${sysconfdir}/ironbridge/ironbridge.toml
    # What a factory reset puts back in its place.
    install -D -m 0644 ${UNPACKDIR}/ironbridge.toml ${D}${datadir}/ironbridge/ironbridge.toml

    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/systemd/ironbridge.service ${D}${systemd_system_unitdir}/ironbridge.service
    install -d ${D}${nonarch_libdir}/sysusers.d
    install -m 0644 ${S}/systemd/ironbridge.sysusers ${D}${nonarch_libdir}/sysusers.d/ironbridge.conf
    install -d ${D}${nonarch_libdir}/tmpfiles.d
    install -m 0644 ${S}/systemd/ironbridge.tmpfiles ${D}${nonarch_libdir}/tmpfiles.d/ironbridge.conf

    install -d ${D}${docdir}/${BPN}
    install -m 0644 ${S}/config/*.toml ${S}/config/*.proto ${S}/config/*.cdx.json ${D}${docdir}/${BPN}
    # Licence texts of the libraries, as their crates bring them. They go with the program, not with its documentation, which
    # no image has.
    bash ${S}/systemd/deb/notices ${CARGO_VENDORING_DIRECTORY} > ${D}${datadir}/ironbridge/NOTICES
}

# Of the test programs only the unit tests need nothing but themselves: the others look for the source tree and for the
# program in the build directory. What they prove about the installed program, run-ptest does on the box.
keep_unit_tests() {
    sed -i -n '\,/deps/ironbridge-[0-9a-f]*$,p' ${CARGO_TEST_BINARIES_FILES}
    test -s ${CARGO_TEST_BINARIES_FILES} || bbfatal "no unit tests among the test programs"
}
keep_unit_tests[doc] = "Leaves only those test programs in the list that can run on a box"
do_compile_ptest_cargo[postfuncs] += "keep_unit_tests"

SYSTEMD_SERVICE:${PN} = "ironbridge.service"

# A read-only root cannot run sysusers at boot: the user is made with the image. The number is fixed because files on
# the data partition outlive every image. Serial ports belong to dialout. Local clients by unix socket are a group apart.
IRONBRIDGE_UID ?= "741"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system --gid ${IRONBRIDGE_UID} ironbridge; --system ironbridge-clients"
USERADD_PARAM:${PN} = "--system --uid ${IRONBRIDGE_UID} --gid ironbridge --groups dialout --no-create-home \
                       --home-dir ${localstatedir}/lib/ironbridge --shell ${base_sbindir}/nologin ironbridge"

FILES:${PN} += "\
    ${nonarch_libdir}/sysusers.d/ironbridge.conf \
    ${nonarch_libdir}/tmpfiles.d/ironbridge.conf \
    ${systemd_system_unitdir}/ironbridge.service \
"
CONFFILES:${PN} = "${sysconfdir}/ironbridge/ironbridge.toml"

RDEPENDS:${PN}-ptest += "coreutils"
