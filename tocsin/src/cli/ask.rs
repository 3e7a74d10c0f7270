//! Questions to the person at the terminal.
//!
//! Owns asking and judging the answer. Without a terminal nothing is asked: a script says `--yes`
//! or is refused.

use std::io::{BufRead as _, IsTerminal as _, stdin};
use std::path::Path;

use runtime::files;
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::output::Out;

/// The answer that goes ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// `y` or `yes`.
    Yes,
    /// Exactly this text: for what cannot be undone.
    Exactly(String),
}

impl Demand {
    /// Whether that answer goes ahead.
    pub fn is_met(&self, answer: &str) -> bool {
        match self {
            Self::Yes => matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
            Self::Exactly(text) => answer.trim() == text,
        }
    }
}

/// Whether somebody can be asked.
pub fn is_possible() -> bool {
    stdin().is_terminal()
}

/// Asks; anything but the demanded answer ends the command, without effect.
pub async fn confirm(out: Out, question: &str, demand: &Demand) -> Result<(), Failure> {
    if !is_possible() {
        let refused = Failure::usage("this needs a confirmation, and there is no terminal to ask");
        return Err(refused.next("run it in a terminal, or add --yes in a script"));
    }
    let hint = match demand {
        Demand::Yes => "[y/N]".to_owned(),
        Demand::Exactly(text) => format!("Type {text} to confirm:"),
    };
    let answer = line(out, &format!("{question} {hint} ")).await?;
    if demand.is_met(&answer) {
        Ok(())
    } else {
        Err(Failure::new("not confirmed: nothing was done"))
    }
}

/// Asks for one line.
pub async fn line(out: Out, question: &str) -> Result<String, Failure> {
    out.prompt(question);
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {
            // The terminal shows ^C where the cursor was.
            out.note("");
            Err(Failure::new("interrupted: nothing was done"))
        }
        line = read => {
            let line = line.map_err(|_| Failure::new("standard input cannot be read"))??;
            Ok(line.trim_end_matches(['\r', '\n']).to_owned())
        }
    }
}

/// The passphrase of a key file: from a file, from the environment, or asked for.
pub fn passphrase(
    file: Option<&Path>,
    variable: Option<&str>,
    is_new: bool,
) -> Result<Zeroizing<String>, Failure> {
    if let Some(path) = file {
        return secret_file(path);
    }
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    if !is_possible() {
        let missing = Failure::usage("a passphrase is needed, and there is no terminal to ask");
        return Err(missing.next("give --passphrase-file FILE or set TOCSIN_PASSPHRASE"));
    }
    let prompt = dialoguer::Password::new();
    let prompt = prompt.with_prompt("Passphrase");
    let prompt =
        if is_new { prompt.with_confirmation("Again", "the two are not the same") } else { prompt };
    prompt.interact().map(Zeroizing::new).map_err(Failure::of)
}

/// A secret on the first line of a file.
pub fn secret_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = Zeroizing::new(files::read_bounded(path, 64 * 1024).map_err(Failure::of)?);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::new(format!("{} is not utf-8 text", path.display())))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// A token: from a pipe, or asked for without showing it.
pub fn token() -> Result<Zeroizing<String>, Failure> {
    secret("API token")
}

/// A code of a second factor: asked for without showing it, or a line of standard input.
pub fn code(is_again: bool) -> Option<Zeroizing<String>> {
    let question = if is_again { "Not taken. The next code" } else { "Code of your second factor" };
    secret(question).ok().filter(|code| !code.is_empty())
}

/// A code on the next line of standard input, for whoever said that they come from there. What is no code is
/// not sent anywhere.
pub fn piped_code(_is_again: bool) -> Option<Zeroizing<String>> {
    let is_code = |line: &Zeroizing<String>| {
        line.len() == 6 && line.bytes().all(|digit| digit.is_ascii_digit())
    };
    piped_token().ok().filter(is_code)
}

/// A secret: asked for without showing it, or a line of standard input.
pub fn secret(question: &str) -> Result<Zeroizing<String>, Failure> {
    if is_possible() {
        let given = dialoguer::Password::new().with_prompt(question).interact();
        return given.map(Zeroizing::new).map_err(Failure::of);
    }
    piped_token()
}

/// A token from standard input.
pub fn piped_token() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    stdin().lock().read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim().to_owned()))
}
