//! `yao-ledger serve`: opens everything, says `ready`, serves until SIGTERM or a failed write.

use crate::{
    LedgerError, database,
    grants::GrantPolicy,
    http::{Service, router},
    init,
    keys::{self, KeyDirectory},
    plans::Plans,
    reclaim::VoidPolicy,
    state::Limits,
    store::{OpenError, Store},
    writer::{Rules, Writer},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    time::timeout,
};

/// After SIGTERM, requests that were being served get this long.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// What `serve` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The database, created when it is not there.
    pub database: PathBuf,
    /// The settlement key, from `init`.
    pub signing_key: PathBuf,
    /// The directory of public keys.
    pub keys: PathBuf,
    /// The campaign's manifests, one for each generation.
    pub manifests: Vec<PathBuf>,
    /// How far and how long grants reach.
    pub grants: GrantPolicy,
    /// How long packets wait before they are taken back.
    pub voids: VoidPolicy,
}

/// Serves until it is asked to end; `ready` is told the address.
///
/// # Errors
/// What is wrong with a file, an address in use, and a failed write.
pub fn serve(options: &Options, ready: impl FnOnce(SocketAddr)) -> Result<(), LedgerError> {
    let (key, key_id) = init::signing_key(&options.signing_key)?;
    let plans = keys::plans(&options.manifests, &options.keys)?;
    let keys = Arc::new(KeyDirectory::open(&options.keys, Instant::now())?);
    if keys.current().settlement(key_id) != Some(key.public()) {
        return Err(LedgerError::config(
            &options.keys,
            format!(
                "has no settlement-{key_id}.pub.json of this signing key, so that no node would \
                 believe our answers; run `yao-ledger init` with this directory"
            ),
        ));
    }
    let claimed = database::claim(&options.database, &options.signing_key, plans.campaign())?;
    let open = || {
        Store::open(&options.database, plans.campaign())
            .map_err(|error| open_error(&options.database, error))
    };
    let (store, reader) = (open()?, open()?);
    check_generations(&store, &plans, &options.database)?;
    let _claimed = claimed.made();
    let (stopped, writer_stopped) = oneshot::channel();
    let (limits, grants, voids) = (Limits::of(plans.root()), options.grants, options.voids);
    let rules = Rules { limits, grants, voids, key, key_id };
    let (writer, thread) = Writer::start(store, rules, stopped)?;
    let service = Arc::new(Service::new(plans, Arc::clone(&keys), writer, reader));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LedgerError::System { doing: "start the runtime".into(), error })?;
    let served = runtime.block_on(run(options.listen, service, &keys, writer_stopped, ready));
    // Requests that are still being read are dropped here, and with them the writer's queue.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    thread.join().unwrap_or(Err(LedgerError::WriterStopped))
}

async fn run(
    listen: SocketAddr,
    service: Arc<Service>,
    keys: &KeyDirectory,
    mut writer_stopped: oneshot::Receiver<()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), LedgerError> {
    let system = |doing: &str| {
        let doing = doing.to_owned();
        move |error| LedgerError::System { doing, error }
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listen for SIGINT"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(system("listen for SIGHUP"))?;
    let listener =
        TcpListener::bind(listen).await.map_err(system(&format!("listen on {listen}")))?;
    let address = listener.local_addr().map_err(system("tell the address"))?;
    let (end, mut ending) = watch::channel(false);
    let serving = axum::serve(listener, router(service)).with_graceful_shutdown(async move {
        // The sender outlives the server; an error would mean the same: end.
        ending.wait_for(|end| *end).await.ok();
    });
    let mut serving = tokio::spawn(async move { serving.await });
    ready(address);
    tracing::info!(%address, "ledger serves");
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            _ = &mut writer_stopped => break true,
            _ = hang_up.recv() => {
                if keys.reload() {
                    tracing::info!(keys = keys.current().len(), "key set read again");
                }
            }
            _ = &mut serving => break true,
        }
    };
    if failed {
        return Err(LedgerError::WriterStopped);
    }
    tracing::info!("ending: requests that were being served are finished");
    end.send_replace(true);
    if timeout(FINISH_MAX, serving).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
    Ok(())
}

/// Holds the manifests against what this database has voided.
fn check_generations(store: &Store, plans: &Plans, path: &Path) -> Result<(), LedgerError> {
    let voided = store.children().map_err(|error| open_error(path, error.into()))?;
    plans.check_voided(&voided).map_err(|message| LedgerError::config(path, message))?;
    for generation in plans.missing(&voided) {
        tracing::warn!(
            event = "manifest_missing",
            generation,
            packets = voided.get(&generation),
            "packets were voided for a generation of which there is no manifest: its opens wait, \
             and nothing is voided for another one"
        );
    }
    Ok(())
}

fn open_error(path: &Path, error: OpenError) -> LedgerError {
    match error {
        OpenError::Foreign(message) => LedgerError::config(path, message),
        OpenError::Sqlite(error) => LedgerError::Database { path: path.to_owned(), error },
    }
}
