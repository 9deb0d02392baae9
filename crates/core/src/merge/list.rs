//! Lists that are declared to be more than one value: sets, and lists of objects with a key.
//!
//! Membership is canonical equality. The result has the remote order, then what only the local side has in its order:
//! when nothing came in, nothing moves. Tests: `tests/merge_table.rs` and `tests/merge_laws.rs`.

use super::Three;
use super::conflict::{BaseValue, Misfit};
use super::number::Ordered;
use crate::value::Value;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A list as a set: in what either added, out what either removed. Without a base nothing counts as removed.
pub(super) fn set(base: BaseValue<&Value>, local: &Value, remote: &Value) -> Result<Value, Misfit> {
    let before: BTreeSet<Ordered<'_>> = base_items(base)?.iter().map(Ordered).collect();
    let (local, remote) = (items(local)?, items(remote)?);
    let of_local: BTreeSet<Ordered<'_>> = local.iter().map(Ordered).collect();
    let of_remote: BTreeSet<Ordered<'_>> = remote.iter().map(Ordered).collect();
    let stays =
        |item: &Ordered<'_>| (of_local.contains(item) && of_remote.contains(item)) || !before.contains(item);
    let mut seen = BTreeSet::new();
    let kept = remote.iter().chain(local).map(Ordered).filter(|item| stays(item) && seen.insert(*item));
    Ok(Value::List(kept.map(|item| item.0.clone()).collect()))
}

/// Three lists of objects, by key.
pub(super) struct Keyed<'a> {
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
        key: &str,
    ) -> Result<Self, Misfit> {
        let before = match base {
            BaseValue::Unknown => None,
            known => Some(by_key(base_items(known)?, key)?.0),
        };
        let (local, local_order) = by_key(items(local)?, key)?;
        let (remote, mut order) = by_key(items(remote)?, key)?;
        order.extend(local_order.into_iter().filter(|key| !remote.contains_key(key)));
        Ok(Self { base: before, local, remote, order })
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
