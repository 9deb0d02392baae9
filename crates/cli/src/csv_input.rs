//! Reading records from a CSV file, for `landfall enqueue --csv FILE`.
//!
//! Streams: one row is in memory at a time, and a row is bounded ([`ROW_BYTES_MAX`]). The rules:
//!
//! - The first row names the fields; names are taken as they are, must not be empty and must differ.
//! - Every further row is one record with exactly as many cells. Blank lines are skipped.
//! - An empty cell is `null` (CSV cannot tell an empty text from a missing value).
//! - A cell that is an integer in canonical form (`0`, `-7`, `42`; no sign `+`, leading zero, space or `-0`) and
//!   fits 64 bits signed is a number. All else is text, byte for byte: `007`, `1.50` and `1e3` keep their form.
//! - With [`CsvOptions::text_only`] every cell is text, an empty one the empty text.
//! - The id is a column's cell, taken as text whatever it looks like, and stays among the fields too; or
//!   `row-000001` for the first record, and so on.
//!
//! A quote that is never closed takes in what follows, up to the bound. It does not know what becomes of the
//! records, and not whether ids repeat. Tests: below.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use csv::ByteRecord;
use serde_json::{Map, Value};
use thiserror::Error;

/// Bytes that one row may take. 16 MiB: far more than a record, far less than memory.
pub(crate) const ROW_BYTES_MAX: usize = 16 << 20;

/// Where a record's id comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IdSource {
    /// The cell in the column of this name (`--id-column`).
    Column(String),
    /// The record's number in the file (`--id-from-row`): `row-000001`.
    Row,
}

/// How a file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CsvOptions {
    /// Where ids come from.
    pub(crate) id: IdSource,
    /// Whether every cell stays text (`--csv-text`).
    pub(crate) text_only: bool,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CsvRow {
    /// The line in the file where the row begins, from 1; the header is usually line 1.
    pub(crate) line: u64,
    /// The record's id.
    pub(crate) id: String,
    /// The cells by their column's name.
    pub(crate) fields: Map<String, Value>,
}

/// What is wrong with a file, and where.
#[derive(Debug, Error)]
pub(crate) enum CsvError {
    /// The file cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file's path.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Reading failed after this line.
    #[error("line {line}: cannot read on: {source}")]
    Read {
        /// The line where reading had got to.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// There is no header row.
    #[error("the file is empty: its first row must name the fields")]
    NoHeader,
    /// A column has no name.
    #[error("line {line}: column {column} has no name")]
    UnnamedColumn {
        /// The header's line.
        line: u64,
        /// The column, from 1.
        column: usize,
    },
    /// Two columns have one name.
    #[error("line {line}: columns {first} and {second} are both named {name:?}")]
    DuplicateColumn {
        /// The header's line.
        line: u64,
        /// The name.
        name: String,
        /// The first column of that name, from 1.
        first: usize,
        /// The second column of that name.
        second: usize,
    },
    /// The id's column does not exist.
    #[error("line {line}: there is no column {name:?} to take ids from; there are {columns}")]
    NoIdColumn {
        /// The header's line.
        line: u64,
        /// The name asked for.
        name: String,
        /// The names there are, quoted, with commas.
        columns: String,
    },
    /// A row has too many or too few cells.
    #[error("line {line}: the row has {cells} cells, the header has {columns}")]
    Ragged {
        /// The row's line.
        line: u64,
        /// Cells in the row.
        cells: usize,
        /// Columns in the header.
        columns: usize,
    },
    /// A cell is not UTF-8.
    #[error("line {line}: column {column} is not UTF-8 text")]
    NotUtf8 {
        /// The row's line.
        line: u64,
        /// The column, from 1.
        column: usize,
    },
    /// A row has no id.
    #[error("line {line}: the id in column {name:?} is empty")]
    EmptyId {
        /// The row's line.
        line: u64,
        /// The id's column.
        name: String,
    },
}

impl CsvError {
    /// The line it speaks of; 0 when it is about the whole file.
    pub(crate) fn line(&self) -> u64 {
        match self {
            Self::Open { .. } | Self::NoHeader => 0,
            Self::Read { line, .. }
            | Self::UnnamedColumn { line, .. }
            | Self::DuplicateColumn { line, .. }
            | Self::NoIdColumn { line, .. }
            | Self::Ragged { line, .. }
            | Self::NotUtf8 { line, .. }
            | Self::EmptyId { line, .. } => *line,
        }
    }
}

/// The records of a CSV file, in order.
///
/// An error about one row does not end the iteration, so that a caller can list all of them; an error in reading
/// does.
#[derive(Debug)]
pub(crate) struct CsvRows<R> {
    reader: csv::Reader<Tape<R>>,
    /// The line that the next unread byte is on.
    line: u64,
    columns: Vec<String>,
    id_column: Option<usize>,
    text_only: bool,
    records: u64,
    record: ByteRecord,
    is_over: bool,
}

impl CsvRows<File> {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path, options: &CsvOptions) -> Result<Self, CsvError> {
        let file =
            File::open(path).map_err(|source| CsvError::Open { path: path.display().to_string(), source })?;
        Self::new(file, options)
    }
}

