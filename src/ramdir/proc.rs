//! What the kernel says about mounts, swap and our own rights, read from procfs.
//!
//! Never `/proc/self/fd`: with `PR_SET_DUMPABLE` 0 it belongs to root and other users cannot use it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Error, shown};

/// Most bytes read of one file. A busy node has a few thousand mounts of about 200 bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// `CAP_CHOWN`, the number of its bit (`linux/capability.h`).
const CAP_CHOWN: u32 = 0;

/// One line of mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountLine {
    /// Where it is mounted, escapes undone. May hold any byte but NUL.
    pub(super) point: Vec<u8>,
    /// File system type, as the kernel's word.
    pub(super) fs: Vec<u8>,
    /// Whether the file system was mounted with `noswap` (tmpfs, Linux 6.4 and later).
    pub(super) noswap: bool,
}

/// The mount with this id, from `<proc>/self/mountinfo`.
pub(super) fn mount(proc: &Path, id: u64) -> Result<MountLine, Error> {
    let (text, _) = read(&proc.join("self/mountinfo"))?.ok_or_else(|| absent(&proc.join("self/mountinfo")))?;
    find_mount(&text, id).map_err(|problem| refused(&proc.join("self/mountinfo"), problem))
}

/// How many swap areas are active, from `<proc>/swaps`.
///
/// A kernel built without swap has no such file; that counts as none, but only where the rest of
/// procfs is there. A file that is not on the same file system as `<proc>/self/mountinfo` has been
/// mounted over the kernel's own: it may say that there is swap, never that there is none.
pub(super) fn active_swaps(proc: &Path) -> Result<usize, Error> {
    let file = proc.join("swaps");
    let anchor = proc.join("self/mountinfo");
    let (_, home) = read(&anchor)?.ok_or_else(|| absent(&anchor))?;
    let Some((text, device)) = read(&file)? else { return Ok(0) };
    match count_swaps(&text).map_err(|problem| refused(&file, problem))? {
        0 if device != home => Err(refused(&file, "is not the kernel's own: something is mounted over it")),
        active => Ok(active),
    }
}

/// Whether we hold `CAP_CHOWN` now, from `<proc>/self/status`.
pub(super) fn may_chown(proc: &Path) -> Result<bool, Error> {
    let file = proc.join("self/status");
    let (text, _) = read(&file)?.ok_or_else(|| absent(&file))?;
    effective(&text).map(|bits| bits >> CAP_CHOWN & 1 == 1).map_err(|problem| refused(&file, problem))
}

fn refused(file: &Path, problem: &'static str) -> Error {
    Error::Proc { file: shown(file), problem }
}

fn absent(file: &Path) -> Error {
    refused(file, "does not exist: procfs is not mounted")
}

/// A file's bytes and the device it is on. `None` where there is no such file.
fn read(path: &PathBuf) -> Result<Option<(Vec<u8>, u64)>, Error> {
    let cannot = |_| refused(path, "cannot be read");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    let device = file.metadata().map_err(cannot)?.dev();
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(cannot)?;
    if u64::try_from(text.len()).map_or(true, |len| len > MAX_BYTES) {
        return Err(refused(path, "is larger than 4 MiB"));
    }
    Ok(Some((text, device)))
}

/// proc(5), `/proc/pid/mountinfo`:
/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
///
/// Every line must have that form, and exactly one the id: a file that we half understand proves
/// nothing.
fn find_mount(text: &[u8], id: u64) -> Result<MountLine, &'static str> {
    let mut found = None;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (line_id, mount) = mount_line(line).ok_or("has a line that is not of mountinfo's form")?;
        if line_id == id && found.replace(mount).is_some() {
            return Err("lists the same mount twice");
        }
    }
    found.ok_or("does not list the mount: it is outside of this container's root")
}

