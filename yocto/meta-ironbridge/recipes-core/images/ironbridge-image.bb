SUMMARY = "Ironbridge box: read-only root, a partition for what changes"
DESCRIPTION = "A small system with the gateway, for two slots that an update exchanges in turn. Nobody can log in: \
               whoever wants to adds a login, with a key, in an append to this recipe."
SECTION = "base"
LICENSE = "Apache-2.0"

inherit core-image features_check

REQUIRED_DISTRO_FEATURES = "systemd"

CVE_PRODUCT = "ironbridge"

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_LINGUAS = ""
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    ca-certificates \
    ironbridge \
    ironbridge-data \
    ironbridge-health \
    kernel-image \
    kernel-modules \
"
# Boot loader and partitions are the board's affair. These are for EFI machines; another board brings its own.
IMAGE_INSTALL:append:x86-64 = " ironbridge-boot"

# The root alone goes into update bundles.
IMAGE_FSTYPES = "ext4"
IMAGE_FSTYPES:append:x86-64 = " wic wic.bmap"

WKS_FILE:x86-64 = "ironbridge-efi.wks.in"
WKS_FILE_DEPENDS:append:x86-64 = " ironbridge-boot"
IMAGE_BOOT_FILES:x86-64 = "\
    grub-efi-bootx64.efi;EFI/BOOT/bootx64.efi \
    ironbridge-grub.cfg;EFI/BOOT/grub.cfg \
    ironbridge-grubenv;EFI/BOOT/grubenv \
"
EFI_PROVIDER:x86-64 = "grub-efi"

# Each slot, in MiB, must hold a later image too; the data partition holds the store (512 MiB unless configured), its
# room for work, configuration and bundles on their way in.
IRONBRIDGE_SLOT_SIZE ?= "1024"
IRONBRIDGE_DATA_SIZE ?= "2048"
