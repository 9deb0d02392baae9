//! Every row that can be believed, sorted by how sure it is that it is the newest state of its row.
//!
//! Two witnesses say what is in a table: its tree, and an index of it, which lies on other pages. A row on a page of the
//! tree is the newest one. Any other (found where a page's own directory is broken, on a page that nothing leads to, or
//! in an older copy of a page) may have changed since, or may be gone: it is kept apart, and only the index can say that
//! its row is still there. Tests: `tests/rescue.rs`.

use super::pages::{BTree, Copy, Image, Row, Tree, Value};
use super::rows::Kind;
use crate::codec::Table;
use landfall_core::store::StoreError;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};

/// How sure it is that a row is the newest state of its row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Trust {
    /// In an older copy of its page, or on a free one.
    Old,
    /// On a page that is in use, but nothing leads to it.
    Loose,
    /// The tree of its table leads to it, but a newer copy of the page may be lost.
    Overtaken,
    /// The tree of its table leads to it.
    Current,
}

/// A row whose checksum fits.
#[derive(Debug)]
pub(super) struct Found {
    /// Its table, as a place in the list of kinds.
    pub(super) kind: usize,
    /// SQLite's own number of it.
    pub(super) id: i64,
    pub(super) values: Vec<Value>,
    pub(super) trust: Trust,
}

/// A row that is there and cannot be believed.
#[derive(Debug)]
pub(super) struct Unbelieved {
    pub(super) kind: Option<usize>,
    pub(super) page: u32,
    pub(super) id: Option<i64>,
    pub(super) said: Option<String>,
}

/// What an index says is in a table.
#[derive(Debug)]
pub(super) struct Witness {
    /// SQLite's own numbers of its rows, with what the index says of each.
    pub(super) rows: BTreeMap<i64, Vec<Value>>,
    /// Whether the index could be read to its end.
    pub(super) whole: bool,
}

/// A look over everything.
#[derive(Debug)]
pub(super) struct Salvage<'a> {
    image: &'a Image,
    kinds: &'a [Kind],
    /// By kind.
    trees: Vec<Option<Tree>>,
    pub(super) witnesses: Vec<Option<Witness>>,
    free: BTreeSet<u32>,
    free_is_whole: bool,
    /// Whether the list of tables could be read.
    pub(super) schema_is_readable: bool,
    pub(super) unbelieved: Vec<Unbelieved>,
    pub(super) pages_unreadable: BTreeSet<u32>,
}

/// Where each table and index begins.
pub(super) type Roots = BTreeMap<String, u32>;

