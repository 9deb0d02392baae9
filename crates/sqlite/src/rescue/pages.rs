//! A database file and its log, read by hand: pages, b-trees, cells and records, whatever is broken around them.
//!
//! Nothing here believes anything: a page number may lead nowhere, a length may lie, a tree may be a circle. Each answer
//! is a candidate, and whoever asks looks at the checksum of what comes out. Format: sqlite.org/fileformat2.html. It
//! knows nothing of our tables. Tests: at the end of the file, `tests/rescue.rs`.

use rusqlite::types::ValueRef;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// A page of a b-tree begins with one of these.
const TABLE_LEAF: u8 = 13;
const TABLE_INNER: u8 = 5;
const INDEX_LEAF: u8 = 10;
const INDEX_INNER: u8 = 2;

/// Trees of SQLite are never as deep: a page has room for four children and more.
const DEPTH_MAX: usize = 20;

/// SQLite's default bound of a row is a billion bytes; ours are a few MiB.
const RECORD_MAX: u64 = 256 << 20;

const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// Which copy of pages a row is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Copy {
    /// The newest committed one: out of the log if it is there, else out of the file.
    Newest,
    /// The one in the file, whatever the log says.
    File,
    /// The one in this frame of the log.
    Frame(u64),
}

/// The file and its log as they lie there.
#[derive(Debug)]
pub(crate) struct Image {
    file: RefCell<File>,
    log: Option<RefCell<File>>,
    page_bytes: usize,
    file_pages: u32,
    pages: u32,
    /// The newest frame of each page.
    newest: BTreeMap<u32, u64>,
    /// All others, each with its page.
    older: Vec<(u32, u64)>,
    /// Frames that the log once had, as the shared memory beside it says, and has no more.
    frames_missing: u64,
    /// Frames of the newest generation that do not fit their own checksum.
    frames_broken: u64,
    /// The last frame of the newest generation of which nobody knows whose page it was.
    lost_frame: Option<u64>,
    /// Frames that may be of these pages, if one bit of their number is wrong.
    suspected: BTreeMap<u32, u64>,
}

impl Image {
    /// Looks at the file and what is beside it. Nothing is changed.
    pub(crate) fn open(file: &Path, log: &Path, shared: &Path) -> io::Result<Self> {
        let mut file = File::open(file)?;
        let file_bytes = file.seek(SeekFrom::End(0))?;
        let mut log = match File::open(log) {
            Ok(log) => Some(log),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut header = [0; LOG_HEADER as usize];
        let log_bytes = match &mut log {
            None => 0,
            Some(log) => {
                let bytes = log.seek(SeekFrom::End(0))?;
                log.rewind()?;
                if bytes >= LOG_HEADER {
                    log.read_exact(&mut header)?;
                }
                bytes
            }
        };
        let page_bytes = page_bytes(&mut file, file_bytes, word(&header, 8))?;
        let file_pages = u32::try_from(file_bytes.div_ceil(page_bytes as u64)).unwrap_or(u32::MAX);
        let mut image = Self {
            file: RefCell::new(file),
            log: log.map(RefCell::new),
            page_bytes,
            file_pages,
            pages: file_pages,
            newest: BTreeMap::new(),
            older: Vec::new(),
            frames_missing: 0,
            frames_broken: 0,
            lost_frame: None,
            suspected: BTreeMap::new(),
        };
        let committed = image.look_at_shared(shared, &header, log_bytes);
        image.read_log(&header, log_bytes, committed)?;
        Ok(image)
    }

    #[cfg(test)]
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Where the newest copy of a page lies: whether in the log, and from which byte on.
    #[cfg(test)]
    pub(crate) fn place_of(&self, number: u32) -> (bool, u64) {
        match self.newest.get(&number) {
            Some(frame) => (true, self.frame_at(*frame)),
            None => (false, u64::from(number - 1) * self.page_bytes as u64),
        }
    }

    /// The pages on which the rest of a row lies whose cell begins at `at`.
    #[cfg(test)]
    pub(crate) fn rest_of(&self, page: &[u8], row: &Row) -> Vec<u32> {
        let (bytes, _) = varint(&page[row.at..]).unwrap();
        let bytes = bytes as usize;
        let here = Layout::Table.local(bytes, self.page_bytes);
        let mut rest = Vec::new();
        let mut next = if here < bytes { word(page, row.end - 4) } else { 0 };
        while next != 0 {
            rest.push(next);
            next = word(&self.page(next, Copy::Newest).unwrap(), 0);
        }
        rest
    }

    /// How many pages the newest commit says there are.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    pub(crate) fn frames_missing(&self) -> u64 {
        self.frames_missing
    }

