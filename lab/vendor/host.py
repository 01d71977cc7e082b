"""What building the vendor repository needs of this machine."""

# apt-ftparchive, dpkg-deb and gpg; the image's busybox is fetched with `apt-get download`.
HOST_PACKAGES = ("apt-utils", "dpkg", "gnupg")
