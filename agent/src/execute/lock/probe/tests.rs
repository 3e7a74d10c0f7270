//! Which sshd configurations leave a way around PAM.

use super::*;
use crate::execute::fixtures::Sandbox;

fn gaps_of(files: &[(&str, &str)]) -> usize {
    let sandbox = Sandbox::new();
    for (path, text) in files {
        sandbox.write(path, text);
    }
    gaps(&sandbox.host).unwrap().len()
}

#[test]
fn a_server_without_pam_is_a_gap() {
    let include = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";
    let drop_in = "/etc/ssh/sshd_config.d/10-local.conf";
    assert_eq!(gaps_of(&[]), 0);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, "Port 22\n")]), 1);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, "usepam=yes\n")]), 0);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, "#UsePAM yes\nUsePAM no\nUsePAM yes\n")]), 1);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, include)]), 0);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, include), (drop_in, "UsePAM no\n")]), 1);
    assert_eq!(gaps_of(&[(SSHD_CONFIG, "Match User x\nUsePAM yes\n")]), 1);
}