impl<R: Read> CsvRows<R> {
    /// Reads the header from an input, which need not be buffered.
    pub(crate) fn new(input: R, options: &CsvOptions) -> Result<Self, CsvError> {
        let input = Tape { input, bytes: Vec::new(), start: 0 };
        // Ragged rows are told apart here, with their line; the header is a row like any other.
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
        let mut rows = Self {
            reader,
            line: 1,
            columns: Vec::new(),
            id_column: None,
            text_only: options.text_only,
            records: 0,
            record: ByteRecord::new(),
            is_over: false,
        };
        let line = rows.advance()?.ok_or(CsvError::NoHeader)?;
        for (at, cell) in rows.record.iter().enumerate() {
            let name = utf8(cell, line, at)?;
            if name.is_empty() {
                return Err(CsvError::UnnamedColumn { line, column: at + 1 });
            }
            if let Some(before) = rows.columns.iter().position(|column| column == name) {
                let name = name.to_owned();
                return Err(CsvError::DuplicateColumn { line, name, first: before + 1, second: at + 1 });
            }
            rows.columns.push(name.to_owned());
        }
        if let IdSource::Column(name) = &options.id {
            let at = rows.columns.iter().position(|column| column == name);
            rows.id_column = Some(at.ok_or_else(|| {
                let columns: Vec<_> = rows.columns.iter().map(|column| format!("{column:?}")).collect();
                CsvError::NoIdColumn { line, name: name.clone(), columns: columns.join(", ") }
            })?);
        }
        Ok(rows)
    }

    /// The names of the columns, in the file's order.
    #[cfg(test)]
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Reads the next row into `record` and says on which line it begins. `None` at the end.
    ///
    /// The lines are counted here: the position that `csv` gives a row is before the blank lines that precede it,
    /// and before the second half of the line end CR LF.
    fn advance(&mut self) -> Result<Option<u64>, CsvError> {
        let outcome = self.reader.read_byte_record(&mut self.record);
        let is_row = outcome.map_err(|error| {
            let source = match error.into_kind() {
                csv::ErrorKind::Io(source) => source,
                other => io::Error::other(format!("{other:?}")),
            };
            CsvError::Read { line: self.line, source }
        })?;
        let end = self.reader.position().byte();
        let row = self.reader.get_mut().take_until(end);
        let begin = row.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(row.len());
        let (blank, row) = row.split_at(begin);
        let line = self.line + line_feeds(blank);
        self.line = line + line_feeds(row);
        Ok(is_row.then_some(line))
    }

    /// Makes a record of the row in `record`.
    fn row(&self, line: u64) -> Result<CsvRow, CsvError> {
        let (cells, columns) = (self.record.len(), self.columns.len());
        if cells != columns {
            return Err(CsvError::Ragged { line, cells, columns });
        }
        let mut id = None;
        let mut fields = Map::new();
        for (at, (cell, name)) in self.record.iter().zip(&self.columns).enumerate() {
            let text = utf8(cell, line, at)?;
            if self.id_column == Some(at) {
                if text.is_empty() {
                    return Err(CsvError::EmptyId { line, name: name.clone() });
                }
                id = Some(text.to_owned());
            }
            fields.insert(name.clone(), value(text, self.text_only));
        }
        let id = id.unwrap_or_else(|| format!("row-{:06}", self.records));
        Ok(CsvRow { line, id, fields })
    }
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = Result<CsvRow, CsvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        match self.advance() {
            Ok(Some(line)) => {
                // Counted also if the row is bad, so that ids do not move when it is mended.
                self.records += 1;
                Some(self.row(line))
            }
            Ok(None) => {
                self.is_over = true;
                None
            }
            Err(error) => {
                self.is_over = true;
                Some(Err(error))
            }
        }
    }
}

