//! A client without manners: it says what a test wants, in frames, and hears every frame. It does
//! nothing by itself, neither PING nor BYE. (For one with manners: `yao_client::Client`.)

use super::{Node, PATIENCE, Transport};
use tokio::time::timeout;
use yao_client::{Trust, error::LinkError, link::Link};
use yao_protocol::{
    CampaignId, ShakeId,
    client::{
        GoAway, Hello, NoWin, Refusal, ServerMessage, Shake, Welcome, kind, put_empty, put_open,
    },
    endpoint::Endpoint,
    receipt::RECEIPT_BYTES,
    reconnect::RECONNECT_BYTES,
    tally::TALLY_BYTES,
    ticket::{TICKET_BYTES, Ticket},
};

/// A frame of the node, owned; or the end of the connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Welcome(Welcome),
    Pong,
    NoWin(NoWin),
    Win { ticket: Box<Ticket>, tally: Box<[u8; TALLY_BYTES]> },
    Receipt(Box<[u8; RECEIPT_BYTES]>),
    GoAway(GoAway),
    Refused(Refusal),
    Reconnect(Box<[u8; RECONNECT_BYTES]>),
    End,
}

/// See the module. Dropped, its connection ends without a word.
pub(crate) struct Client {
    link: Link,
    campaign: CampaignId,
    request_id: u32,
    broken: bool,
}

impl Client {
    /// A connection whose handshake is done; HELLO was not said.
    pub(crate) async fn connect(node: &Node<'_>, way: Transport) -> Self {
        Self::connect_trusting(node, way, &node.event.trust).await.expect("the node listens")
    }

    /// The same, for a client that trusts others than the event's first certificate.
    pub(crate) async fn connect_trusting(
        node: &Node<'_>,
        way: Transport,
        trust: &Trust,
    ) -> Result<Self, LinkError> {
        let endpoint = format!("{way}://{}", node.address(way));
        let endpoint: Endpoint = endpoint.parse().expect("an endpoint");
        let link = Link::connect(way, &endpoint, None, Some(trust)).await?;
        Ok(Self { link, campaign: node.event.campaign, request_id: 0, broken: false })
    }

    /// What the node answers first to HELLO with this session token or reconnect ticket, over plain
    /// TCP; and the client, for what follows.
    pub(crate) async fn greeted(node: &Node<'_>, token: &[u8]) -> (Self, Heard) {
        let mut client = Self::connect(node, Transport::Tcp).await;
        client.hello(token).await;
        let heard = client.hear().await;
        (client, heard)
    }

    /// A session of `user`, opened with a session token; what follows WELCOME is still to be heard.
    pub(crate) async fn welcomed(node: &Node<'_>, way: Transport, user: u64) -> Self {
        let mut client = Self::connect(node, way).await;
        client.hello(node.event.backend.token(user).as_bytes()).await;
        let heard = client.hear().await;
        assert!(matches!(heard, Heard::Welcome(_)), "WELCOME, not {heard:?}");
        client
    }

    /// Says HELLO with a session token, or with the bytes of a reconnect ticket.
    pub(crate) async fn hello(&mut self, token: &[u8]) {
        let (version_min, version_max, software, tally) = (1, 1, 1, None);
        let campaign = self.campaign;
        let hello = Hello { version_min, version_max, software, campaign, tally, token };
        self.say(|out, id| hello.put(out, id)).await;
    }

    /// Says PING.
    pub(crate) async fn ping(&mut self) {
        self.say(|out, id| put_empty(out, kind::PING, id)).await;
    }

    /// Says BYE.
    pub(crate) async fn bye(&mut self) {
        self.say(|out, id| put_empty(out, kind::BYE, id)).await;
    }

    /// Says SHAKE with a draw of this id.
    pub(crate) async fn shake(&mut self, shake: u64) {
        let (shake, campaign) = (ShakeId(shake), self.campaign);
        let shake = Shake { shake, campaign, merged_count: 1, resend: false };
        self.say(|out, id| shake.put(out, id)).await;
    }

    /// Says OPEN.
    pub(crate) async fn open(&mut self, ticket: &Ticket) {
        let ticket: [u8; TICKET_BYTES] = ticket.encode();
        self.say(|out, id| put_open(out, id, &ticket)).await;
    }

    /// Shakes until `count` packets are won. The campaign allows three.
    pub(crate) async fn win(&mut self, count: usize) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while tickets.len() < count {
            self.shake(u64::from(self.request_id)).await;
            loop {
                match self.hear().await {
                    Heard::Win { ticket, .. } => tickets.push(*ticket),
                    Heard::NoWin(_) => {}
                    Heard::Reconnect(_) => continue,
                    other => panic!("the answer to a shake, not {other:?}"),
                }
                break;
            }
        }
        tickets
    }

    /// The next receipt; tickets that come unasked are passed over.
    pub(crate) async fn receipt(&mut self) -> Box<[u8; RECEIPT_BYTES]> {
        loop {
            match self.hear().await {
                Heard::Receipt(receipt) => return receipt,
                Heard::Reconnect(_) | Heard::Win { .. } => {}
                other => panic!("a receipt, not {other:?}"),
            }
        }
    }

    /// The next GOAWAY; tickets that come unasked are passed over.
    pub(crate) async fn go_away(&mut self) -> GoAway {
        loop {
            match self.hear().await {
                Heard::GoAway(go_away) => return go_away,
                Heard::Reconnect(_) | Heard::Win { .. } => {}
                other => panic!("GOAWAY, not {other:?}"),
            }
        }
    }

    /// The next frame, or the end of the connection.
    pub(crate) async fn hear(&mut self) -> Heard {
        timeout(PATIENCE, self.hear_unbounded()).await.expect("the node says something")
    }

    /// As [`Client::hear`], however long it takes.
    pub(crate) async fn hear_unbounded(&mut self) -> Heard {
        loop {
            if let Some(frame) = self.link.next_frame().expect("the node sends frames") {
                return Heard::of(ServerMessage::decode(frame).expect("a message"));
            }
            if self.broken {
                return Heard::End;
            }
            // What came before the end is still to be heard.
            self.broken = self.link.progress().await.is_err();
        }
    }

    /// Says what `put` writes for the next request id. A node that hears nothing any more is no
    /// error here: [`Client::hear`] tells.
    async fn say(&mut self, put: impl FnOnce(&mut Vec<u8>, u32)) {
        self.request_id += 1;
        let mut bytes = Vec::new();
        put(&mut bytes, self.request_id);
        self.broken |= self.link.queue(&bytes).and_then(|()| self.link.flush()).is_err();
    }
}

impl Heard {
    fn of(message: ServerMessage<'_>) -> Self {
        match message {
            ServerMessage::Welcome(welcome) => Self::Welcome(welcome),
            ServerMessage::Pong(_) => Self::Pong,
            ServerMessage::NoWin(no_win) => Self::NoWin(no_win),
            ServerMessage::Win { ticket, tally } => Self::Win {
                ticket: Box::new(Ticket::decode(ticket).expect("a ticket")),
                tally: Box::new(*tally),
            },
            ServerMessage::Receipt(receipt) => Self::Receipt(Box::new(*receipt)),
            ServerMessage::GoAway(go_away) => Self::GoAway(go_away),
            ServerMessage::Error(refusal) => Self::Refused(refusal),
            ServerMessage::Reconnect(ticket) => Self::Reconnect(Box::new(*ticket)),
            ServerMessage::Unknown => panic!("the node sends no unknown kinds"),
        }
    }
}
