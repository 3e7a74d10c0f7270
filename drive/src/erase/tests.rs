//! The way to a method's end, with models of drives.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;

use crate::choice::choose;
use crate::model::{Model, Speaks, ata_page, controller, namespace};

use super::*;

const PASSWORD: [u8; 32] = [7; 32];

/// A model with something on it, and the folder where that lies.
fn drive(tongue: Speaks) -> (Model, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let medium = folder.path().join("medium");
    fs::write(&medium, [0x5a; 4096]).unwrap();
    (Model::new(tongue, vec![medium]), folder)
}

fn nvme() -> (Model, TempDir) {
    drive(Speaks::Nvme(controller(0b11, 0b10, 0b100), namespace(), vec![1]))
}

fn ata() -> (Model, TempDir) {
    drive(Speaks::Ata(ata_page(0x21)))
}

struct Ran {
    outcome: Result<(), EraseError>,
    medium: Vec<u8>,
    told: Vec<u8>,
    /// What was told of progress.
    looks: Vec<Option<u16>>,
}

fn run(model: Model, method: Method, is_begun: bool, pace: Pace) -> Ran {
    let (model, mut looks) = (Arc::new(model), Vec::new());
    let said = Said::by(&*model);
    let (line, password, psid) = (model.clone(), PASSWORD, Some("LABEL"));
    let erasure = Erasure { line, said: &said, method, is_begun, password, psid, pace };
    let outcome = erasure.run(&mut |progress| {
        looks.push(progress);
        true
    });
    let medium = fs::read(&model.contents[0]).unwrap();
    let told = model.was_told();
    Ran { outcome, medium, told, looks }
}

/// Looks often, and gives a drive that says nothing so many looks.
fn brisk(looks: u64) -> Pace {
    Pace { look: Duration::from_millis(1), at_most: Duration::from_millis(looks) }
}

#[test]
fn every_method_ends_with_the_data_gone() {
    let (zeros, garbage) = ([0; 4096], [0x5a_u8.wrapping_mul(5) ^ 0xa7; 4096]);
    let table = [
        (Method::NvmeSanitizeCrypto, garbage, vec![0x84]),
        (Method::NvmeSanitizeBlock, zeros, vec![0x84]),
        (Method::NvmeFormatCrypto, garbage, vec![0x80]),
        (Method::NvmeFormatErase, zeros, vec![0x80]),
        (Method::AtaEnhancedErase, zeros, vec![0xf1, 0xf3, 0xf4]),
        (Method::AtaErase, zeros, vec![0xf1, 0xf3, 0xf4]),
        (Method::OpalRevert, garbage, vec![]),
    ];
    for (method, left, told) in table {
        let is_ata = matches!(method, Method::AtaEnhancedErase | Method::AtaErase);
        let (mut model, _folder) = if is_ata { ata() } else { nvme() };
        model.psid = Some("LABEL".to_owned());
        assert!(choose(&Said::by(&model), true).methods.contains(&method));
        let ran = run(model, method, false, brisk(10_000));
        ran.outcome.unwrap_or_else(|error| panic!("{method:?}: {error}"));
        assert!(ran.medium == left, "{method:?}");
        assert_eq!(ran.told, told, "{method:?}");
    }
}

#[test]
fn sanitize_tells_how_far_it_is() {
    let (model, _folder) = nvme();
    let ran = run(model, Method::NvmeSanitizeBlock, false, brisk(10_000));
    ran.outcome.unwrap();
    assert_eq!(ran.looks, [Some(500), Some(500)]);
}

