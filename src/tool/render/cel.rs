//! The expressions as CEL, in the dialect of Kyverno's mutating policies.

use serde_json::Value;

use super::expr::Expr;

/// Widest line before an expression is broken into several, characters.
const WIDTH: usize = 110;

/// Spaces a level.
const INDENT: usize = 2;

/// What an object literal looks like.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// Of a JSON patch: a map. Values of one map have one type in CEL unless each says `dyn`.
    Map,
    /// Of an apply configuration: a typed object, named by its path from `Object`.
    Typed(&'a str),
}

/// For a variable, or the value of a JSON patch.
pub(super) fn plain(expr: &Expr, indent: usize) -> String {
    print(expr, Form::Map, indent)
}

/// For an apply configuration.
pub(super) fn typed(expr: &Expr, indent: usize) -> String {
    print(expr, Form::Typed("Object"), indent)
}

/// On one line if it fits, on several if not.
fn print(expr: &Expr, form: Form<'_>, indent: usize) -> String {
    let flat = Printer { form, indent: None }.print(expr);
    if flat.len().saturating_add(indent) <= WIDTH {
        return flat;
    }
    Printer { form, indent: Some(indent) }.print(expr)
}

struct Printer<'a> {
    form: Form<'a>,
    /// `None` on one line.
    indent: Option<usize>,
}

