//! Making namespaces, entering them, and waking their loopback, without root and without any
//! tool of the machine.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink};
use rustix::process::{getegid, geteuid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Puts the calling process into namespaces of its own: network and mounts, and users where the
/// machine gives the other two to nobody else. The process must have one thread.
///
/// Inside a user namespace our own ids keep their numbers, so files look as they do outside.
pub(crate) fn unshare() -> io::Result<()> {
    let plain = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // Root of the machine needs no user namespace, and without one it can become any other user.
    if unshare_flags(plain).is_err() {
        unshare_flags(plain | UnshareFlags::NEWUSER)?;
        // An unprivileged user may map groups only after giving up setgroups (user_namespaces(7)).
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )?;
    Ok(())
}

// rustix calls the safe spelling deprecated because CLONE_FILES breaks the rules for descriptors
// when threads share them. We never pass it, and `unsafe` is forbidden here.
#[allow(deprecated)]
fn unshare_flags(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}

/// Moves the calling process into the namespaces of process `pid`. The process must have one thread.
pub(crate) fn enter(pid: i32) -> io::Result<()> {
    let open = |name: &str| fs::File::open(format!("/proc/{pid}/ns/{name}"));
    let same = |name: &str| -> io::Result<bool> {
        Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))? == fs::read_link(format!("/proc/self/ns/{name}"))?)
    };
    // All are opened first: after the first step /proc may look different. The user namespace is
    // entered first: it gives the right to enter the others. Entering our own again is refused.
    let user = if same("user")? { None } else { Some(open("user")?) };
    let (net, mounts) = (open("net")?, open("mnt")?);
    if let Some(user) = user {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Sets the loopback interface up: one `RTM_NEWLINK` (rtnetlink(7)).
pub(crate) fn loopback_up() -> io::Result<()> {
    // linux/rtnetlink.h, linux/netlink.h, linux/if.h.
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x01 | 0x04;
    const NLMSG_ERROR: u16 = 2;
    const IFF_UP: u32 = 1;
    // The kernel gives the loopback of a network namespace the index 1 (LOOPBACK_IFINDEX).
    const LOOPBACK: i32 = 1;

    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes()); // nlmsg_len
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes()); // nlmsg_seq
    message.extend(0_u32.to_ne_bytes()); // nlmsg_pid: the kernel fills it in
    message.extend([0; 4]); // ifi_family AF_UNSPEC, padding, ifi_type
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // ifi_flags
    message.extend(IFF_UP.to_ne_bytes()); // ifi_change: only this flag

    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 512];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // nlmsghdr is 16 bytes, its type at 4; nlmsgerr begins with the negated errno.
    let bytes = answer.get(..length).unwrap_or_default();
    let kind = bytes.get(4..6).and_then(|field| field.try_into().ok()).map(u16::from_ne_bytes);
    let code = bytes.get(16..20).and_then(|field| field.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel's answer to RTM_NEWLINK is not an acknowledgement")),
    }
}
