//! Which questions are asked, and what came of each.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::access::Deadline;
use crate::check::{Check, Outcome};
use crate::finding::{Class, Finding};

/// One answer.
pub(super) struct Record {
    pub(super) check: &'static Check,
    /// Which of several the question was about: a URL, a path, a resource.
    pub(super) subject: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

/// Which questions are asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Chosen {
    /// Ids and prefixes of ids (`kbs` is every `kbs.…`); empty: all.
    pub(super) only: Vec<String>,
    /// The same, to be left out.
    pub(super) skip: Vec<String>,
    /// What shows no evidence and fetches nothing.
    pub(super) cheap: bool,
}

/// What is told of a record as soon as it is there.
pub(super) type Tell<'a> = Box<dyn Fn(&Record) + 'a>;

/// The answers so far, in the order of the walk.
pub(super) struct Book<'a> {
    pub(super) records: Vec<Record>,
    chosen: Chosen,
    until: Deadline,
    tell: Tell<'a>,
}

impl Chosen {
    /// Whether a word of the command line names this question.
    pub(super) fn names(word: &str, id: &str) -> bool {
        id == word || id.strip_prefix(word).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether a question is asked, for itself or because one that is asked needs it.
    fn wants(&self, id: &str, all: &[&'static Check]) -> bool {
        let asked = |id: &str| self.only.is_empty() || self.only.iter().any(|word| Self::names(word, id));
        let uses = |check: &Check, id: &str| check.needs.contains(&id) || check.after.contains(&id);
        let using = |id: &str| all.iter().filter(|check| uses(check, id)).map(|check| check.id).collect();
        let (mut open, mut seen): (Vec<&str>, Vec<&str>) = (vec![id], Vec::new());
        while let Some(id) = open.pop() {
            if asked(id) {
                return true;
            }
            if !seen.contains(&id) {
                seen.push(id);
                let next: Vec<&str> = using(id);
                open.extend(next);
            }
        }
        false
    }
}

impl<'a> Book<'a> {
    pub(super) fn new(chosen: Chosen, until: Deadline, tell: Tell<'a>) -> Self {
        Self { records: Vec::new(), chosen, until, tell }
    }

    /// When the walk must be over.
    pub(super) fn until(&self) -> Deadline {
        self.until
    }

    /// Whether only what costs nothing is asked.
    pub(super) fn is_cheap(&self) -> bool {
        self.chosen.cheap
    }

    /// Whether the question belongs to this walk.
    fn lists(&self, check: &Check) -> bool {
        (check.cheap || !self.chosen.cheap) && self.chosen.wants(check.id, &super::order())
    }

    /// Whether it is asked: what is left out is listed as such.
    pub(super) fn wants(&self, check: &Check) -> bool {
        self.lists(check) && !self.leaves_out(check)
    }

    fn leaves_out(&self, check: &Check) -> bool {
        self.chosen.skip.iter().any(|word| Chosen::names(word, check.id))
    }

    /// Writes down what was never come to: every question of the walk has an answer.
    pub(super) fn finish(&mut self) {
        for check in super::order() {
            if self.of(check.id).next().is_none() {
                let none = Outcome::Skip("nothing to ask about".to_owned());
                self.note(check, None, none, Duration::ZERO);
            }
        }
    }

    /// Asks: only what is wanted, and only where what it needs has passed.
    pub(super) async fn ask(&mut self, check: &'static Check, answer: impl Future<Output = Outcome>) {
        self.ask_for(check, None, async { (answer.await, None::<()>) }).await;
    }

    /// The same about one of several.
    pub(super) async fn ask_about(
        &mut self,
        check: &'static Check,
        subject: String,
        answer: impl Future<Output = Outcome>,
    ) {
        self.ask_for(check, Some(subject), async { (answer.await, None::<()>) }).await;
    }

    /// The same about one of several, or for an answer that brings something along.
    pub(super) async fn ask_for<T>(
        &mut self,
        check: &'static Check,
        subject: Option<String>,
        answer: impl Future<Output = (Outcome, Option<T>)>,
    ) -> Option<T> {
        if !self.lists(check) {
            return None;
        }
        if let Some(reason) = self.unmet(check) {
            self.write(check, subject, Outcome::Skip(reason), Duration::ZERO);
            return None;
        }
        let begun = Instant::now();
        let (outcome, found) =
            timeout_at(self.until.at(), answer).await.unwrap_or_else(|_| (Outcome::Fail(out_of_time(check)), None));
        self.write(check, subject, outcome, begun.elapsed());
        found
    }

    /// Writes down what is known without asking.
    pub(super) fn note(&mut self, check: &'static Check, subject: Option<String>, outcome: Outcome, took: Duration) {
        if self.lists(check) {
            let skipped = self.unmet(check).map(Outcome::Skip);
            self.write(check, subject, skipped.unwrap_or(outcome), took);
        }
    }

    /// Why the question cannot be asked, if it cannot.
    fn unmet(&self, check: &Check) -> Option<String> {
        if self.leaves_out(check) {
            return Some("left out by --skip".to_owned());
        }
        if !check.needs.is_empty() && !check.needs.iter().any(|id| self.passed(id)) {
            let failed = check.needs.iter().find(|id| self.failed(id));
            return Some(match failed {
                Some(id) => format!("{id} failed"),
                None => format!("{} did not pass", check.needs.join(" or ")),
            });
        }
        self.until.left().is_zero().then(|| "out of time (--timeout)".to_owned())
    }

    fn write(&mut self, check: &'static Check, subject: Option<String>, outcome: Outcome, took: Duration) {
        let record = Record { check, subject, outcome, took };
        (self.tell)(&record);
        self.records.push(record);
    }

    /// Whether one record of this id is good enough to go on.
    pub(super) fn passed(&self, id: &str) -> bool {
        self.of(id).any(|record| matches!(record.outcome, Outcome::Pass(_) | Outcome::Warn(_)))
    }

    /// Whether one record of this id is a broken link.
    pub(super) fn failed(&self, id: &str) -> bool {
        self.of(id).any(|record| matches!(record.outcome, Outcome::Fail(_)))
    }

    fn of(&self, id: &str) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.check.id == id)
    }

