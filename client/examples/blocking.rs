//! A client without async: shakes, and opens what is won. `shake.rs` is the same with tokio.
//!
//! `cargo run -p yao-client --example blocking -- ENDPOINT CAMPAIGN TOKEN WALLET-FILE [ROOTS.PEM]`
#![expect(clippy::print_stdout, reason = "this program talks to a person")]

use std::time::{Duration, Instant};
use yao_client::{Config, Event, FileStore, TokenSource, Trust, blocking::Client, wallet::Outcome};
use yao_protocol::CampaignId;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, campaign, token, wallet, roots @ ..] = arguments.as_slice() else {
        return Err("usage: blocking ENDPOINT CAMPAIGN TOKEN WALLET-FILE [ROOTS.PEM]".into());
    };
    let campaign = CampaignId(campaign.parse()?);

    let token = TokenSource::Fixed(token.clone());
    let mut config = Config::new(vec![endpoint.clone()], campaign, token);
    config.store = Box::new(FileStore::open(wallet, campaign)?);
    if let Some(roots) = roots.first() {
        config.trust = Some(Trust::from_pem(&std::fs::read(roots)?)?);
    }
    let (client, mut events) = Client::connect(config)?;

    // What was won before this process and not opened is not told again: it lies in the wallet.
    for held in client.wallet()?.holdings() {
        if held.outcome == Outcome::Unopened {
            println!("opening a packet of {} fen from before", held.ticket.body.amount);
            client.open(held.ticket)?;
        }
    }

    // One minute of shaking twice a second, however many events come in between.
    let started = Instant::now();
    let mut shake_at = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(60) {
        if started.elapsed() >= shake_at {
            client.shake();
            shake_at += Duration::from_millis(500);
        }
        match events.wait_next_for(shake_at.saturating_sub(started.elapsed())) {
            Some(Event::Connected { transport, endpoint, .. }) => {
                println!("connected to {endpoint} by {transport}");
            }
            Some(Event::Won(ticket)) => {
                println!("won a packet of {} fen, opening it", ticket.body.amount);
                client.open(*ticket)?;
            }
            Some(Event::Opened(opened)) => println!("packet {} is yours", opened.receipt.packet),
            Some(Event::Stopped(error)) => return Err(error.into()),
            Some(_) | None => {}
        }
    }
    client.close();
    for event in events {
        println!("{event:?}");
    }
    Ok(())
}