    pub(crate) fn frames_broken(&self) -> u64 {
        self.frames_broken
    }

    /// Whether a newer copy of the page may have been in a part of the log that is lost.
    pub(crate) fn may_be_out_of_date(&self, number: u32) -> bool {
        let at = self.newest.get(&number);
        let overtakes = |frame: u64| at.is_none_or(|at| *at < frame);
        self.frames_missing > 0
            || self.lost_frame.is_some_and(overtakes)
            || self.suspected.get(&number).copied().is_some_and(overtakes)
    }

    /// A page; what lies behind the end of a file that was cut reads as zeros. `None` when there is nothing of it.
    pub(crate) fn page(&self, number: u32, copy: Copy) -> Option<Vec<u8>> {
        let frame = match copy {
            Copy::Newest => self.newest.get(&number).copied(),
            Copy::File => None,
            Copy::Frame(frame) => Some(frame),
        };
        let (file, at) = match frame {
            Some(frame) => (self.log.as_ref()?, self.frame_at(frame) + FRAME_HEADER),
            None if number == 0 || number > self.file_pages => return None,
            None => (&self.file, u64::from(number - 1) * self.page_bytes as u64),
        };
        let mut page = Vec::with_capacity(self.page_bytes);
        let mut file = file.borrow_mut();
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut part = file.by_ref().take(self.page_bytes as u64);
        // A sector that cannot be read is like one that was overwritten.
        let read = part.read_to_end(&mut page);
        if page.is_empty() || (read.is_err() && page.len() < 100) {
            return None;
        }
        page.resize(self.page_bytes, 0);
        Some(page)
    }

    /// Every copy of a page that is not the newest one: in frames that were written over, and in the file where the log
    /// has a newer one or the file is longer than it says.
    pub(crate) fn older_copies(&self) -> Vec<(u32, Copy)> {
        let behind =
            (1..=self.file_pages).filter(|number| *number > self.pages || self.newest.contains_key(number));
        let in_file = behind.map(|number| (number, Copy::File));
        in_file.chain(self.older.iter().rev().map(|(number, frame)| (*number, Copy::Frame(*frame)))).collect()
    }

    fn frame_at(&self, frame: u64) -> u64 {
        LOG_HEADER + frame * (FRAME_HEADER + self.page_bytes as u64)
    }

