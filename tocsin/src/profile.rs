//! The operator's profile: which control plane, how to recognise it, and the token.
//!
//! Owns the file (TOML, mode 0600, under the configuration folder of the XDG base directory
//! specification) and what overrides it: flags and `TOCSIN_*` variables, which clap reads before.

use std::fmt;
use std::path::{Path, PathBuf};

use runtime::files::{self, FileError};
use runtime::tls::SpkiPin;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// Bytes of the largest profile that is read.
const MAX_BYTES: usize = 256 * 1024;

/// What one installation is, to an operator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Address of the operator port, such as `https://tocsin.example:7442`.
    pub url: String,
    /// The API token, `tocsin_pat_…`.
    pub token: String,
    /// How the control plane is recognised.
    pub trust: ServerTrust,
    /// The provider by which one signs in there, since one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<KnownProvider>,
}

/// A provider of sign-ins that a person has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownProvider {
    /// Its issuer.
    pub issuer: String,
    /// The public client there.
    pub client_id: String,
}

/// How the control plane is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerTrust {
    /// By an authority: its certificates, in PEM.
    Ca(String),
    /// By the SHA-256 of the authority's public key, 64 hex digits.
    Pin(String),
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profile(url: {:?}, token redacted)", self.url)
    }
}

/// Why there is no usable profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is no folder for it.
    #[error("neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
    /// The file cannot be read or written.
    #[error("the profile is not usable")]
    File(#[from] FileError),
    /// The folder cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no profile.
    #[error("{} is no profile: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// Others may read the token.
    #[error("{} may be read by others (mode {mode:o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something was given nowhere.
    #[error("no {0} is known")]
    Missing(&'static str),
    /// The address is not usable.
    #[error("`{0}` is no address such as https://tocsin.example:7442")]
    Url(String),
    /// The pin is not usable.
    #[error("the pin is not usable")]
    Pin(#[from] runtime::tls::PinError),
}

/// What flags and variables say, each of them stronger than the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The profile's file.
    pub path: Option<PathBuf>,
    /// See [`Profile::url`].
    pub url: Option<String>,
    /// A file with the authority's certificates.
    pub ca: Option<PathBuf>,
    /// See [`ServerTrust::Pin`].
    pub pin: Option<String>,
    /// See [`Profile::token`].
    pub token: Option<String>,
}

/// The profile's file, when no flag names one: `$XDG_CONFIG_HOME/tocsin/profile.toml`.
pub fn default_path(env: impl Fn(&str) -> Option<String>) -> Result<PathBuf, ProfileError> {
    let known = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = known("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| known("HOME").map(|home| home.join(".config")))
        .ok_or(ProfileError::NoHome)?;
    Ok(folder.join("tocsin").join("profile.toml"))
}

impl Overrides {
    /// The profile's file.
    pub fn path(&self) -> Result<PathBuf, ProfileError> {
        match &self.path {
            Some(path) => Ok(path.clone()),
            None => default_path(|name| std::env::var(name).ok()),
        }
    }

    /// The file, with flags and variables over it.
    pub fn load(&self) -> Result<Profile, ProfileError> {
        self.over(self.file()?)
    }

    /// What the file says, if it is of the same control plane.
    pub fn former(&self, profile: &Profile) -> Result<Option<Profile>, ProfileError> {
        Ok(self.file()?.filter(|former| normal(&former.url) == normal(&profile.url)))
    }

    fn file(&self) -> Result<Option<Profile>, ProfileError> {
        match read(&self.path()?) {
            Ok(profile) => Ok(Some(profile)),
            Err(ProfileError::File(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Flags and variables over a profile, if there is one.
    pub fn over(&self, file: Option<Profile>) -> Result<Profile, ProfileError> {
        let (url, token, trust, provider) = match file {
            Some(file) => (Some(file.url), Some(file.token), Some(file.trust), file.provider),
            None => (None, None, None, None),
        };
        let profile = Profile {
            url: normal(&self.url.clone().or(url).ok_or(ProfileError::Missing("address"))?),
            token: self.token.clone().or(token).ok_or(ProfileError::Missing("token"))?,
            trust: self.trust()?.or(trust).ok_or(ProfileError::Missing("authority"))?,
            provider,
        };
        profile.check()?;
        Ok(profile)
    }

    fn trust(&self) -> Result<Option<ServerTrust>, ProfileError> {
        match (&self.ca, &self.pin) {
            (Some(path), _) => {
                let bytes = files::read_bounded(path, MAX_BYTES)?;
                Ok(Some(ServerTrust::Ca(String::from_utf8_lossy(&bytes).into_owned())))
            }
            (None, Some(pin)) => Ok(Some(ServerTrust::Pin(pin.clone()))),
            (None, None) => Ok(None),
        }
    }
}

impl Profile {
    /// Writes the file for its owner only, and makes its folder.
    pub fn write(&self, path: &Path) -> Result<(), ProfileError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| ProfileError::Folder { path: folder.to_owned(), source })?;
        }
        let text = toml::to_string(self).map_err(|error| ProfileError::Malformed {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        Ok(files::write_atomic(path, Zeroizing::new(text).as_bytes(), files::PRIVATE)?)
    }

    fn check(&self) -> Result<(), ProfileError> {
        let host = self.url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', '@', '?', '#'])) {
            return Err(ProfileError::Url(self.url.clone()));
        }
        if let ServerTrust::Pin(pin) = &self.trust {
            pin.parse::<SpkiPin>()?;
        }
        Ok(())
    }
}

/// An address as everybody would write it, so that one control plane is one.
fn normal(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

fn read(path: &Path) -> Result<Profile, ProfileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let bytes = Zeroizing::new(files::read_bounded(path, MAX_BYTES)?);
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode()) & 0o777;
    if mode & 0o077 != 0 {
        return Err(ProfileError::Exposed { path: path.to_owned(), mode });
    }
    let malformed = |message: String| ProfileError::Malformed { path: path.to_owned(), message };
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed("not utf-8 text".to_owned()))?;
    // The parser's text would quote the line, and the line may be the token.
    toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))
}
