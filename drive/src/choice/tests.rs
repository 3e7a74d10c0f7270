//! What drives say, and which methods that leads to: pages of full length, as drives give them.

use crate::ata;
use crate::model::{Model, Speaks, ata_page, controller, namespace};
use crate::nvme;

use super::Method::{
    AtaEnhancedErase, AtaErase, NvmeFormatCrypto, NvmeFormatErase, NvmeSanitizeBlock,
    NvmeSanitizeCrypto, OpalRevert,
};
use super::Obstacle::{
    Exhausted, Frozen, Locked, NoPsid, OtherNamespaces, Protected, Remote, Shared, Unsupported,
};
use super::*;

/// Crypto and block erase; formats; formats with a new key.
const ALL: (u8, u8, u8) = (0b11, 0b10, 0b100);
/// Word 128: supported, and what goes beyond.
const SECURITY: u16 = 0x21;

fn nvme((sanicap, oacs, fna): (u8, u8, u8), change: impl FnOnce(&mut Model)) -> Said {
    let speaks = Speaks::Nvme(controller(sanicap, oacs, fna), namespace(), vec![1]);
    let mut model = Model::new(speaks, Vec::new());
    change(&mut model);
    Said::by(&model)
}

/// The same with some bytes of the controller's page changed.
fn with(bytes: &[(usize, u8)], what: (u8, u8, u8)) -> Said {
    nvme(what, |model| {
        let Speaks::Nvme(page, _, _) = &mut model.tongue else { unreachable!("it speaks NVMe") };
        bytes.iter().for_each(|(at, byte)| page[*at] = *byte);
    })
}

fn ata(security: u16) -> Said {
    Said::by(&Model::new(Speaks::Ata(ata_page(security)), Vec::new()))
}

fn obstacle(choice: &Choice, method: Method) -> Option<Obstacle> {
    let found = choice.passed_over.iter().find(|passed| passed.method == method);
    found.map(|passed| passed.obstacle)
}

#[test]
fn methods_follow_from_what_the_drive_said() {
    let nvme_all = vec![NvmeSanitizeCrypto, NvmeSanitizeBlock, NvmeFormatCrypto, NvmeFormatErase];
    let table: [(Said, Vec<Method>); 9] = [
        (nvme(ALL, |_| {}), nvme_all),
        (nvme((0b10, 0b10, 0), |_| {}), vec![NvmeSanitizeBlock, NvmeFormatErase]),
        (nvme((0, 0b10, 0b100), |_| {}), vec![NvmeFormatCrypto, NvmeFormatErase]),
        // A new key is nothing where the drive does not format.
        (nvme((0b1, 0, 0b100), |_| {}), vec![NvmeSanitizeCrypto]),
        (nvme((0, 0, 0), |_| {}), vec![]),
        (ata(SECURITY), vec![AtaEnhancedErase, AtaErase]),
        (ata(1), vec![AtaErase]),
        (ata(0), vec![]),
        (Said::by(&Model::new(Speaks::Nothing, Vec::new())), vec![]),
    ];
    for (said, methods) in table {
        let choice = choose(&said, false);
        assert_eq!(choice.methods, methods, "{said:?}");
        let named = choice.passed_over.iter().map(|passed| passed.method);
        assert!(named.clone().all(|method| !methods.contains(&method)), "{said:?}");
        assert_eq!(obstacle(&choice, OpalRevert), Some(Unsupported));
    }
}