impl Printer<'_> {
    fn print(&self, expr: &Expr) -> String {
        match expr {
            Expr::Value(value) => literal(value),
            Expr::Object => "object".to_owned(),
            Expr::Namespace => "request.namespace".to_owned(),
            Expr::Variable(name) => format!("variables.{name}"),
            Expr::Item(name) => (*name).to_owned(),
            Expr::Get(base, path, or) => {
                let base = self.closed(base);
                self.choose(&present(&base, path), &format!("{base}.{}", path.join(".")), or)
            }
            Expr::Has(base, path) => present(&self.closed(base), path),
            Expr::Field(base, name) => format!("{}.{name}", self.closed(base)),
            Expr::Key(map, key, or) => {
                let map = self.closed(map);
                let key = quoted(key);
                self.choose(&format!("{key} in {map}"), &format!("{map}[{key}]"), or)
            }
            Expr::Equal(a, b) => format!("{} == {}", self.closed(a), self.closed(b)),
            Expr::All(of) => self.joined(of, "&&"),
            Expr::Any(of) => self.joined(of, "||"),
            Expr::Not(of) => match &**of {
                Expr::Empty(of) => format!("size({}) > 0", self.print(of)),
                of => format!("!{}", self.closed(of)),
            },
            Expr::If(condition, then, or) => {
                let condition = self.deeper(condition);
                let then = match **then {
                    Expr::If(..) | Expr::Get(..) | Expr::Key(..) => format!("({})", self.deeper(then)),
                    _ => self.deeper(then),
                };
                self.choose(&condition, &then, or)
            }
            Expr::Filter(list, item, body) => self.comprehension(list, "filter", item, body),
            Expr::Each(list, item, body) => self.comprehension(list, "map", item, body),
            Expr::Exists(list, item, body) => self.comprehension(list, "exists", item, body),
            Expr::First(list) => format!("{}[0]", self.closed(list)),
            Expr::Empty(of) => format!("size({}) == 0", self.print(of)),
            Expr::Chain(of) | Expr::Text(of) => self.joined(of, "+"),
            Expr::EndsIn(text, end) => {
                let (text, end) = (self.closed(text), self.print(end));
                format!("{text}.endsWith({end}) && size({text}) > size({end})")
            }
            Expr::Without(text, end) => {
                let (text, end) = (self.closed(text), self.print(end));
                format!("{text}.substring(0, size({text}) - size({end}))")
            }
            Expr::StartsWith(text, start) => format!("{}.startsWith({})", self.closed(text), quoted(start)),
            Expr::EndsInDigits(text) => format!("{}.matches(\"^.+-[0-9]{{8}}$\")", self.closed(text)),
            Expr::IsText(of) => format!("type({}) == string", self.print(of)),
            Expr::AsText(of) => format!("string({})", self.print(of)),
            // `dyn`: without it CEL takes the result for a map that is never null.
            Expr::ConfigMap(name) => {
                format!("dyn(resource.Get(\"v1\", \"configmaps\", request.namespace, {}))", self.print(name))
            }
            Expr::IsNull(of) => format!("{} == null", self.closed(of)),
            Expr::Record(fields) => self.record(fields),
            Expr::List(of) => {
                let items: Vec<String> = of
                    .iter()
                    .map(|one| match (self.form, one) {
                        (Form::Map, Expr::Record(_) | Expr::Value(Value::Object(_))) => {
                            format!("dyn({})", self.deeper(one))
                        }
                        _ => self.deeper(one),
                    })
                    .collect();
                self.bracketed("[", &items, "]")
            }
        }
    }

    /// In parentheses where it is not one thing.
    fn closed(&self, expr: &Expr) -> String {
        let text = self.print(expr);
        match expr {
            Expr::Get(..)
            | Expr::Key(..)
            | Expr::Equal(..)
            | Expr::All(..)
            | Expr::Any(..)
            | Expr::If(..)
            | Expr::Chain(..)
            | Expr::Text(..)
            | Expr::Empty(..)
            | Expr::Not(..)
            | Expr::EndsIn(..)
            | Expr::IsText(..)
            | Expr::IsNull(..) => format!("({text})"),
            // Several fields are several questions.
            Expr::Has(_, path) if path.len() > 1 => format!("({text})"),
            _ => text,
        }
    }

    fn deeper(&self, expr: &Expr) -> String {
        match self.indent {
            None => self.print(expr),
            Some(indent) => print(expr, self.form, indent.saturating_add(INDENT)),
        }
    }

    /// `condition ? then : or`; what comes else needs no parentheses.
    fn choose(&self, condition: &str, then: &str, or: &Expr) -> String {
        match self.indent {
            None => format!("{condition} ? {then} : {}", self.print(or)),
            Some(indent) => {
                let or = print(or, self.form, indent);
                let pad = " ".repeat(indent);
                format!("{condition}\n{pad}? {then}\n{pad}: {or}")
            }
        }
    }

    fn joined(&self, of: &[Expr], by: &str) -> String {
        let bare = |one: &Expr| {
            by != "+"
                && matches!(
                    one,
                    Expr::Equal(..) | Expr::Empty(..) | Expr::Not(..) | Expr::IsNull(..) | Expr::IsText(..)
                )
        };
        let parts: Vec<String> =
            of.iter().map(|one| if bare(one) { self.deeper(one) } else { self.closed_deeper(one) }).collect();
        match self.indent {
            None => parts.join(&format!(" {by} ")),
            Some(indent) => parts.join(&format!("\n{}{by} ", " ".repeat(indent))),
        }
    }

    fn closed_deeper(&self, expr: &Expr) -> String {
        let Some(indent) = self.indent else { return self.closed(expr) };
        let deeper = Self { form: self.form, indent: None };
        let flat = deeper.closed(expr);
        if flat.len().saturating_add(indent) <= WIDTH {
            return flat;
        }
        Self { form: self.form, indent: Some(indent.saturating_add(INDENT)) }.closed(expr)
    }

    fn comprehension(&self, list: &Expr, verb: &str, item: &str, body: &Expr) -> String {
        let list = self.closed_deeper(list);
        match self.indent {
            None => format!("{list}.{verb}({item}, {})", self.print(body)),
            Some(indent) => {
                let (pad, deeper) = (" ".repeat(indent), " ".repeat(indent.saturating_add(INDENT)));
                format!("{list}.{verb}({item},\n{deeper}{}\n{pad})", self.deeper(body))
            }
        }
    }

    fn record(&self, fields: &[(&'static str, Expr)]) -> String {
        let typed = match self.form {
            // Labels and annotations are maps in the schema too.
            Form::Typed(path) if !path.ends_with(".annotations") => Some(path),
            Form::Typed(_) | Form::Map => None,
        };
        let indent = self.indent.map(|indent| indent.saturating_add(INDENT));
        let items: Vec<String> = fields
            .iter()
            .map(|(name, field)| {
                let path;
                let form = match (typed, self.form) {
                    (Some(above), _) => {
                        path = format!("{above}.{name}");
                        Form::Typed(&path)
                    }
                    (None, form) => form,
                };
                let text = match indent {
                    None => Printer { form, indent: None }.print(field),
                    Some(indent) => print(field, form, indent),
                };
                match (typed, self.form) {
                    (Some(_), _) => format!("{name}: {text}"),
                    (None, Form::Typed(_)) => format!("{}: {text}", quoted(name)),
                    (None, Form::Map) => format!("{}: dyn({text})", quoted(name)),
                }
            })
            .collect();
        self.bracketed(&format!("{}{{", typed.unwrap_or_default()), &items, "}")
    }

    fn bracketed(&self, open: &str, items: &[String], close: &str) -> String {
        match self.indent {
            Some(indent) if !items.is_empty() => {
                let (pad, deeper) = (" ".repeat(indent), " ".repeat(indent.saturating_add(INDENT)));
                format!("{open}\n{deeper}{}\n{pad}{close}", items.join(&format!(",\n{deeper}")))
            }
            _ => format!("{open}{}{close}", items.join(", ")),
        }
    }
}

/// `has(a.b) && has(a.b.c)`: each step is asked for, since the one before may be absent.
fn present(base: &str, path: &[&'static str]) -> String {
    let steps: Vec<String> =
        (1..=path.len()).map(|n| format!("has({base}.{})", path.get(..n).unwrap_or_default().join("."))).collect();
    steps.join(" && ")
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(list) => {
            let plain = list.iter().all(Value::is_string);
            let items = list.iter().map(|one| if plain { literal(one) } else { format!("dyn({})", literal(one)) });
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let plain = map.values().all(Value::is_string);
            let field = |value| if plain { literal(value) } else { format!("dyn({})", literal(value)) };
            let fields = map.iter().map(|(name, value)| format!("{}: {}", quoted(name), field(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// CEL reads the escapes that JSON writes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
