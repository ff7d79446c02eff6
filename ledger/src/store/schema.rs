//! The tables, as the steps that made them what they are. The next change of a table is a step at
//! the end; a step that was ever released is never edited, since databases have taken it.
//!
//! Unsigned 64-bit numbers are stored as the signed ones with the same bits.

use super::{OpenError, signed};
use rusqlite::Transaction;
use yao_protocol::CampaignId;

/// `PRAGMA user_version` says how many of these a database has taken.
pub(super) const STEPS: [&str; 7] =
    [PACKETS, GRANTS, VOIDS, VOIDS_COUNTED, REQUESTS_UNBOUND, DELIVERED, UNGRANTED];

/// What was opened.
const PACKETS: &str = "
    CREATE TABLE packets (
        packet      INTEGER PRIMARY KEY,
        user        INTEGER NOT NULL,
        sponsor     INTEGER NOT NULL CHECK (sponsor BETWEEN 0 AND 63),
        amount      INTEGER NOT NULL CHECK (amount >= 0),
        state       INTEGER NOT NULL CHECK (state BETWEEN 1 AND 3),
        sequence    INTEGER NOT NULL UNIQUE,
        accepted_at INTEGER NOT NULL,
        settled_at  INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX paid_to ON packets (user, sponsor) WHERE state = 1;
    CREATE TABLE conflicts (
        packet     INTEGER NOT NULL,
        user       INTEGER NOT NULL,
        settled_at INTEGER NOT NULL,
        PRIMARY KEY (packet, user)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE campaign (id INTEGER PRIMARY KEY) STRICT;
";

/// Who may issue what ([`super::grants`]). A tenure's `last` is the newest of its grants;
/// `burnt_from` and `burnt_to` are what its beginning burnt of the one before.
const GRANTS: &str = "
    CREATE TABLE sections (
        shard       INTEGER NOT NULL,
        wave        INTEGER NOT NULL,
        generation  INTEGER NOT NULL,
        first       INTEGER NOT NULL,
        count       INTEGER NOT NULL,
        merkle_root BLOB NOT NULL,
        tenure      INTEGER NOT NULL REFERENCES tenures (tenure),
        PRIMARY KEY (shard, wave)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tenures (
        tenure         INTEGER PRIMARY KEY AUTOINCREMENT,
        shard          INTEGER NOT NULL,
        wave           INTEGER NOT NULL,
        epoch          INTEGER NOT NULL,
        claim          INTEGER NOT NULL CHECK (claim BETWEEN 1 AND 4),
        first          INTEGER NOT NULL,
        last           INTEGER NOT NULL CHECK (last >= first),
        lo             INTEGER NOT NULL,
        hi             INTEGER NOT NULL CHECK (hi >= lo),
        seen           INTEGER NOT NULL,
        burnt_from     INTEGER,
        burnt_to       INTEGER,
        holder         BLOB NOT NULL,
        previous       BLOB NOT NULL,
        node           TEXT NOT NULL,
        began_at       INTEGER NOT NULL,
        decided_at     INTEGER NOT NULL,
        not_after      INTEGER NOT NULL,
        request_digest BLOB NOT NULL,
        UNIQUE (shard, wave, first)
    ) STRICT;
";

/// What was taken back ([`super::reclaim`]), and by whose word ([`super::seals`]). A void's
/// `request` is the `first` of the request that voided it.
const VOIDS: &str = "
    CREATE TABLE seals (
        shard       INTEGER NOT NULL,
        generation  INTEGER NOT NULL,
        epoch       INTEGER NOT NULL,
        sealed_at   INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        seal        BLOB NOT NULL,
        PRIMARY KEY (shard, generation, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE children (
        child       INTEGER PRIMARY KEY CHECK (child BETWEEN 1 AND 255),
        plan_digest BLOB NOT NULL,
        asked_at    INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE void_requests (
        child      INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        shard      INTEGER NOT NULL,
        first      INTEGER NOT NULL,
        count      INTEGER NOT NULL,
        voided_at  INTEGER NOT NULL,
        PRIMARY KEY (child, generation, shard, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE voids (
        packet  INTEGER PRIMARY KEY,
        child   INTEGER NOT NULL,
        request INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE late_opens (
        packet      INTEGER NOT NULL,
        user        INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        settled_at  INTEGER NOT NULL,
        PRIMARY KEY (packet, user)
    ) STRICT, WITHOUT ROWID;
";

/// How many packets are void for each child generation, counted as they are voided. By that a
/// generation's manifest is known to be of this database.
const VOIDS_COUNTED: &str = "
    ALTER TABLE children ADD COLUMN packets INTEGER NOT NULL DEFAULT 0;
    UPDATE children SET packets = (SELECT COUNT(*) FROM voids WHERE voids.child = children.child);
";

/// Requests by which nothing became void bound their child to a plan for nothing.
const REQUESTS_UNBOUND: &str = "
    DELETE FROM void_requests WHERE child IN (SELECT child FROM children WHERE packets = 0);
";

/// What nodes delivered, and seals that contradict the kept ones.
const DELIVERED: &str = "
    CREATE TABLE delivered (
        shard    INTEGER NOT NULL,
        epoch    INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (shard, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE second_seals (
        shard       INTEGER NOT NULL,
        generation  INTEGER NOT NULL,
        epoch       INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        seal        BLOB NOT NULL,
        PRIMARY KEY (shard, generation, epoch)
    ) STRICT, WITHOUT ROWID;
";

/// Opens with valid tickets of packets that by our rows were granted to nobody.
const UNGRANTED: &str = "
    CREATE TABLE ungranted_opens (
        packet      INTEGER NOT NULL,
        user        INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        settled_at  INTEGER NOT NULL,
        PRIMARY KEY (packet, user)
    ) STRICT, WITHOUT ROWID;
";

/// Takes the steps that a database lacks; a new one becomes the campaign's.
///
/// # Errors
/// Those of SQLite; more steps than this program knows.
pub(super) fn bring_up(
    transaction: &Transaction<'_>,
    campaign: CampaignId,
) -> Result<(), OpenError> {
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = STEPS.len();
    let Some(steps) = usize::try_from(version).ok().and_then(|taken| STEPS.get(taken..)) else {
        return Err(OpenError::Foreign(format!(
            "has tables of version {version}, this program knows {known}"
        )));
    };
    for step in steps {
        transaction.execute_batch(step)?;
    }
    if version == 0 {
        transaction.execute("INSERT INTO campaign (id) VALUES (?1)", [signed(campaign.0)])?;
    }
    transaction.pragma_update(None, "user_version", known as i64)?;
    Ok(())
}
