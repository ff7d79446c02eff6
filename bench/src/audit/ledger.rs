//! The ledger's rows, page by page, over HTTP.

use super::evidence::Row;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

/// Rows per page; the ledger may give fewer.
const PAGE_ROWS: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Every row, rising by packet, checked against the ledger's own totals.
///
/// # Errors
/// A ledger that does not answer, or says two different things.
pub(super) fn read(url: &str) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(read_pages(url.trim_end_matches('/')))
}

async fn read_pages(url: &str) -> Result<Vec<Row>> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map_or_else(String::new, |row| format!("&after={}", row.packet));
        let page = get(&client, &format!("{url}/v1/audit/opens?limit={PAGE_ROWS}{after}")).await?;
        let page = page.as_array().context("a page of the ledger is no list")?;
        for value in page {
            let row = row(value)?;
            if rows.last().is_some_and(|last| last.packet >= row.packet) {
                bail!("the ledger's rows do not rise at packet {}", row.packet);
            }
            rows.push(row);
        }
        if page.is_empty() {
            break;
        }
    }
    let totals = get(&client, &format!("{url}/v1/audit")).await?;
    for state in ["applied", "over_limit", "expired"] {
        let chosen = rows.iter().filter(|row| row.state == state);
        let (packets, sum) = chosen.fold((0, 0), |(n, sum), row| (n + 1, sum + row.amount));
        let told = (&totals[state]["packets"], &totals[state]["sum"]);
        if (told.0.as_u64(), told.1.as_u64()) != (Some(packets), Some(sum)) {
            bail!(
                "the ledger's rows hold {packets} packets of {sum} in state {state}, its totals \
                 say \
                 {} of {}",
                told.0,
                told.1
            );
        }
    }
    Ok(rows)
}

fn row(value: &Value) -> Result<Row> {
    let number = |key: &str| {
        value[key].as_u64().with_context(|| format!("a row of the ledger has no {key}: {value}"))
    };
    Ok(Row {
        packet: number("packet")?,
        user: number("user")?,
        sponsor: u8::try_from(number("sponsor")?)?,
        amount: number("amount")?,
        state: value["state"].as_str().context("a row of the ledger has no state")?.to_owned(),
    })
}

async fn get(client: &reqwest::Client, url: &str) -> Result<Value> {
    let answer = client.get(url).send().await.with_context(|| format!("cannot reach {url}"))?;
    let status = answer.status();
    let bytes = answer.bytes().await.with_context(|| format!("cannot read {url}"))?;
    if !status.is_success() {
        bail!("{url} answered {status}: {}", String::from_utf8_lossy(&bytes));
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{url} answered no JSON"))
}
