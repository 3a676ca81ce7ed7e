# One boot, and its verdict.
# shellcheck shell=bash

# Seconds. A boot takes 4 to 13 on two busy cores, its tests a few more.
boot_limit=${GUEST_TESTS_BOOT_LIMIT:-120}

passed=0
failed=0

# boot SETUP PARAMETERS SIGNER-SCRIPT PROGRAM: runs one row of `setups`; counts what it says.
boot() {
    local setup=$1 parameters=$2 signer_script=$3 program=$4 begun=$SECONDS
    local log=$work/$setup.log append devices=() initramfs=$work/initramfs
    case $program in
    countersign | crun | direct*) initramfs=$work/initramfs-full ;;
    peers) initramfs=$work/initramfs-sim ;;
    esac
    append="console=ttyS0 quiet loglevel=0 panic=-1 guest.setup=$setup guest.program=$program"
    [ "$parameters" = - ] || append+=" guest.module=$parameters"

    if [ "$signer_script" != - ]; then
        local host=()
        # A KBS beside the signer, and a network that leads there.
        case $program in direct* | peers) host=("$work/$setup.host/host") ;; esac
        case $program in
        direct-pod) host+=(/run/countersign/secrets) ;; # As the manifest has it.
        peers) host+=(peers) ;;
        esac
        rm -rf "$work/$setup.sock" "$work/$setup.host"
        "$signer" "$work/$setup.sock" "$signer_script" "${host[@]}" >"$work/$setup.signer" 2>&1 &
        until [ -S "$work/$setup.sock" ] || ! kill -0 $! 2>/dev/null; do sleep 0.05; done
        devices+=(-device virtio-serial-pci -chardev "socket,id=signer,path=$work/$setup.sock"
            -device virtserialport,chardev=signer,name=tsm-signer)
    fi
    [ "$program" != direct-pod ] || lay_out_pod "$work/$setup.host/host"
    if [ -d "$work/$setup.host" ]; then
        # What the host made for this guest goes behind its initramfs: archives of cpio add up.
        cat "$initramfs" <(pack_directory "$work/$setup.host") >"$work/$setup.initramfs"
        initramfs=$work/$setup.initramfs
        devices+=(-netdev user,id=net -device virtio-net-pci,netdev=net)
    fi
    # For swap, and for a file system that is not memory.
    local disk
    for disk in swap files; do
        truncate -s 32M "$work/$setup.$disk"
        devices+=(-drive "if=virtio,format=raw,file=$work/$setup.$disk")
    done

    # TCG always. Where /dev/kvm exists it may still not run a stock kernel, and aborts in mid-boot.
    # `-no-reboot` with `panic=-1` turns a guest's panic into QEMU's end.
    local code=0
    timeout --kill-after=5 "$boot_limit" qemu-system-x86_64 -nodefaults -no-user-config -display none \
        -no-reboot -M q35 -accel tcg,thread=multi -smp 2 -cpu max -m 512 -serial stdio \
        -kernel "$kernel_image" -initrd "$initramfs" -append "$append" "${devices[@]}" \
        </dev/null >"$log" 2>&1 || code=$?
    rm -f "$work/$setup.initramfs"
    tr -d '\r' <"$log" >"$log.text"
    judge "$setup" "$code" "$log.text"
    echo "     $setup: $((SECONDS - begun)) s"
}

# lay_out_pod HOST: an example as admission makes it of the guest's own initdata, in the shape
# `direct`, as bundles. The guest sees HOST as /host.
lay_out_pod() {
    local image=registry.example/countersign@sha256:$(printf 'ab%.0s' {1..32})
    "$work/kubectl-countersign" initdata configmap --workload api --namespace payments "$1/initdata.toml" >"$work/maps.yaml"
    # Its notes are for people: the example's probe is not asked here.
    "$work/kubectl-countersign" render -f "$tree/examples/http-api/app.yaml" --tier-file "$tree/policies/corpus/tiers/direct.toml" \
        --image "$image" --configmap "$work/maps.yaml" --pods >"$work/pod.yaml" 2>"$work/render.notes" ||
        { cat "$work/render.notes" && die "the example cannot be rendered"; }
    # The app: says who it is, and what it reads where the manifest tells it to.
    # shellcheck disable=SC2016 # Expanded in the guest.
    "$work/pod-bundles" "$work/pod.yaml" "$work/maps.yaml" "$image" /bin/countersign "$1/pod" /host/pod \
        /usr/bin/busybox sh -c 'echo "the app as $(busybox id -u) reads $(busybox cat "$PASSWORD_FILE")"'
}

# judge SETUP CODE LOG. QEMU's exit code is 0 after a guest's panic too, so nothing is believed but
# the guest's own last line, and that its programs counted what they printed.
judge() {
    local setup=$1 code=$2 log=$3 good bad said_good said_bad why=
    sed -nE "s#^(PASS|FAIL) #\1 $setup: #p; s#^LEFT OUT #left out: $setup: #p" "$log"
    good=$(grep -c '^PASS ' "$log" || true)
    bad=$(grep -c '^FAIL ' "$log" || true)
    # A program's last line: `NAME END 3 passed 0 failed`.
    read -r said_good said_bad < <(awk '
        /^[A-Z-]+ END [0-9]+ passed [0-9]+ failed$/ { good += $3; bad += $5; ended = 1 }
        END { if (ended) print good + 0, bad + 0; else print "" }' "$log")
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        why="the guest did not end within $boot_limit s"
    elif [ "$code" -ne 0 ]; then
        why="QEMU ended with $code"
    elif ! grep -qx "GUEST END $setup" "$log"; then
        why="the guest ended without its end marker"
    elif [ -z "$said_good" ]; then
        why="the program ended without its end marker"
    elif [ "$good $bad" != "$said_good $said_bad" ]; then
        why="$good passed and $bad failed were printed, $said_good and $said_bad counted"
    elif [ $((good + bad)) -eq 0 ] && ! grep -q '^LEFT OUT ' "$log"; then
        why="nothing was tested"
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    [ -n "$why" ] || [ "$bad" -gt 0 ] || return 0
    if [ -n "$why" ]; then
        failed=$((failed + 1))
        echo "FAIL $setup: $why"
    fi
    echo "--- the last of $setup's console"
    tail -n 60 "$log" | sed 's/^/    /'
    echo "---"
}
