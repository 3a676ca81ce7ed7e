//! The expressions of the table: one small language, written down twice. `cel.rs` prints it for
//! Kyverno, `eval.rs` evaluates it here. It has no more than the table needs.

use serde_json::Value;

/// An expression over the pod that is being created.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    /// A constant.
    Value(Value),
    /// The pod, as the mutations before this one left it.
    Object,
    /// The namespace it is created in.
    Namespace,
    /// A variable of the table.
    Variable(&'static str),
    /// What a [`Expr::Each`] or [`Expr::Filter`] is at.
    Item(&'static str),
    /// A field below a field, each of which may be absent; then the last one.
    Get(Box<Expr>, Vec<&'static str>, Box<Expr>),
    /// Whether there is such a field.
    Has(Box<Expr>, Vec<&'static str>),
    /// A field that is there for certain: mandatory, or asked for before.
    Field(Box<Expr>, &'static str),
    /// A key of a map of strings, or the last one.
    Key(Box<Expr>, &'static str, Box<Expr>),
    Equal(Box<Expr>, Box<Expr>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    /// The items for which it holds.
    Filter(Box<Expr>, &'static str, Box<Expr>),
    /// Something made of each item.
    Each(Box<Expr>, &'static str, Box<Expr>),
    /// Whether it holds for an item.
    Exists(Box<Expr>, &'static str, Box<Expr>),
    /// The first item of a list that is known to have one.
    First(Box<Expr>),
    /// Whether a list or a text has nothing in it.
    Empty(Box<Expr>),
    /// Lists, one after the other.
    Chain(Vec<Expr>),
    /// Texts, one after the other.
    Text(Vec<Expr>),
    /// Whether the text ends in the other, with something before it.
    EndsIn(Box<Expr>, Box<Expr>),
    /// A text without as many characters at its end as the other one has.
    Without(Box<Expr>, Box<Expr>),
    /// Whether the text begins so.
    StartsWith(Box<Expr>, &'static str),
    /// Whether the text ends in a hyphen and eight digits, with something before them.
    EndsInDigits(Box<Expr>),
    /// Whether it is a text, where a number may stand too.
    IsText(Box<Expr>),
    /// A number as text.
    AsText(Box<Expr>),
    /// The `ConfigMap` of that name in the pod's namespace, or null.
    ConfigMap(Box<Expr>),
    IsNull(Box<Expr>),
    /// An object with these fields.
    Record(Vec<(&'static str, Expr)>),
    /// A list of these.
    List(Vec<Expr>),
}

/// A constant.
pub(super) fn value(value: impl Into<Value>) -> Expr {
    Expr::Value(value.into())
}

pub(super) fn variable(name: &'static str) -> Expr {
    Expr::Variable(name)
}

pub(super) fn item(name: &'static str) -> Expr {
    Expr::Item(name)
}

/// The pod's metadata, and its spec: a pod has both.
pub(super) fn metadata() -> Expr {
    Expr::Object.field("metadata")
}

pub(super) fn spec() -> Expr {
    Expr::Object.field("spec")
}

pub(super) fn all(of: impl Into<Vec<Expr>>) -> Expr {
    Expr::All(of.into())
}

pub(super) fn any(of: impl Into<Vec<Expr>>) -> Expr {
    Expr::Any(of.into())
}

pub(super) fn text(of: impl Into<Vec<Expr>>) -> Expr {
    Expr::Text(of.into())
}

pub(super) fn record(fields: impl Into<Vec<(&'static str, Expr)>>) -> Expr {
    Expr::Record(fields.into())
}

pub(super) fn when(condition: Expr, then: Expr, or: Expr) -> Expr {
    Expr::If(Box::new(condition), Box::new(then), Box::new(or))
}

pub(super) fn config_map(name: Expr) -> Expr {
    Expr::ConfigMap(Box::new(name))
}

impl Expr {
    pub(super) fn get(self, path: &[&'static str], or: Expr) -> Self {
        Self::Get(Box::new(self), path.to_vec(), Box::new(or))
    }

    /// A list, empty where it is absent.
    pub(super) fn list(self, name: &'static str) -> Self {
        self.get(&[name], Self::List(Vec::new()))
    }

    pub(super) fn has(self, path: &[&'static str]) -> Self {
        Self::Has(Box::new(self), path.to_vec())
    }

    pub(super) fn field(self, name: &'static str) -> Self {
        Self::Field(Box::new(self), name)
    }

    pub(super) fn key(self, name: &'static str, or: Expr) -> Self {
        Self::Key(Box::new(self), name, Box::new(or))
    }

    pub(super) fn equals(self, other: Expr) -> Self {
        Self::Equal(Box::new(self), Box::new(other))
    }

    pub(super) fn is(self, text: &str) -> Self {
        self.equals(value(text))
    }

    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    pub(super) fn filter(self, item: &'static str, keep: Expr) -> Self {
        Self::Filter(Box::new(self), item, Box::new(keep))
    }

    pub(super) fn each(self, item: &'static str, make: Expr) -> Self {
        Self::Each(Box::new(self), item, Box::new(make))
    }

    pub(super) fn exists(self, item: &'static str, such: Expr) -> Self {
        Self::Exists(Box::new(self), item, Box::new(such))
    }

    pub(super) fn first(self) -> Self {
        Self::First(Box::new(self))
    }

    pub(super) fn empty(self) -> Self {
        Self::Empty(Box::new(self))
    }

    pub(super) fn ends_in(self, end: Expr) -> Self {
        Self::EndsIn(Box::new(self), Box::new(end))
    }

    pub(super) fn without(self, end: Expr) -> Self {
        Self::Without(Box::new(self), Box::new(end))
    }

    pub(super) fn starts_with(self, start: &'static str) -> Self {
        Self::StartsWith(Box::new(self), start)
    }

    pub(super) fn ends_in_digits(self) -> Self {
        Self::EndsInDigits(Box::new(self))
    }

    pub(super) fn textual(self) -> Self {
        Self::IsText(Box::new(self))
    }

    pub(super) fn written(self) -> Self {
        Self::AsText(Box::new(self))
    }

    pub(super) fn absent(self) -> Self {
        Self::IsNull(Box::new(self))
    }
}