/// As `connection` has it.
pub(super) fn roots_of(connection: &Connection) -> Result<Roots, StoreError> {
    let sql = "SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0";
    let mut statement = connection.prepare(sql).map_err(crate::error::failed)?;
    let mut roots = Roots::new();
    crate::codec::each_row(&mut statement, (), |row| {
        let failed = crate::error::failed;
        roots.insert(row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        Ok(true)
    })?;
    Ok(roots)
}

/// The list of tables as it lies in the file, and whether it could be read to its end.
pub(super) fn roots_in(image: &Image) -> (Roots, bool) {
    let mut roots = Roots::new();
    let tree = image.tree(1);
    let mut whole = tree.is_whole();
    for number in &tree.leaves {
        let Some(page) = image.page(*number, Copy::Newest) else { continue };
        let Some(head) = BTree::of(&page, *number).filter(|head| head.is_table_leaf()) else {
            whole = false;
            continue;
        };
        whole &= head.cells(&page).is_some();
        for at in head.likely_cells(&page) {
            let row = image.row(&page, at, Copy::Newest).filter(|row| row.values.len() == 5);
            match row.as_ref().map(|row| (row.values[1].text(), row.values[3].int())) {
                Some((Some(name), Some(root))) => {
                    if let Ok(root @ 1..) = u32::try_from(root) {
                        roots.insert(name.to_owned(), root);
                    }
                }
                // A view has no root.
                _ => whole &= row.is_some(),
            }
        }
    }
    (roots, whole)
}

impl<'a> Salvage<'a> {
    /// Finds the trees. `fresh` says where they are in a new store, for a file whose list of tables is gone.
    pub(super) fn look(image: &'a Image, kinds: &'a [Kind], fresh: &Roots) -> Self {
        let (told, schema_is_readable) = roots_in(image);
        // One name at a time: a list that is torn still says where some of them begin.
        let root = |name: &str| match told.get(name) {
            Some(root) => Some(*root),
            None if schema_is_readable => None,
            None => fresh.get(name).copied(),
        };
        let trees: Vec<Option<Tree>> =
            kinds.iter().map(|kind| root(kind.name).map(|root| image.tree(root))).collect();
        let witnesses = kinds
            .iter()
            .map(|kind| kind.index.and_then(&root).map(|root| Witness::of(image, root)))
            .collect();
        let (free, free_is_whole) = image.free();
        Self {
            image,
            kinds,
            trees,
            witnesses,
            free,
            free_is_whole,
            schema_is_readable,
            unbelieved: Vec::new(),
            pages_unreadable: BTreeSet::new(),
        }
    }

    /// One that has nothing, to stand in while the other is at work.
    pub(super) fn none(image: &'a Image, kinds: &'a [Kind]) -> Self {
        Self {
            image,
            kinds,
            trees: Vec::new(),
            witnesses: kinds.iter().map(|_| None).collect(),
            free: BTreeSet::new(),
            free_is_whole: false,
            schema_is_readable: false,
            unbelieved: Vec::new(),
            pages_unreadable: BTreeSet::new(),
        }
    }

    /// Hands out every row of the newest copies, and notes what cannot be believed.
    pub(super) fn newest(
        &mut self,
        mut take: impl FnMut(Found) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let whole =
            self.schema_is_readable && self.trees.iter().all(|tree| tree.as_ref().is_none_or(Tree::is_whole));
        let reached: BTreeSet<u32> =
            self.trees.iter().flatten().flat_map(|tree| tree.leaves.iter().copied()).collect();
        let broken: BTreeSet<u32> =
            self.trees.iter().flatten().flat_map(|tree| tree.unreadable.iter().copied()).collect();
        let all: Vec<u32> = match whole {
            true => reached.iter().copied().collect(),
            false => (1..=self.image.pages())
                .filter(|page| reached.contains(page) || !self.free.contains(page))
                .collect(),
        };
        for number in all {
            let Some(page) = self.image.page(number, Copy::Newest) else {
                self.pages_unreadable.insert(number);
                continue;
            };
            // A page that nothing leads to counts if it is certain that it is not free.
            let in_use = reached.contains(&number) || (self.free_is_whole && !self.free.contains(&number));
            let found = self.rows_of_page(&page, number, Copy::Newest);
            if broken.contains(&number) && found.is_empty() {
                self.pages_unreadable.insert(number);
            }
            for (row, kind, listed) in found {
                // A task may have been sent in what the log has lost.
                let doubtful = self.kinds[kind].table == Table::Task && self.image.may_be_out_of_date(number);
                let trust = match (listed && in_use, doubtful) {
                    (true, true) => Trust::Overtaken,
                    (false, true) => Trust::Old,
                    (true, false) => Trust::Current,
                    (false, false) => Trust::Loose,
                };
                let values = row.values;
                take(Found { kind, id: row.id, values, trust })?;
            }
        }
        // What a tree leads to outside of the file was cut off.
        let cut = broken.iter().filter(|page| **page > self.image.pages());
        self.pages_unreadable.extend(cut);
        Ok(())
    }

    /// Hands out every row of older copies and of free pages.
    pub(super) fn old(
        &self,
        mut take: impl FnMut(Found) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let free = self.free.iter().map(|number| (*number, Copy::Newest));
        for (number, copy) in free.chain(self.image.older_copies()) {
            let Some(page) = self.image.page(number, copy) else { continue };
            let mut ignored = Vec::new();
            for (row, kind, _) in rows_of(self.image, self.kinds, &page, number, copy, true, &mut ignored) {
                take(Found { kind, id: row.id, values: row.values, trust: Trust::Old })?;
            }
        }
        Ok(())
    }

    fn rows_of_page(&mut self, page: &[u8], number: u32, copy: Copy) -> Vec<(Row, usize, bool)> {
        let tree = self.trees.iter().position(|tree| {
            tree.as_ref()
                .is_some_and(|tree| tree.leaves.contains(&number) || tree.unreadable.contains(&number))
        });
        let mut bad = Vec::new();
        let found = rows_of(self.image, self.kinds, page, number, copy, false, &mut bad);
        for row in bad.into_iter().filter(|_| tree.is_some()) {
            let said = row.as_ref().and_then(|row| self.kinds[tree?].said_of(row));
            let id = row.map(|row| row.id);
            self.unbelieved.push(Unbelieved { kind: tree, page: number, id, said });
        }
        found
    }
}

/// The rows of one page that can be believed, with their kinds, and whether the page's own directory lists them. What it
/// lists and cannot be believed goes to `bad`.
fn rows_of(
    image: &Image,
    kinds: &[Kind],
    page: &[u8],
    number: u32,
    copy: Copy,
    thorough: bool,
    bad: &mut Vec<Option<Row>>,
) -> Vec<(Row, usize, bool)> {
    let mut found: Vec<(Row, usize, bool)> = Vec::new();
    let head = BTree::of(page, number);
    let mut sane = false;
    let mut holes = Some(Vec::new());
    match head {
        Some(head) if head.is_table_leaf() || head.is_index() => {
            let index = head.is_index();
            let skip = if index && head.is_inner() { 4 } else { 0 };
            sane = head.cells(page).is_some();
            for at in head.likely_cells(page) {
                match believed(image, kinds, page, at + skip, copy, index) {
                    Ok((row, kind)) => found.push((row, kind, true)),
                    // Most indexes carry no rows, and the list of tables none of ours.
                    Err(_) if index || is_schema(image, page, at, copy) => {}
                    Err(row) => {
                        sane = false;
                        bad.push(row);
                    }
                }
            }
            holes = head.holes(page);
            sane &= holes.is_some() || index;
        }
        Some(_) => sane = head.and_then(|head| head.cells(page)).is_some(),
        None => {}
    }
    if sane && !thorough {
        return found;
    }
    // The directory is broken: whatever looks like a row and has its checksum is one. What lies where nothing should be
    // was deleted.
    let holes = if thorough { Vec::new() } else { holes.unwrap_or_default() };
    let mut at = 0;
    while at < page.len() {
        let in_hole = holes.iter().any(|(from, to)| (*from..*to).contains(&at));
        let taken = found.iter().find(|(row, ..)| (row.at..row.end).contains(&at)).map(|(row, ..)| row.end);
        at = match taken {
            Some(end) => end.max(at + 1),
            None if in_hole => at + 1,
            None => match [false, true]
                .into_iter()
                .find_map(|index| believed(image, kinds, page, at, copy, index).ok())
            {
                Some((row, kind)) => {
                    let end = row.end;
                    found.push((row, kind, false));
                    end
                }
                None => at + 1,
            },
        };
    }
    found
}

/// The row at a place of a page with its whole values, or what there is instead.
fn believed(
    image: &Image,
    kinds: &[Kind],
    page: &[u8],
    at: usize,
    copy: Copy,
    index: bool,
) -> Result<(Row, usize), Option<Row>> {
    let mut seen = None;
    // The rest of a long row may lie in the newest copy of another page, or in the one before.
    let rests = [Copy::Newest, Copy::File];
    for rest in rests {
        let row = if index { image.keyed_row(page, at, rest) } else { image.row(page, at, rest) };
        let Some(mut row) = row else { continue };
        for (number, kind) in kinds.iter().enumerate().filter(|(_, kind)| kind.is_keyed() == index) {
            if let Some(values) = kind.verified(&row) {
                row.values = values;
                return Ok((row, number));
            }
        }
        seen = Some(row);
        if copy == Copy::File {
            break;
        }
    }
    Err(seen)
}

/// Whether this is a line of the list of tables.
fn is_schema(image: &Image, page: &[u8], at: usize, copy: Copy) -> bool {
    let _ = copy;
    image.row(page, at, Copy::Newest).is_some_and(|row| {
        let kind = row.values.first().and_then(Value::text);
        row.values.len() == 5 && matches!(kind, Some("table" | "index" | "view" | "trigger"))
    })
}

impl Witness {
    fn of(image: &Image, root: u32) -> Self {
        let tree = image.tree(root);
        let mut witness = Self { rows: BTreeMap::new(), whole: tree.is_whole() };
        for record in image.index(&tree) {
            match record.map(|mut record| (record.pop().and_then(|id| id.int()), record)) {
                Some((Some(id), said)) => {
                    witness.rows.insert(id, said);
                }
                _ => witness.whole = false,
            }
        }
        witness
    }

    /// Whether it speaks of the table that has these rows: half of them must be known to it.
    pub(super) fn is_about(&self, rows: &BTreeSet<i64>) -> bool {
        let known = rows.iter().filter(|id| self.rows.contains_key(id)).count();
        known * 2 >= rows.len()
    }
}
