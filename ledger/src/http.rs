//! The HTTP face: `POST /v1/opens`, `/v1/grants`, `/v1/seals` and `/v1/voids`, `GET /v1/audit`,
//! `GET /v1/audit/opens`, `/v1/audit/grants`, `/v1/audit/voids` and `/v1/audit/late_opens`,
//! `GET /healthz`.
//!
//! Batches are read and their signatures checked on blocking threads, a bounded number at once;
//! what finds no room is told to come again. Never decides about an open.

use crate::{
    admission::{Admission, admit},
    clock::Clock,
    grants::is_planned,
    keys::KeyDirectory,
    plans::Plans,
    reclaim::{Opening, Refused, check_planned, check_seal, epochs_of},
    state::{PacketState, Row},
    store::{
        Store, Totals,
        grants::Tenure,
        reclaim::{Ground, Late, Void},
        seals::{Disproof, Kept},
    },
    writer::{BatchJob, GrantJob, Job, SealJob, VoidJob, Writer},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
};
use yao_protocol::{
    CampaignId, Fen, PacketId, ShardId, SponsorId, WallTime, WireError,
    grant::GrantRequest,
    keys::KeySet,
    manifest::Manifest,
    schedule::format_rfc3339,
    seal::Seal,
    settlement::{BATCH_BYTES_MAX, Batch, digest},
    void::VoidRequest,
};

/// Batches whose signatures are checked or that wait for their commit, at once.
const BATCHES_MAX: usize = 64;
/// Rows of one page of the audit, unless the caller says otherwise, and at most.
const PAGE_ROWS: (usize, usize) = (1_000, 10_000);
/// What a caller that finds no room is told to wait, seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// What the handlers share.
#[derive(Debug)]
pub struct Service {
    /// What was planned, and what was reclaimed since.
    pub plans: Plans,
    /// The public keys.
    pub keys: Arc<KeyDirectory>,
    /// The way to the database.
    pub writer: Writer,
    /// A second connection, for the audit.
    pub reader: Mutex<Store>,
    clock: Clock,
    /// When a node was last heard, or this life began; as in [`Ground`].
    heard_at: AtomicU64,
    room: Semaphore,
}

impl Service {
    /// A service with room for its batches.
    #[must_use]
    pub fn new(plans: Plans, keys: Arc<KeyDirectory>, writer: Writer, reader: Store) -> Self {
        let (reader, room) = (Mutex::new(reader), Semaphore::new(BATCHES_MAX));
        let clock = Clock::start();
        let heard_at = AtomicU64::new(clock.wall().0);
        Self { plans, keys, writer, reader, clock, heard_at, room }
    }
}

/// The routes of the ledger.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/opens", post(opens))
        .route("/v1/grants", post(grants))
        .route("/v1/seals", post(seals))
        .route("/v1/voids", post(voids))
        .route("/v1/audit", get(audit))
        .route("/v1/audit/opens", get(audit_opens))
        .route("/v1/audit/grants", get(audit_grants))
        .route("/v1/audit/voids", get(audit_voids))
        .route("/v1/audit/late_opens", get(audit_late_opens))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(BATCH_BYTES_MAX))
        .with_state(service)
}

/// Why a request gets no answer of settlement.
enum Refusal {
    /// The bytes are not what is posted here, or not signed by who may post it.
    Bytes(WireError),
    /// They contradict what was planned, or what was decided before.
    Contradicts(String),
    /// Packets that may still be opened, and what time it is.
    TooEarly(Opening, WallTime),
    /// A key or a manifest has not reached us yet.
    Missing(String),
    /// No room, or the writer is gone.
    Busy,
    /// The database did not answer a reader.
    Unreadable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let again = [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)];
        match self {
            Self::Bytes(error @ WireError::Forged { .. }) => {
                (StatusCode::FORBIDDEN, format!("{error}; is the signer's key in --keys?\n"))
                    .into_response()
            }
            Self::Contradicts(message) => {
                (StatusCode::CONFLICT, format!("{message}\n")).into_response()
            }
            Self::TooEarly(opening, now) => too_early(&opening, now),
            Self::Bytes(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
            Self::Missing(message) => {
                (StatusCode::SERVICE_UNAVAILABLE, again, message).into_response()
            }
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, again, "too many batches wait\n").into_response()
            }
            Self::Unreadable(message) => {
                (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
            }
        }
    }
}