#[test]
fn obstacle_of_what_is_passed_over_is_named() {
    let of = |said: &Said, method| obstacle(&choose(said, false), method);
    let others = nvme(ALL, |model| {
        let Speaks::Nvme(_, _, active) = &mut model.tongue else { unreachable!("it speaks NVMe") };
        *active = vec![1, 2];
    });
    assert_eq!(of(&others, NvmeSanitizeCrypto), Some(OtherNamespaces));
    assert_eq!(of(&others, NvmeFormatErase), None, "a format takes this one only");
    let mut all_at_once = others.clone();
    let Tongue::Nvme { controller, .. } = &mut all_at_once.tongue else { unreachable!() };
    controller.erases_all = true;
    assert_eq!(of(&all_at_once, NvmeFormatErase), Some(OtherNamespaces));

    let remote = with(&[(1792, 4)], ALL);
    assert_eq!(choose(&remote, true).methods, []);
    assert_eq!(of(&remote, NvmeFormatCrypto), Some(Remote));
    let sibling = with(&[(76, 0b10)], ALL);
    assert_eq!(of(&sibling, NvmeSanitizeBlock), Some(Shared));
    assert_eq!(of(&sibling, NvmeFormatErase), None, "the namespace is this controller's alone");
    let protected = nvme(ALL, |model| {
        let Speaks::Nvme(_, page, _) = &mut model.tongue else { unreachable!("it speaks NVMe") };
        page[99] = 1;
    });
    assert_eq!(of(&protected, NvmeSanitizeCrypto), Some(Protected));

    for (bit, expected) in [(2, Locked), (3, Frozen), (4, Exhausted)] {
        let said = ata(SECURITY | 1 << bit);
        assert_eq!(choose(&said, false).methods, [], "{expected:?}");
        assert_eq!(of(&said, AtaErase), Some(expected));
    }
}

#[test]
fn opal_is_reverted_only_by_the_code_on_the_label() {
    let mut model = Model::new(Speaks::Ata(ata_page(SECURITY | 8)), Vec::new());
    model.psid = Some("LABEL".to_owned());
    let said = Said::by(&model);
    assert_eq!(obstacle(&choose(&said, false), OpalRevert), Some(NoPsid));
    assert_eq!(choose(&said, true).methods, [OpalRevert]);
    let remote = with(&[(1792, 4)], ALL);
    let remote = Said { has_opal: true, ..remote };
    assert_eq!(obstacle(&choose(&remote, true), OpalRevert), Some(Remote));
}

#[test]
fn pages_are_read_as_the_specifications_lay_them_out() {
    let said = nvme(ALL, |_| {});
    assert_eq!((said.model(), said.serial()), ("Model of an NVMe drive", "S1234567"));
    let said = ata(SECURITY);
    assert_eq!((said.model(), said.serial()), ("Model of an ATA drive", "A7654321"));
    let Tongue::Ata(identify) = said.tongue else { panic!("it speaks ATA") };
    assert_eq!(identify.erase_takes, Some(std::time::Duration::from_secs(120)));

    // Format 17 with its metadata at the end, protected by kind 2 at the beginning.
    let mut page = *namespace();
    (page[26], page[29]) = (0b0011_0001, 0b1010);
    let form = nvme::Namespace::read(7, &page).form;
    let timeout = std::time::Duration::from_secs(1);
    let format = nvme::Command::format(7, form, nvme::Erasing::Crypto, timeout);
    assert_eq!(format.dword_10, 0x1 | 0x10 | 2 << 5 | 1 << 8 | 2 << 9 | 1 << 12);
    assert_eq!((format.opcode, format.namespace), (0x80, 7));

    let erase = ata::Command::short(ata::ERASE_UNIT).packed(&ata::Data::Out(&[0; ata::PAGE]));
    assert_eq!(erase, [0x85, 5 << 1, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0]);
    let log = nvme::Command::sanitize_log();
    assert_eq!((log.opcode, log.namespace, log.dword_10), (2, u32::MAX, 0x007f_0081));
}

#[test]
fn hostile_page_of_a_drive_is_no_drive() {
    let mut summed = *ata_page(SECURITY);
    (summed[510], summed[511]) = (0xa5, 0);
    assert_eq!(ata::Identify::read(&summed), None, "the checksum is wrong");
    let sum = summed.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    summed[511] = 0u8.wrapping_sub(sum);
    assert!(ata::Identify::read(&summed).is_some());
    assert_eq!(ata::Identify::read(&[0; ata::PAGE]), None);
    assert_eq!(ata::Identify::read(&[0xff; ata::PAGE]), None);
    // Escapes of terminals do not reach plans.
    let said = with(&[(24, 0x1b), (25, b'['), (4, 0)], ALL);
    assert_eq!((said.model(), said.serial()), ("[del of an NVMe drive", "1234567"));
}
