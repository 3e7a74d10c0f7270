//! Configuration: one TOML file, then the environment over it, judged once.
//!
//! Owns reading and the wording of errors. Must not know any setting: each crate has its own
//! `Config` with `#[serde(deny_unknown_fields, default)]`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::files::{FileError, read_bounded};

pub use self::secret::{Secret, SecretError};

pub mod duration;
mod secret;
mod suggest;
#[cfg(test)]
mod tests;

/// The largest configuration file that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Why a configuration could not be loaded. The texts are meant for the person who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration file unavailable")]
    File(#[from] FileError),
    /// The file is not UTF-8 text.
    #[error("{} is not utf-8 text", .0.display())]
    NotText(PathBuf),
    /// The file is not TOML, or a value or key in it is wrong. Names line, column and key.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line, and the nearest known key if there is one.
        message: String,
    },
    /// A value or key that came from the environment is wrong.
    #[error("environment ({variables}): {message}")]
    Environment {
        /// The variables that were applied.
        variables: String,
        /// What is wrong.
        message: String,
    },
    /// A variable sets a key inside of something that is not a table.
    #[error("environment variable {0} reaches into a value that is not a table")]
    NotATable(String),
}

/// Loads a configuration: the defaults, then the file, then the environment.
///
/// A variable `{prefix}A__B_C` sets the key `b_c` of the table `a`: the part after `prefix` in
/// lowercase, two underscores for each level. Its value is read as TOML if it is a boolean, a
/// number, an array, an inline table or quoted text, and as plain text otherwise; to give digits
/// as text, quote them.
///
/// # Errors
/// See [`ConfigError`]; an unknown key is one.
pub fn load<T: DeserializeOwned + Default>(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    prefix: &str,
) -> Result<T, ConfigError> {
    let file = path.map(read_text).transpose()?;
    let mut table = match &file {
        Some((path, text)) => text.parse::<Table>().map_err(|error| content(path, &error))?,
        None => Table::new(),
    };
    let mut variables = Vec::new();
    for (name, value) in env {
        let Some(key) = name.strip_prefix(prefix).filter(|key| !key.is_empty()) else { continue };
        set(&mut table, key, &value).ok_or_else(|| ConfigError::NotATable(name.clone()))?;
        variables.push(name);
    }
    if table.is_empty() {
        return Ok(T::default());
    }
    let merged = match T::deserialize(Value::Table(table)) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    // The merged table has lost the lines. When the file alone is wrong as well, it is the file
    // that the person should look at.
    if let Some((path, text)) = &file
        && let Err(error) = toml::from_str::<T>(text)
    {
        return Err(content(path, &error));
    }
    variables.sort();
    Err(ConfigError::Environment {
        variables: variables.join(", "),
        message: suggest::with_suggestion(merged.to_string().trim_end()),
    })
}

fn read_text(path: &Path) -> Result<(PathBuf, String), ConfigError> {
    let bytes = read_bounded(path, MAX_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText(path.to_owned()))?;
    Ok((path.to_owned(), text))
}

fn content(path: &Path, error: &toml::de::Error) -> ConfigError {
    let message = suggest::with_suggestion(error.to_string().trim_end());
    ConfigError::Content { path: path.to_owned(), message }
}

/// Sets one key; `None` when the way to it leads through something that is not a table.
fn set(table: &mut Table, key: &str, value: &str) -> Option<()> {
    let key = key.to_ascii_lowercase();
    let mut steps = key.split("__").collect::<Vec<_>>();
    let last = steps.pop()?;
    let mut table = table;
    for step in steps {
        let entry = table.entry(step).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut()?;
    }
    table.insert(last.to_owned(), guess(value));
    Some(())
}

/// Reads a value as TOML where that gives something other than a date or a syntax error.
fn guess(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    match parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value")) {
        None | Some(Value::Datetime(_)) => Value::String(text.to_owned()),
        Some(value) => value,
    }
}
