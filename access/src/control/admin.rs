//! The operators' HTTP port, on loopback only.

use super::{Control, DrainOrder, status};
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
        .route("/refuse-new", post(refuse_new))
        .route("/take-new", post(take_new))
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

/// One line, with the status code of what it is.
fn answer(done: StatusCode, outcome: Result<String, String>, refused: StatusCode) -> Response {
    match outcome {
        Ok(text) => (done, text + "\n").into_response(),
        Err(text) => (refused, text + "\n").into_response(),
    }
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
    answer(StatusCode::OK, control.swap_agent().await, StatusCode::CONFLICT)
}

async fn reload(State(control): State<Arc<Control>>) -> Response {
    answer(StatusCode::OK, control.reload(), StatusCode::UNPROCESSABLE_ENTITY)
}

/// Newcomers are told to go elsewhere; who is here stays.
async fn refuse_new(State(control): State<Arc<Control>>) -> Response {
    answer(StatusCode::OK, control.refuse_new(true), StatusCode::CONFLICT)
}

/// Newcomers are taken again.
async fn take_new(State(control): State<Arc<Control>>) -> Response {
    answer(StatusCode::OK, control.refuse_new(false), StatusCode::CONFLICT)
}

/// As SIGTERM: drains, at the configured rate unless told another, and ends the process. Asked
/// again, it changes rate and deadline; that one still counts from the beginning.
async fn drain(State(control): State<Arc<Control>>, Query(order): Query<DrainOrder>) -> Response {
    answer(StatusCode::ACCEPTED, control.order_drain(order), StatusCode::UNPROCESSABLE_ENTITY)
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
