//! The operators' HTTP port, on loopback only.

use super::{Control, status};
use crate::messages::ToShard;
use axum::{
    Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::sync::Arc;

/// Every route of the port.
pub(super) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status_json))
        .route("/agent/swap", post(swap))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/fail-point/panic/{thread}", post(panic_thread))
        .with_state(control)
}

/// 200 while new clients are welcome; else 503 and each reason on a line.
async fn ready(State(control): State<Arc<Control>>) -> Response {
    let reasons = control.unready_reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics(State(control): State<Arc<Control>>) -> Response {
    let text = control.exporter.render(&control);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn status_json(State(control): State<Arc<Control>>) -> Response {
    axum::Json(status::status(&control)).into_response()
}

/// Starts a new generation of the agent beside the old one; answers when it has taken over or
/// failed.
async fn swap(State(control): State<Arc<Control>>) -> Response {
    match control.swap_agent().await {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(text) => (StatusCode::CONFLICT, text + "\n").into_response(),
    }
}

async fn reload(State(control): State<Arc<Control>>) -> Response {
    match control.reload() {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(text) => (StatusCode::UNPROCESSABLE_ENTITY, text + "\n").into_response(),
    }
}

/// What a drain may be told; the configuration says the rest.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainOrder {
    per_second: Option<u32>,
    deadline_seconds: Option<u32>,
}

/// As SIGTERM: drains, at the configured rate unless told another, and ends the process. Asked
/// again, it changes rate and deadline; that one still counts from the beginning.
async fn drain(State(control): State<Arc<Control>>, Query(order): Query<DrainOrder>) -> Response {
    let mut drain = control.config.load().drain.clone();
    drain.per_second = order.per_second.unwrap_or(drain.per_second);
    drain.deadline_seconds = order.deadline_seconds.unwrap_or(drain.deadline_seconds);
    let text = format!(
        "draining {} sessions at {} a second; what is left after {} s is cut\n",
        control.registry.len(),
        drain.per_second,
        drain.deadline_seconds,
    );
    control.drain_order.store(Arc::new(drain));
    control.stop.notify_one();
    (StatusCode::ACCEPTED, text).into_response()
}

/// Panics a thread of sessions, where the configuration allows such things.
async fn panic_thread(State(control): State<Arc<Control>>, Path(thread): Path<u16>) -> Response {
    if !control.config.load().admin.fail_points {
        let text = "fail points are off; set admin.fail_points on a node that may be broken\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if usize::from(thread) >= control.shards.count() {
        let text = format!("there are threads 0 to {}\n", control.shards.count() - 1);
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    tracing::warn!(event = "fail_point", thread);
    control.shards.send(thread, ToShard::Panic);
    (StatusCode::ACCEPTED, "panicking\n").into_response()
}
