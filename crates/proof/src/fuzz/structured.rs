//! Bytes as choices: small records, edits and rules. Any bytes make some; each byte decides something small, so that
//! a changed byte is a changed choice.

use landfall_core::value::{Fields, Number, Value};

/// The choices; when they are used up, each is 0.
#[derive(Debug)]
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    pub(super) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    pub(super) fn text(&mut self) -> String {
        let length = self.below(6);
        (0..length).map(|_| self.pick(&['a', 'b', ' ', 'é', '\n', '🦀', '\0', '"'])).collect()
    }

    /// A value; `any` may be one that no JSON text is.
    pub(super) fn value(&mut self, depth: usize, any: bool) -> Value {
        let kinds = if depth == 0 { 7 } else { 10 };
        match self.below(kinds) {
            0 => Value::Null,
            1 => Value::Bool(self.byte() & 1 == 1),
            2 => i64::from(self.byte()).wrapping_sub(128).into(),
            3 => (f64::from(self.byte()) / 4.0).into(),
            4 => self.text().into(),
            5 => Value::Number(Number::Integer(self.pick(&[
                i128::from(i64::MAX),
                i128::from(i64::MIN),
                i128::from(u64::MAX),
                1 << 53,
                if any { i128::MAX } else { 0 },
                if any { i128::from(u64::MAX) + 1 } else { 1 },
                if any { i128::from(i64::MIN) - 1 } else { 2 },
            ]))),
            6 => self
                .pick(&[
                    1e308,
                    -0.0,
                    0.1,
                    9_007_199_254_740_993.0,
                    1.8446744073709552e19,
                    if any { f64::NAN } else { 1.5 },
                    if any { f64::INFINITY } else { 2.5 },
                ])
                .into(),
            7 | 8 => {
                let length = self.below(4);
                Value::List((0..length).map(|_| self.value(depth - 1, any)).collect())
            }
            _ => Value::Object(self.fields(depth - 1, any)),
        }
    }

    pub(super) fn fields(&mut self, depth: usize, any: bool) -> Fields {
        let length = self.below(5);
        (0..length).map(|_| (self.name(), self.value(depth, any))).collect()
    }

    pub(super) fn name(&mut self) -> String {
        self.pick(&NAMES).to_owned()
    }

    /// `fields` after a few edits, so that two sides have much in common.
    pub(super) fn edited(&mut self, fields: &Fields) -> Fields {
        let mut edited = fields.clone();
        for _ in 0..self.below(4) {
            let name = self.name();
            match self.below(5) {
                0 => {
                    edited.0.remove(&name);
                }
                1 | 2 => {
                    let value = self.value(2, false);
                    edited.0.insert(name, value);
                }
                _ => match edited.0.get_mut(&name) {
                    Some(Value::Number(Number::Integer(n))) if n.unsigned_abs() < 1 << 60 => {
                        *n += i128::from(self.byte()) - 128;
                    }
                    Some(Value::List(items)) => {
                        let item = self.value(1, false);
                        let at = self.below(items.len() + 1);
                        if self.byte() & 1 == 0 || items.is_empty() {
                            items.insert(at, item);
                        } else {
                            items.remove(at % items.len());
                        }
                    }
                    Some(Value::Text(text)) => text.push_str(&self.text()),
                    Some(Value::Object(inner)) => *inner = self.edited(&inner.clone()),
                    Some(_) => {}
                    None => {
                        edited.0.insert(name, i64::from(self.byte()).into());
                    }
                },
            }
        }
        edited
    }
}

pub(super) const NAMES: [&str; 8] = ["a", "b", "c", "d", "amount", "currency", "id", "é"];