    /// Sorts the frames of the log. SQLite stops at the first frame whose checksum does not fit; what was committed
    /// behind it is there all the same.
    fn read_log(&mut self, header: &[u8], log_bytes: u64, committed: Option<u64>) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut log = log.borrow_mut();
        let step = FRAME_HEADER + self.page_bytes as u64;
        let frames = log_bytes.saturating_sub(LOG_HEADER) / step;
        let mut heads = Vec::new();
        let mut page = vec![0; self.page_bytes];
        let big_endian = header[3] & 1 == 1;
        // Each frame goes on from the sum of the one before, which is written down and can be computed.
        let mut before = [(word(header, 24), word(header, 28)); 2];
        for frame in 0..frames {
            let mut head = [0; FRAME_HEADER as usize];
            log.seek(SeekFrom::Start(LOG_HEADER + frame * step))?;
            log.read_exact(&mut head)?;
            log.read_exact(&mut page)?;
            let told = (word(&head, 16), word(&head, 20));
            let sums = before.map(|sum| add(add(sum, &head[..8], big_endian), &page, big_endian));
            let fits = sums.contains(&told);
            let salt = <[u8; 8]>::try_from(&head[8..16]).unwrap_or_default();
            heads.push(Head { page: word(&head, 0), commit: word(&head, 4), salt, fits, before, told });
            before = [told, sums[0]];
        }
        let salt = generation(header, &heads);
        // Frames of one generation lie at the beginning; behind the last commit among them nothing ever counted.
        let ours = |head: &Head| Some(head.salt) == salt;
        let last = heads.iter().rposition(|head| ours(head) && head.commit != 0);
        let told = committed.and_then(|told| usize::try_from(told.min(frames)).ok()?.checked_sub(1));
        let last = last.max(told);
        // The file may be cut; how long it was is told by every commit.
        let proven = heads.iter().filter(|head| head.fits).map(|head| head.commit.max(head.page)).max();
        let most = u64::from(self.file_pages.max(proven.unwrap_or(0))) + frames;
        let believable = |number: u32| number > 0 && u64::from(number) <= most;
        for (frame, head) in heads.iter().enumerate() {
            let counts = last.is_some_and(|last| frame <= last);
            let mut number = head.page;
            if counts && !head.fits {
                self.frames_broken += 1;
                log.seek(SeekFrom::Start(LOG_HEADER + frame as u64 * step + FRAME_HEADER))?;
                log.read_exact(&mut page)?;
                let others = head.alternatives(&page, big_endian);
                let others: Vec<u32> = others.into_iter().filter(|other| believable(*other)).collect();
                match others.as_slice() {
                    [other] if !believable(number) => number = *other,
                    _ => self.suspected.extend(others.into_iter().map(|other| (other, frame as u64))),
                }
            }
            if !believable(number) {
                self.lost_frame = if counts { Some(frame as u64) } else { self.lost_frame };
                continue;
            }
            if counts {
                if let Some(old) = self.newest.insert(number, frame as u64) {
                    self.older.push((number, old));
                }
            } else {
                self.older.push((number, frame as u64));
            }
        }
        let mut commits =
            heads.iter().enumerate().filter(|(frame, head)| last >= Some(*frame) && head.commit != 0);
        if let Some((_, head)) = commits.rfind(|(_, head)| head.fits || believable(head.commit)) {
            self.pages = head.commit;
        }
        // Behind the last commit lies what was never committed, or a commit whose last frame is broken: then its pages are
        // newer than what is taken for the newest here.
        let behind = last.map_or(0, |last| last + 1);
        let end = heads.iter().rposition(ours).map_or(0, |end| end + 1);
        if committed.is_none() {
            for (frame, head) in heads.iter().enumerate().take(end).skip(behind) {
                if ours(head) && believable(head.page) {
                    self.suspected.insert(head.page, frame as u64);
                } else {
                    self.lost_frame = Some(frame as u64);
                }
            }
            // Frames of an older generation share their mark with others.
            let next = heads.get(end.max(behind));
            let alone = next.filter(|next| heads.iter().filter(|head| head.salt == next.salt).count() == 1);
            if alone.is_some() {
                self.lost_frame = Some(end.max(behind) as u64);
            }
        }
        Ok(())
    }

    /// The shared memory beside the log knows how many frames were committed, if nobody closed it in peace.
    fn look_at_shared(&mut self, shared: &Path, header: &[u8], log_bytes: u64) -> Option<u64> {
        let mut head = Vec::new();
        File::open(shared).ok()?.take(48).read_to_end(&mut head).ok()?;
        if head.len() < 48 || head[32..40] != header[16..24] {
            return None;
        }
        let told = u64::from(u32::from_ne_bytes([head[16], head[17], head[18], head[19]]));
        let there = log_bytes.saturating_sub(LOG_HEADER) / (FRAME_HEADER + self.page_bytes as u64);
        // Far more than any log holds is damage of the shared memory itself.
        if told > there + (1 << 24) {
            return None;
        }
        self.frames_missing = told.saturating_sub(there);
        Some(told)
    }

    /// The pages that are free, and whether the list of them could be read to its end.
    pub(crate) fn free(&self) -> (BTreeSet<u32>, bool) {
        let mut free = BTreeSet::new();
        let Some(first) = self.page(1, Copy::Newest) else { return (free, false) };
        let (mut trunk, told) = (word(&first, 32), word(&first, 36));
        while trunk != 0 {
            let Some(page) =
                self.page(trunk, Copy::Newest).filter(|_| trunk <= self.pages && free.insert(trunk))
            else {
                return (free, false);
            };
            let leaves = word(&page, 4) as usize;
            if leaves > self.page_bytes / 4 - 2 {
                return (free, false);
            }
            for leaf in (0..leaves).map(|leaf| word(&page, 8 + leaf * 4)) {
                if leaf == 0 || leaf > self.pages || !free.insert(leaf) {
                    return (free, false);
                }
            }
            trunk = word(&page, 0);
        }
        let whole = free.len() as u64 == u64::from(told);
        (free, whole)
    }

    /// The tree below `root` in the newest copies.
    pub(crate) fn tree(&self, root: u32) -> Tree {
        let mut tree = Tree::default();
        self.walk(root, 0, &mut tree);
        tree
    }

    fn walk(&self, number: u32, depth: usize, tree: &mut Tree) {
        let page = self.page(number, Copy::Newest).filter(|_| number <= self.pages && depth <= DEPTH_MAX);
        let head = page.as_ref().and_then(|page| BTree::of(page, number));
        let (Some(page), Some(head), true) = (page, head, !tree.pages.contains(&number)) else {
            tree.unreadable.insert(number);
            return;
        };
        tree.pages.insert(number);
        if !head.is_inner() {
            tree.leaves.insert(number);
            return;
        }
        let mut children: Vec<u32> = head
            .cells(&page)
            .into_iter()
            .flatten()
            .filter_map(|at| page.get(at..at + 4).map(|b| word(b, 0)))
            .collect();
        if children.len() < head.count {
            tree.torn = true;
        }
        children.push(word(&page, head.at + 8));
        for child in children {
            self.walk(child, depth + 1, tree);
        }
    }

    /// The records of an index: those of its inner pages too. `None` in a place where one cannot be read.
    pub(crate) fn index(&self, tree: &Tree) -> Vec<Option<Vec<Value>>> {
        let mut records = Vec::new();
        for number in &tree.pages {
            let Some(page) = self.page(*number, Copy::Newest) else { continue };
            let Some(head) = BTree::of(&page, *number) else { continue };
            let Some(cells) = head.cells(&page) else {
                records.push(None);
                continue;
            };
            let skip = if head.is_inner() { 4 } else { 0 };
            for at in cells {
                records.push(
                    self.record(&page, at + skip, Layout::Index, Copy::Newest).map(|(values, _)| values),
                );
            }
        }
        records
    }

    /// The row of a table whose cell begins at `at`, if there can be one.
    pub(crate) fn row(&self, page: &[u8], at: usize, overflow: Copy) -> Option<Row> {
        let (_, used) = varint(page.get(at..)?)?;
        let (id, _) = varint(page.get(at + used..)?)?;
        let (values, end) = self.record(page, at, Layout::Table, overflow)?;
        Some(Row { id: i64::from_ne_bytes(id.to_ne_bytes()), values, at, end })
    }

    /// Likewise of a table without row ids, which is stored as an index.
    pub(crate) fn keyed_row(&self, page: &[u8], at: usize, overflow: Copy) -> Option<Row> {
        let (values, end) = self.record(page, at, Layout::Index, overflow)?;
        Some(Row { id: 0, values, at, end })
    }

    fn record(&self, page: &[u8], at: usize, layout: Layout, overflow: Copy) -> Option<(Vec<Value>, usize)> {
        let (bytes, mut from) = varint(page.get(at..)?)?;
        from += at;
        if layout == Layout::Table {
            from += varint(page.get(from..)?)?.1;
        }
        if !(2..=RECORD_MAX).contains(&bytes) {
            return None;
        }
        let bytes = usize::try_from(bytes).ok()?;
        let here = layout.local(bytes, self.page_bytes);
        let local = page.get(from..from + here)?;
        // Before anything is fetched: the list of types must add up, as far as it is here.
        let header = Header::of(local)?;
        if header.total() != bytes as u64 {
            return None;
        }
        let end = from + here;
        if here == bytes {
            return Some((header.values(local)?, end));
        }
        let mut content = Vec::with_capacity(bytes);
        content.extend_from_slice(local);
        let mut next = word(page.get(end..end + 4)?, 0);
        while content.len() < bytes {
            let page = self.page(next, overflow)?;
            let part = (bytes - content.len()).min(self.page_bytes - 4);
            content.extend_from_slice(&page[4..4 + part]);
            next = word(&page, 0);
        }
        Some((header.values(&content)?, end + 4))
    }
}

