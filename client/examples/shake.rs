//! A whole client on one page: connect, shake, open what is won.
//!
//! `cargo run -p yao-client --example shake -- ENDPOINT CAMPAIGN TOKEN WALLET-FILE [ROOTS.PEM]`
//!
//! with an endpoint such as tls+quic://127.0.0.1:9001, or 127.0.0.1:9000 for plain TCP, which needs
//! no roots to trust. The token is a JWT that your own backend mints (`netbench keys` makes keys to
//! try it with). Kill the program at any moment and start it again: the wallet keeps every ticket
//! and receipt.
#![expect(clippy::print_stdout, reason = "this program talks to a person")]

use std::time::Duration;
use yao_client::{Client, Config, Event, FileStore, TokenSource, Trust, wallet::Outcome};
use yao_protocol::CampaignId;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, campaign, token, wallet, roots @ ..] = arguments.as_slice() else {
        return Err("usage: shake ENDPOINT CAMPAIGN TOKEN WALLET-FILE [ROOTS.PEM]".into());
    };
    let campaign = CampaignId(campaign.parse()?);

    let mut config =
        Config::new(vec![endpoint.clone()], campaign, TokenSource::Fixed(token.clone()));
    // Tickets and receipts survive this process.
    config.store = Box::new(FileStore::open(wallet, campaign)?);
    if let Some(roots) = roots.first() {
        config.trust = Some(Trust::from_pem(&std::fs::read(roots)?)?);
    }
    let (client, mut events) = Client::connect(config)?;

    // What was won before this process and not opened is not told again: it lies in the wallet.
    for held in client.wallet().await?.holdings() {
        if held.outcome == Outcome::Unopened {
            println!("opening a packet of {} fen from before", held.ticket.body.amount);
            client.open(held.ticket).await?;
        }
    }

    // A real app shakes when the phone does; here, twice a second. The client merges the shakes to
    // the pace that the server states.
    let mut phone = tokio::time::interval(Duration::from_millis(500));
    loop {
        let event = tokio::select! {
            _ = phone.tick() => {
                client.shake();
                continue;
            }
            _ = tokio::signal::ctrl_c() => {
                client.close().await;
                continue;
            }
            event = events.next() => event,
        };
        match event {
            Some(Event::Connected { transport, wins_per_user, .. }) => {
                println!("connected by {transport}; you may win {wins_per_user} packets");
            }
            Some(Event::Won(ticket)) => {
                println!("won a packet of {} fen, opening it", ticket.body.amount);
                // From here on the client repeats the open until the server has taken it.
                client.open(*ticket).await?;
            }
            Some(Event::Opened(opened)) => println!("packet {} is yours", opened.receipt.packet),
            Some(Event::OpenRefused { packet, code }) => println!("packet {packet}: {code:?}"),
            Some(Event::Disconnected { error, retry_ms }) => {
                println!("{error}; trying again in {retry_ms} ms");
            }
            Some(Event::Stopped(error)) => println!("stopped: {error}"),
            // Nothing won this time, another greeting, ...: what a real app shows.
            Some(_) => {}
            None => return Ok(()),
        }
    }
}