fn mount_line(line: &[u8]) -> Option<(u64, MountLine)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = number(fields.next()?)?;
    let (_device, _root) = (fields.next()?, fields.next()?);
    let point = unescape(fields.next()?)?;
    let _options = fields.next()?;
    fields.by_ref().find(|field| *field == b"-")?;
    let fs = unescape(fields.next()?)?;
    // The source may be empty, which leaves an empty field; it is not skipped.
    let _source = fields.next()?;
    let noswap = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"noswap");
    (point.first() == Some(&b'/') && fields.next().is_none()).then_some((id, MountLine { point, fs, noswap }))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\040`: a backslash and exactly three octal digits.
fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let mut value = 0_u32;
        for _ in 0..3 {
            let digit = rest.next().filter(|digit| matches!(digit, b'0'..=b'7'))?;
            value = value * 8 + u32::from(digit - b'0');
        }
        out.push(u8::try_from(value).ok()?);
    }
    Some(out)
}

/// A header, then one line an active area. The header is demanded: an empty file is not an answer.
fn count_swaps(text: &[u8]) -> Result<usize, &'static str> {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    if !lines.next().is_some_and(|header| header.starts_with(b"Filename")) {
        return Err("does not begin with the kernel's header line");
    }
    Ok(lines.count())
}

/// The bits of `CapEff:`, which the kernel writes as 16 hex digits.
fn effective(text: &[u8]) -> Result<u64, &'static str> {
    let mut values = text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"CapEff:\t"));
    let (Some(value), None) = (values.next(), values.next()) else { return Err("has not exactly one CapEff line") };
    if value.len() != 16 || !value.iter().all(u8::is_ascii_hexdigit) {
        return Err("has a CapEff line that is not 16 hex digits");
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .ok_or("has a CapEff line that is not 16 hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        63 43 0:39 / /run/a\\040b rw,relatime shared:1 master:2 - tmpfs none rw,size=64k,noswap\n\
        64 43 0:40 / /x rw -  rw\n\
        65 43 0:40 / /y rw - tmpfs  rw,size=1k\n";

    #[test]
    fn a_mount_is_found_by_its_id_with_escapes_undone() {
        let line = find_mount(&INFO.replace_line(2, b""), 63).unwrap();
        assert_eq!(line, MountLine { point: b"/run/a b".to_vec(), fs: b"tmpfs".to_vec(), noswap: true });
        assert!(!find_mount(&INFO.replace_line(2, b""), 65).unwrap().noswap);
    }

    #[test]
    fn refused_mountinfo_that_is_not_understood() {
        assert!(find_mount(INFO, 63).is_err(), "a line without a source");
        for bad in [
            &b""[..],
            b"63 43 0:39 / /a rw tmpfs none rw",
            b"63 43 0:39 / a rw - tmpfs none rw",
            b"63 43 0:39 / /a\\04 rw - tmpfs none rw",
            b"63 43 0:39 / /a\\999 rw - tmpfs none rw",
            b"63 43 0:39 / /a\\777 rw - tmpfs none rw",
            b"x 43 0:39 / /a rw - tmpfs none rw",
            b"63 43 0:39 / /a rw - tmpfs none rw\n63 43 0:39 / /b rw - tmpfs none rw",
            b"63 43 0:39 / /a rw - tmpfs none rw noswap",
        ] {
            assert!(find_mount(bad, 63).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn noswap_counts_only_as_a_whole_option_of_the_file_system() {
        for line in [
            &b"1 2 0:1 / /a rw,noswap - tmpfs none rw"[..],
            b"1 2 0:1 / /a rw - tmpfs noswap rw",
            b"1 2 0:1 / /a rw - tmpfs none rw,noswapx",
            b"1 2 0:1 / /noswap rw noswap - tmpfs none rw",
        ] {
            assert!(!find_mount(line, 1).unwrap().noswap, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn swaps_are_counted_and_an_empty_file_is_no_answer() {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert_eq!(count_swaps(header.as_bytes()), Ok(0));
        assert_eq!(count_swaps(format!("{header}/dev/vdb partition 1 0 -2\n").as_bytes()), Ok(1));
        assert_eq!(count_swaps(format!("{header}garbage\n").as_bytes()), Ok(1));
        assert!(count_swaps(b"").is_err());
        assert!(count_swaps(b"\n").is_err());
        assert!(count_swaps(b"/dev/vdb partition 1 0 -2\n").is_err());
    }

    #[test]
    fn refused_capabilities_that_are_not_16_hex_digits() {
        assert_eq!(effective(b"Name:\tx\nCapEff:\t000001fffeffffff\n"), Ok(0x1ff_feff_ffff));
        assert_eq!(effective(b"CapEff:\t0000000000000000\n"), Ok(0));
        for bad in [
            &b""[..],
            b"CapEff:\t1\n",
            b"CapEff:\t+00001fffeffffff\n",
            b"CapEff:\t0000000000000001\nCapEff:\t0000000000000001",
        ] {
            assert!(effective(bad).is_err());
        }
    }

    /// Replaces one line of a text.
    trait ReplaceLine {
        fn replace_line(&self, at: usize, with: &[u8]) -> Vec<u8>;
    }

    impl ReplaceLine for [u8] {
        fn replace_line(&self, at: usize, with: &[u8]) -> Vec<u8> {
            let mut lines: Vec<&[u8]> = self.split(|byte| *byte == b'\n').collect();
            lines[at] = with;
            lines.join(&b'\n')
        }
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "needs procfs")]
    fn the_kernels_own_files_are_understood() {
        let proc = Path::new("/proc");
        active_swaps(proc).unwrap();
        may_chown(proc).unwrap();
        assert!(mount(proc, u64::MAX).is_err());
    }
}