/// When to come again, and whose seals would bring that nearer.
fn too_early(opening: &Opening, now: WallTime) -> Response {
    const NAMED: usize = 8;
    let seconds = opening.at.us_since(now).div_ceil(1_000_000).max(1);
    let mut text = format!(
        "too early: tickets may still be opened; come again at {}",
        format_rfc3339(opening.at)
    );
    if !opening.unsealed.is_empty() {
        let count = opening.unsealed.len();
        let named: Vec<String> =
            opening.unsealed.iter().take(NAMED).map(ToString::to_string).collect();
        text.push_str(&format!(
            ", or seal all shards: {count} are not sealed ({}{})",
            named.join(", "),
            if count > NAMED { ", ..." } else { "" }
        ));
    }
    text.push('\n');
    let again = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::SERVICE_UNAVAILABLE, again, text).into_response()
}

async fn opens(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refusal> {
    heard(&service, Batch::sender(&body));
    let make = move |service: &Service, answer| judged(service, body.into(), answer);
    written(service, make).await.map(octets)
}

async fn grants(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refusal> {
    heard(&service, GrantRequest::sender(&body));
    let make = move |service: &Service, answer| granted(service, &body, answer);
    written(service, make).await.map(octets)
}

async fn seals(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refusal> {
    let make = move |service: &Service, answer| sealed(service, body.into(), answer);
    let message = match written(service, make).await? {
        Kept::At(received_at) => {
            return Ok(Json(json!({ "received_at": received_at })).into_response());
        }
        Kept::Another => "another seal of this shard and epoch came before, and stays".to_owned(),
        Kept::Disproved(disproof) => {
            let why = match disproof {
                Disproof::Presented(packet) => format!(
                    "a ticket of packet {packet} was presented, and by this seal it never left"
                ),
                Disproof::Delivered(sequence) => format!(
                    "record {sequence} of the spool was delivered, and by this seal it ended before"
                ),
                Disproof::Twice => "another state of this shard was sealed, too".to_owned(),
            };
            format!(
                "{why}: a state that was sealed is not what its node did last, as a snapshot that \
                 was put back is not; the seal counts for nothing, the shard stays unsealed"
            )
        }
        Kept::Ahead(now) => format!(
            "the seal was made later than it came, at {} by settlement's clock: that of the node \
             was ahead, or settlement's is behind by more than --clock-skew; it is not kept now, \
             post it again when the clock is right",
            format_rfc3339(now)
        ),
    };
    Err(Refusal::Contradicts(message))
}

async fn voids(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Refusal> {
    let make = move |service: &Service, answer| voided(service, &body, answer);
    let clock = service.clock;
    written(service, make).await?.map(octets).map_err(|why| refused(why, clock.wall()))
}

fn octets(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

fn refused(refused: Refused, now: WallTime) -> Refusal {
    match refused {
        Refused::TooEarly(opening) => Refusal::TooEarly(opening, now),
        Refused::Contradicts(message) => Refusal::Contradicts(message),
    }
}

/// What the writer says to the job that `make` makes on a blocking thread.
async fn written<T: Send + 'static>(
    service: Arc<Service>,
    make: impl FnOnce(&Service, oneshot::Sender<T>) -> Result<Job, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let _room = service.room.try_acquire().map_err(|_| Refusal::Busy)?;
    let maker = Arc::clone(&service);
    let (answer, answered) = oneshot::channel();
    let job = spawn_blocking(move || make(&maker, answer))
        .await
        .map_err(|error| Refusal::Unreadable(format!("{error}\n")))??;
    service.writer.submit(job).map_err(|_| Refusal::Busy)?;
    // A dropped sender means that the transaction failed: nothing is acknowledged.
    answered.await.map_err(|_| Refusal::Busy)
}

/// Reads with the keys at hand, and once more with the keys read again: a missing one looks like a
/// forgery.
fn decoded<T>(
    service: &Service,
    decode: impl Fn(&KeySet) -> Result<T, WireError>,
) -> Result<T, Refusal> {
    match decode(&service.keys.current()) {
        Err(WireError::Forged { .. }) if service.keys.reload_if_due(Instant::now()) => {
            decode(&service.keys.current())
        }
        read => read,
    }
    .map_err(Refusal::Bytes)
}

/// Somebody says to be the node of a shard. Whatever becomes of what it says, and although its key
/// may not have reached us, no node is taken for dead: who lies about it can only put off voids.
fn heard(service: &Service, sender: Option<(CampaignId, ShardId)>) {
    let plans = &service.plans;
    let is_ours = |(campaign, shard)| {
        campaign == plans.campaign() && plans.shards().any(|planned| planned == shard)
    };
    if sender.is_some_and(is_ours) {
        service.heard_at.fetch_max(service.clock.wall().0, Ordering::Relaxed);
    }
}

/// Reads a request for a grant.
fn granted(
    service: &Service,
    bytes: &[u8],
    answer: oneshot::Sender<Vec<u8>>,
) -> Result<Job, Refusal> {
    let request = decoded(service, |keys| GrantRequest::decode(bytes, keys))?;
    let planned = is_planned(&request, service.plans.of(request.generation));
    Ok(Job::Grant(GrantJob { request, digest: digest(bytes), planned, answer }))
}

/// Reads a batch and judges its opens, with the keys read again if one is missing.
fn judged(
    service: &Service,
    bytes: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
) -> Result<Job, Refusal> {
    let batch = decoded(service, |keys| Batch::decode(&bytes, keys))?;
    let (campaign, manifests) = (service.plans.campaign(), service.plans.manifests());
    if batch.campaign != campaign {
        // INVALID is final: the opens of a node that asks the wrong ledger would be lost.
        let message = format!(
            "the ledger is of campaign {campaign}, the batch of {}; correct the agent's settlement \
             URL",
            batch.campaign
        );
        return Err(Refusal::Contradicts(message));
    }
    let admission = match admit(&batch, manifests, &service.keys.current()) {
        Admission::KeyMissing { .. } if service.keys.reload_if_due(Instant::now()) => {
            admit(&batch, manifests, &service.keys.current())
        }
        judged => judged,
    };
    match admission {
        Admission::Judged(genuine) => Ok(Job::Batch(BatchJob { batch, bytes, genuine, answer })),
        Admission::KeyMissing { campaign, shard, epoch } => {
            tracing::error!(
                event = "key_missing",
                shard = shard.0,
                epoch = epoch.0,
                "an open of a shard of which there is no public key waits; add it to --keys"
            );
            Err(Refusal::Missing(format!(
                "no public key of campaign {campaign} shard {shard} epoch {epoch} in --keys yet\n"
            )))
        }
        Admission::ManifestMissing { generation, shard } => {
            tracing::error!(
                event = "manifest_missing",
                generation,
                shard = shard.0,
                "an open of a generation of which there is no manifest waits; restart with its \
                 --manifest"
            );
            Err(Refusal::Missing(format!(
                "no manifest of generation {generation}, of a packet of shard {shard}; restart the \
                 ledger with its --manifest\n"
            )))
        }
    }
}

/// Reads a seal and holds it against the plan.
fn sealed(
    service: &Service,
    bytes: Vec<u8>,
    answer: oneshot::Sender<Kept>,
) -> Result<Job, Refusal> {
    let seal = decoded(service, |keys| Seal::decode(&bytes, keys))?;
    let plan = service.plans.of(seal.generation);
    check_seal(&seal, service.plans.campaign(), plan).map_err(Refusal::Contradicts)?;
    let ground = ground(service, service.keys.current());
    Ok(Job::Seal(SealJob { seal, bytes, ground, answer }))
}

/// Reads a request to void packets and holds it against the plan.
fn voided(
    service: &Service,
    bytes: &[u8],
    answer: oneshot::Sender<Result<Vec<u8>, Refused>>,
) -> Result<Job, Refusal> {
    // A node whose key is new must not be overlooked among those that are to be sealed.
    service.keys.reload_if_due(Instant::now());
    let (keys, plans) = (service.keys.current(), &service.plans);
    let key = keys.campaign(plans.campaign());
    let key = key.ok_or(Refusal::Bytes(WireError::Forged { what: "a void request" }))?;
    let request = VoidRequest::decode(bytes, &key).map_err(Refusal::Bytes)?;
    if request.campaign != plans.campaign() {
        let message = format!("the ledger is of campaign {}", plans.campaign());
        return Err(Refusal::Contradicts(message));
    }
    check_planned(&request, plans.of(request.generation))
        .map_err(|why| refused(why, service.clock.wall()))?;
    Ok(Job::Void(VoidJob { request, ground: ground(service, keys), answer }))
}

/// What seals and requests are judged by.
fn ground(service: &Service, keys: Arc<KeySet>) -> Ground {
    let plans = &service.plans;
    Ground {
        ticket_lifetime_us: plans.ticket_lifetime_us(),
        shards: epochs_of(plans.shards(), plans.campaign(), &keys),
        generations: plans.manifests().iter().map(Manifest::generation).collect(),
        heard_at: WallTime(service.heard_at.load(Ordering::Relaxed)),
        keys,
    }
}

async fn audit(State(service): State<Arc<Service>>) -> Result<Json<Value>, Refusal> {
    let reading = Arc::clone(&service);
    let totals = read(&service, move |store| store.totals()).await?;
    Ok(Json(totals_json(&reading, &totals)))
}

#[derive(Deserialize)]
struct Page {
    /// Only packets above this id, or tenures above this number.
    after: Option<u64>,
    /// At most this many rows.
    limit: Option<usize>,
}

async fn audit_opens(
    State(service): State<Arc<Service>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let limit = page.limit.unwrap_or(PAGE_ROWS.0).min(PAGE_ROWS.1);
    let rows = read(&service, move |store| store.rows(page.after.map(PacketId), limit)).await?;
    Ok(Json(rows.iter().map(row_json).collect()))
}

async fn audit_grants(
    State(service): State<Arc<Service>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Tenure>>, Refusal> {
    let limit = page.limit.unwrap_or(PAGE_ROWS.0).min(PAGE_ROWS.1);
    read(&service, move |store| store.tenures(page.after.unwrap_or(0), limit)).await.map(Json)
}

async fn audit_late_opens(
    State(service): State<Arc<Service>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let limit = page.limit.unwrap_or(PAGE_ROWS.0).min(PAGE_ROWS.1);
    let after = page.after.map(PacketId);
    let late = read(&service, move |store| store.late_opens(after, limit)).await?;
    let json = |late: &Late| {
        let Late { packet, user, accepted_at } = late;
        json!({ "packet": packet, "user": user, "accepted_at": accepted_at })
    };
    Ok(Json(late.iter().map(json).collect()))
}

async fn audit_voids(
    State(service): State<Arc<Service>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Value>>, Refusal> {
    let limit = page.limit.unwrap_or(PAGE_ROWS.0).min(PAGE_ROWS.1);
    let voids = read(&service, move |store| store.voids(page.after.map(PacketId), limit)).await?;
    let json = |void: &Void| json!({ "packet": void.packet, "child": void.child });
    Ok(Json(voids.iter().map(json).collect()))
}

/// Reads from the second connection on a blocking thread.
async fn read<T: Send + 'static>(
    service: &Arc<Service>,
    query: impl FnOnce(&mut Store) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let service = Arc::clone(service);
    let queried = spawn_blocking(move || {
        query(&mut service.reader.lock().unwrap_or_else(PoisonError::into_inner))
    });
    match queried.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Refusal::Unreadable(format!("{error}\n"))),
        Err(error) => Err(Refusal::Unreadable(format!("{error}\n"))),
    }
}

fn totals_json(service: &Service, totals: &Totals) -> Value {
    let manifest = service.plans.root();
    let part = |wanted: PacketState, only: Option<SponsorId>| {
        let chosen = totals
            .parts
            .iter()
            .filter(|(state, sponsor, ..)| *state == wanted && only.is_none_or(|n| n == *sponsor));
        let (count, sum) = chosen.fold((0, Fen::ZERO), |(count, sum), part| {
            (count + part.2, sum.checked_add(part.3).expect("within the budget's type"))
        });
        json!({ "packets": count, "sum": sum })
    };
    let states = |only: Option<SponsorId>| {
        PacketState::ALL.map(|state| (state.name().to_owned(), part(state, only)))
    };
    let sponsors: Vec<Value> = manifest
        .sponsors
        .iter()
        .map(|plan| {
            let mut object = serde_json::Map::from_iter(states(Some(plan.sponsor)));
            object.insert("sponsor".into(), json!(plan.sponsor));
            object.insert("name".into(), json!(plan.name));
            Value::Object(object)
        })
        .collect();
    let counters = &service.writer.counters;
    let mut object = serde_json::Map::from_iter(states(None));
    object.extend([
        ("campaign".to_owned(), json!(manifest.campaign)),
        ("currency".to_owned(), json!(manifest.currency)),
        ("exponent".to_owned(), json!(manifest.exponent)),
        ("sequence".to_owned(), json!(totals.sequence)),
        ("conflicts".to_owned(), json!(totals.conflicts)),
        ("voided".to_owned(), json!(totals.voided)),
        ("late_opens".to_owned(), json!(totals.late_opens)),
        ("ungranted_opens".to_owned(), json!(totals.ungranted_opens)),
        ("sponsors".to_owned(), Value::Array(sponsors)),
        (
            "since_start".to_owned(),
            json!({
                "transactions": counters.transactions.load(Ordering::Relaxed),
                "batches": counters.batches.load(Ordering::Relaxed),
                "opens": counters.opens.load(Ordering::Relaxed),
                "grants": counters.grants.load(Ordering::Relaxed),
            }),
        ),
    ]);
    Value::Object(object)
}

fn row_json(row: &Row) -> Value {
    json!({
        "packet": row.packet,
        "user": row.user,
        "sponsor": row.sponsor,
        "amount": row.amount,
        "state": row.state.name(),
        "sequence": row.sequence,
        "accepted_at": row.accepted_at,
        "settled_at": row.settled_at,
    })
}
