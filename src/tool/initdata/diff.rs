//! `initdata diff`: what changes for the guests between two initdata.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::{Output, hex, load};
use crate::finding::{Finding, printable};
use crate::formats::initdata::Initdata;

/// Exit code when they differ, as diff(1).
const DIFFERENT: u8 = 1;

/// Most pairs of lines that are compared, after what both begin and end with is taken off. Beyond
/// it, a section is shown as removed and added whole; a generated policy has 2000 lines.
const MAX_PAIRS: usize = 16_000_000;

pub(super) fn run(old: &Path, new: &Path) -> Result<Output, Finding> {
    let (old, new) = (load(old)?, load(new)?);
    if old.toml() == new.toml() {
        return Ok(Output::text("the same, byte for byte\n"));
    }
    let mut out = String::new();
    let _ = writeln!(out, "digest: {}\n     -> {}", said(&old), said(&new));
    let names: BTreeSet<&str> = old.names().chain(new.names()).collect();
    let mut changed = false;
    for name in names {
        let shown = printable(name, 60);
        let lines = match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => {
                let _ = writeln!(out, "\n{shown}: changed");
                lines(a, b)
            }
            (None, b) => {
                let _ = writeln!(out, "\n{shown}: added");
                lines("", b.unwrap_or_default())
            }
            (a, None) => {
                let _ = writeln!(out, "\n{shown}: removed");
                lines(a.unwrap_or_default(), "")
            }
        };
        changed = true;
        for (sign, line) in lines {
            let _ = writeln!(out, "{sign} {}", printable(line, 2000));
        }
    }
    if !changed {
        out.push_str("\nno section differs: only spaces, comments, the algorithm or other keys around them do\n");
    }
    let err = lowered_serial(&old, &new).into_iter().collect();
    Ok(Output { out: out.into_bytes(), err, code: DIFFERENT })
}

fn said(initdata: &Initdata) -> String {
    format!("{}:{}", initdata.algorithm().label(), hex(&initdata.digest()))
}

/// A warning when the newer `countersign.toml` has the lower serial: peers and guests that have
/// seen the higher one refuse it.
fn lowered_serial(old: &Initdata, new: &Initdata) -> Option<String> {
    let (before, after) = (serial(old), serial(new));
    (after < before).then(|| {
        format!(
            "warning: `serial` of countersign.toml goes down from {before} to {after}: what has seen the higher one \
             refuses the lower; write `serial = {}` or more",
            before.saturating_add(1)
        )
    })
}

/// 0 is what an absent one means.
fn serial(initdata: &Initdata) -> i64 {
    let table: Option<toml::Table> = initdata.countersign().and_then(|text| text.parse().ok());
    table.and_then(|table| table.get("serial").and_then(toml::Value::as_integer)).unwrap_or_default()
}

/// The lines that only one of them has, in order: `-` of the first, `+` of the second.
fn lines<'t>(old: &'t str, new: &'t str) -> Vec<(char, &'t str)> {
    let (mut a, mut b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    (a, b) = (a.split_off(same), b.split_off(same));
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    a.truncate(a.len().saturating_sub(same));
    b.truncate(b.len().saturating_sub(same));
    if a.len().saturating_mul(b.len()) > MAX_PAIRS {
        return a.into_iter().map(|line| ('-', line)).chain(b.into_iter().map(|line| ('+', line))).collect();
    }
    longest_common(&a, &b)
}

/// The textbook table of the longest common subsequence: `length[i][j]` is that of `a[i..]` and
/// `b[j..]`.
fn longest_common<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    let mut rows: Vec<Vec<u32>> = vec![vec![0; b.len().saturating_add(1)]];
    for left in a.iter().rev() {
        let below = rows.last().cloned().unwrap_or_default();
        let mut row = vec![0; below.len()];
        for (j, right) in b.iter().enumerate().rev() {
            let after = j.saturating_add(1);
            let value =
                if left == right { at(&below, after).saturating_add(1) } else { at(&below, j).max(at(&row, after)) };
            if let Some(slot) = row.get_mut(j) {
                *slot = value;
            }
        }
        rows.push(row);
    }
    rows.reverse();
    let length = |i: usize, j: usize| rows.get(i).map_or(0, |row| at(row, j));
    let (mut i, mut j, mut out) = (0_usize, 0_usize, Vec::new());
    loop {
        let (next_i, next_j) = (i.saturating_add(1), j.saturating_add(1));
        match (a.get(i), b.get(j)) {
            (None, None) => return out,
            (Some(left), Some(right)) if left == right => (i, j) = (next_i, next_j),
            (Some(left), right) if right.is_none() || length(next_i, j) >= length(i, next_j) => {
                out.push(('-', *left));
                i = next_i;
            }
            (_, Some(right)) => {
                out.push(('+', *right));
                j = next_j;
            }
            (Some(left), None) => {
                out.push(('-', *left));
                i = next_i;
            }
        }
    }
}

fn at(row: &[u32], index: usize) -> u32 {
    row.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_lines_that_differ_are_shown() {
        assert_eq!(lines("a\nb\nc\n", "a\nB\nc\n"), [('-', "b"), ('+', "B")]);
        assert_eq!(lines("", "a\n"), [('+', "a")]);
        assert_eq!(lines("a\nb", "b\n"), [('-', "a")]);
        assert_eq!(lines("x\na\ny\nb\nz", "a\nb\nq"), [('-', "x"), ('-', "y"), ('-', "z"), ('+', "q")]);
    }

    proptest! {
        #[test]
        fn what_is_shown_turns_the_one_into_the_other(a in "[abc\n]{0,30}", b in "[abc\n]{0,30}") {
            let shown = lines(&a, &b);
            let count = |sign: char, line: &str| shown.iter().filter(|(s, l)| *s == sign && *l == line).count();
            for line in a.lines().chain(b.lines()) {
                let (before, after) = (a.lines().filter(|l| *l == line).count(), b.lines().filter(|l| *l == line).count());
                prop_assert_eq!(before + count('+', line), after + count('-', line), "{}", line);
            }
        }
    }
}
