//! The time, never earlier than what has certainly passed.
//!
//! The host sets a guest's wall clock. A clock turned back makes an expired certificate valid again
//! and an old attestation fresh. So there is a floor: the date of this build's last commit, then
//! whatever a proven server said the time was. The floor moves on with `CLOCK_BOOTTIME`, which the
//! host cannot turn back. A clock that is ahead is not cured: it only refuses.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::check::{Check, Outcome};
use crate::finding::{Class, Finding, Who};

/// The wall clock of the outside world.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Time since the guest started, suspended or not.
pub type BootClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// 2026-11-01T00:00:00Z. The floor of a build that does not know its commit (a debug build, a source
/// archive without `SOURCE_DATE_EPOCH`). Raised with each release.
const RELEASED: u64 = 1_793_491_200;

/// The clock of one run. Clones share their floor.
#[derive(Clone)]
pub struct Clock {
    wall: WallClock,
    boot: BootClock,
    floor: Arc<Mutex<Floor>>,
}

/// It was `unix` (seconds since 1970), or later, when the boot clock showed `at`.
#[derive(Clone, Copy)]
struct Floor {
    unix: u64,
    at: Duration,
}

impl Clock {
    /// A clock with the floor of this build.
    pub fn new(wall: WallClock, boot: BootClock) -> Self {
        let floor = Floor { unix: committed(), at: boot() };
        Self { wall, boot, floor: Arc::new(Mutex::new(floor)) }
    }

    /// The machine's own clocks.
    #[allow(clippy::disallowed_methods)] // The one place that asks for the time of day.
    pub fn system() -> Self {
        Self::new(Arc::new(SystemTime::now), Arc::new(boottime))
    }

    /// Seconds since 1970: the wall clock's, or the floor where the wall clock is behind it.
    pub fn now(&self) -> u64 {
        self.wall().max(self.lowest())
    }

    /// How many seconds the wall clock is behind the floor; zero where it is not.
    pub fn behind(&self) -> u64 {
        self.lowest().saturating_sub(self.wall())
    }

    /// It is `unix` (seconds since 1970) or later: a server that configuration trusts has said so.
    /// Never lowers the floor.
    pub fn raise(&self, unix: u64) {
        let at = (self.boot)();
        let mut floor = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        if unix > advanced(*floor, at) {
            *floor = Floor { unix, at };
        }
    }

    /// Seconds since 1970 by the wall clock alone. For reports; what is judged by the time uses
    /// [`Clock::now`].
    pub fn wall(&self) -> u64 {
        (self.wall)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }

    fn lowest(&self) -> u64 {
        let floor = *self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        advanced(floor, (self.boot)())
    }
}

fn advanced(floor: Floor, now: Duration) -> u64 {
    floor.unix.saturating_add(now.saturating_sub(floor.at).as_secs())
}

/// When the source was last changed: given by `build.rs`.
fn committed() -> u64 {
    option_env!("COUNTERSIGN_COMMITTED").and_then(|text| text.parse().ok()).unwrap_or(0).max(RELEASED)
}

/// What `diagnose` asks about this room.
pub const FLOOR: Check = Check::new(
    "clock.floor",
    "is the clock behind what has certainly passed",
    "a clock turned back makes expired certificates valid again",
)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&FLOOR]
}

/// The wall clock against its floor.
pub fn floor(clock: &Clock) -> Outcome {
    match clock.behind() {
        0 => Outcome::Pass("not behind its floor".to_owned()),
        behind => Outcome::Warn(
            Finding::new(
                Class::KbsIdentity,
                format!("the clock is {} hours behind the date of this build, or what a proven KBS said", behind / 3600),
            )
            .why("the host sets a guest's clock; the floor is used in its place, and new certificates may look not yet valid")
            .next("set the host's clock with NTP (`timedatectl status` on the node), and restart the pod")
            .who(Who::Platform),
        ),
    }
}

/// `CLOCK_BOOTTIME`.
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn clock(wall: u64, boot: &Arc<AtomicU64>) -> Clock {
        let boot = Arc::clone(boot);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall);
        Clock::new(Arc::new(move || wall), Arc::new(move || Duration::from_secs(boot.load(Ordering::Relaxed))))
    }

    #[test]
    fn a_clock_that_was_turned_back_shows_the_floor_and_goes_on() {
        let boot = Arc::new(AtomicU64::new(100));
        let clock = clock(7, &boot);
        assert_eq!(clock.now(), committed());
        assert_eq!(clock.behind(), committed() - 7);
        boot.store(160, Ordering::Relaxed);
        assert_eq!(clock.now(), committed() + 60);
    }

    #[test]
    fn a_floor_is_raised_and_never_lowered() {
        let boot = Arc::new(AtomicU64::new(0));
        let clock = clock(7, &boot);
        let later = committed() + 1000;
        clock.raise(later);
        clock.raise(later - 500);
        assert_eq!(clock.clone().now(), later, "clones share it");
        boot.store(2000, Ordering::Relaxed);
        clock.raise(later + 1000);
        assert_eq!(clock.now(), later + 2000, "boot time has passed it already");
    }

    #[test]
    fn a_clock_that_is_right_is_believed() {
        let boot = Arc::new(AtomicU64::new(0));
        let right = committed() + 5000;
        assert_eq!((clock(right, &boot).now(), clock(right, &boot).behind()), (right, 0));
    }

    #[test]
    fn this_build_is_not_from_the_future() {
        assert!(Clock::system().behind() == 0, "the machine's clock is behind this source");
    }
}
