//! Places: which line of the file a byte of a section stands on.

use std::ops::Range;

/// A text inside the file, and where its lines are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'t> {
    /// The text as it is read, escapes resolved.
    pub(super) text: &'t str,
    /// Line of the file on which its first line stands, from 1.
    first: usize,
    /// Last line of the file that belongs to it: escapes and continued lines may count differently.
    last: usize,
}

impl<'t> Place<'t> {
    /// The file itself.
    pub(super) fn file(text: &'t str) -> Self {
        Self { text, first: 1, last: usize::MAX }
    }

    /// The line of the file on which the byte at `offset` of this text stands.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.nth(line_in(self.text, offset))
    }

    /// The line of the file that is line `number` (from 1) of this text.
    pub(super) fn nth(&self, number: usize) -> usize {
        self.first.saturating_add(number.saturating_sub(1)).min(self.last)
    }

    /// A text that begins at `offset` of this one and has its lines.
    pub(super) fn from<'v>(&self, offset: usize, value: &'v str) -> Place<'v> {
        Place { text: value, first: self.line(offset), last: self.last }
    }

    /// A TOML string inside this text: `value` is what it means, `span` where it stands, with its
    /// quotes.
    pub(super) fn inner<'v>(&self, span: &Range<usize>, value: &'v str) -> Place<'v> {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let opening = self.line(span.start);
        // TOML drops the line end right behind the opening quotes.
        let body = written.strip_prefix("'''").or_else(|| written.strip_prefix("\"\"\""));
        let first = match body {
            Some(body) if body.starts_with('\n') || body.starts_with("\r\n") => opening.saturating_add(1),
            _ => opening,
        };
        Place { text: value, first, last: self.line(span.end).max(first) }
    }
}

/// Line of a text, from 1.
fn line_in(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind_of_string_are_lines_of_the_file() {
        let text = "a = '''\nx\ny\n'''\nb = \"\"\"x\ny\"\"\"\nc = \"x\\ny\"\n";
        let file = Place::file(text);
        let inner = |written: &str, value: &'static str| {
            let start = text.find(written).unwrap();
            file.inner(&(start..start + written.len()), value)
        };
        assert_eq!(inner("'''\nx\ny\n'''", "x\ny\n").nth(2), 3);
        assert_eq!(inner("\"\"\"x\ny\"\"\"", "x\ny").nth(2), 6);
        assert_eq!(inner("\"x\\ny\"", "x\ny").nth(2), 7, "a string on one line has no second one");
    }
}
