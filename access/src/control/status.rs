//! `/status`: what an operator wants to see at a glance, as JSON. No user, no secret.

use super::Control;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// The document.
#[must_use]
pub(super) fn status(control: &Control) -> Value {
    let node = &control.node;
    let issuer = control.issuer_status.load();
    let sum = |name| control.shard_counters.iter().map(|c| c.sum(name)).sum::<u64>();
    let waves: Vec<Value> = issuer
        .waves
        .iter()
        .map(|wave| {
            let mut entry: Map<String, Value> =
                wave.numbers().map(|(name, value)| (name.to_owned(), value.into())).collect();
            entry.insert("wave".into(), wave.wave.0.into());
            entry.insert("state".into(), wave.state.into());
            Value::Object(entry)
        })
        .collect();
    let spool: Map<String, Value> =
        control.spool.numbers().map(|(name, value)| (name.to_owned(), value.into())).collect();
    json!({
        "name": node.name,
        "version": env!("CARGO_PKG_VERSION"),
        "protocol_version": yao_protocol::client::VERSION,
        "uptime_seconds": node.clock.now().since(control.started).as_secs(),
        "campaign": node.campaign.0,
        "campaign_name": node.manifest.name,
        "shard": node.shard.0,
        "epoch": node.epoch.0,
        "incarnation": node.incarnation.to_string(),
        "schedule_version": control.schedule_version(),
        "connections": sum("connections"),
        "users": control.registry.len(),
        "newcomers": if control.refuses_new() { "refused" } else { "taken" },
        "newcomers_refused_seconds": control.refused_seconds(),
        "drain": control.drain_json(),
        "shakes": sum("shakes_total"),
        "reloads_refused": control.reloads_refused.load(Ordering::Relaxed),
        "unready": control.unready_reasons(),
        "warnings": control.warnings(),
        "fenced": issuer.fenced,
        "ownership": control.config.load().shard.ownership,
        "grants": issuer.grants,
        "waves": waves,
        "issuer": issuer.numbers().map(|(n, v)| (n.to_owned(), v.into())).collect::<Map<_, _>>(),
        "spool": spool,
        "agent": control.agent.as_ref().map(super::agent_json),
    })
}
