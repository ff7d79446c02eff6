//! The ledger's rows in SQLite, and the rules of [`crate::state`] applied to them.
//!
//! One row per packet that was opened, never changed, never deleted. [`grants`] holds who may issue
//! what in fleet mode, [`reclaim`] what was taken back, [`seals`] by whose word, and [`schema`] all
//! tables. WAL with `synchronous = FULL`: what is committed survives a power cut. Never signs,
//! never answers.

pub mod grants;
pub mod reclaim;
mod schema;
pub mod seals;

use crate::state::{Decision, Limits, PacketState, Row, Settled, Wins, decide};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, config::DbConfig,
    params,
};
use std::{path::Path, time::Duration};
use yao_protocol::{
    CampaignId, Fen, PacketId, SponsorId, UserId, WallTime,
    settlement::{Batch, OpenResult},
    spool::Open,
};

/// How long one process waits for another that writes the same database.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Statements that stay compiled: more than there are.
const STATEMENTS_MAX: usize = 64;

/// A page of rows.
const SELECT_ROWS: &str = "
    SELECT packet, user, sponsor, amount, state, sequence, accepted_at, settled_at
    FROM packets WHERE packet BETWEEN ?1 AND ?2 ORDER BY packet LIMIT ?3";

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// It holds something else.
    #[error("{0}")]
    Foreign(String),
}

/// What the ledger holds, at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows so far; the sequence of the last one.
    pub sequence: u64,
    /// Packets and their sum by state and sponsor.
    pub parts: Vec<(PacketState, SponsorId, u64, Fen)>,
    /// Opens of a packet that another user had opened before. Never expected.
    pub conflicts: u64,
    /// Packets taken back.
    pub voided: u64,
    /// Opens of packets that had been taken back. Never expected.
    pub late_opens: u64,
    /// Opens of packets that had been granted to nobody. Never expected.
    pub ungranted_opens: u64,
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Whether there are tables in a database that is there.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn has_tables(path: &Path) -> rusqlite::Result<bool> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_MAX)?;
        let steps: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok(steps > 0)
    }

    /// Opens the database, creating its tables when it is new.
    ///
    /// # Errors
    /// Those of SQLite; a database of another campaign or version.
    pub fn open(path: &Path, campaign: CampaignId) -> Result<Self, OpenError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_MAX)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // SQLite plans a query anew when a limit changes, or a parameter such as a shard or a wave
        // becomes 0 or 1 or ceases to be: that costs more than the query, and none of ours gains.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::bring_up(&transaction, campaign)?;
        let found: i64 = transaction.query_row("SELECT id FROM campaign", [], |row| row.get(0))?;
        if found != signed(campaign.0) {
            let found = unsigned(found);
            return Err(OpenError::Foreign(format!(
                "belongs to campaign {found}, the manifest is of campaign {campaign}; name another \
                 --database"
            )));
        }
        transaction.commit()?;
        Ok(Self { connection })
    }

    /// Settles several batches in one transaction: all of them, or on an error none. With each
    /// batch comes which of its opens are genuine; one result per open comes back.
    ///
    /// # Errors
    /// Those of SQLite. Whether the commit happened is then unknown until the next start.
    pub fn settle(
        &mut self,
        limits: Limits,
        now: WallTime,
        batches: &[(&Batch, &[bool])],
    ) -> rusqlite::Result<Vec<Vec<OpenResult>>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut sequence = last_sequence(&transaction)?;
        let mut all = Vec::with_capacity(batches.len());
        for (batch, genuine) in batches {
            assert_eq!(batch.records.len(), genuine.len(), "one verdict per open");
            seals::keep_delivered(&transaction, batch)?;
            let mut results = Vec::with_capacity(genuine.len());
            for ((_, open), genuine) in batch.records.iter().zip(*genuine) {
                let body = &open.ticket.body;
                results.push(if !genuine {
                    OpenResult::Invalid
                } else if grants::may_have_been_issued(&transaction, body)? {
                    settle_one(&transaction, limits, now, &mut sequence, open)?
                } else {
                    grants::keep_ungranted(&transaction, now, open)?;
                    OpenResult::Invalid
                });
            }
            all.push(results);
        }
        transaction.commit()?;
        Ok(all)
    }

    /// Totals at one instant.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn totals(&mut self) -> rusqlite::Result<Totals> {
        let transaction = self.connection.transaction()?;
        let sequence = last_sequence(&transaction)?;
        let count = |table: &str| {
            let query = format!("SELECT COUNT(*) FROM {table}");
            transaction.prepare_cached(&query)?.query_row([], |row| row.get(0)).map(unsigned)
        };
        let (conflicts, voided) = (count("conflicts")?, count("voids")?);
        let (late_opens, ungranted_opens) = (count("late_opens")?, count("ungranted_opens")?);
        let mut statement = transaction.prepare_cached(
            "SELECT state, sponsor, COUNT(*), SUM(amount) FROM packets
             GROUP BY state, sponsor ORDER BY state, sponsor",
        )?;
        let parts = statement
            .query_map([], |row| {
                let (count, sum): (i64, i64) = (row.get(2)?, row.get(3)?);
                Ok((state(row.get(0)?), sponsor(row.get(1)?), unsigned(count), Fen(unsigned(sum))))
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Totals { sequence, parts, conflicts, voided, late_opens, ungranted_opens })
    }

    /// At most `limit` rows with a packet id above `after`, rising.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn rows(&self, after: Option<PacketId>, limit: usize) -> rusqlite::Result<Vec<Row>> {
        let mut found = Vec::new();
        for (first, last) in stretches(after) {
            let room = limit - found.len();
            let mut statement = self.connection.prepare_cached(SELECT_ROWS)?;
            let room = i64::try_from(room).unwrap_or(i64::MAX);
            for row in statement.query_map(params![first, last, room], read_row)? {
                found.push(row?);
            }
        }
        Ok(found)
    }
}