/// What one frame says of itself.
struct Head {
    page: u32,
    commit: u32,
    salt: [u8; 8],
    fits: bool,
    /// The sum of the frame before, as it is written down and as it comes out.
    before: [(u32, u32); 2],
    told: (u32, u32),
}

impl Head {
    /// Other numbers with which the frame fits its sum, one bit away. The sum is weak, and such a number may as well make up
    /// for damage elsewhere: it is a suspicion, not a proof.
    fn alternatives(&self, page: &[u8], big_endian: bool) -> Vec<u32> {
        let commit = self.commit.to_be_bytes();
        let fits = |number: &u32| {
            let head = [number.to_be_bytes(), commit].concat();
            self.before.iter().any(|sum| add(add(*sum, &head, big_endian), page, big_endian) == self.told)
        };
        (0..32).map(|bit| self.page ^ (1 << bit)).filter(fits).collect()
    }
}

/// The mark of the newest generation of frames: the header's, or that of the first frames when the header is broken.
fn generation(header: &[u8], heads: &[Head]) -> Option<[u8; 8]> {
    let told = <[u8; 8]>::try_from(&header[16..24]).ok()?;
    if heads.iter().take(8).any(|head| head.salt == told) {
        return Some(told);
    }
    let proven = heads.iter().take_while(|head| !head.fits).count();
    // Without a header only the second frame and those behind it can be proven.
    heads.get(proven.max(1)).filter(|head| head.fits).map(|head| head.salt)
}

