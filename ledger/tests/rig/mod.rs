//! A campaign on disk, a ledger process, and an HTTP client of a few lines.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    UserId, WallTime, WaveIndex,
    keys::{KeyOwner, KeySet, PublicKeyFile, SignKey},
    manifest::{Manifest, Reclaimed, ShardEntry, SponsorPlan, WavePlan},
    seal::{Seal, SealedWave},
    settlement::{Answer, Batch, digest},
    spool::Open,
    ticket::TicketBody,
    void::VoidRequest,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_yao-ledger");
const CAMPAIGN: CampaignId = CampaignId(2015);
pub(crate) const EXPIRES_AT: u64 = 1_000;
pub(crate) const PACKETS_PER_SHARD: u32 = 100_000;

/// Shards of generation 0; the one of generation 1 comes behind them.
const SHARDS: u32 = 638;
pub(crate) const LATER_SHARD: u32 = SHARDS;

/// The files of a campaign and of the shard that sends batches.
pub(crate) struct Setup {
    directory: TempDir,
    shard: ShardId,
}

fn shard_key(shard: ShardId) -> SignKey {
    SignKey::from_seed(&[u8::try_from(shard.0 % 199).expect("below 199"); 32])
}

fn campaign_key() -> SignKey {
    SignKey::from_seed(&[200; 32])
}

/// One packet each for as many users.
pub(crate) fn opens_of(indexes: Range<u32>) -> Vec<Open> {
    indexes.map(|index| open(ShardId(17), index, u64::from(index) + 1_000, |_| {})).collect()
}

fn open(shard: ShardId, index: u32, user: u64, change: impl FnOnce(&mut TicketBody)) -> Open {
    let mut body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId::new(0, shard, PacketIndex(index)),
        user: UserId(user),
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: WallTime(0),
        expires_at: WallTime(EXPIRES_AT),
        shard,
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    change(&mut body);
    let generation = u8::from(body.shard.0 == LATER_SHARD).max(body.packet.generation());
    body.packet = PacketId::new(generation, body.shard, PacketIndex(index));
    Open { accepted_at: WallTime(50), ticket: body.sign(&shard_key(shard)) }
}

/// The manifest of generation 0.
fn root_manifest() -> Manifest {
    let sponsors = (0..8).map(|n| SponsorPlan {
        sponsor: SponsorId::new(n).expect("below 64"),
        name: format!("sponsor {n}"),
        packets: 1_000_000,
        sum: Fen(100_000_000),
    });
    Manifest {
        campaign: CAMPAIGN,
        name: "test".to_owned(),
        currency: "CNY".to_owned(),
        exponent: 2,
        plan_digest: [0; 32],
        packets: 8_000_000,
        budget: Fen(800_000_000),
        wins_per_user: 3,
        wins_per_sponsor: 1,
        ticket_lifetime_seconds: 60,
        sponsors: sponsors.collect(),
        waves: vec![WavePlan {
            wave: WaveIndex(0),
            name: "wave".to_owned(),
            duration_us: 1,
            packets: 8_000_000,
            sum: Fen(800_000_000),
        }],
        shard_count: SHARDS,
        shards: vec![ShardEntry {
            shard: ShardId(17),
            file: "shard-00017.yaoseed".to_owned(),
            bytes: 0,
            hash: [0; 32],
            packets: PACKETS_PER_SHARD,
            sum: Fen(10_000_000),
            merkle_root: [0; 32],
        }],
        reclaimed: None,
    }
}

