//! The ledger's rows, page by page, and its totals, over HTTP. Judges nothing but their form.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};
use yao_protocol::{PacketId, UserId};

/// Rows per page (of late opens, packets); the ledger may give fewer.
const PAGE_ROWS: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(30);
/// The states that the ledger's totals tell.
const STATES: [&str; 3] = ["applied", "over_limit", "expired"];

/// A row of the ledger; what else a row says is not judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) packet: u64,
    pub(super) user: u64,
    pub(super) sponsor: u8,
    pub(super) amount: u64,
    pub(super) state: String,
    /// When the node accepted the open, Unix us.
    pub(super) accepted_at: u64,
    /// When the ledger settled it, Unix us.
    pub(super) settled_at: u64,
}

/// What the ledger says of one state as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Total {
    pub(super) packets: u64,
    pub(super) sum: u64,
}

/// A packet that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Void {
    pub(super) packet: u64,
    /// The generation that carries its value on.
    pub(super) child: u8,
}

/// An open that came after its packet had been taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Late {
    pub(super) packet: u64,
    pub(super) user: u64,
}

/// Everything that the ledger said.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// In the order in which the ledger gave them.
    pub(super) rows: Vec<Row>,
    /// Rows of other generations, which are judged elsewhere.
    pub(super) others: Vec<Row>,
    /// State and total, of all of these rows.
    pub(super) totals: Vec<(String, Total)>,
    /// What was taken back, of every generation.
    pub(super) voids: Vec<Void>,
    /// Packets of which a second user presented a valid ticket.
    pub(super) conflicts: u64,
    /// Opens with a valid ticket of packets that had been granted to nobody.
    pub(super) ungranted_opens: u64,
    /// Opens that came after their packet had been taken back.
    pub(super) late_opens: u64,
    /// Which these are.
    pub(super) late: Vec<Late>,
    /// Whether all of these are known and were made good.
    pub(super) late_allowed: bool,
}

impl Ledger {
    /// Reads every page, then the totals.
    ///
    /// # Errors
    /// A ledger that does not answer, answers in another form, or gives the same page again.
    pub(super) fn read(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(read_pages(url.trim_end_matches('/')))
    }

    /// What it says of one shard, whose rows `is_own`; the other rows count only in sums.
    pub(super) fn part(&self, is_own: impl Fn(PacketId) -> bool) -> Self {
        let (rows, others) =
            self.rows.iter().cloned().partition(|row| is_own(PacketId(row.packet)));
        Self { rows, others, ..self.clone() }
    }

    /// Whether a packet was taken back.
    pub(super) fn is_void(&self, packet: PacketId) -> bool {
        self.voids.iter().any(|void| void.packet == packet.0)
    }

    /// Whether an open of a packet by this user came too late, and that was made good.
    pub(super) fn is_excused(&self, packet: PacketId, user: UserId) -> bool {
        self.late_allowed && self.late.contains(&Late { packet: packet.0, user: user.0 })
    }

    /// Every row.
    pub(super) fn all_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(&self.others)
    }

    /// Writes the rows, one line of JSON each.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn dump(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for row in &self.rows {
            serde_json::to_writer(&mut out, row)?;
            out.write_all(b"\n")?;
        }
        out.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

async fn read_pages(url: &str) -> Result<Ledger> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let mut ledger = Ledger {
        rows: read_list(&client, &format!("{url}/v1/audit/opens"), |row: &Row| row.packet).await?,
        voids: read_list(&client, &format!("{url}/v1/audit/voids"), |void: &Void| void.packet)
            .await?,
        ..Ledger::default()
    };
    let mut totals = get(&client, &format!("{url}/v1/audit")).await?;
    for state in STATES {
        let total = serde_json::from_value(totals[state].take())
            .with_context(|| format!("{url}/v1/audit has no total of {state}"))?;
        ledger.totals.push((state.to_owned(), total));
    }
    let total = |name: &str| {
        totals[name].as_u64().with_context(|| format!("{url}/v1/audit tells no {name}"))
    };
    ledger.late_opens = total("late_opens")?;
    ledger.conflicts = total("conflicts")?;
    ledger.ungranted_opens = total("ungranted_opens")?;
    if ledger.late_opens > 0 {
        let url = format!("{url}/v1/audit/late_opens");
        ledger.late = read_list(&client, &url, |late: &Late| late.packet).await?;
        if ledger.late.len() as u64 != ledger.late_opens {
            bail!("{url} gives {} opens, not its total", ledger.late.len());
        }
    }
    if totals["voided"].as_u64() != Some(ledger.voids.len() as u64) {
        bail!("{url}/v1/audit/voids gives {} packets, not its total", ledger.voids.len());
    }
    Ok(ledger)
}

/// Every page of a list that rises by packet id.
async fn read_list<T: DeserializeOwned>(
    client: &reqwest::Client,
    url: &str,
    packet: impl Fn(&T) -> u64,
) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let mut after: Option<u64> = None;
    loop {
        let from = after.map_or_else(String::new, |packet| format!("&after={packet}"));
        let page = get(client, &format!("{url}?limit={PAGE_ROWS}{from}")).await?;
        let page: Vec<T> =
            serde_json::from_value(page).with_context(|| format!("{url} gave no rows"))?;
        let Some(highest) = page.iter().map(&packet).max() else { return Ok(list) };
        if after.is_some_and(|after| highest <= after) {
            bail!("{url} gives nothing new after packet {highest}");
        }
        after = Some(highest);
        list.extend(page);
    }
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
