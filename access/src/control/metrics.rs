//! `/metrics`: the threads' numbers, once a second, in Prometheus' text form. No label per user,
//! address or connection, ever.

use super::Control;
use crate::telemetry::{Count, CryptoCounters};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::{collections::BTreeMap, sync::atomic::Ordering};

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

/// Goes through tables only, so that `names` has what this has.
fn samples(control: &Control) -> Vec<Sample> {
    let mut all = Vec::new();
    shard_samples(control, &mut all);
    let plain = |name: &str, value| Sample { name: name.to_owned(), labels: Vec::new(), value };
    all.extend(PLAIN.iter().map(|(name, read)| plain(name, read(control))));
    let issuer = control.issuer_status.load();
    all.extend(issuer.numbers().map(|(name, value)| plain(name, value)));
    for wave in &issuer.waves {
        for (name, value) in wave.numbers() {
            let labels = vec![("wave", wave.wave.to_string())];
            all.push(Sample { name: name.to_owned(), labels, value });
        }
    }
    for grant in &issuer.grants {
        for (name, value) in grant.numbers() {
            let labels = vec![("wave", grant.wave.to_string())];
            all.push(Sample { name: name.to_owned(), labels, value });
        }
    }
    for (name, value) in control.spool.numbers() {
        all.push(plain(&format!("{SPOOL}{name}"), value));
    }
    all
}

/// Every name that [`samples`] can bring.
#[cfg(test)]
pub(crate) fn names() -> std::collections::BTreeSet<String> {
    let shards = crate::telemetry::SHARD_COUNTERS.iter().map(|counter| counter.name);
    let plain = PLAIN.iter().map(|(name, _)| *name);
    let issuer = crate::issuer_thread::IssuerStatus::default();
    let issuer = issuer.numbers().map(|(name, _)| name);
    let waves = crate::issuer_thread::WAVE_NUMBERS.iter().map(|(name, _)| *name);
    let grants = crate::grant_status::GRANT_NUMBERS.iter().map(|(name, _)| *name);
    let names = shards.chain([THREAD_CONNECTIONS]).chain(plain).chain(issuer).chain(waves);
    let names = names.chain(grants);
    let spool = crate::spool::SpoolCounters::default();
    let spool = spool.numbers().map(|(name, _)| format!("{SPOOL}{name}"));
    names.map(str::to_owned).chain(spool).collect()
}

/// The connections of one thread.
const THREAD_CONNECTIONS: &str = "thread_connections";
/// Before the spool's own names.
const SPOOL: &str = "spool_";

/// A number without a label, and how to read it.
type Plain = (&'static str, fn(&Control) -> u64);

/// What threads of sessions, issuer and spool do not tell themselves.
const PLAIN: [Plain; 14] = [
    ("users", |c| c.registry.len() as u64),
    ("newcomers_refused", |c| u64::from(c.refuses_new())),
    ("reloads_refused_total", |c| c.reloads_refused.load(Ordering::Relaxed)),
    ("reconnects_replayed_total", |c| c.registry.replayed()),
    ("messages_dropped_total", |c| c.shards.dropped()),
    ("tokens_believed_total", |c| crypto_sum(c, |thread| &thread.tokens)),
    ("tokens_refused_total", |c| crypto_sum(c, |thread| &thread.tokens_bad)),
    ("tickets_verified_total", |c| crypto_sum(c, |thread| &thread.tickets)),
    ("tickets_refused_total", |c| crypto_sum(c, |thread| &thread.tickets_bad)),
    ("journal_records_total", |c| c.disk.journal_records.value()),
    ("journal_syncs_total", |c| c.disk.journal_syncs.value()),
    ("journal_late_us", |c| c.disk.journal_late_us.value()),
    ("cursor_raises_total", |c| c.disk.cursor_raises.value()),
    ("fenced", |c| c.disk.fenced.value()),
];

fn crypto_sum(control: &Control, count: fn(&CryptoCounters) -> &Count) -> u64 {
    control.crypto.iter().map(|thread| count(thread).value()).sum()
}

/// A metric's name and its one label, if any.
type Series = (&'static str, Option<(&'static str, &'static str)>);

/// Shard numbers summed over threads, and the connections of each thread: their skew is a symptom.
fn shard_samples(control: &Control, all: &mut Vec<Sample>) {
    let mut sums: BTreeMap<Series, u64> = BTreeMap::new();
    for (thread, counters) in control.shard_counters.iter().enumerate() {
        for (counter, value) in counters.iter() {
            *sums.entry((counter.name, counter.label)).or_default() += value;
            if counter.name == "connections" {
                let name = THREAD_CONNECTIONS.to_owned();
                all.push(Sample { name, labels: vec![("thread", thread.to_string())], value });
            }
        }
    }
    for ((name, label), value) in sums {
        let labels = label.map(|(key, value)| (key, value.to_owned())).into_iter().collect();
        all.push(Sample { name: name.to_owned(), labels, value });
    }
}
