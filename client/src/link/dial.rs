//! Races two transports to one node. Decides nothing: the order comes in.

use super::{Link, Transport, trust::Trust};
use crate::{error::LinkError, limits::RACE_STAGGER_MS, race::Order};
use std::{net::IpAddr, time::Duration};
use tokio::time::timeout;
use yao_protocol::endpoint::Endpoint;

/// Connects in this order; the first link to be established wins, and the other attempt is dropped,
/// which ends it. With `local`, from that address.
///
/// # Errors
/// What the last one to fail says, but rather what the node said than that there was no way to it.
pub async fn dial(
    order: Order,
    endpoint: &Endpoint,
    local: Option<IpAddr>,
    trust: Option<&Trust>,
) -> Result<Link, LinkError> {
    // On the heap: a connection under way is large, and a waiting client holds this future.
    let connect = |transport: Transport| Box::pin(Link::connect(transport, endpoint, local, trust));
    let mut first = connect(order.first);
    let Some(second) = order.second else { return first.await };
    let head_start = Duration::from_millis(RACE_STAGGER_MS);
    match timeout(head_start, &mut first).await {
        Ok(Ok(link)) => return Ok(link),
        Ok(Err(error)) => return connect(second).await.map_err(|later| error.or(later)),
        Err(_) => {}
    }
    let mut second = connect(second);
    tokio::select! {
        established = &mut first => match established {
            Ok(link) => Ok(link),
            Err(error) => second.await.map_err(|later| error.or(later)),
        },
        established = &mut second => match established {
            Ok(link) => Ok(link),
            Err(error) => first.await.map_err(|later| error.or(later)),
        },
    }
}
