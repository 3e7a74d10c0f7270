//! Statements: plain SQL that SQLite and PostgreSQL both understand, with bound values.
//!
//! Owns the placeholders (`$1`, `$2`, … for PostgreSQL, `?` for SQLite), the closed set of values that
//! may be bound, and reading rows. The text is made of literals alone: what comes from outside is bound,
//! always.

use rusqlite::types::Value as Cell;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Decode, Row as _, Type};
use uuid::Uuid;

use super::DbError;
use super::sqlite::Statement;

/// Values of a statement that connections keep prepared. Each number of rows is a text of its own, and
/// a wide one takes a megabyte where it is kept.
pub(super) const KEPT_VALUES: usize = 256;
/// Lists below this length are brought to a power of two.
const PADDED: usize = 128;

/// A value that both databases store alike. `None` is NULL, of that type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Uuid(Option<Uuid>),
}

/// What can be bound.
pub(crate) trait Bind {
    /// As a value.
    fn value(self) -> Value;
    /// NULL of this type: PostgreSQL wants to know which.
    fn null() -> Value;
}

macro_rules! binds {
    ($($type:ty => $variant:ident by $convert:expr,)+) => {
        $(impl Bind for $type {
            fn value(self) -> Value {
                let convert: fn($type) -> _ = $convert;
                Value::$variant(Some(convert(self)))
            }

            fn null() -> Value {
                Value::$variant(None)
            }
        })+
    };
}

binds! {
    i64 => Int by |number| number,
    u32 => Int by i64::from,
    u8 => Int by i64::from,
    &str => Text by str::to_owned,
    &String => Text by String::clone,
    String => Text by |text| text,
    &[u8] => Bytes by <[u8]>::to_vec,
    Vec<u8> => Bytes by |bytes| bytes,
    Uuid => Uuid by |id| id,
}

impl<T: Bind> Bind for Option<T> {
    fn value(self) -> Value {
        self.map_or_else(T::null, T::value)
    }

    fn null() -> Value {
        T::null()
    }
}

impl<T: Bind + Clone> Bind for &Option<T> {
    fn value(self) -> Value {
        self.clone().value()
    }

    fn null() -> Value {
        T::null()
    }
}

/// A statement with its values.
#[derive(Debug)]
#[must_use = "a statement does nothing until it is executed"]
pub(crate) struct Sql {
    text: String,
    values: Vec<Value>,
    /// Where the text lacks a placeholder, in the order of the values.
    spots: Vec<usize>,
}

/// Begins a statement. Its text may name placeholders itself, for [`Sql::bind`].
pub(crate) fn sql(text: &str) -> Sql {
    Sql { text: text.to_owned(), values: Vec::new(), spots: Vec::new() }
}

impl Sql {
    /// Binds the next of the placeholders that the text names itself.
    pub(crate) fn bind(mut self, value: impl Bind) -> Self {
        self.values.push(value.value());
        self
    }

    /// Goes on with the text.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Binds a value where the text is now.
    pub(crate) fn push_bind(&mut self, value: impl Bind) -> &mut Self {
        self.push_value(value.value())
    }

    pub(super) fn push_value(&mut self, value: Value) -> &mut Self {
        self.values.push(value);
        self.spots.push(self.text.len());
        self
    }

    /// A list in parentheses, as for `IN`. An empty one is a list of nothing. The last value of a short
    /// one is said again up to a power of two: few lengths make few texts, which are kept prepared.
    pub(crate) fn push_list(&mut self, values: impl IntoIterator<Item = impl Bind>) -> &mut Self {
        self.push("(");
        let begin = self.values.len();
        let mut row = Values { sql: self, is_first: true };
        for value in values {
            row.push_bind(value);
        }
        if row.is_first {
            row.push("NULL");
        }
        let count = self.values.len() - begin;
        if let Some(last) = self.values.last().filter(|_| (1..PADDED).contains(&count)).cloned() {
            let mut row = Values { sql: self, is_first: false };
            for _ in count..count.next_power_of_two() {
                row.push_value(last.clone());
            }
        }
        self.push(")")
    }

