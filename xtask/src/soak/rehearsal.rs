//! What the rehearsals of a bad day share: the event they play, and figures that are held against
//! their bounds, shown, and judged.

use crate::{event::Plan, table};
use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// campaigns/demo.toml: 10,000 packets in ten seconds. One thread for streams, whose number is 0,
/// and one for QUIC, number 1; both may be panicked.
pub(super) const DEMO: Plan = Plan { threads: 1, fail_points: true, ..Plan::DEMO };
/// The thread that serves TCP and TLS in [`DEMO`].
pub(super) const STREAM_THREAD: u16 = 0;
/// The thread that serves QUIC in [`DEMO`].
pub(super) const QUIC_THREAD: u16 = 1;

/// Figures of a rehearsal, in order.
pub(super) struct Rehearsal {
    name: &'static str,
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
    problems: Vec<String>,
}

impl Rehearsal {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new(), json: Map::new(), problems: Vec::new() }
    }

    /// A figure without a bound.
    pub(super) fn tell(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        self.rows.push((key.to_owned(), short(&value)));
        self.json.insert(key.to_owned(), value);
    }

    /// A figure that must not exceed `most`.
    pub(super) fn at_most(&mut self, key: &str, value: f64, most: f64) {
        self.bound(key, value, &format!("at most {most}"), value <= most);
    }

    /// A count that must be this one.
    pub(super) fn exactly(&mut self, key: &str, value: u64, wanted: u64) {
        self.bound(key, value, &format!("must be {wanted}"), value == wanted);
    }

    /// A count that must reach `least`.
    pub(super) fn at_least(&mut self, key: &str, value: u64, least: u64) {
        self.bound(key, value, &format!("at least {least}"), value >= least);
    }

    fn bound(&mut self, key: &str, value: impl Into<Value>, bound: &str, holds: bool) {
        let value = value.into();
        let shown = short(&value);
        if !holds {
            self.problems.push(format!("{key} is {shown}; {bound}"));
        }
        self.rows.push((key.to_owned(), format!("{shown} ({bound})")));
        self.json.insert(key.to_owned(), value);
    }

    /// Whether the audit found every fen; `audit` is what it printed.
    pub(super) fn audited(&mut self, audit: &Value) {
        for key in ["duplicates", "lost"] {
            // No such number is as bad as a wrong one.
            self.exactly(key, audit[key].as_u64().unwrap_or(u64::MAX), 0);
        }
        let verdict = audit["verdict"].as_str().unwrap_or("none").to_owned();
        let holds = verdict == "balanced";
        self.bound("audit", verdict, "must be balanced", holds);
    }

    /// Shows everything, as a table and as one line of JSON.
    ///
    /// # Errors
    /// A bound was missed.
    pub(super) fn judge(mut self) -> Result<()> {
        table::print(self.name, &self.rows);
        let verdict = if self.problems.is_empty() { "held" } else { "MISSED" };
        self.json.insert("soak".to_owned(), self.name.into());
        self.json.insert("verdict".to_owned(), verdict.into());
        println!("{}", Value::Object(self.json));
        if !self.problems.is_empty() {
            bail!("{}", self.problems.join("; "));
        }
        Ok(())
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or(f64::NAN))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_bound_can_be_missed() {
        let check = |miss: &dyn Fn(&mut Rehearsal), expected: &str| {
            let mut rehearsal = Rehearsal::new("test");
            miss(&mut rehearsal);
            let error = rehearsal.judge().expect_err("missed");
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(&|r| r.at_most("ratio", 2.01, 2.0), "ratio is 2.01; at most 2");
        check(&|r| r.at_most("ratio", f64::NAN, 2.0), "at most 2");
        check(&|r| r.exactly("lost", 1, 0), "lost is 1; must be 0");
        check(&|r| r.at_least("moves", 3_999, 4_000), "moves is 3999; at least 4000");
        check(&|r| r.audited(&json!({ "duplicates": 0, "lost": 0 })), "audit is none");
        check(&|r| r.audited(&json!({ "lost": 0, "verdict": "balanced" })), "duplicates");
        let mut good = Rehearsal::new("test");
        good.at_most("ratio", 2.0, 2.0);
        good.audited(&json!({ "duplicates": 0, "lost": 0, "verdict": "balanced" }));
        good.judge().expect("held");
    }
}
