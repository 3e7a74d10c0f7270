//! Where the gate goes, and that taking it out leaves what was there.

use std::fs;

use super::*;
use crate::execute::fixtures::Sandbox;

fn configured(files: &[(&str, &str)]) -> Sandbox {
    let sandbox = Sandbox::new();
    for (path, text) in files {
        sandbox.write(path, text);
    }
    sandbox
}

fn gated(host: &Host) -> Vec<String> {
    let files = gate_files(host).unwrap().into_iter();
    files.map(|gate_file| gate_file.path.display().to_string()).collect()
}

const BOTH: Stacks = Stacks { account: true, session: true };

fn block() -> String {
    let names = ["rescue".to_owned(), "admin".to_owned()];
    Gate::new(&names, Superuser::FromBreakGlass).block(BOTH)
}

#[test]
fn taking_the_gate_out_leaves_every_byte_of_the_rest() {
    for text in ["", "no newline", "#%PAM-1.0", "#%PAM-1.0\naccount required x.so\n", "\r\n\n#\n"] {
        let with = with_gate(text.as_bytes(), &block());
        assert!(has_gate(&with), "{text:?}");
        assert_eq!(without_gate(&with), text.as_bytes(), "{text:?}");
        assert_eq!(with_gate(&with, &block()), with, "{text:?}");
    }
}

#[test]
fn a_line_that_names_the_format_stays_first() {
    let with = with_gate(b"#%PAM-1.0\naccount required x.so\n", &block());
    assert!(with.starts_with(b"#%PAM-1.0\n# tocsin lock: begin"));
}

#[test]
fn a_gate_without_its_end_takes_nothing_else_along() {
    let block = block().replace(&format!("{END}\n"), "");
    let text = format!("{block}account required pam_unix.so\nauth required pam_deny.so\n");
    let rest = "account required pam_unix.so\nauth required pam_deny.so\n";
    assert_eq!(without_gate(text.as_bytes()), rest.as_bytes());
}

#[test]
fn a_service_that_begins_with_the_common_file_needs_no_gate_of_its_own() {
    let sandbox = configured(&[
        ("/etc/pam.d/common-account", "account required pam_unix.so\n"),
        ("/etc/pam.d/common-auth", "auth required pam_unix.so\n"),
        (
            "/etc/pam.d/su",
            "auth sufficient pam_rootok.so\n@include common-auth\n@include common-account\n",
        ),
        ("/etc/pam.d/runuser", "session required pam_unix.so\n"),
    ]);
    let stacks = |account, session| Stacks { account, session };
    let files = gate_files(&sandbox.host).unwrap();
    let found: Vec<_> =
        files.iter().map(|file| (file.path.to_str().unwrap(), file.stacks)).collect();
    let expected = [
        ("/etc/pam.d/common-account", stacks(true, false)),
        ("/etc/pam.d/runuser", stacks(false, true)),
        ("/etc/pam.d/su", stacks(false, true)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_service_that_could_decide_before_the_common_file_gets_its_own_gate() {
    let sandbox = configured(&[
        ("/etc/pam.d/system-auth", "account required pam_unix.so\n"),
        (
            "/etc/pam.d/su",
            "account sufficient pam_succeed_if.so uid = 0\naccount include system-auth\n",
        ),
        (
            "/etc/pam.d/sshd",
            "-account \\\n required pam_nologin.so\naccount substack system-auth\n",
        ),
        ("/etc/pam.d/kiosk", "account required pam_permit.so\n"),
        ("/etc/pam.d/nested", "@include kiosk\naccount include system-auth\n"),
        ("/etc/pam.d/missing", "account include not-there\n"),
        ("/etc/pam.d/kiosk.dpkg-old", "account required pam_permit.so\n"),
    ]);
    let expected = ["kiosk", "missing", "nested", "sshd", "su", "system-auth"];
    assert_eq!(gated(&sandbox.host), expected.map(|name| format!("/etc/pam.d/{name}")));
}

#[test]
fn a_vendors_service_is_hidden_by_a_gated_copy() {
    let sandbox = configured(&[
        ("/etc/pam.d/common-account", "account required pam_unix.so\n"),
        ("/usr/lib/pam.d/polkit-1", "account required pam_permit.so\n"),
        ("/usr/lib/pam.d/systemd-user", "@include common-account\n"),
        ("/usr/lib/pam.d/common-account", "account required pam_permit.so\n"),
    ]);
    let files = gate_files(&sandbox.host).unwrap();
    let vendor = Some(PathBuf::from("/usr/lib/pam.d/polkit-1"));
    let stacks = Stacks { account: true, session: false };
    assert!(files.contains(&GateFile { path: "/etc/pam.d/polkit-1".into(), vendor, stacks }));
    assert_eq!(files.len(), 2);
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let sandbox = configured(&[("/etc/authselect/system-auth", "account required x.so\n")]);
    fs::create_dir_all(sandbox.host.path("/etc/pam.d")).unwrap();
    for name in ["system-auth", "password-auth"] {
        let target = "../../../../../../etc/authselect/system-auth";
        std::os::unix::fs::symlink(target, sandbox.host.path("/etc/pam.d").join(name)).unwrap();
    }
    assert_eq!(gated(&sandbox.host), ["/etc/authselect/system-auth"]);
}

#[test]
fn an_unknown_layout_or_a_missing_module_is_said_beforehand() {
    let sandbox = configured(&[("/etc/pam.d/login", "account required x.so\n")]);
    assert!(missing(&sandbox.host).unwrap().unwrap().contains("no known PAM layout"));
    fs::write(sandbox.host.path("/etc/pam.d/common-account"), "").unwrap();
    assert!(missing(&sandbox.host).unwrap().unwrap().contains("pam_succeed_if.so"));
    let modules = sandbox.host.path("/usr/lib/x86_64-linux-gnu/security");
    fs::create_dir_all(&modules).unwrap();
    for module in MODULES {
        fs::write(modules.join(module), "").unwrap();
    }
    std::os::unix::fs::symlink("usr/lib", sandbox.host.path("/lib")).unwrap();
    assert_eq!(missing(&sandbox.host).unwrap(), None);
}

#[test]
fn names_that_would_change_the_gate_are_no_gate_names() {
    for name in ["", "a b", "a:b", "a]", "a\nb", "a#b", "a\\", "ä"] {
        assert!(!is_gate_name(name), "{name:?}");
    }
    assert!(is_gate_name("rescue.admin-1$"));
}