#[test]
fn sanitize_that_a_power_cut_interrupted_is_waited_for_and_not_begun_again() {
    let (model, _folder) = nvme();
    model.begin(Command::sanitize(Sanitize::Block).dword_10);
    let ran = run(model, Method::NvmeSanitizeBlock, true, brisk(10_000));
    ran.outcome.unwrap();
    assert_eq!(ran.told, [] as [u8; 0]);
    assert!(ran.medium.iter().all(|byte| *byte == 0));
    // One that ended meanwhile counts only where it was ours.
    for (is_begun, told) in [(true, vec![]), (false, vec![0x84])] {
        let (mut model, _folder) = nvme();
        model.takes_looks = 0;
        model.begin(Command::sanitize(Sanitize::Block).dword_10);
        let ran = run(model, Method::NvmeSanitizeBlock, is_begun, brisk(10_000));
        ran.outcome.unwrap();
        assert_eq!(ran.told, told);
    }
    let (mut model, _folder) = nvme();
    model.takes_looks = 0;
    model.begin(Command::sanitize(Sanitize::Crypto).dword_10);
    let ran = run(model, Method::NvmeSanitizeBlock, true, brisk(10_000));
    assert_eq!(ran.told, [0x84], "it was another method that ended");
}

#[test]
fn sanitize_that_fails_is_left_so_that_the_drive_takes_another_method() {
    let (mut model, _folder) = nvme();
    model.fails = true;
    let ran = run(model, Method::NvmeSanitizeCrypto, false, brisk(10_000));
    assert_eq!(ran.outcome.unwrap_err().obstacle(), Obstacle::Failed);
    // The second one only leaves the state of failure.
    assert_eq!(ran.told, [0x84, 0x84]);
    assert!(ran.medium == [0x5a; 4096]);
}

#[test]
fn drive_that_declines_is_not_left_with_a_password() {
    for declined in [0xf1, 0xf3, 0xf4] {
        let (mut model, _folder) = ata();
        model.declines.insert(declined);
        let model = Arc::new(model);
        let said = Said::by(&*model);
        let (line, method, pace) = (model.clone(), Method::AtaErase, brisk(10_000));
        let (password, psid) = (PASSWORD, None);
        let erasure = Erasure { line, said: &said, method, is_begun: false, password, psid, pace };
        let error = erasure.run(&mut |_| true).unwrap_err();
        assert_eq!(error.obstacle(), Obstacle::Declined, "{declined:#x}");
        let Tongue::Ata(identify) = Said::by(&*model).tongue else { panic!("it speaks ATA") };
        assert!(!identify.has_password, "{declined:#x}");
    }
}

#[test]
fn drive_that_never_answers_is_given_up() {
    for (method, opcode) in [(Method::NvmeFormatErase, 0x80), (Method::NvmeFormatCrypto, 0x80)] {
        let (mut model, _folder) = nvme();
        model.hangs.insert(opcode);
        let ran = run(model, method, false, brisk(20));
        assert_eq!(ran.outcome.unwrap_err().obstacle(), Obstacle::TimedOut);
        assert!(!ran.looks.is_empty(), "whoever waits is asked");
    }
    // A sanitize that goes on and on, whatever the drive said that it takes.
    let (mut model, _folder) = nvme();
    model.takes_looks = u32::MAX;
    let mut looks = 0;
    let said = Said::by(&model);
    let (line, method, pace) = (Arc::new(model), Method::NvmeSanitizeBlock, brisk(10));
    let (password, psid) = (PASSWORD, None);
    let erasure = Erasure { line, said: &said, method, is_begun: false, password, psid, pace };
    let left = erasure.run(&mut |_| {
        looks += 1;
        looks < 3
    });
    assert!(matches!(left, Err(EraseError::Left)), "{left:?}");
    assert_eq!(looks, 3);
}

#[test]
fn method_that_the_drive_does_not_have_is_no_method() {
    let (model, _folder) = ata();
    for method in [Method::NvmeFormatErase, Method::NvmeFormatCrypto] {
        let line = Arc::new(Model::new(Speaks::Ata(ata_page(0x21)), model.contents.clone()));
        let said = Said::by(&*line);
        let (password, psid, pace) = (PASSWORD, None, brisk(10));
        let erasure = Erasure { line, said: &said, method, is_begun: false, password, psid, pace };
        let error = erasure.run(&mut |_| true).unwrap_err();
        assert_eq!(error.obstacle(), Obstacle::Unsupported);
    }
}
