SUMMARY = "Update bundle for Ironbridge boxes"
DESCRIPTION = "A signed RAUC bundle with the root of ironbridge-image. Its hook puts the new system on trial: see \
               ironbridge-trial."
SECTION = "base"
LICENSE = "Apache-2.0"

SRC_URI = "file://ironbridge-hook"

inherit bundle features_check

REQUIRED_DISTRO_FEATURES = "rauc systemd"

CVE_PRODUCT = "ironbridge"

IRONBRIDGE_COMPATIBLE ?= "ironbridge-${MACHINE}"

# Key and certificate are the builder's: RAUC_KEY_FILE and RAUC_CERT_FILE, never part of a layer.
RAUC_BUNDLE_COMPATIBLE = "${IRONBRIDGE_COMPATIBLE}"
RAUC_BUNDLE_FORMAT = "verity"
RAUC_BUNDLE_VERSION = "${PV}"
RAUC_BUNDLE_HOOKS[file] = "ironbridge-hook"
RAUC_BUNDLE_HOOKS[hooks] = "install-check"
RAUC_BUNDLE_SLOTS = "rootfs"
RAUC_SLOT_rootfs = "ironbridge-image"
RAUC_SLOT_rootfs[fstype] = "ext4"
RAUC_SLOT_rootfs[hooks] = "post-install"