fn utf8(cell: &[u8], line: u64, at: usize) -> Result<&str, CsvError> {
    std::str::from_utf8(cell).map_err(|_| CsvError::NotUtf8 { line, column: at + 1 })
}

/// A cell's value, by the rules at the top.
fn value(text: &str, text_only: bool) -> Value {
    if text_only {
        return Value::from(text);
    }
    if text.is_empty() {
        return Value::Null;
    }
    match canonical_integer(text) {
        Some(number) => Value::from(number),
        None => Value::from(text),
    }
}

/// The integer that is written exactly like this, if there is one.
fn canonical_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_canonical = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if is_canonical { text.parse().ok() } else { None }
}

fn line_feeds(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// An input that remembers the bytes of the row that is being read, and fails when they are too many.
#[derive(Debug)]
struct Tape<R> {
    input: R,
    /// What was read and not taken yet.
    bytes: Vec<u8>,
    /// Where in the input `bytes` begins.
    start: u64,
}

impl<R> Tape<R> {
    /// Takes the bytes up to a position in the input.
    fn take_until(&mut self, end: u64) -> Vec<u8> {
        let size = usize::try_from(end.saturating_sub(self.start))
            .map_or(self.bytes.len(), |n| n.min(self.bytes.len()));
        self.start += size as u64;
        self.bytes.drain(..size).collect()
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes.len() > ROW_BYTES_MAX {
            let why = format!("the row is longer than {ROW_BYTES_MAX} bytes (a quote that is never closed?)");
            return Err(io::Error::other(why));
        }
        let n = self.input.read(buf)?;
        self.bytes.extend_from_slice(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn by_row() -> CsvOptions {
        CsvOptions { id: IdSource::Row, text_only: false }
    }

    fn by_column(name: &str) -> CsvOptions {
        CsvOptions { id: IdSource::Column(name.to_owned()), text_only: false }
    }

    fn read(input: &[u8], options: &CsvOptions) -> Result<Vec<CsvRow>, CsvError> {
        CsvRows::new(input, options)?.collect()
    }

    fn fails(input: &[u8], options: &CsvOptions) -> String {
        read(input, options).unwrap_err().to_string()
    }

    #[test]
    fn the_bird_strikes_read_as_they_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/birdstrikes.csv");
        let mut rows = CsvRows::open(&path, &by_row()).unwrap();
        assert_eq!(rows.columns().len(), 14);
        let first = rows.next().unwrap().unwrap();
        assert_eq!((first.line, first.id.as_str()), (2, "row-000001"));
        assert_eq!(
            Value::Object(first.fields),
            json!({
                "Airport Name": "BARKSDALE AIR FORCE BASE ARPT", "Aircraft Make Model": "T-38A",
                "Effect Amount of damage": "None", "Flight Date": "1990-01-08",
                "Aircraft Airline Operator": "MILITARY", "Origin State": "Louisiana", "Phase of flight": "Climb",
                "Wildlife Size": "Large", "Wildlife Species": "Turkey vulture", "Time of day": "Day",
                "Cost Other": 0, "Cost Repair": 0, "Cost Total $": 0, "Speed IAS in knots": 300,
            })
        );
        let second = rows.next().unwrap().unwrap();
        assert_eq!((second.line, second.id.as_str()), (3, "row-000002"));
        assert_eq!(second.fields["Aircraft Make Model"], "KC-10A");
        let rest: Vec<_> = rows.map(Result::unwrap).collect();
        assert_eq!((rest.len(), rest.last().unwrap().id.as_str()), (9_998, "row-010000"));
        assert_eq!(rest.last().unwrap().line, 10_001);
    }

    #[test]
    fn cells_become_numbers_only_if_nothing_is_lost() {
        for (cell, expected) in [
            ("", json!(null)),
            ("0", json!(0)),
            ("42", json!(42)),
            ("-7", json!(-7)),
            ("9223372036854775807", json!(i64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("9223372036854775808", json!("9223372036854775808")),
            ("-0", json!("-0")),
            ("+1", json!("+1")),
            ("007", json!("007")),
            ("-01", json!("-01")),
            ("1.0", json!("1.0")),
            ("1e3", json!("1e3")),
            (" 1", json!(" 1")),
            ("1 ", json!("1 ")),
            ("-", json!("-")),
            ("true", json!("true")),
            ("null", json!("null")),
            ("١", json!("١")),
        ] {
            assert_eq!(value(cell, false), expected, "{cell:?}");
            assert_eq!(value(cell, true), json!(cell), "{cell:?}");
        }
    }

    #[test]
    fn an_id_is_text_and_stays_a_field() {
        let rows = read(b"n,id\n1,007\n2,8\n", &by_column("id")).unwrap();
        assert_eq!(rows[0].id, "007");
        assert_eq!(rows[0].fields["id"], "007");
        assert_eq!((rows[1].id.as_str(), &rows[1].fields["id"]), ("8", &json!(8)));
        assert_eq!(fails(b"n,id\n1,a\n2,\n", &by_column("id")), "line 3: the id in column \"id\" is empty");
        assert_eq!(
            fails(b"n,ID\n1,a\n", &by_column("id")),
            "line 1: there is no column \"id\" to take ids from; there are \"n\", \"ID\""
        );
    }

    #[test]
    fn text_only_keeps_every_cell() {
        let options = CsvOptions { id: IdSource::Row, text_only: true };
        let rows = read(b"a,b\n1,\n", &options).unwrap();
        assert_eq!(Value::Object(rows[0].fields.clone()), json!({"a": "1", "b": ""}));
    }

    #[test]
    fn headers_are_checked() {
        assert_eq!(fails(b"", &by_row()), "the file is empty: its first row must name the fields");
        assert_eq!(fails(b"\n\n", &by_row()), "the file is empty: its first row must name the fields");
        assert_eq!(fails(b"a,b,a\n", &by_row()), "line 1: columns 1 and 3 are both named \"a\"");
        assert_eq!(fails(b"a,,b\n", &by_row()), "line 1: column 2 has no name");
        assert_eq!(fails(b"a,\xff\n", &by_row()), "line 1: column 2 is not UTF-8 text");
        assert!(read(b"a,b\n", &by_row()).unwrap().is_empty());
        assert!(read(b"a,b", &by_row()).unwrap().is_empty());
        // A byte order mark is no part of the first name.
        let rows = read(b"\xef\xbb\xbfid,b\nx,1\n\r\ny,2\n", &by_column("id")).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn bad_rows_name_their_line_and_do_not_end_the_file() {
        let input = b"a,b\n1,2\n\"x\ny\",2\n3\n\n4,5,6\n\xff,1\n1,\xc3\n7,8\n";
        let rows: Vec<_> = CsvRows::new(&input[..], &by_row())
            .unwrap()
            .map(|row| row.map(|row| (row.line, row.id)).map_err(|error| error.to_string()))
            .collect();
        assert_eq!(
            rows,
            [
                Ok((2, "row-000001".to_owned())),
                Ok((3, "row-000002".to_owned())),
                Err("line 5: the row has 1 cells, the header has 2".to_owned()),
                Err("line 7: the row has 3 cells, the header has 2".to_owned()),
                Err("line 8: column 1 is not UTF-8 text".to_owned()),
                Err("line 9: column 2 is not UTF-8 text".to_owned()),
                Ok((10, "row-000007".to_owned())),
            ]
        );
    }

    #[test]
    fn quotes_commas_and_line_ends_are_csv() {
        let rows = read(b"a,b\r\n\"x,\"\"y\"\"\r\nz\",\"1\"\r\n  p ,q", &by_row()).unwrap();
        assert_eq!(rows[0].fields["a"], "x,\"y\"\r\nz");
        assert_eq!(rows[0].fields["b"], 1);
        assert_eq!((rows[1].line, &rows[1].fields["a"]), (4, &json!("  p ")));
    }

    #[test]
    fn a_quote_that_never_closes_is_bounded() {
        let input = io::Read::chain(&b"a\n1\n\""[..], io::repeat(b'x'));
        let mut rows = CsvRows::new(input, &by_row()).unwrap();
        assert!(rows.next().unwrap().is_ok());
        let error = rows.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("a quote that is never closed?"), "{error}");
        assert!(rows.next().is_none());
    }

    #[test]
    fn reading_that_fails_says_where_and_ends() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        let mut rows = CsvRows::new(io::Read::chain(&b"a\n1\n"[..], Fails), &by_row()).unwrap();
        let error = loop {
            match rows.next().unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CsvError::Read { .. }));
        assert!(error.to_string().ends_with("unplugged"), "{error}");
        assert!(rows.next().is_none());
        let missing = CsvRows::open(Path::new("/nonexistent.csv"), &by_row()).unwrap_err();
        assert!(missing.to_string().starts_with("cannot open /nonexistent.csv: "));
    }
}
