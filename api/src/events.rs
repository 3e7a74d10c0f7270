//! The audit log for operators: pages, an export, and a stream that loses nothing.
//!
//! Owns reading events; appending belongs to `audit`. A stream reads the store after its last
//! event whenever the head moves, so there is no moment in which an event could slip through.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::audit::Event;
use crate::auth::{Permit, Principal, ability};
use crate::db::{Conn, DbError};
use crate::http::problem::ProblemBody;
use crate::http::{PageQuery, Paged, Problem, Query};
use crate::limits::{Limits, StreamPlace};
use crate::time::Time;

mod store;

/// Events read at a time by streams and exports.
const BATCH: i64 = 500;
/// How often an idle stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often an idle stream looks by itself: another node may have written.
const LOOK: Duration = Duration::from_secs(2);
/// How often a stream asks whether its token still stands; with [`LOOK`], within 30 s.
const CHECK: Duration = Duration::from_secs(25);

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export)).routes(routes!(stream))
}

/// Events after that one, in order, as they are hashed.
pub(crate) async fn after(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<Event>, DbError> {
    store::after(conn, after, &EventQuery::default(), limit).await
}

/// An event for people and programs; [`Event`] is the hashed form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventView {
    /// Its place in the chain.
    pub seq: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// Who: `operator:<name>`, `device:<id>` or `system`.
    pub actor: String,
    /// What happened.
    pub kind: String,
    /// To what.
    pub subject: String,
    /// The particulars.
    #[schema(value_type = Object)]
    pub payload: Value,
    /// Hash of the event, 64 hex digits.
    pub hash: String,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            seq: event.seq,
            at: Time(Timestamp::from_millis(u64::try_from(event.at).unwrap_or(0))),
            actor: event.actor,
            kind: event.kind,
            subject: event.subject,
            payload: serde_json::from_str(&event.payload).unwrap_or(Value::Null),
            hash: event.hash,
        }
    }
}

/// Which events.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only those about this: the id of a device, an order, a command.
    pub subject: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
}

/// Lists events, oldest first.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(PageQuery, EventQuery),
    security(("token" = ["events"])),
    responses((status = 200, body = Paged<EventView>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
    Query(query): Query<EventQuery>,
) -> Result<axum::Json<Paged<EventView>>, Problem> {
    let _permit: Permit<ability::Events> = principal.permit()?.everywhere()?;
    let page = page.page::<i64>()?;
    let after = page.after.unwrap_or(0);
    let mut conn = app.db.read().await?;
    let events = store::after(&mut conn, after, &query, page.rows()).await?;
    let views = events.into_iter().map(EventView::from).collect();
    Ok(axum::Json(page.cut(views, |view: &EventView| view.seq.to_string())))
}

/// Exports the chain from its begin as JSON lines, exactly as it is hashed.
#[utoipa::path(get, path = "/v1/events/export", tag = "events", security(("token" = ["events"])),
    responses((status = 200, content_type = "application/jsonl", body = Event),
        (status = "4XX", body = ProblemBody)))]
async fn export(State(app): State<App>, principal: Principal) -> Result<Response, Problem> {
    let _permit: Permit<ability::Events> = principal.permit()?.everywhere()?;
    let lines = futures_util::stream::try_unfold((app, 0), |(app, after)| async move {
        let mut conn = app.db.read().await.map_err(std::io::Error::other)?;
        let events = store::after(&mut conn, after, &EventQuery::default(), BATCH)
            .await
            .map_err(std::io::Error::other)?;
        drop(conn);
        let Some(last) = events.last().map(|event| event.seq) else { return Ok(None) };
        let mut text = String::new();
        for event in &events {
            text.push_str(&serde_json::to_string(event).map_err(std::io::Error::other)?);
            text.push('\n');
        }
        Ok::<_, std::io::Error>(Some((text, (app, last))))
    });
    let body = axum::body::Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// Streams all events from now on, or from `Last-Event-ID` on.
#[utoipa::path(get, path = "/v1/stream", tag = "events", params(EventQuery),
    security(("token" = ["events"])),
    responses((status = 200, content_type = "text/event-stream", body = EventView),
        (status = "4XX", body = ProblemBody)))]
async fn stream(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    Query(query): Query<EventQuery>,
) -> Result<impl IntoResponse, Problem> {
    let _permit: Permit<ability::Events> = principal.permit()?.everywhere()?;
    let after = last_event_id(&headers)?.unwrap_or_else(|| *app.db.events_head().borrow());
    let events = follow(app, principal, after, query)?;
    Ok(respond(events.map(Ok::<_, Infallible>)))
}

/// The `Last-Event-ID` of a client that comes back.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok());
    seq.map(Some).ok_or_else(|| Problem::field("Last-Event-ID", "is no event's number"))
}

/// Every event after `after` that fits, now and in future, until the drain or the token's end.
pub(crate) fn follow(
    app: App,
    principal: Principal,
    after: i64,
    query: EventQuery,
) -> Result<impl Stream<Item = SseEvent>, Problem> {
    let place = Limits::stream(&app, principal.token_id())?;
    // Subscribed before the first read: what is committed in between wakes the next one.
    let head = app.db.events_head();
    let checked = app.clock.now();
    let ready = Vec::new().into_iter();
    let follower = Follower { app, principal, checked, head, query, after, ready, _place: place };
    Ok(futures_util::stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (event, follower))
    }))
}

/// A stream as an answer that says from time to time that it lives.
pub(crate) fn respond<S>(messages: S) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>>
where
    S: Stream<Item = Result<SseEvent, Infallible>> + Send + 'static,
{
    Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

struct Follower {
    app: App,
    principal: Principal,
    /// When the token was last found to stand.
    checked: Instant,
    _place: StreamPlace,
    head: watch::Receiver<i64>,
    query: EventQuery,
    after: i64,
    ready: std::vec::IntoIter<Event>,
}

impl Follower {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            self.check().await?;
            if let Some(event) = self.ready.next() {
                self.after = event.seq;
                return Some(sse(event));
            }
            let seen = *self.head.borrow_and_update();
            match self.read().await {
                Ok(events) if !events.is_empty() => self.ready = events.into_iter(),
                Ok(_) => {
                    // Nothing that fits up to there; skip it from now on.
                    self.after = self.after.max(seen);
                    self.wait().await?;
                }
                Err(error) => {
                    tracing::warn!(error = %error, "stream could not read events");
                    return None;
                }
            }
        }
    }

    /// Ends the stream when its token was revoked or expired.
    async fn check(&mut self) -> Option<()> {
        let now = self.app.clock.now();
        if now.saturating_duration_since(self.checked) < CHECK {
            return Some(());
        }
        self.checked = now;
        matches!(self.principal.stands(&self.app).await, Ok(true)).then_some(())
    }

    async fn read(&self) -> Result<Vec<Event>, Problem> {
        let mut conn = self.app.db.read().await?;
        Ok(store::after(&mut conn, self.after, &self.query, BATCH).await?)
    }

    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            biased;
            () = self.app.drain.soft().cancelled() => None,
            changed = self.head.changed() => changed.ok(),
            () = tokio::time::sleep(LOOK) => Some(()),
        }
    }
}

fn sse(event: Event) -> SseEvent {
    let (seq, kind) = (event.seq.to_string(), event.kind.clone());
    let fallback = SseEvent::default().id(seq.clone()).event("unreadable");
    let view = EventView::from(event);
    SseEvent::default().id(seq).event(kind).json_data(view).unwrap_or(fallback)
}