/// Pages of one tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// All that could be read.
    pub(crate) pages: BTreeSet<u32>,
    /// Those of them that carry rows.
    pub(crate) leaves: BTreeSet<u32>,
    /// Those that should be there and are not pages of a tree.
    pub(crate) unreadable: BTreeSet<u32>,
    /// An inner page has fewer children than it says.
    pub(crate) torn: bool,
}

impl Tree {
    pub(crate) fn is_whole(&self) -> bool {
        self.unreadable.is_empty() && !self.torn
    }
}

/// The head of a page of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BTree {
    kind: u8,
    /// Where it begins: behind the file's header on the first page.
    at: usize,
    count: usize,
    content: usize,
    first_free: usize,
}

impl BTree {
    /// `None` when the page cannot be one.
    pub(crate) fn of(page: &[u8], number: u32) -> Option<Self> {
        let at = if number == 1 { 100 } else { 0 };
        let short =
            |offset: usize| usize::from(u16::from_be_bytes([page[at + offset], page[at + offset + 1]]));
        let content = if short(5) == 0 { 65_536 } else { short(5) };
        let head = Self { kind: page[at], at, count: short(3), content, first_free: short(1) };
        let known = matches!(head.kind, TABLE_LEAF | TABLE_INNER | INDEX_LEAF | INDEX_INNER);
        (known && head.pointers_end() <= page.len() && head.content <= page.len()).then_some(head)
    }

    pub(crate) fn is_inner(self) -> bool {
        matches!(self.kind, TABLE_INNER | INDEX_INNER)
    }

    pub(crate) fn is_table_leaf(self) -> bool {
        self.kind == TABLE_LEAF
    }

    pub(crate) fn is_index(self) -> bool {
        matches!(self.kind, INDEX_LEAF | INDEX_INNER)
    }

    fn pointers_end(self) -> usize {
        self.at + if self.is_inner() { 12 } else { 8 } + 2 * self.count
    }

    /// Where each cell begins; `None` when one of them cannot be where it is said to be.
    pub(crate) fn cells(self, page: &[u8]) -> Option<Vec<usize>> {
        let from = self.pointers_end() - 2 * self.count;
        let at = |cell: usize| {
            let place = from + 2 * cell;
            usize::from(u16::from_be_bytes([page[place], page[place + 1]]))
        };
        let cells: Vec<usize> = (0..self.count).map(at).collect();
        cells.iter().all(|cell| (self.pointers_end()..page.len()).contains(cell)).then_some(cells)
    }

    /// Likewise, without those that cannot be.
    pub(crate) fn likely_cells(self, page: &[u8]) -> Vec<usize> {
        let from = self.pointers_end() - 2 * self.count;
        let place = |cell: usize| from + 2 * cell;
        let all = (0..self.count)
            .map(|cell| usize::from(u16::from_be_bytes([page[place(cell)], page[place(cell) + 1]])));
        all.filter(|cell| (self.pointers_end()..page.len()).contains(cell)).collect()
    }

