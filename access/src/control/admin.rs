//! The operators' HTTP port, on loopback only.

use super::{Control, status};
use axum::{
    Router,
    extract::State,
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

/// As SIGTERM: drains at the configured rate and ends the process.
async fn drain(State(control): State<Arc<Control>>) -> Response {
    control.stop.notify_one();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}
