//! Lists that are declared to be more than one value: sets, and lists of objects with a key.
//!
//! Membership is canonical equality. What is made of both sides has the remote order, then what only the local side has,
//! in its order. Tests: `tests/merge_table.rs` and `tests/merge_laws.rs`.

use super::Three;
use super::conflict::{BaseValue, Misfit};
use super::number::Ordered;
use crate::value::Value;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A set that only grows: all that either side holds.
pub(super) fn union(base: BaseValue<&Value>, local: &Value, remote: &Value) -> Result<Value, Misfit> {
    elements(base, local, remote, |_| true)
}

/// A set: in what either added, out what either removed. Without a base nothing counts as removed.
pub(super) fn set(base: BaseValue<&Value>, local: &Value, remote: &Value) -> Result<Value, Misfit> {
    elements(base, local, remote, |Holders { before, local, remote }| (local && remote) || !before)
}

/// Who holds an element.
struct Holders {
    before: bool,
    local: bool,
    remote: bool,
}

/// The elements of either side that stay. A side that holds just these is taken as it is written; what is written anew
/// never looks like the base, which would look as if nobody had changed anything.
fn elements(
    base: BaseValue<&Value>,
    local: &Value,
    remote: &Value,
    stays: impl Fn(Holders) -> bool,
) -> Result<Value, Misfit> {
    let (base, local, remote) = (base_items(base)?, items(local)?, items(remote)?);
    let [before, of_local, of_remote] = [base, local, remote].map(distinct);
    let stays = |element: &Ordered<'_>| {
        let holds = |set: &BTreeSet<Ordered<'_>>| set.contains(element);
        stays(Holders { before: holds(&before), local: holds(&of_local), remote: holds(&of_remote) })
    };
    let kept: BTreeSet<Ordered<'_>> = of_local.union(&of_remote).copied().filter(stays).collect();
    if kept == of_remote {
        return Ok(Value::List(remote.to_vec()));
    }
    if kept == of_local {
        return Ok(Value::List(local.to_vec()));
    }
    let in_order = |first: &[Value], second: &[Value]| -> Vec<Value> {
        let mut left = kept.clone();
        first.iter().chain(second).filter(|item| left.remove(&Ordered(item))).cloned().collect()
    };
    let list = in_order(remote, local);
    Ok(Value::List(if list == base { in_order(local, remote) } else { list }))
}

fn distinct(list: &[Value]) -> BTreeSet<Ordered<'_>> {
    list.iter().map(Ordered).collect()
}

/// Three lists of objects, by key.
pub(super) struct Keyed<'a> {
    key: &'a str,
    base: Option<ByKey<'a>>,
    local: ByKey<'a>,
    remote: ByKey<'a>,
    /// Remote order, then what only the local side has.
    order: Vec<Ordered<'a>>,
}

type ByKey<'a> = BTreeMap<Ordered<'a>, &'a Value>;

impl<'a> Keyed<'a> {
    /// Refuses lists in which an item has no usable key, or two have the same: then they cannot be told apart.
    pub(super) fn of(
        base: BaseValue<&'a Value>,
        local: &'a Value,
        remote: &'a Value,
        key: &'a str,
    ) -> Result<Self, Misfit> {
        let before = match base {
            BaseValue::Unknown => None,
            known => Some(by_key(base_items(known)?, key)?.0),
        };
        let (local, local_order) = by_key(items(local)?, key)?;
        let (remote, mut order) = by_key(items(remote)?, key)?;
        order.extend(local_order.into_iter().filter(|key| !remote.contains_key(key)));
        Ok(Self { key, base: before, local, remote, order })
    }

    /// The field by which items are told apart.
    pub(super) fn key(&self) -> &'a str {
        self.key
    }

    /// Every item that a side has, with its key.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a Value, Three<'a>)> {
        self.order.iter().map(|key| {
            let base = match &self.base {
                None => BaseValue::Unknown,
                Some(base) => BaseValue::known(base.get(key).copied()),
            };
            let (local, remote) = (self.local.get(key).copied(), self.remote.get(key).copied());
            (key.0, Three { base, local, remote })
        })
    }
}

fn by_key<'a>(list: &'a [Value], key: &str) -> Result<(ByKey<'a>, Vec<Ordered<'a>>), Misfit> {
    let mut found = ByKey::new();
    let mut order = Vec::with_capacity(list.len());
    for item in list {
        let Value::Object(fields) = item else { return Err(Misfit::Keys) };
        let Some(name @ (Value::Text(_) | Value::Number(_))) = fields.value(key) else {
            return Err(Misfit::Keys);
        };
        if found.insert(Ordered(name), item).is_some() {
            return Err(Misfit::Keys);
        }
        order.push(Ordered(name));
    }
    Ok((found, order))
}

fn items(value: &Value) -> Result<&[Value], Misfit> {
    match value {
        Value::List(items) => Ok(items),
        _ => Err(Misfit::WrongKind),
    }
}

fn base_items(base: BaseValue<&Value>) -> Result<&[Value], Misfit> {
    match base {
        BaseValue::Unknown | BaseValue::Absent => Ok(&[]),
        BaseValue::Present(value) => items(value),
    }
}