impl Setup {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let setup = Self { directory, shard: ShardId(17) };
        fs::create_dir(setup.path("keys")).expect("create");
        fs::write(setup.path("manifest"), root_manifest().encode(&campaign_key())).expect("write");
        setup.publish_key(
            "campaign-2015",
            KeyOwner::Campaign { campaign: CAMPAIGN },
            &campaign_key(),
        );
        setup.publish();
        assert_eq!(Ledger::init(&setup), Some(0));
        setup
    }

    /// The manifest of a generation 1 that carries on so many packets; its path.
    pub(crate) fn later_manifest(&self, packets: u32) -> String {
        let root = root_manifest();
        let entry = ShardEntry { shard: ShardId(LATER_SHARD), packets, ..root.shards[0].clone() };
        let reclaimed = Reclaimed {
            generation: 1,
            first_shard: LATER_SHARD,
            root_digest: root.plan_digest,
            parents: Vec::new(),
        };
        let manifest = Manifest {
            plan_digest: [1; 32],
            packets: packets.into(),
            shard_count: 1,
            shards: vec![entry],
            reclaimed: Some(reclaimed),
            ..root
        };
        let path = self.path(&format!("manifest-{packets}"));
        fs::write(&path, manifest.encode(&campaign_key())).expect("write");
        path.display().to_string()
    }

    /// The same files, used by another shard of the campaign.
    pub(crate) fn with_shard(&self, shard: u32) -> Shard<'_> {
        Shard { setup: self, shard: ShardId(shard) }
    }

    fn own(&self) -> Shard<'_> {
        self.with_shard(self.shard.0)
    }

    pub(crate) fn publish(&self) {
        self.own().publish();
    }

    pub(crate) fn batch(&self, opens: &[Open]) -> (Batch, Vec<u8>) {
        self.own().batch(opens)
    }

    /// A batch of another campaign, whose key is published here, too.
    pub(crate) fn foreign_batch(&self, opens: &[Open]) -> Vec<u8> {
        let (own, _) = self.batch(opens);
        let batch = Batch { campaign: CampaignId(CAMPAIGN.0 + 1), ..own };
        let (campaign, shard, epoch) = (batch.campaign, batch.shard, batch.epoch);
        let owner = KeyOwner::Ticket { campaign, shard, epoch };
        self.publish_key("ticket-of-another-campaign", owner, &shard_key(shard));
        batch.encode(&shard_key(shard))
    }

    pub(crate) fn open(&self, index: u32, user: u64, sponsor: u8, accepted_at: u64) -> Open {
        self.own().open(index, user, sponsor, accepted_at)
    }

    pub(crate) fn open_with(&self, index: u32, change: impl FnOnce(&mut TicketBody)) -> Open {
        open(self.shard, index, 500 + u64::from(index), change)
    }

    pub(crate) fn packet(&self, index: u32) -> u64 {
        PacketId::new(0, self.shard, PacketIndex(index)).0
    }

    pub(crate) fn spoil_manifest(&self) {
        let text = fs::read_to_string(self.path("manifest")).expect("read");
        fs::write(self.path("manifest"), text.replace("\"CNY\"", "\"USD\"")).expect("write");
    }

    /// The path of a database.
    pub(crate) fn database(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The arguments of `serve`, some of them replaced.
    pub(crate) fn arguments(&self, change: &[(&str, &str)]) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        let options = [
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--database", file("ledger.db")),
            ("--signing-key", file("settlement.key.json")),
            ("--keys", file("keys")),
            ("--manifest", file("manifest")),
        ];
        let mut arguments = vec!["serve".to_owned()];
        for (name, value) in options {
            let changed = change.iter().find(|(changed, _)| *changed == name);
            arguments.push(name.to_owned());
            arguments.push(changed.map_or(value, |(_, value)| (*value).to_owned()));
        }
        arguments
    }

    pub(crate) fn start(&self) -> Ledger {
        self.start_with(&[])
    }

    /// A ledger that is told more.
    pub(crate) fn start_with(&self, more: &[&str]) -> Ledger {
        let mut child = Command::new(PROGRAM)
            .args(self.arguments(&[]))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let ready = line.strip_prefix("ready ").unwrap_or_else(|| panic!("not ready: {line:?}"));
        let ready: serde_json::Value = serde_json::from_str(ready).expect("JSON");
        let address = ready["http"].as_str().expect("an address").to_owned();
        Ledger { child, address, keys: self.key_set() }
    }

    /// The seal of the own shard: packets from `high` on never left.
    pub(crate) fn seal(&self, high: u32) -> Vec<u8> {
        self.seal_of(PACKETS_PER_SHARD, high)
    }

    /// A seal with so many packets.
    pub(crate) fn seal_of(&self, count: u32, high: u32) -> Vec<u8> {
        self.seal_at(WallTime(60), count, high)
    }

    /// A seal of some time of the node's clock.
    pub(crate) fn seal_at(&self, sealed_at: WallTime, count: u32, high: u32) -> Vec<u8> {
        let seal = Seal {
            campaign: CAMPAIGN,
            shard: self.shard,
            generation: 0,
            epoch: Epoch(1),
            incarnation: Incarnation([9; 16]),
            settled: 1,
            sealed_at,
            merkle_root: [0; 32],
            waves: vec![SealedWave { wave: WaveIndex(0), count, high }],
        };
        seal.encode(&shard_key(self.shard))
    }

    /// A request to void packets of the own shard for generation 1.
    pub(crate) fn void_request(&self, first: u32, count: u32) -> Vec<u8> {
        self.void_request_of(first, count).encode(&campaign_key())
    }

    /// What it says.
    pub(crate) fn void_request_of(&self, first: u32, count: u32) -> VoidRequest {
        VoidRequest {
            campaign: CAMPAIGN,
            shard: self.shard,
            generation: 0,
            child: 1,
            first,
            count,
            plan_digest: [3; 32],
        }
    }

    /// Whose requests to void are heard.
    pub(crate) fn campaign_key() -> SignKey {
        campaign_key()
    }

    fn key_set(&self) -> KeySet {
        let mut keys = KeySet::default();
        for entry in fs::read_dir(self.path("keys")).expect("read") {
            let text = fs::read_to_string(entry.expect("an entry").path()).expect("read");
            keys.add(&serde_json::from_str(&text).expect("a key file")).expect("one key each");
        }
        keys
    }

    fn publish_key(&self, name: &str, owner: KeyOwner, key: &SignKey) {
        let file = PublicKeyFile { owner, key: key.public().to_bytes() };
        let path = self.path("keys").join(format!("{name}.pub.json"));
        fs::write(path, serde_json::to_string(&file).expect("plain data")).expect("write");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A shard that sends batches.
pub(crate) struct Shard<'a> {
    setup: &'a Setup,
    shard: ShardId,
}