    /// The parts of the page that hold nothing: what is read there was deleted. `None` when that cannot be told.
    pub(crate) fn holes(self, page: &[u8]) -> Option<Vec<(usize, usize)>> {
        if self.content < self.pointers_end() || self.content > page.len() {
            return None;
        }
        let mut holes = vec![(self.pointers_end(), self.content)];
        let mut next = self.first_free;
        while next != 0 {
            let block = page.get(next..next + 4)?;
            let bytes = usize::from(u16::from_be_bytes([block[2], block[3]]));
            if next < self.content || next + bytes > page.len() || bytes < 4 {
                return None;
            }
            holes.push((next, next + bytes));
            let after = usize::from(u16::from_be_bytes([block[0], block[1]]));
            if after != 0 && after <= next {
                return None;
            }
            next = after;
        }
        Some(holes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Table,
    Index,
}

impl Layout {
    /// How many bytes of a record of `bytes` are on the page itself.
    fn local(self, bytes: usize, usable: usize) -> usize {
        let most = match self {
            Self::Table => usable - 35,
            Self::Index => (usable - 12) * 64 / 255 - 23,
        };
        if bytes <= most {
            return bytes;
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let wanted = least + (bytes - least) % (usable - 4);
        if wanted <= most { wanted } else { least }
    }
}

/// A row as it was found.
#[derive(Debug)]
pub(crate) struct Row {
    /// SQLite's own number of it.
    pub(crate) id: i64,
    pub(crate) values: Vec<Value>,
    /// From where to where it stands on its page.
    pub(crate) at: usize,
    pub(crate) end: usize,
}

/// A value as SQLite stores it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Value {
    pub(crate) fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Real(n) => ValueRef::Real(*n),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }

    pub(crate) fn int(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }

    pub(crate) fn blob(&self) -> Option<&[u8]> {
        if let Self::Blob(bytes) = self { Some(bytes) } else { None }
    }
}

/// The list of types at the beginning of a record.
struct Header {
    bytes: usize,
    types: Vec<u64>,
}

/// More columns than any of our tables has.
const COLUMNS_MAX: usize = 200;

impl Header {
    fn of(record: &[u8]) -> Option<Self> {
        let (bytes, mut at) = varint(record)?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes >= at && *bytes <= record.len())?;
        let mut types = Vec::new();
        while at < bytes {
            let (kind, used) = varint(&record[at..bytes])?;
            if matches!(kind, 10 | 11) || types.len() == COLUMNS_MAX {
                return None;
            }
            types.push(kind);
            at += used;
        }
        Some(Self { bytes, types })
    }

    fn total(&self) -> u64 {
        self.types.iter().fold(self.bytes as u64, |sum, kind| sum.saturating_add(size_of_type(*kind)))
    }

    fn values(&self, record: &[u8]) -> Option<Vec<Value>> {
        let mut rest = record.get(self.bytes..)?;
        let mut values = Vec::with_capacity(self.types.len());
        for kind in &self.types {
            let (content, behind) = rest.split_at_checked(usize::try_from(size_of_type(*kind)).ok()?)?;
            rest = behind;
            values.push(match kind {
                0 => Value::Null,
                1..=6 => Value::Int(integer(content)),
                7 => Value::Real(f64::from_be_bytes(content.try_into().ok()?)),
                8 => Value::Int(0),
                9 => Value::Int(1),
                even if even % 2 == 0 => Value::Blob(content.to_vec()),
                _ => Value::Text(content.to_vec()),
            });
        }
        Some(values)
    }
}

fn size_of_type(kind: u64) -> u64 {
    match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        _ => (kind.saturating_sub(12)) / 2,
    }
}

fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    bytes.iter().fold(if negative { -1 } else { 0 }, |number, byte| number << 8 | i64::from(*byte))
}

/// A number of one to nine bytes, and how many they were.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some((number << 8 | u64::from(*byte), 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    None
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's running checksum of the log.
fn add(sum: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    crate::wal::add(sum, bytes, big_endian)
}

