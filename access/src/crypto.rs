//! Crypto threads: they check session tokens and, in batches, tickets, so that a storm of HELLOs or
//! opens never stalls a connection loop.

use crate::{
    messages::{OpenReply, ToCrypto, ToShard, ToSpool},
    node::{Node, Shards},
    telemetry::CryptoCounters,
    token_keys::TokenKeys,
};
use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, TrySendError},
};
use yao_engine::ConnectionId;
use yao_protocol::{
    UserId,
    client::{ErrorCode, Refusal, RetryClass},
    ticket::{Ticket, verify_tickets},
    token::Bearer,
};

/// Tickets verified together. Larger batches gain nothing more and delay the first answer.
const TICKETS_MAX: usize = 128;

/// The public key of the ticket's shard is not here yet.
const KEY_MISSING: Refusal = Refusal {
    code: ErrorCode::OpenUnavailable,
    class: RetryClass::After,
    closes: false,
    delay_ms: 5_000,
    jitter_ms: 5_000,
};

/// What a crypto thread needs.
pub struct CryptoContext {
    /// Who we are.
    pub node: Arc<Node>,
    /// Keys of session tokens; replaced by a reload.
    pub tokens: Arc<ArcSwap<TokenKeys>>,
    /// For the answers.
    pub shards: Shards,
    /// Good tickets go here.
    pub spool: SyncSender<ToSpool>,
    /// Read by the control thread.
    pub counters: Arc<CryptoCounters>,
}

/// An open whose ticket waits to be checked.
#[derive(Debug)]
pub struct Waiting {
    connection: ConnectionId,
    request_id: u32,
    bearer: Bearer,
    ticket: Ticket,
}

/// Runs a crypto thread until its queue's senders are gone.
pub fn run(context: &CryptoContext, queue: &Receiver<ToCrypto>) {
    let mut waiting = Vec::with_capacity(TICKETS_MAX);
    while let Ok(message) = queue.recv() {
        turn(context, message, queue, &mut waiting);
    }
}

/// One turn of the thread: `first`, and what waits behind it. `waiting` is empty before and after.
pub fn turn(
    context: &CryptoContext,
    first: ToCrypto,
    queue: &Receiver<ToCrypto>,
    waiting: &mut Vec<Waiting>,
) {
    take(context, first, waiting);
    // Bounded by messages, not by tickets: in a storm of HELLOs the tickets between them must
    // not wait for its end.
    for _ in 1..TICKETS_MAX {
        match queue.try_recv() {
            Ok(message) => take(context, message, waiting),
            Err(_) => break,
        }
    }
    check_tickets(context, waiting);
}

fn take(context: &CryptoContext, message: ToCrypto, waiting: &mut Vec<Waiting>) {
    match message {
        ToCrypto::Token { connection, token } => {
            let identity = context.tokens.load().identity(&token, context.node.clock.wall());
            let counter = if identity.is_some() {
                &context.counters.tokens
            } else {
                &context.counters.tokens_bad
            };
            counter.add(1);
            context.shards.send(connection.thread, ToShard::TokenChecked { connection, identity });
        }
        ToCrypto::Ticket { connection, request_id, user, bearer, ticket } => {
            match plausible(context, user, &*ticket) {
                Some(ticket) => waiting.push(Waiting { connection, request_id, bearer, ticket }),
                None => refuse(context, connection, request_id),
            }
        }
    }
}

/// A ticket that says what the session says; its signature comes next.
fn plausible(context: &CryptoContext, user: UserId, bytes: &[u8]) -> Option<Ticket> {
    let ticket = Ticket::decode(bytes).ok()?;
    let body = &ticket.body;
    (body.user == user && body.campaign == context.node.campaign).then_some(ticket)
}

fn check_tickets(context: &CryptoContext, waiting: &mut Vec<Waiting>) {
    if waiting.is_empty() {
        return;
    }
    let tickets: Vec<Ticket> = waiting.iter().map(|open| open.ticket).collect();
    let keys = context.node.keys.load();
    let good = verify_tickets(&tickets, &keys);
    for (open, good) in waiting.drain(..).zip(good) {
        let Waiting { connection, request_id, bearer, ticket } = open;
        if !good {
            let body = &ticket.body;
            if keys.ticket(body.campaign, body.shard, body.epoch).is_some() {
                refuse(context, connection, request_id);
            } else {
                // A node that is newer than our key set: "never" would be about us, not about it.
                let reply = OpenReply::Refused(KEY_MISSING);
                context.shards.open_decided(connection, request_id, reply);
            }
            continue;
        }
        context.counters.tickets.add(1);
        let ticket = Box::new(ticket);
        let message = ToSpool::Open { connection, request_id, bearer, ticket };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            context.spool.try_send(message)
        {
            let busy = Refusal {
                code: ErrorCode::Busy,
                class: RetryClass::After,
                closes: false,
                delay_ms: 500,
                jitter_ms: 1_000,
            };
            context.shards.open_decided(connection, request_id, OpenReply::Refused(busy));
        }
    }
}

/// One answer for every way a ticket can be wrong.
fn refuse(context: &CryptoContext, connection: ConnectionId, request_id: u32) {
    context.counters.tickets_bad.add(1);
    let refusal = Refusal {
        code: ErrorCode::TicketInvalid,
        class: RetryClass::Never,
        closes: false,
        delay_ms: 0,
        jitter_ms: 0,
    };
    context.shards.open_decided(connection, request_id, OpenReply::Refused(refusal));
}

#[cfg(test)]
mod tests;
