//! Tests of the profile.

use super::*;

fn profile() -> Profile {
    Profile {
        url: "https://tocsin.example:7442".to_owned(),
        token: "tocsin_pat_secret".to_owned(),
        trust: ServerTrust::Pin("ab".repeat(32)),
        provider: Some(KnownProvider {
            issuer: "https://idp.example".to_owned(),
            client_id: "tocsin".to_owned(),
        }),
    }
}

#[test]
fn profile_is_written_for_its_owner_and_read_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tocsin").join("profile.toml");
    profile().write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let given = Overrides { path: Some(path), ..Overrides::default() };
    assert_eq!(given.load().unwrap(), profile());
    assert_eq!(given.former(&profile()).unwrap(), Some(profile()));
    let otherwise = Profile { url: "https://TOCSIN.example:7442/".to_owned(), ..profile() };
    assert_eq!(given.former(&otherwise).unwrap(), Some(profile()), "the same, written otherwise");
    let elsewhere = Profile { url: "https://other:1".to_owned(), ..profile() };
    assert_eq!(given.former(&elsewhere).unwrap(), None, "another control plane's is not its");
}

#[test]
fn profile_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.toml");
    profile().write(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let given = Overrides { path: Some(path), ..Overrides::default() };
    assert!(matches!(given.load(), Err(ProfileError::Exposed { mode: 0o640, .. })));
}

#[test]
fn flags_and_variables_are_stronger_than_the_file() {
    let given = Overrides {
        url: Some("https://other:1".to_owned()),
        token: Some("tocsin_pat_other".to_owned()),
        ..Overrides::default()
    };
    let merged = given.over(Some(profile())).unwrap();
    assert_eq!(merged.url, "https://other:1");
    assert_eq!(merged.token, "tocsin_pat_other");
    assert_eq!(merged.trust, profile().trust);
}

#[test]
fn what_is_missing_is_named() {
    let missing = |given: Overrides| given.over(None).unwrap_err().to_string();
    assert_eq!(missing(Overrides::default()), "no address is known");
    let url = Some("https://x".to_owned());
    assert_eq!(missing(Overrides { url, ..Overrides::default() }), "no token is known");
}

#[test]
fn only_https_addresses_without_a_path_are_taken() {
    for (url, is_fine) in [
        ("https://tocsin.example:7442", true),
        ("https://tocsin.example/", true),
        ("http://tocsin.example", false),
        ("https://", false),
        ("https://user@tocsin.example", false),
        ("https://tocsin.example/path", false),
        ("tocsin.example:7442", false),
    ] {
        let given = Overrides { url: Some(url.to_owned()), ..Overrides::default() };
        assert_eq!(given.over(Some(profile())).is_ok(), is_fine, "{url}");
    }
}

#[test]
fn error_in_a_profile_does_not_repeat_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.toml");
    files::write_atomic(&path, b"token = tocsin_pat_secret", files::PRIVATE).unwrap();
    let given = Overrides { path: Some(path), ..Overrides::default() };
    let error = given.load().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("tocsin_pat_secret"));
}

#[test]
fn default_path_follows_the_base_directory_specification() {
    let path = |xdg: &'static str, home: &'static str| {
        default_path(move |name| match name {
            "XDG_CONFIG_HOME" => Some(xdg.to_owned()),
            "HOME" => Some(home.to_owned()),
            _ => None,
        })
    };
    let expect = |text: &str| PathBuf::from(text);
    assert_eq!(path("/x", "/h").unwrap(), expect("/x/tocsin/profile.toml"));
    assert_eq!(path("", "/h").unwrap(), expect("/h/.config/tocsin/profile.toml"));
    assert_eq!(path("relative", "/h").unwrap(), expect("/h/.config/tocsin/profile.toml"));
    assert!(path("", "").is_err());
}