/// Which size makes the most pages look like pages of a tree. What the headers say decides only between equals: a
/// header can be what is broken.
fn page_bytes(file: &mut File, bytes: u64, log_says: u32) -> io::Result<usize> {
    /// Enough to tell sizes apart.
    const LOOK_AT: u64 = 8 << 20;
    let mut start = Vec::new();
    file.rewind()?;
    file.take(bytes.min(LOOK_AT)).read_to_end(&mut start)?;
    let told = start.get(16..18).map_or(0, |two| match u16::from_be_bytes([two[0], two[1]]) {
        1 => 65_536,
        other => usize::from(other),
    });
    let log_says = usize::try_from(log_says).unwrap_or(0);
    let sizes = [4_096, 1_024, 2_048, 8_192, 16_384, 32_768, 65_536, 512];
    let likely = |size: usize| {
        let pages = start.chunks_exact(size).zip(1_u32..);
        pages
            .filter(|(page, number)| {
                BTree::of(page, *number).is_some_and(|head| head.count > 0 && head.cells(page).is_some())
            })
            .count()
    };
    let best = sizes.into_iter().max_by_key(|size| {
        (likely(*size), u8::from(*size == told) + u8::from(*size == log_says), u8::from(*size == 4_096))
    });
    Ok(best.unwrap_or(4_096))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::path::PathBuf;

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("landfall-pages-{}-{name}.db", std::process::id()));
        remove(&path);
        path
    }

    fn beside(path: &Path, ending: &str) -> PathBuf {
        PathBuf::from(format!("{}{ending}", path.display()))
    }

    fn remove(path: &Path) {
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(path, ending));
        }
    }

    fn image(path: &Path) -> Image {
        Image::open(path, &beside(path, "-wal"), &beside(path, "-shm")).unwrap()
    }

    /// A table with short and long rows, some of them gone again, an index over it, and a table without row ids.
    fn fill(connection: &Connection) {
        connection
            .execute_batch(
                "CREATE TABLE a (n INTEGER PRIMARY KEY, t TEXT, b BLOB, r REAL, x);
                 CREATE INDEX a_t ON a (t);
                 CREATE TABLE k (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
                 WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 3000)
                 INSERT INTO a SELECT n * 7 - 9000, printf('%d %.*c', n, n % 40 * (n % 50), 'x'),
                   CASE n % 60 WHEN 7 THEN zeroblob(n * 3) ELSE x'00ff' END, n * 0.37, CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN n * n * n * 1000003
                   WHEN 2 THEN -n WHEN 3 THEN 0 ELSE 1 END FROM s;
                 DELETE FROM a WHERE n % 11 = 0;
                 INSERT INTO k SELECT 'k' || n, t FROM a WHERE n % 6 = 0;",
            )
            .unwrap();
    }

    fn by_sql(connection: &Connection, sql: &str) -> Vec<Vec<Value>> {
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query(()).unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let value = |column| match row.get_ref(column).unwrap() {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => Value::Int(n),
                ValueRef::Real(n) => Value::Real(n),
                ValueRef::Text(text) => Value::Text(text.to_vec()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            };
            all.push((0..columns).map(value).collect());
        }
        all
    }

    fn root(connection: &Connection, name: &str) -> u32 {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
        connection.query_one(sql, [name], |row| row.get(0)).unwrap()
    }

    fn sorted(rows: Vec<Vec<Value>>) -> Vec<String> {
        let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        rows.sort();
        rows
    }

    fn assert_same(path: &Path, connection: &Connection) {
        let image = image(path);
        let mut table = Vec::new();
        let tree = image.tree(root(connection, "a"));
        assert!(tree.is_whole());
        for number in &tree.leaves {
            let page = image.page(*number, Copy::Newest).unwrap();
            let head = BTree::of(&page, *number).unwrap();
            assert!(head.is_table_leaf());
            let holes = head.holes(&page).unwrap();
            for at in head.cells(&page).unwrap() {
                let mut row = image.row(&page, at, Copy::Newest).unwrap();
                assert!(
                    holes.iter().all(|(from, to)| row.at >= *to || row.end <= *from),
                    "{holes:?} {} {}",
                    row.at,
                    row.end
                );
                row.values[0] = Value::Int(row.id);
                // A whole number in a column of numbers is stored as an integer.
                if let Value::Int(n) = row.values[3] {
                    row.values[3] = Value::Real(n as f64);
                }
                table.push(row.values);
            }
        }
        assert_eq!(sorted(table), sorted(by_sql(connection, "SELECT n, t, b, r, x FROM a")));
        let index =
            image.index(&image.tree(root(connection, "a_t"))).into_iter().map(Option::unwrap).collect();
        assert_eq!(sorted(index), sorted(by_sql(connection, "SELECT t, n FROM a")));
        let keyed = image.index(&image.tree(root(connection, "k"))).into_iter().map(Option::unwrap).collect();
        assert_eq!(sorted(keyed), sorted(by_sql(connection, "SELECT name, value FROM k")));
        let (free, whole) = image.free();
        let told: i64 = connection.query_one("PRAGMA freelist_count", (), |row| row.get(0)).unwrap();
        assert_eq!((free.len() as i64, whole), (told, true));
        assert_eq!((image.frames_broken(), image.frames_missing()), (0, 0));
    }

    #[test]
    fn what_is_read_by_hand_is_what_sql_reads() {
        for page_bytes in [512, 1_024, 4_096, 8_192, 65_536] {
            let path = temporary(&format!("same-{page_bytes}"));
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch(&format!("PRAGMA page_size = {page_bytes}")).unwrap();
            connection.query_one("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
            fill(&connection);
            // All of it in the log; then in the file; then some in each, and frames of an older generation.
            connection
                .execute_batch("DELETE FROM a WHERE n % 5 = 1; DELETE FROM k WHERE name < 'k2'")
                .unwrap();
            assert_eq!(image(&path).page_bytes(), page_bytes);
            assert_same(&path, &connection);
            connection.query_one("PRAGMA wal_checkpoint(RESTART)", (), |_| Ok(())).unwrap();
            assert_same(&path, &connection);
            connection
                .execute_batch(
                    "UPDATE a SET t = t || 'y' WHERE n % 50 = 0; DELETE FROM a WHERE n BETWEEN 100 AND 900",
                )
                .unwrap();
            assert_same(&path, &connection);
            drop(connection);
            remove(&path);
        }
    }

    #[test]
    fn the_log_is_read_behind_a_frame_that_is_broken() {
        let path = temporary("broken-frame");
        let connection = Connection::open(&path).unwrap();
        connection.query_one("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
        connection.query_one("PRAGMA wal_autocheckpoint = 0", (), |_| Ok(())).unwrap();
        fill(&connection);
        let mut log = std::fs::read(beside(&path, "-wal")).unwrap();
        let frames = (log.len() - 32) / 4_120;
        log[32 + 5 * 4_120 + 999] ^= 1;
        std::fs::write(beside(&path, "-wal"), &log).unwrap();
        let read = image(&path);
        assert_eq!(read.frames_broken(), 1);
        assert_eq!(read.newest.len() + read.older.len(), frames);
        std::fs::write(beside(&path, "-wal"), &log[..log.len() - 4_120]).unwrap();
        assert_eq!(image(&path).frames_missing(), 1, "as the shared memory knows");
        // A header that is gone takes nothing with it.
        log[..32].fill(0);
        std::fs::write(beside(&path, "-wal"), &log).unwrap();
        assert_eq!(image(&path).newest.len(), read.newest.len());
        drop(connection);
        remove(&path);
    }

    #[test]
    fn rubbish_is_never_a_panic() {
        let path = temporary("rubbish");
        let connection = Connection::open(&path).unwrap();
        fill(&connection);
        drop(connection);
        let whole = std::fs::read(&path).unwrap();
        let mut random = 7_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize
        };
        for _ in 0..20 {
            let mut bytes = whole.clone();
            for _ in 0..next() % 3_000 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() % bytes.len());
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(beside(&path, "-wal"), &bytes[bytes.len() / 2..]).unwrap();
            let image = image(&path);
            let _ = image.free();
            for number in 0..=image.pages().min(60) {
                let _ = image.index(&image.tree(number));
                let Some(page) = image.page(number, Copy::Newest) else { continue };
                for at in 0..page.len() {
                    let _ = image.row(&page, at, Copy::Newest);
                }
                let _ = BTree::of(&page, number).map(|head| (head.likely_cells(&page), head.holes(&page)));
            }
        }
        remove(&path);
    }
}
