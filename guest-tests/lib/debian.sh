# Debian's packages: what the guest tests run on this machine, and the kernel that they boot.
# shellcheck shell=bash

# Installed on this machine. xz opens the kernel's modules, pahole is asked for by the kernel's own
# makefiles, e2fsprogs and util-linux make the disks.
host_packages=(qemu-system-x86 qemu-utils seabios ipxe-qemu busybox-static cpio kmod xz-utils e2fsprogs
    make gcc pahole libelf1 crun)

# Where apt keeps its lists for us: our suite is not added to the machine's own.
apt_home=$cache/guest/apt

# apt with the machine's own mirror, its release, and the backports of that release. QEMU and the
# kernel are taken from the same suite: QEMU of one and its firmware of another do not start.
apt() {
    local program=$1
    shift
    "$program" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_home/sources" \
        -o Dir::State::lists="$apt_home/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Default-Release="$suite" -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# debian_ready: sets `suite`, and fetches its lists. Stops the run where that cannot be.
debian_ready() {
    local codename mirror
    command -v apt-get >/dev/null || die "install Debian, or run this in a Debian container: the guest's kernel is Debian's"
    [ "$(dpkg --print-architecture)" = amd64 ] || die "run this on amd64: the guest is a PC"
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v codename="$codename" '$2 == codename && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || die "add Debian's $codename main to /etc/apt: no mirror is known for it"
    suite=$codename-backports
    mkdir -p "$apt_home/sources" "$apt_home/lists/partial"
    cat >"$apt_home/sources/guest.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $codename $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    retried "reach $mirror" apt apt-get -qq update
}

# retried WHAT COMMAND…: three times, for a mirror that is just being synchronised.
retried() {
    local what=$1 try
    shift
    for try in 1 2 3; do
        if "$@"; then return; fi
        [ "$try" -lt 3 ] || die "$what: failed three times"
        sleep 5
    done
}

install_host_packages() {
    local package missing=()
    for package in "${host_packages[@]}"; do
        # Quiet: a package that dpkg has never heard of is the question, not an error.
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || die "run as root, or install: ${missing[*]} (from $suite)"
    DEBIAN_FRONTEND=noninteractive retried "install ${missing[*]}" \
        apt apt-get -qqy install --no-install-recommends "${missing[@]}"
}

# fetch_kernel: sets `kernel` (its version) and `kernel_root` (its packages, unpacked). Debian keeps
# only the newest, so no version can be pinned: what is newest is asked each time, and what was
# fetched before is used only if it is that.
fetch_kernel() {
    local wanted packages fetched
    wanted=$(apt apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances linux-image-cloud-amd64 linux-headers-cloud-amd64)
    # linux-image-V, linux-headers-V, linux-headers-V-common, linux-kbuild-V, and what later releases
    # split off (linux-modules-V, linux-binary-V). Not the unsigned twin.
    mapfile -t packages < <(grep -oE '^linux-(image|binary|modules|headers|kbuild)-[0-9][^ ]*' <<<"$wanted" |
        grep -v -- -unsigned | sort -u)
    kernel=$(printf '%s\n' "${packages[@]}" | sed -n 's/^linux-image-//p' | head -n 1)
    [ -n "$kernel" ] || die "see \`apt-cache policy linux-image-cloud-amd64\`: $suite has no cloud kernel"
    fetched=$(apt apt-cache show --no-all-versions "${packages[@]}" | sed -n 's/^SHA256: //p' | sort | sha256sum | cut -c1-16)
    # The name holds the packages' hashes: the same version rebuilt is another kernel.
    kernel_root=$cache/guest/$kernel-$fetched
    if [ ! -e "$kernel_root/complete" ]; then
        local work=$kernel_root.$$
        rm -rf "$work"
        mkdir -p "$work/debs" "$work/root"
        (cd "$work/debs" && retried "download ${packages[*]}" apt apt-get -qq download "${packages[@]}")
        local deb
        for deb in "$work/debs"/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
        rm -rf "$work/debs"
        touch "$work/complete"
        rm -rf "$kernel_root"
        mv "$work" "$kernel_root"
        # Of older kernels nothing is kept.
        find "$cache/guest" -mindepth 1 -maxdepth 1 -type d -name '*-cloud-amd64-*' ! -path "$kernel_root" -exec rm -rf {} +
    fi
    echo "kernel: $kernel"
}
