//! Scenes of addresses that serve, refuse or say nothing, under a clock that does not wait.

use std::future::{pending, ready};
use std::sync::Mutex;

use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn found(answer: &[&str]) -> LookingUp<'static> {
    Box::pin(ready(Ok(words(answer))))
}

/// What a scene's addresses do: `serves`, `refuses`, or nothing.
async fn tried(mut candidates: Candidates<'_>) -> (io::Result<String>, Vec<String>) {
    let order = Mutex::new(Vec::new());
    let outcome = first(&mut candidates, |at| {
        order.lock().unwrap().push(at.clone());
        async move {
            match at.split('-').next() {
                Some("serves") => Ok(()),
                Some("refuses") => Err(io::Error::other(at)),
                _ => pending().await,
            }
        }
    });
    let outcome = outcome.await.map(|(at, ())| at);
    (outcome, order.into_inner().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_the_name_service_says_comes_before_what_is_remembered() {
    let candidates = Candidates::new(found(&["serves-new"]), words(&["serves-old"]));
    let (served, order) = tried(candidates).await;
    assert_eq!((served.unwrap(), order), ("serves-new".to_owned(), words(&["serves-new"])));

    let candidates =
        Candidates::new(found(&["refuses-new", "same"]), words(&["same", "serves-old"]));
    let (served, order) = tried(candidates).await;
    assert_eq!(served.unwrap(), "serves-old");
    assert_eq!(order, words(&["refuses-new", "same", "serves-old"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_serves_when_the_name_service_fails_or_is_silent() {
    let fails: LookingUp<'_> = Box::pin(ready(Err(io::Error::other("no name service"))));
    let silent: LookingUp<'_> = Box::pin(pending());
    for looking_up in [fails, silent] {
        let (served, _) = tried(Candidates::new(looking_up, words(&["serves-old"]))).await;
        assert_eq!(served.unwrap(), "serves-old");
    }
}

#[tokio::test(start_paused = true)]
async fn remembered_address_where_nobody_is_holds_up_no_answer_that_comes_late() {
    let late: LookingUp<'_> = Box::pin(async {
        sleep(2 * SILENCE).await;
        Ok(words(&["serves-new"]))
    });
    let remembered = words(&["gone-1", "gone-2", "gone-3"]);
    let (served, order) = tried(Candidates::new(late, remembered)).await;
    assert_eq!(served.unwrap(), "serves-new");
    assert_eq!(order, words(&["gone-1", "serves-new"]));
}

#[tokio::test(start_paused = true)]
async fn address_that_is_silent_holds_up_no_other() {
    let candidates = Candidates::new(found(&["silent-1", "silent-2", "serves"]), Vec::new());
    let (served, order) = tried(candidates).await;
    assert_eq!(served.unwrap(), "serves");
    assert_eq!(order, words(&["silent-1", "silent-2", "serves"]));
}

#[tokio::test(start_paused = true)]
async fn error_is_that_of_the_likeliest_address_and_else_that_of_the_name() {
    let candidates = Candidates::new(found(&["refuses-new"]), words(&["refuses-old"]));
    assert_eq!(tried(candidates).await.0.unwrap_err().to_string(), "refuses-new");
    let fails: LookingUp<'_> = Box::pin(ready(Err(io::Error::other("no name service"))));
    let (outcome, order) = tried(Candidates::new(fails, Vec::new())).await;
    assert_eq!((outcome.unwrap_err().to_string().as_str(), order.len()), ("no name service", 0));
    let (outcome, _) = tried(Candidates::new(found(&[]), Vec::new())).await;
    assert_eq!(outcome.unwrap_err().to_string(), "the name has no address");
}

#[tokio::test(start_paused = true)]
async fn no_more_addresses_are_tried_than_one_connection_may() {
    let many: Vec<String> = (0..100).map(|number| format!("refuses-{number}")).collect();
    let (outcome, order) = tried(Candidates::new(found(&[]), many)).await;
    assert_eq!((outcome.unwrap_err().to_string().as_str(), order.len()), ("refuses-0", TRIED));
}
