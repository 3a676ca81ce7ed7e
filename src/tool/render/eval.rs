//! The expressions, evaluated here: what Kyverno would make of a pod, without a cluster.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::expr::Expr;

/// What a policy may look at besides the pod.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// The namespace that the pod is created in.
    pub(super) namespace: String,
    /// Its `ConfigMap`s, by name.
    pub(super) config_maps: BTreeMap<String, Value>,
}

/// Why there is no value. Admission refuses a pod for which a policy has none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A field has another type than Kubernetes gives it.
    #[error("`{0}` is not what Kubernetes expects there")]
    Type(&'static str),
    /// A fault of the table: it names what it does not define.
    #[error("the table of mutations uses `{0}` and does not define it")]
    Undefined(&'static str),
}

/// Where an expression is evaluated.
pub(super) struct Scope<'a> {
    pub(super) object: &'a Value,
    pub(super) cluster: &'a Cluster,
    pub(super) variables: &'a BTreeMap<&'static str, Value>,
}

impl Scope<'_> {
    pub(super) fn eval(&self, expr: &Expr) -> Result<Value, Fault> {
        self.at(expr, &mut Vec::new())
    }

    fn at(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<Value, Fault> {
        Ok(match expr {
            Expr::Value(value) => value.clone(),
            Expr::Object => self.object.clone(),
            Expr::Namespace => self.cluster.namespace.clone().into(),
            Expr::Variable(name) => self.variables.get(name).cloned().ok_or(Fault::Undefined(name))?,
            Expr::Item(name) => {
                let item = items.iter().rev().find(|(item, _)| item == name);
                item.map(|(_, value)| value.clone()).ok_or(Fault::Undefined(name))?
            }
            Expr::Get(base, path, or) => match self.walk(base, path, items)? {
                Some(value) => value,
                None => self.at(or, items)?,
            },
            Expr::Has(base, path) => self.walk(base, path, items)?.is_some().into(),
            Expr::Field(base, name) => self.walk(base, &[name], items)?.ok_or(Fault::Type(name))?,
            Expr::Key(map, key, or) => match self.walk(map, &[key], items)? {
                Some(value) => value,
                None => self.at(or, items)?,
            },
            Expr::Equal(a, b) => (self.at(a, items)? == self.at(b, items)?).into(),
            Expr::All(of) => {
                for one in of {
                    if !self.truth(one, items)? {
                        return Ok(false.into());
                    }
                }
                true.into()
            }
            Expr::Any(of) => {
                for one in of {
                    if self.truth(one, items)? {
                        return Ok(true.into());
                    }
                }
                false.into()
            }
            Expr::Not(of) => (!self.truth(of, items)?).into(),
            Expr::If(condition, then, or) => {
                let taken = if self.truth(condition, items)? { then } else { or };
                self.at(taken, items)?
            }
            Expr::Filter(..) | Expr::Each(..) | Expr::Exists(..) | Expr::First(_) | Expr::Empty(_) | Expr::Chain(_) => {
                self.of_list(expr, items)?
            }
            Expr::Text(_) | Expr::EndsIn(..) | Expr::Without(..) | Expr::StartsWith(..) | Expr::EndsInDigits(_) => {
                self.of_text(expr, items)?
            }
            Expr::IsText(of) => self.at(of, items)?.is_string().into(),
            Expr::AsText(of) => match self.at(of, items)? {
                Value::String(text) => text.into(),
                Value::Number(number) => number.to_string().into(),
                _ => return Err(Fault::Type("the number")),
            },
            Expr::ConfigMap(name) => {
                let name = self.text(name, items)?;
                self.cluster.config_maps.get(&name).cloned().unwrap_or(Value::Null)
            }
            Expr::IsNull(of) => self.at(of, items)?.is_null().into(),
            Expr::Record(fields) => {
                let mut map = Map::new();
                for (name, field) in fields {
                    map.insert((*name).to_owned(), self.at(field, items)?);
                }
                map.into()
            }
            Expr::List(of) => {
                let mut list = Vec::new();
                for one in of {
                    list.push(self.at(one, items)?);
                }
                list.into()
            }
        })
    }

    fn of_list(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<Value, Fault> {
        Ok(match expr {
            Expr::Filter(list, item, body) => {
                let mut kept = Vec::new();
                for value in self.list(list, items)? {
                    if self.with(item, &value, items, |scope, items| scope.truth(body, items))? {
                        kept.push(value);
                    }
                }
                kept.into()
            }
            Expr::Each(list, item, body) => {
                let mut made = Vec::new();
                for value in self.list(list, items)? {
                    made.push(self.with(item, &value, items, |scope, items| scope.at(body, items))?);
                }
                made.into()
            }
            Expr::Exists(list, item, body) => {
                for value in self.list(list, items)? {
                    if self.with(item, &value, items, |scope, items| scope.truth(body, items))? {
                        return Ok(true.into());
                    }
                }
                false.into()
            }
            Expr::First(list) => self.list(list, items)?.into_iter().next().ok_or(Fault::Type("the list"))?,
            Expr::Empty(of) => match self.at(of, items)? {
                Value::Array(list) => list.is_empty().into(),
                Value::String(text) => text.is_empty().into(),
                Value::Object(map) => map.is_empty().into(),
                _ => return Err(Fault::Type("the list")),
            },
            Expr::Chain(of) => {
                let mut chained = Vec::new();
                for one in of {
                    chained.extend(self.list(one, items)?);
                }
                chained.into()
            }
            _ => return Err(Fault::Undefined("a list")),
        })
    }

    fn of_text(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<Value, Fault> {
        Ok(match expr {
            Expr::Text(of) => {
                let mut text = String::new();
                for one in of {
                    text.push_str(&self.text(one, items)?);
                }
                text.into()
            }
            Expr::EndsIn(text, end) => {
                let (text, end) = (self.text(text, items)?, self.text(end, items)?);
                (text.ends_with(&end) && text.len() > end.len()).into()
            }
            Expr::Without(text, end) => {
                let (text, end) = (self.text(text, items)?, self.text(end, items)?);
                let left = text.chars().count().saturating_sub(end.chars().count());
                text.chars().take(left).collect::<String>().into()
            }
            Expr::StartsWith(text, start) => self.text(text, items)?.starts_with(start).into(),
            Expr::EndsInDigits(text) => {
                let text = self.text(text, items)?;
                let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
                let rest = text.len().saturating_sub(9);
                (digits >= 8 && rest > 0 && text.as_bytes().get(rest) == Some(&b'-')).into()
            }
            _ => return Err(Fault::Undefined("a text")),
        })
    }

    /// A field below a value. What stands somewhere is not copied for it.
    fn walk(
        &self,
        base: &Expr,
        path: &[&'static str],
        items: &mut Vec<(&'static str, Value)>,
    ) -> Result<Option<Value>, Fault> {
        if let Some(base) = self.place(base, items) {
            return walk(base, path).map(Option::<&Value>::cloned);
        }
        let base = self.at(base, items)?;
        walk(&base, path).map(Option::<&Value>::cloned)
    }

    /// Where the value of an expression stands, if it does.
    fn place<'s>(&'s self, expr: &Expr, items: &'s [(&'static str, Value)]) -> Option<&'s Value> {
        match expr {
            Expr::Object => Some(self.object),
            Expr::Variable(name) => self.variables.get(name),
            Expr::Item(name) => items.iter().rev().find(|(item, _)| item == name).map(|(_, value)| value),
            Expr::Field(base, name) => self.place(base, items)?.get(name),
            _ => None,
        }
    }

    fn truth(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<bool, Fault> {
        self.at(expr, items)?.as_bool().ok_or(Fault::Type("the condition"))
    }

    fn list(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<Vec<Value>, Fault> {
        match self.at(expr, items)? {
            Value::Array(list) => Ok(list),
            _ => Err(Fault::Type(named(expr, "the list"))),
        }
    }

    fn text(&self, expr: &Expr, items: &mut Vec<(&'static str, Value)>) -> Result<String, Fault> {
        match self.at(expr, items)? {
            Value::String(text) => Ok(text),
            _ => Err(Fault::Type(named(expr, "the text"))),
        }
    }

    fn with<T>(
        &self,
        item: &'static str,
        value: &Value,
        items: &mut Vec<(&'static str, Value)>,
        body: impl FnOnce(&Self, &mut Vec<(&'static str, Value)>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        items.push((item, value.clone()));
        let made = body(self, items);
        items.pop();
        made
    }
}

/// The last field that the expression asks for, for people.
fn named(expr: &Expr, or: &'static str) -> &'static str {
    match expr {
        Expr::Get(_, path, _) => path.last().copied().unwrap_or(or),
        Expr::Field(_, name) | Expr::Key(_, name, _) => name,
        _ => or,
    }
}

/// `None` where a field on the way is absent. As CEL's `has`: what is there and no object is a
/// fault, what is there and null is there.
fn walk<'v>(mut value: &'v Value, path: &[&'static str]) -> Result<Option<&'v Value>, Fault> {
    let mut above = "the object";
    for name in path {
        let Value::Object(map) = value else { return Err(Fault::Type(above)) };
        match map.get(*name) {
            Some(found) => value = found,
            None => return Ok(None),
        }
        above = name;
    }
    Ok(Some(value))
}