impl Shard<'_> {
    pub(crate) fn publish(&self) {
        let owner = KeyOwner::Ticket { campaign: CAMPAIGN, shard: self.shard, epoch: Epoch(1) };
        let name = format!("ticket-{:05}-001", self.shard.0);
        self.setup.publish_key(&name, owner, &shard_key(self.shard));
    }

    pub(crate) fn open(&self, index: u32, user: u64, sponsor: u8, accepted_at: u64) -> Open {
        let sponsor = SponsorId::new(sponsor).expect("below 64");
        let open = open(self.shard, index, user, |body| body.sponsor = sponsor);
        Open { accepted_at: WallTime(accepted_at), ..open }
    }

    pub(crate) fn batch(&self, opens: &[Open]) -> (Batch, Vec<u8>) {
        let batch = Batch {
            campaign: CAMPAIGN,
            shard: self.shard,
            epoch: Epoch(1),
            incarnation: Incarnation([9; 16]),
            records: (1..).zip(opens.iter().copied()).collect(),
        };
        let bytes = batch.encode(&shard_key(self.shard));
        (batch, bytes)
    }
}

/// A running ledger.
pub(crate) struct Ledger {
    child: Child,
    address: String,
    keys: KeySet,
}

impl Ledger {
    pub(crate) fn init(setup: &Setup) -> Option<i32> {
        let file = |name: &str| setup.path(name).display().to_string();
        let (key, keys) = (file("settlement.key.json"), file("keys"));
        run(&["init", "--signing-key", &key, "--key-id", "1", "--keys", &keys]).0
    }

    pub(crate) fn client(&self) -> Client {
        Client { address: self.address.clone(), keys: self.keys.clone() }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Ended already, or ended now: either way nothing stays behind.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs the program to its end: exit code and standard error.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(arguments).output().expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An HTTP client with one connection per request.
pub(crate) struct Client {
    address: String,
    keys: KeySet,
}

impl Client {
    pub(crate) fn post(&self, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        self.request("POST", "/v1/opens", body)
    }

    pub(crate) fn post_to(&self, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        self.request("POST", path, body)
    }

    /// The public keys.
    pub(crate) const fn keys(&self) -> &KeySet {
        &self.keys
    }

    pub(crate) fn get_json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.request("GET", path, &[]).expect("alive");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    /// All rows, page by page.
    pub(crate) fn rows(&self) -> Vec<serde_json::Value> {
        let mut rows: Vec<serde_json::Value> = Vec::new();
        loop {
            let after =
                rows.last().map_or(String::new(), |row| format!("after={}&", row["packet"]));
            let page = self.get_json(&format!("/v1/audit/opens?{after}limit=7777"));
            let page = page.as_array().expect("rows").clone();
            if page.is_empty() {
                return rows;
            }
            rows.extend(page);
        }
    }

    /// The answer in `body`, checked as a node checks it.
    pub(crate) fn answer(&self, body: &[u8], batch: &[u8]) -> Answer {
        let answer = Answer::decode(body, &self.keys).expect("signed by settlement");
        assert_eq!((answer.batch_digest, answer.key_id), (digest(batch), KeyId(1)));
        answer
    }

    fn request(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        // A server that refuses the length closes before it has read everything.
        let sent = stream.write_all(body);
        let mut response = Vec::new();
        let read = stream.read_to_end(&mut response);
        let broken = || std::io::Error::other("no whole response");
        let end = response
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .ok_or_else(|| sent.err().or_else(|| read.err()).unwrap_or_else(broken))?;
        let (head, rest) = response.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.and_then(|length| length.trim().parse().ok()) != Some(rest.len()) {
            return Err(broken());
        }
        Ok((status, rest.to_vec()))
    }
}
