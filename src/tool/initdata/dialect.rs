//! What TOML 1.1 has and TOML 0.5 has not.
//!
//! Kata's agent reads the document with the crate toml 0.5, and ours reads 1.1. What only we can read
//! would pass every check here, and start no guest. For aa.toml and cdh.toml the readers differ by
//! version of the guest: the same is asked of them.
//!
//! Source: the change log of TOML 1.1.0.

/// The escapes of 1.1, and what to do about them.
const ESCAPE: Newer =
    Newer { what: "an escape of TOML 1.1 (`\\e` or `\\x`)", next: "write the escape as `\\u00` and two digits" };
/// Inline tables of 1.1.
const SPREAD: Newer = Newer {
    what: "an inline table over several lines, as in TOML 1.1",
    next: "write the inline table on one line, or as a `[table]` of its own",
};
/// The same.
const COMMA: Newer =
    Newer { what: "a comma at the end of an inline table, as in TOML 1.1", next: "remove the comma before the `}`" };

/// Something that the guest's reader refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newer {
    /// What it is, as words behind "has".
    pub(super) what: &'static str,
    /// What to do.
    pub(super) next: &'static str,
}

/// All of it in a text that is TOML 1.1, each with the offset where it stands. Of a text that is none
/// nothing can be said: the caller parses it.
pub(super) fn newer(text: &str) -> Vec<(usize, Newer)> {
    let mut found = Vec::new();
    // Brackets that are open: `{` with whether its line end has been told, `[` without.
    let mut open: Vec<Option<bool>> = Vec::new();
    // A comma with nothing behind it yet.
    let mut comma = None;
    let mut at = 0_usize;
    while let Some(rest) = text.get(at..)
        && let Some(first) = rest.chars().next()
    {
        let mut length = first.len_utf8();
        match (first, open.last_mut()) {
            ('#', _) => length = rest.find('\n').unwrap_or(rest.len()),
            ('"' | '\'', _) => {
                length = string(rest, at, &mut found);
                comma = None;
            }
            ('\n', Some(Some(told))) if !*told => {
                *told = true;
                found.push((at, SPREAD));
            }
            (',', Some(Some(_))) => comma = Some(at),
            ('}', _) => {
                found.extend(comma.take().map(|comma| (comma, COMMA)));
                open.pop();
            }
            ('{', _) => open.push(Some(false)),
            ('[', _) => open.push(None),
            (']', _) => {
                open.pop();
            }
            _ => {}
        }
        if !first.is_whitespace() && !matches!(first, ',' | '#') {
            comma = None;
        }
        at = at.saturating_add(length);
    }
    found
}

/// Length of the string that a text begins with, quotes included.
fn string(text: &str, at: usize, found: &mut Vec<(usize, Newer)>) -> usize {
    let fence = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|fence| text.starts_with(fence)).unwrap_or("\"");
    let mut length = fence.len();
    while let Some(rest) = text.get(length..)
        && let Some(first) = rest.chars().next()
    {
        if rest.starts_with(fence) {
            // Up to two quotes of the text itself stand before the three that end it.
            let quotes = rest.chars().take_while(|c| *c == first).take(5).count();
            return length.saturating_add(if fence.len() == 3 { quotes } else { 1 });
        }
        length = length.saturating_add(first.len_utf8());
        if first == '\\' && fence.starts_with('"') {
            let escaped = rest.chars().nth(1);
            if matches!(escaped, Some('e' | 'x')) {
                found.push((at.saturating_add(length).saturating_sub(1), ESCAPE));
            }
            length = length.saturating_add(escaped.map_or(0, char::len_utf8));
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, with the text from there.
    fn found(text: &str) -> Vec<(&str, Newer)> {
        newer(text).into_iter().map(|(at, newer)| (text.get(at..at + 2).unwrap(), newer)).collect()
    }

    #[test]
    fn what_the_guests_reader_refuses_is_found_where_it_stands() {
        for (text, expected) in [
            ("a = \"0.1\\x2e0\"\n", &[("\\x", ESCAPE)][..]),
            ("a = \"\"\"\n\\\\e \\e\"\"\"\n", &[("\\e", ESCAPE)]),
            ("a = { b = 1\n}\n", &[("\n}", SPREAD)]),
            ("a = {\n b = 1,\n c = 2\n}\n", &[("\n ", SPREAD)]),
            ("a = { b = 1, }\n", &[(", ", COMMA)]),
            ("a = { b = \"x\" , # why\n}\n", &[("\n}", SPREAD), (", ", COMMA)]),
            ("a = [{ b = {}, }]\nc = { d = [1], }\n", &[(", ", COMMA), (", ", COMMA)]),
            ("\"\\x41\" = 1\n", &[("\\x", ESCAPE)]),
        ] {
            assert!(text.parse::<toml::Table>().is_ok(), "our own reader takes it: {text}");
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn what_it_reads_is_let_be() {
        for text in [
            "a = '\\x \\e { b, '\n",
            "a = '''\n{ x = 1,\n} \\x41'''\n",
            "a = \"\"\"\n{ x = 1,\n} \\\\x41 \\u001b \"\"\"\"\"\nb = { c = 1 }\n",
            "a = { b = [\n1,\n2,\n], c = \"\"\"\n\"\"\" }\n",
            "a = [\n{ b = 1 },\n{ b = 2 },\n]\n",
            "# { a,\n[t]\na = {}\nb = \"\"\n[[u.v]]\n\"]\" = '{'\n",
            "\u{feff}a = \"é\" # é {\nb = 1979-05-27\n",
        ] {
            assert!(text.parse::<toml::Table>().is_ok(), "{text}");
            assert_eq!(found(text), [], "{text}");
        }
    }
}