/// The stretches of stored ids above `after`, in the order of ids: those from 2^63 on are stored
/// as negative numbers, in order, and come last.
fn stretches(after: Option<PacketId>) -> Vec<(i64, i64)> {
    const LOWER: (i64, i64) = (0, i64::MAX);
    const UPPER: (i64, i64) = (i64::MIN, -1);
    match after.map(|packet| signed(packet.0)) {
        None => vec![LOWER, UPPER],
        Some(i64::MAX) => vec![UPPER],
        Some(after) if after >= 0 => vec![(after + 1, LOWER.1), UPPER],
        Some(-1) => Vec::new(),
        Some(after) => vec![(after + 1, UPPER.1)],
    }
}

fn settle_one(
    transaction: &Transaction<'_>,
    limits: Limits,
    now: WallTime,
    sequence: &mut u64,
    open: &Open,
) -> rusqlite::Result<OpenResult> {
    let body = &open.ticket.body;
    let found = transaction
        .prepare_cached("SELECT user, state FROM packets WHERE packet = ?1")?
        .query_row([signed(body.packet.0)], |row| {
            Ok(Settled { user: UserId(unsigned(row.get(0)?)), state: state(row.get(1)?) })
        })
        .optional()?;
    // A packet whose open was refused may be void since: its user hears the same final word again.
    if found.is_none() && reclaim::keep_if_late(transaction, now, open)? {
        return Ok(OpenResult::Reclaimed);
    }
    let wins = if found.is_none() { wins(transaction, body.user)? } else { Wins::default() };
    let Decision { result, record } = decide(limits, found, wins, open);
    if let Some(state) = record {
        *sequence += 1;
        transaction
            .prepare_cached(
                "INSERT INTO packets
                 (packet, user, sponsor, amount, state, sequence, accepted_at, settled_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                signed(body.packet.0),
                signed(body.user.0),
                body.sponsor.number(),
                signed(body.amount.0),
                state as u8,
                signed(*sequence),
                signed(open.accepted_at.0),
                signed(now.0),
            ])?;
    }
    if result == OpenResult::Conflict {
        tracing::error!(packet = %body.packet, "a second user presents a valid ticket for it");
        transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO conflicts (packet, user, settled_at) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![signed(body.packet.0), signed(body.user.0), signed(now.0)])?;
    }
    Ok(result)
}

fn wins(transaction: &Transaction<'_>, user: UserId) -> rusqlite::Result<Wins> {
    let mut statement =
        transaction.prepare_cached("SELECT sponsor FROM packets WHERE user = ?1 AND state = 1")?;
    let mut wins = Wins::default();
    for paid in statement.query_map([signed(user.0)], |row| row.get(0))? {
        wins = wins.with(sponsor(paid?));
    }
    Ok(wins)
}

fn last_sequence(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let mut statement =
        transaction.prepare_cached("SELECT COALESCE(MAX(sequence), 0) FROM packets")?;
    statement.query_row([], |row| row.get(0)).map(unsigned)
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        packet: PacketId(unsigned(row.get(0)?)),
        user: UserId(unsigned(row.get(1)?)),
        sponsor: sponsor(row.get(2)?),
        amount: Fen(unsigned(row.get(3)?)),
        state: state(row.get(4)?),
        sequence: unsigned(row.get(5)?),
        accepted_at: WallTime(unsigned(row.get(6)?)),
        settled_at: WallTime(unsigned(row.get(7)?)),
    })
}

fn state(number: u8) -> PacketState {
    PacketState::from_number(number).expect("the table's CHECK admits no other state")
}

fn sponsor(number: u8) -> SponsorId {
    SponsorId::new(number).expect("the table's CHECK admits no other sponsor")
}

/// The signed number with these 64 bits.
const fn signed(value: u64) -> i64 {
    value.cast_signed()
}

/// The unsigned number with these 64 bits.
const fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
