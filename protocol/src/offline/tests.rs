//! Codes as people type them, and whose they are.

use proptest::prelude::*;

use super::*;
use crate::fixture::device;

fn secret(number: u8) -> OfflineSecret {
    OfflineSecret::new([number; 32])
}

#[test]
fn code_opens_what_it_was_committed_to_and_nothing_else() {
    let code = secret(1).code(&device(1));
    let commitment = code.commitment(&device(1));
    assert!(code.opens(&device(1), &commitment));
    assert!(!secret(1).code(&device(2)).opens(&device(1), &commitment), "another device's");
    assert!(!secret(2).code(&device(1)).opens(&device(1), &commitment), "another order's");
    assert!(!code.opens(&device(2), &commitment), "on another device");
    assert_ne!(secret(1).code(&device(2)).commitment(&device(1)), commitment);
}

#[test]
fn code_is_the_same_in_every_version() {
    // Codes are kept for as long as a device may be locked: they may not change with the program.
    let code = secret(7).code(&device(1));
    assert_eq!(code.reveal(), "1JNCFY-MQVKPQ-M3A68A-QH05EG");
    assert_eq!(
        code.commitment(&device(1)).to_string(),
        "rv4RQ4fekqwf7pxQKZCcSyX2jQYjsEb3Xu8IoM88Uck"
    );
}

#[test]
fn code_is_read_as_people_write_it() {
    let code = secret(1).code(&device(1));
    let text = code.reveal();
    assert_eq!(text.len(), 27, "{text}");
    let spaced = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
    assert_eq!(spaced.parse(), Ok(code));
}

#[test]
fn texts_that_are_no_code_say_why() {
    let text = secret(1).code(&device(1)).reveal();
    assert_eq!("".parse::<OfflineCode>(), Err(OfflineCodeError::Length));
    assert_eq!(text[1..].parse::<OfflineCode>(), Err(OfflineCodeError::Length));
    assert_eq!("0".repeat(10_000).parse::<OfflineCode>(), Err(OfflineCodeError::Length));
    assert_eq!(
        format!("{}U", &text[1..]).parse::<OfflineCode>(),
        Err(OfflineCodeError::Symbol('U'))
    );
    assert_eq!(format!("é{text}").parse::<OfflineCode>(), Err(OfflineCodeError::Symbol('é')));
}

#[test]
fn neither_secret_nor_code_is_printed_by_accident() {
    let code = secret(1).code(&device(1));
    assert!(!format!("{code:?}{:?}", secret(1)).contains(&code.reveal()[..5]));
    assert_eq!(format!("{code:?}{:?}", secret(1)), "OfflineCode { .. }OfflineSecret { .. }");
}

proptest! {
    #[test]
    fn every_wrong_symbol_is_noticed(seed: [u8; 32], at in 0usize..24, other in 1u8..32) {
        let text = OfflineSecret::new(seed).code(&device(1)).reveal();
        let mut symbols: Vec<char> = text.replace('-', "").chars().collect();
        let place = ALPHABET.iter().position(|known| char::from(*known) == symbols[at]).expect("known");
        symbols[at] = char::from(ALPHABET[(place + usize::from(other)) % 32]);
        let typed: String = symbols.iter().collect();
        prop_assert_eq!(typed.parse::<OfflineCode>(), Err(OfflineCodeError::Mistyped(at / 6 + 1)));
    }

    #[test]
    fn symbols_that_changed_places_are_noticed(seed: [u8; 32], group in 0usize..4, a in 0usize..6, b in 0usize..6) {
        let text = OfflineSecret::new(seed).code(&device(1)).reveal();
        let mut symbols: Vec<char> = text.replace('-', "").chars().collect();
        symbols.swap(group * 6 + a, group * 6 + b);
        let typed: String = symbols.iter().collect();
        prop_assert_eq!(typed.parse::<OfflineCode>().is_ok(), typed == text.replace('-', ""));
    }

    #[test]
    fn groups_that_changed_places_are_noticed(seed: [u8; 32], a in 0usize..4, b in 0usize..4) {
        let text = OfflineSecret::new(seed).code(&device(1)).reveal();
        let mut groups: Vec<&str> = text.split('-').collect();
        groups.swap(a, b);
        prop_assert_eq!(groups.concat().parse::<OfflineCode>().is_ok(), a == b);
    }
}
