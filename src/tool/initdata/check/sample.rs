//! A text that a regular expression matches: policies give patterns where a request gives values.

use regex_syntax::hir::{Class, ClassUnicodeRange, Hir, HirKind};

/// Longest text that is made.
const MAX_SAMPLE: usize = 4096;

/// A text that the pattern matches, the shortest way through it. The pattern itself where it is
/// none, or where the way is too long.
pub(super) fn sample(pattern: &str) -> String {
    let Ok(hir) = regex_syntax::parse(pattern) else { return pattern.to_owned() };
    let mut out = Vec::new();
    match walk(&hir, &mut out) {
        Some(()) => String::from_utf8(out).unwrap_or_else(|_| pattern.to_owned()),
        None => pattern.to_owned(),
    }
}

fn walk(hir: &Hir, out: &mut Vec<u8>) -> Option<()> {
    if out.len() > MAX_SAMPLE {
        return None;
    }
    match hir.kind() {
        // Anchors have no characters.
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(Class::Unicode(class)) => {
            let has = |c: char| class.ranges().iter().any(|range| range.start() <= c && c <= range.end());
            // A dot is usually meant as a dot; a class usually has letters or digits.
            let any = has('\u{1f600}');
            let good = if any { ['.', 'a', '0'] } else { ['a', '0', 'A'] };
            let c =
                good.into_iter().find(|c| has(*c)).or_else(|| class.ranges().first().map(ClassUnicodeRange::start))?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        HirKind::Class(Class::Bytes(class)) => out.push(class.ranges().first()?.start()),
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min {
                walk(&repetition.sub, out)?;
            }
        }
        HirKind::Capture(capture) => walk(&capture.sub, out)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| walk(part, out))?,
        HirKind::Alternation(ways) => walk(ways.first()?, out)?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_matches_its_pattern() {
        for (pattern, text) in [
            ("^nginx$", "nginx"),
            ("^[a-z0-9]{8}$", "aaaaaaaa"),
            ("^/run/(watchable/)?[a-z0-9]{2}-resolv.conf$", "/run/aa-resolv.conf"),
            ("^(tcp|udp)://x+$", "tcp://x"),
            ("proc", "proc"),
            ("[0-9]{1,5}", "0"),
        ] {
            assert_eq!(sample(pattern), text);
        }
        assert_eq!(sample("("), "(");
        assert_eq!(sample("(a{1000}){1000}"), "(a{1000}){1000}");
    }
}