    /// `VALUES` with a row for each item.
    pub(crate) fn push_rows<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Values<'_>, T),
    ) -> &mut Self {
        let mut opening = "VALUES (";
        for item in items {
            self.push(opening);
            fill(&mut Values { sql: self, is_first: true }, item);
            self.push(")");
            opening = ", (";
        }
        self
    }

    /// The text with its placeholders. SQLite takes a numbered one for a name, and looks each up among
    /// all that came before it, when it reads the statement and again when values are bound: with
    /// thousands of them that is most of what a statement costs. A bare one it only counts.
    fn text(&self, is_sqlite: bool) -> String {
        // Those that the text names itself come first.
        let named = self.values.len() - self.spots.len();
        let is_bare = is_sqlite && named == 0;
        let mut text = String::with_capacity(self.text.len() + self.spots.len() * 6);
        let mut from = 0;
        for (index, spot) in self.spots.iter().enumerate() {
            text.push_str(&self.text[from..*spot]);
            if is_bare {
                text.push('?');
            } else {
                text.push('$');
                text.push_str(&(named + index + 1).to_string());
            }
            from = *spot;
        }
        text.push_str(&self.text[from..]);
        // `?1` is the first value wherever it stands, `$1` whatever stands first.
        if is_sqlite { text.replace('$', "?") } else { text }
    }

    /// For SQLite, or nothing when a value cannot be stored.
    pub(super) fn for_sqlite(self) -> Result<Statement, DbError> {
        self.check()?;
        let is_narrow = self.values.len() <= KEPT_VALUES;
        let text = self.text(true);
        let values = self.values.into_iter().map(|value| match value {
            Value::Int(value) => value.into(),
            Value::Text(value) => value.into(),
            Value::Bytes(value) => value.into(),
            Value::Uuid(value) => value.map(|id| id.as_bytes().to_vec()).into(),
        });
        Ok(Statement { text, values: values.collect(), is_narrow })
    }

    /// For PostgreSQL, or nothing when a value cannot be stored.
    pub(super) fn for_postgres(self) -> Result<Query<'static, Postgres, PgArguments>, DbError> {
        self.check()?;
        let is_kept = self.values.len() <= KEPT_VALUES;
        let query = sqlx::query(AssertSqlSafe(self.text(false))).persistent(is_kept);
        Ok(self.values.into_iter().fold(query, |query, value| match value {
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
            Value::Uuid(value) => query.bind(value),
        }))
    }

    /// PostgreSQL stores no text with a zero character; SQLite then does not either.
    fn check(&self) -> Result<(), DbError> {
        let has_zero = |value: &Value| matches!(value, Value::Text(Some(t)) if t.contains('\0'));
        if self.values.iter().any(has_zero) { Err(DbError::ZeroCharacter) } else { Ok(()) }
    }
}

/// One row of a list of values.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    sql: &'a mut Sql,
    is_first: bool,
}

impl Values<'_> {
    /// The next value.
    pub(crate) fn push_bind(&mut self, value: impl Bind) -> &mut Self {
        self.push_value(value.value())
    }

    pub(super) fn push_value(&mut self, value: Value) -> &mut Self {
        self.separate();
        self.sql.push_value(value);
        self
    }

    /// The next value as text of the statement.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.separate();
        self.sql.push(text);
        self
    }

    fn separate(&mut self) {
        if !std::mem::replace(&mut self.is_first, false) {
            self.sql.push(", ");
        }
    }
}

/// A row of either database.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(Vec<Cell>),
    Postgres(PgRow),
}

/// What a column can be read as.
pub(crate) trait Column<'r>: Decode<'r, Postgres> + Type<Postgres> {
    /// A value of SQLite, if it is of that type.
    fn of(cell: &'r Cell) -> Option<Self>;
}

macro_rules! columns {
    ($($type:ty: $pattern:pat => $value:expr,)+) => {
        $(impl<'r> Column<'r> for $type {
            fn of(cell: &'r Cell) -> Option<Self> {
                match cell {
                    $pattern => $value,
                    _ => None,
                }
            }
        })+
    };
}

columns! {
    i64: Cell::Integer(number) => Some(*number),
    bool: Cell::Integer(number) => Some(*number != 0),
    &'r str: Cell::Text(text) => Some(text),
    String: Cell::Text(text) => Some(text.clone()),
    &'r [u8]: Cell::Blob(bytes) => Some(bytes),
    Vec<u8>: Cell::Blob(bytes) => Some(bytes.clone()),
    Uuid: Cell::Blob(bytes) => Self::from_slice(bytes).ok(),
}

impl<'r, T: Column<'r>> Column<'r> for Option<T> {
    fn of(cell: &'r Cell) -> Option<Self> {
        if *cell == Cell::Null { Some(None) } else { T::of(cell).map(Some) }
    }
}

impl Row {
    /// The value of a column, counted from 0.
    pub(crate) fn try_get<'r, T: Column<'r>>(&'r self, index: usize) -> Result<T, DbError> {
        match self {
            Self::Sqlite(row) => {
                row.get(index).and_then(T::of).ok_or(DbError::Unreadable("column"))
            }
            Self::Postgres(row) => Ok(row.try_get(index)?),
        }
    }

    /// A number that is smaller than the stored one may be.
    pub(crate) fn number<T: TryFrom<i64>>(&self, index: usize) -> Result<T, DbError> {
        let number: i64 = self.try_get(index)?;
        T::try_from(number).map_err(|_| DbError::Unreadable("number"))
    }
}

#[cfg(test)]
mod tests;
