# What goes into the guest: the module, the static programs, the initramfs.
# shellcheck shell=bash

# Modules of the kernel that the guest loads, and what they depend on. Some kernels have a few of
# them built in; configfs and tsm are loaded by the guest in this order, tsm under either name.
guest_modules=(configfs tsm tsm_report virtio_blk loop overlay 9p 9pnet_virtio zram virtio_net)

# build_module: sets `module`.
build_module() {
    local headers=$kernel_root/root/usr/src/linux-headers-$kernel compiler
    # The packaged makefiles include each other below /usr/src.
    local prefix=$kernel_root/root
    sed -i -e "s#^include /usr/src/#include $prefix/usr/src/#" \
        -e "s#^KBUILD_OUTPUT=/usr/src/#KBUILD_OUTPUT=$prefix/usr/src/#" "$headers/Makefile"
    # A module built by another compiler than its kernel may not load.
    compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' "$headers/.config")
    command -v "$compiler" >/dev/null || die "install the package of $compiler: Debian built $kernel with it"
    mkdir -p "$work/module"
    cp "$here/module/tsm_fake.c" "$here/module/Kbuild" "$work/module/"
    make -s -C "$headers" M="$work/module" CC="$compiler" modules >"$work/module.log" 2>&1 ||
        { cat "$work/module.log" && die "the module does not build for $kernel"; }
    strip -g "$work/module/tsm_fake.ko"
    module=$work/module/tsm_fake.ko
}

# build_programs: sets `countersign` and `signer`. The shipped binary is static, in the profile that
# ships where GUEST_TESTS_RELEASE is set (.ci/run has built it by then), else one that builds fast.
build_programs() {
    local flags=(--locked --target "$target" --bin countersign) profile=debug
    if [ -n "${GUEST_TESTS_RELEASE:-}" ]; then
        flags+=(--release)
        profile=release
    fi
    (cd "$tree" && RUSTFLAGS=$static_flags cargo build --quiet "${flags[@]}")
    countersign=${CARGO_TARGET_DIR:-$tree/target}/$target/$profile/countersign
    # Programs of the tests are not shipped; they are linked as cargo does it, and run with the
    # machine's own libraries.
    (cd "$tree" && cargo build --quiet --locked --package countersign-testbed --bins)
    # What people and admission make of a manifest, for `direct-pod`.
    (cd "$tree" && cargo build --quiet --locked --bin kubectl-countersign)
    # A copy: somebody may build while the guests run.
    cp "${CARGO_TARGET_DIR:-$tree/target}/debug/guest-signer" "$work/guest-signer"
    signer=$work/guest-signer
    cp "${CARGO_TARGET_DIR:-$tree/target}/debug/"{kubectl-countersign,pod-bundles,countersign-sim} "$work/"
    conformance=${CARGO_TARGET_DIR:-$tree/target}/debug/tsm-conformance
    # Until the list is there, its checks by shell are what runs.
    [ -e "$tree/testbed/src/bin/tsm-conformance.rs" ] || conformance=
}

# add_program FILE: a program of this machine, with the libraries it needs. In /usr/bin: in /bin
# busybox's shell would take its own applet of the same name.
add_program() {
    local root=$work/root library
    strip -o "$root/usr/bin/$(basename "$1")" "$1"
    while read -r library; do
        [ ! -e "$root$library" ] || continue
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done < <(ldd "$1" | grep -oE '/[^ ]+')
}

# build_initramfs: makes `initramfs` in $work, and `initramfs-full` with the binary and what runs it in
# a container: most boots do without, and an emulated guest needs seconds to unpack it. `initramfs-sim` has
# the testbed's build of the program, which believes the testbed's vendors.
build_initramfs() {
    local root=$work/root name
    mkdir -p "$root"/{bin,dev,etc,lib,mnt,modules,proc,run,sys,tests,tmp,usr/bin}
    cp /bin/busybox "$root/bin/"
    cp "$here/init" "$root/init"
    cp "$here/programs/"* "$root/tests/"
    chmod -R a+rX "$root/init" "$root/tests"
    add_program "$(command -v setpriv)"
    [ -z "$conformance" ] || add_program "$conformance"
    cp "$module" "$root/modules/"
    for name in "${guest_modules[@]}"; do add_module "$name"; done
    pack initramfs
    add_program "$work/countersign-sim"
    pack initramfs-sim
    rm "$root/usr/bin/countersign-sim"
    strip -o "$root/bin/countersign" "$countersign"
    add_program "$(command -v crun)"
    pack initramfs-full
}

# pack NAME: all of it as root's. Not compressed: emulated, a guest takes longer to unpack it than
# QEMU to load it.
pack() {
    pack_directory "$work/root" >"$work/$1"
    echo "$1: $(stat -c %s "$work/$1") bytes"
}

pack_directory() { (cd "$1" && find . | cpio -o -H newc --quiet --owner=0:0); }

# add_module NAME: the module and, before it in `modules/NAME.order`, all that it needs. A module that
# this kernel does not have is not an error here: the guest says what it misses.
add_module() {
    local path=$kernel_root/root
    [ -d "$path/lib/modules/$kernel" ] || path=$path/usr
    [ -e "$path/lib/modules/$kernel/modules.dep" ] || depmod -b "$path" "$kernel"
    local line file target order=$work/root/modules/$1.order
    line=$(modprobe --dirname "$path" --set-version "$kernel" --show-depends "$1" 2>/dev/null) || return 0
    while read -r _ file _; do
        [ -f "$file" ] || continue # `builtin NAME`
        target=$(basename "${file%.xz}")
        case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac >"$work/root/modules/$target"
        echo "$target" >>"$order"
    done <<<"$line"
}
