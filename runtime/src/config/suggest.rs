//! Names the known key that a mistyped one probably meant.
//!
//! Works on serde's text, which lists every known key but leaves the finding to the reader. Must
//! leave any other text as it is.

/// Adds `did you mean …` to an unknown field or variant error with a near candidate.
pub(super) fn with_suggestion(message: &str) -> String {
    match suggestion(message) {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message.to_owned(),
    }
}

fn suggestion(message: &str) -> Option<&str> {
    let start =
        ["unknown field `", "unknown variant `"].iter().find_map(|marker| message.find(marker))?;
    let mut quoted = message[start..].split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (distance(unknown, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance, in one row.
fn distance(left: &str, right: &str) -> usize {
    let right = right.as_bytes();
    let mut row = (0..=right.len()).collect::<Vec<_>>();
    for (line, from) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