    /// The first broken link.
    pub(super) fn broken(&self) -> Option<(&Record, &Finding)> {
        self.records.iter().find_map(|record| match &record.outcome {
            Outcome::Fail(finding) => Some((record, finding)),
            _ => None,
        })
    }

    /// The first thing that was asked for by name and never came to be asked, and why. Of a whole walk: where nothing
    /// at all was asked.
    pub(super) fn unanswered(&self) -> Option<(&str, &str)> {
        let skipped = |record: &&Record| matches!(record.outcome, Outcome::Skip(_));
        for word in &self.chosen.only {
            let named: Vec<&Record> =
                self.records.iter().filter(|record| Chosen::names(word, record.check.id)).collect();
            if named.iter().all(skipped) {
                return Some((word, named.first().map_or("nothing to ask about", |record| record.outcome.saw())));
            }
        }
        let all = self.records.iter().all(|record| skipped(&record));
        all.then_some(("all", "each was left out, or what it needs was"))
    }

    /// The class of the first broken link; of something asked for that has no answer; 0 where all is well.
    pub(super) fn code(&self) -> u8 {
        match (self.broken(), self.unanswered()) {
            (Some((_, finding)), _) => finding.class.code(),
            (None, Some(_)) => Class::NotAppraised.code(),
            (None, None) => 0,
        }
    }

    /// The first warning, which matters where nothing is broken.
    pub(super) fn warned(&self) -> Option<(&Record, &Finding)> {
        self.records.iter().find_map(|record| match &record.outcome {
            Outcome::Warn(finding) => Some((record, finding)),
            _ => None,
        })
    }
}

fn out_of_time(check: &Check) -> Finding {
    Finding::new(Class::Unreachable, format!("{} had no answer in the time that was left", check.id))
        .why("what is asked hangs, or something before it took most of --timeout")
        .next("raise --timeout, and read which question took longest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_an_id_or_a_whole_room() {
        assert!(Chosen::names("kbs", "kbs.connect") && Chosen::names("kbs.connect", "kbs.connect"));
        assert!(!Chosen::names("kb", "kbs.connect") && !Chosen::names("kbs.conn", "kbs.connect"));
    }

    #[test]
    fn what_is_chosen_brings_what_it_needs() {
        let chosen = Chosen { only: vec!["secrets.canary".to_owned()], ..Chosen::default() };
        let all = super::super::order();
        for id in ["secrets.canary", "attest.way", "config.document", "guest.api"] {
            assert!(chosen.wants(id, &all), "{id}");
        }
        for id in ["self.kernel", "kbs.name", "secrets.file", "attest.verdict"] {
            assert!(!chosen.wants(id, &all), "{id}");
        }
    }

    #[tokio::test]
    async fn a_question_whose_precondition_failed_is_not_asked_and_names_it() {
        static FIRST: Check = Check::new("a.first", "", "");
        static SECOND: Check = Check::new("a.second", "", "").needs(&["a.first"]);
        let mut book = Book::new(Chosen::default(), Deadline::after(Duration::from_secs(60)), Box::new(|_| {}));
        book.ask(&FIRST, async { Outcome::Fail(Finding::new(Class::Config, "no")) }).await;
        book.ask(&SECOND, async { panic!("it was asked") }).await;
        assert_eq!(book.records[1].outcome.saw(), "a.first failed");
        assert_eq!(book.broken().unwrap().0.check.id, "a.first");
    }
}
