//! What must be true of a report: `latency_ms.acked.p99<=15`.
//!
//! Owns the reading of such a sentence and its judgement. The numbers are those of the JSON report,
//! by their path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// The comparisons, the longer ones first.
const OPERATORS: [(&str, Operator); 5] = [
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("==", Operator::Equal),
    ("<", Operator::Below),
    (">", Operator::Above),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    AtMost,
    AtLeast,
    Equal,
    Below,
    Above,
}

impl Operator {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AtMost => "<=",
            Self::AtLeast => ">=",
            Self::Equal => "==",
            Self::Below => "<",
            Self::Above => ">",
        }
    }

    fn holds(self, found: f64, bound: f64) -> bool {
        match self {
            Self::AtMost => found <= bound,
            Self::AtLeast => found >= bound,
            Self::Equal => (found - bound).abs() <= f64::EPSILON * bound.abs(),
            Self::Below => found < bound,
            Self::Above => found > bound,
        }
    }
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Requirement {
    path: String,
    operator: Operator,
    bound: f64,
}

/// A text that is no requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a requirement such as latency_ms.acked.p99<=15")]
pub struct ParseRequirementError(String);

impl FromStr for Requirement {
    type Err = ParseRequirementError;

    fn from_str(text: &str) -> Result<Self, ParseRequirementError> {
        let failed = || ParseRequirementError(text.to_owned());
        let at = text.find(['<', '>', '=']).ok_or_else(failed)?;
        let (path, rest) = text.split_at(at);
        let known = OPERATORS.iter().find(|(word, _)| rest.starts_with(word));
        let (word, operator) = known.ok_or_else(failed)?;
        let bound = rest[word.len()..].trim().parse().map_err(|_| failed())?;
        let path = path.trim();
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
        };
        if !path.split('.').all(is_word) || !f64::is_finite(bound) {
            return Err(failed());
        }
        Ok(Self { path: path.to_owned(), operator: *operator, bound })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.path, self.operator.as_str(), self.bound)
    }
}

impl From<Requirement> for String {
    fn from(requirement: Requirement) -> Self {
        requirement.to_string()
    }
}

impl TryFrom<String> for Requirement {
    type Error = ParseRequirementError;

    fn try_from(text: String) -> Result<Self, ParseRequirementError> {
        text.parse()
    }
}

impl Requirement {
    /// Why it does not hold of that report, for a person; `None` if it does. What was not measured
    /// holds nothing.
    pub fn missed(&self, report: &Value) -> Option<String> {
        let Some(found) = number(report, &self.path) else {
            return Some(format!("{self}: it was not measured"));
        };
        let holds = self.operator.holds(found, self.bound);
        (!holds).then(|| format!("{self}: it is {found:.3}"))
    }
}

/// The number at that path; in a list, such as that of the phases, a word is the name of an item. A latency
/// of which none was measured is no number.
pub fn number(report: &Value, path: &str) -> Option<f64> {
    let mut at = report;
    for word in path.split('.') {
        let is_empty = at.get("count").and_then(Value::as_u64) == Some(0);
        if is_empty && word != "count" && at.get("p50").is_some() {
            return None;
        }
        at = item(at, word)?;
    }
    at.as_f64()
}

fn item<'a>(of: &'a Value, word: &str) -> Option<&'a Value> {
    let Value::Array(items) = of else { return of.get(word) };
    items.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(word))
}
