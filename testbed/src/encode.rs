//! Texts that the doubles write: dates, base64, PEM. Small enough to need no crate.

use std::time::SystemTime;

/// Now, moved by so many seconds, as HTTP writes dates (RFC 9110 §5.6.7).
#[allow(clippy::disallowed_methods)] // A server's own clock: nothing of the product reads it here.
pub(crate) fn http_date(offset: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_add_signed(offset);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for dates after 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let (month, carry) = if month_index < 10 { (month_index + 3, 0) } else { (month_index - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    let pick = |names: [&'static str; 12], index: u64| {
        names.get(usize::try_from(index).unwrap_or(0)).copied().unwrap_or_default()
    };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed", "", "", "", "", ""];
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        pick(weekdays, days % 7),
        pick(months, month - 1),
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// Standard base64 with padding (RFC 4648 §4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            if position > chunk.len() {
                text.push('=');
            } else {
                let index = usize::try_from((bits >> (18 - 6 * position)) & 63).unwrap_or(0);
                text.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'=')));
            }
        }
    }
    text
}

/// A certificate as PEM (RFC 7468).
pub(crate) fn pem(der: &[u8]) -> String {
    pem_of("CERTIFICATE", der)
}

/// Anything as PEM, with this label.
pub(crate) fn pem_of(label: &str, der: &[u8]) -> String {
    // 48 bytes make the 64 characters of a line.
    let lines: Vec<String> = der.chunks(48).map(base64).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
