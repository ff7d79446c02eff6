//! `/metrics`: the threads' numbers, once a second, in Prometheus' text form. No label per user,
//! address or connection, ever.

use super::Control;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::BTreeMap;

/// Prefix of every metric.
const PREFIX: &str = "yao_access_";

/// The façade's recorder, fed with absolute values.
pub struct Exporter {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Default for Exporter {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }
}

/// One number with its labels; `_total` names a counter, anything else a gauge.
struct Sample {
    name: String,
    labels: Vec<(&'static str, String)>,
    value: u64,
}

impl Exporter {
    /// The text of `/metrics` as of now.
    #[must_use]
    pub fn render(&self, control: &Control) -> String {
        let samples = samples(control);
        metrics::with_local_recorder(&self.recorder, || samples.into_iter().for_each(record));
        self.handle.render()
    }
}

fn record(sample: Sample) {
    let name = format!("{PREFIX}{}", sample.name);
    let labels: Vec<metrics::Label> =
        sample.labels.into_iter().map(|(key, value)| metrics::Label::new(key, value)).collect();
    if name.ends_with("_total") {
        metrics::counter!(name, labels).absolute(sample.value);
    } else {
        // Gauges are doubles in the exposition format; no amount of money is among them.
        metrics::gauge!(name, labels).set(sample.value as f64);
    }
}

fn samples(control: &Control) -> Vec<Sample> {
    let mut all = Vec::new();
    shard_samples(control, &mut all);
    let plain = |name: &str, value| Sample { name: name.to_owned(), labels: Vec::new(), value };
    all.push(plain("users", control.registry.len() as u64));
    all.push(plain("reconnects_replayed_total", control.registry.replayed()));
    all.push(plain("messages_dropped_total", control.shards.dropped()));
    for (name, read) in CRYPTO {
        all.push(plain(name, control.crypto.iter().map(|counters| read(counters)).sum()));
    }
    let disk = &control.disk;
    all.push(plain("journal_records_total", disk.journal_records.value()));
    all.push(plain("journal_syncs_total", disk.journal_syncs.value()));
    all.push(plain("journal_late_us", disk.journal_late_us.value()));
    all.push(plain("cursor_raises_total", disk.cursor_raises.value()));
    all.push(plain("fenced", disk.fenced.value()));
    let issuer = control.issuer_status.load();
    all.extend(issuer.numbers().map(|(name, value)| plain(name, value)));
    for wave in &issuer.waves {
        for (name, value) in wave.numbers() {
            let labels = vec![("wave", wave.wave.to_string())];
            all.push(Sample { name: name.to_owned(), labels, value });
        }
    }
    for (name, value) in control.spool.numbers() {
        all.push(plain(&format!("spool_{name}"), value));
    }
    all
}

type CryptoNumber = (&'static str, fn(&crate::telemetry::CryptoCounters) -> u64);

const CRYPTO: [CryptoNumber; 4] = [
    ("tokens_believed_total", |c| c.tokens.value()),
    ("tokens_refused_total", |c| c.tokens_bad.value()),
    ("tickets_verified_total", |c| c.tickets.value()),
    ("tickets_refused_total", |c| c.tickets_bad.value()),
];

/// A metric's name and its one label, if any.
type Series = (&'static str, Option<(&'static str, &'static str)>);

/// Shard numbers summed over threads, and the connections of each thread: their skew is a symptom.
fn shard_samples(control: &Control, all: &mut Vec<Sample>) {
    let mut sums: BTreeMap<Series, u64> = BTreeMap::new();
    for (thread, counters) in control.shard_counters.iter().enumerate() {
        for (counter, value) in counters.iter() {
            *sums.entry((counter.name, counter.label)).or_default() += value;
            if counter.name == "connections" {
                let name = "thread_connections".to_owned();
                all.push(Sample { name, labels: vec![("thread", thread.to_string())], value });
            }
        }
    }
    for ((name, label), value) in sums {
        let labels = label.map(|(key, value)| (key, value.to_owned())).into_iter().collect();
        all.push(Sample { name: name.to_owned(), labels, value });
    }
}
