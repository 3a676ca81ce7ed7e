//! The names of our entries, and which of them are left over.
//!
//! `countersign-<bootid8>-<seconds>-<random>`: the guest's boot, the second of that boot in which
//! the entry was made, and 64 random bits. configfs belongs to the whole guest: containers see each
//! other's entries, and process ids mean nothing between them. What they share is the clock of the
//! boot, so age alone decides, and no report may take longer than [`MAX_WAIT`].

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use crate::clock::boottime;

/// Longest time that one report may take, whatever its caller's deadline. An entry older than that
/// has no owner any more.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// First part of the name of every entry that we make.
const PREFIX: &str = "countersign";

/// Characters of the boot id in a name: enough to tell boots apart, and all that is needed.
const BOOT_CHARS: usize = 8;

/// Bytes of `/proc/sys/kernel/random/boot_id` that are read: a UUID and a newline.
const BOOT_ID_BYTES: u64 = 37;

/// The running boot: its id, and the time in it.
#[derive(Clone)]
pub struct Boot {
    id8: String,
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Boot {
    /// The kernel's: `<proc>/sys/kernel/random/boot_id` and `CLOCK_BOOTTIME`. Where the id cannot
    /// be read it is all zeros: names stay unique by their random part.
    pub fn kernel(proc: &Path) -> Self {
        Self::new(&boot_id(proc).unwrap_or_default(), Arc::new(boottime))
    }

    /// A boot with another clock, for tests. `id` is a UUID; its first eight hex digits count.
    pub fn new(id: &str, clock: Arc<dyn Fn() -> Duration + Send + Sync>) -> Self {
        let id8: String = id.chars().take(BOOT_CHARS).collect();
        let id8 = if is_hex(&id8, BOOT_CHARS) { id8 } else { "0".repeat(BOOT_CHARS) };
        Self { id8, clock }
    }

    /// A fresh name. Fails where the kernel has no randomness to give.
    pub fn name(&self) -> Result<String, Error> {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::NoRandomness)?;
        Ok(format!("{PREFIX}-{}-{}-{:016x}", self.id8, (self.clock)().as_secs(), u64::from_be_bytes(random)))
    }

    /// Whether an entry of this name was made by a countersign that cannot be waiting for it any
    /// more. False for every name that is not of our own form, to the letter.
    pub(super) fn is_stale(&self, name: &str) -> bool {
        let mut parts = name.split('-');
        let (Some(PREFIX), Some(boot), Some(seconds), Some(random), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        let Some(begun) = seconds.parse::<u64>().ok().filter(|_| digits) else { return false };
        if !is_hex(boot, BOOT_CHARS) || !is_hex(random, 16) {
            return false;
        }
        // Entries do not outlive their boot: one of another boot came with a restored snapshot. An
        // id that could not be read, theirs or ours, proves no other boot.
        let unknown = |id: &str| id.bytes().all(|byte| byte == b'0');
        let other_boot = boot != self.id8 && !unknown(boot) && !unknown(&self.id8);
        let age = (self.clock)().as_secs().saturating_sub(begun);
        other_boot || age > MAX_WAIT.as_secs()
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn boot_id(proc: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(proc.join("sys/kernel/random/boot_id")).ok()?;
    file.take(BOOT_ID_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether a name for an entry that somebody made for us can be one: it comes from configuration.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(id: &str, seconds: u64) -> Boot {
        Boot::new(id, Arc::new(move || Duration::from_secs(seconds)))
    }

    const ID: &str = "0123abcd-0000-4000-8000-000000000000\n";

    #[test]
    fn names_carry_boot_and_time_and_never_repeat() {
        let boot = boot(ID, 42);
        let (one, two) = (boot.name().unwrap(), boot.name().unwrap());
        assert!(one.starts_with("countersign-0123abcd-42-"), "{one}");
        assert_ne!(one, two);
        assert!(one.len() <= 64);
    }

    #[test]
    fn an_entry_is_stale_after_the_longest_wait_and_not_before() {
        let name = boot(ID, 1000).name().unwrap();
        assert!(!boot(ID, 1600).is_stale(&name));
        assert!(boot(ID, 1601).is_stale(&name));
        assert!(!boot(ID, 0).is_stale(&name), "a clock that is behind removes nothing");
        assert!(boot("ffffffff", 1000).is_stale(&name), "of another boot");
        assert!(!boot("", 1000).is_stale(&name), "an unknown boot is no other boot");
    }

    #[test]
    fn what_others_made_is_never_stale() {
        for name in [
            "",
            "report0",
            "countersign",
            "countersign-0123abcd-1",
            "countersign-0123abcd-1-0011223344556677-x",
            "countersign-0123abcd--0011223344556677",
            "countersign-0123abcd-+1-0011223344556677",
            "countersign-0123abcd-1-001122334455667",
            "countersign-0123ABCD-1-0011223344556677",
            "countersign-0123abcd-99999999999999999999-0011223344556677",
            "com.intel.dcap",
        ] {
            assert!(!boot(ID, 100_000).is_stale(name), "{name}");
        }
    }

    #[test]
    fn a_boot_without_an_id_still_gives_names() {
        assert!(boot("../../etc", 1).name().unwrap().starts_with("countersign-00000000-1-"));
        assert!(Boot::kernel(Path::new("/nothing-here")).name().unwrap().starts_with("countersign-00000000-"));
        assert!(!Boot::kernel(Path::new("/proc")).name().unwrap().starts_with("countersign-00000000-"));
    }

    #[test]
    fn refused_names_of_made_entries() {
        for name in ["", ".", "..", ".a", "a/b", "a\0", "ä", &"a".repeat(65)] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("app-1_report.x"));
    }
}
