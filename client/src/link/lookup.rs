//! The addresses behind a name, as a part of the time that an attempt may take.

use crate::{
    error::LinkError,
    limits::{ADDRESSES_MAX, CONNECT_MS_MAX},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout_at},
};

/// When an attempt that starts now is over: name, connection and handshake together.
pub(super) fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(CONNECT_MS_MAX)
}

/// The addresses of `endpoint` ("host:port") in the system's order, of the family of `local` where
/// that is given.
///
/// # Errors
/// [`LinkError::Name`]: the resolver knows none, or does not say so in time.
pub(super) async fn lookup(
    endpoint: &str,
    local: Option<IpAddr>,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, LinkError> {
    let no_answer = |_| LinkError::Name(format!("no answer within {CONNECT_MS_MAX} ms"));
    let found = timeout_at(deadline, lookup_host(endpoint)).await.map_err(no_answer)?;
    let found = found.map_err(|error| LinkError::Name(error.to_string()))?;
    let usable =
        |remote: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == remote.is_ipv4());
    Ok(found.filter(usable).take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_of_the_family_of_the_local_one_and_a_bad_name_has_none() {
        let check = async |endpoint: &str, local: Option<&str>, count: usize| {
            let local = local.map(|text| text.parse().expect("an address"));
            let found = lookup(endpoint, local, deadline()).await.expect("no name to look up");
            assert_eq!(found.len(), count, "{endpoint} from {local:?}");
        };
        check("127.0.0.1:1", None, 1).await;
        check("127.0.0.1:1", Some("127.0.0.9"), 1).await;
        check("127.0.0.1:1", Some("::1"), 0).await;
        check("[::1]:1", Some("::1"), 1).await;
        // A label of 64 characters: no resolver has to be asked.
        let told = lookup(&format!("{}:1", "x".repeat(64)), None, deadline()).await;
        assert!(matches!(told, Err(LinkError::Name(_))), "{told:?}");
    }

    #[test]
    fn a_resolver_has_no_more_time_than_the_attempt() {
        // The only thread that could ask is busy: so is a resolver that nobody answers.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().expect("a runtime");
        let (release, busy) = std::sync::mpsc::sync_channel::<()>(1);
        drop(runtime.spawn_blocking(move || busy.recv()));
        let told = runtime.block_on(async {
            let soon = Instant::now() + Duration::from_millis(20);
            lookup("localhost:1", None, soon).await
        });
        drop(release);
        assert!(matches!(told, Err(LinkError::Name(_))), "{told:?}");
    }
}
