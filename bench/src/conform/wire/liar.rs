//! A QUIC client that believes the server allows more than it does: it opens streams and sends
//! datagrams to which it has no right. Everything else is left as TLS agreed on it.

use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{
        ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        rustls::QuicClientConfig,
    },
    transport_parameters::TransportParameters,
};
use std::{any::Any, sync::Arc};

/// Transport parameters (RFC 9000 18.2, RFC 9221 3) and what the client takes them for:
/// initial_max_stream_data_uni, initial_max_streams_bidi, initial_max_streams_uni,
/// max_datagram_frame_size. All ids and values are below 64, which is one byte each.
const BELIEVED: [(u8, u8); 4] = [(0x07, 60), (0x08, 8), (0x09, 8), (0x20, 60)];

/// A client that begins its sessions so.
pub(super) struct Liar(pub(super) Arc<QuicClientConfig>);

impl ClientConfig for Liar {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let session = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(Mistaken(session)))
    }
}

struct Mistaken(Box<dyn Session>);

impl Session for Mistaken {
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.0.transport_parameters()?.map(|stated| generous(&stated)))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(buf)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.0.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}

/// What the server stated, but for what the client believes.
fn generous(stated: &TransportParameters) -> TransportParameters {
    let mut bytes = Vec::new();
    stated.write(&mut bytes);
    let mut believed = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (id, id_bytes) = varint(rest);
        let (length, length_bytes) = varint(&rest[id_bytes..]);
        let length = usize::try_from(length).expect("a parameter is short");
        let (parameter, behind) = rest.split_at(id_bytes + length_bytes + length);
        if !BELIEVED.iter().any(|(known, _)| u64::from(*known) == id) {
            believed.extend_from_slice(parameter);
        }
        rest = behind;
    }
    believed.extend(BELIEVED.iter().flat_map(|(id, value)| [*id, 1, *value]));
    TransportParameters::read(Side::Client, &mut &believed[..]).expect("as they were written")
}

/// A variable-length integer (RFC 9000 16) and its length.
fn varint(bytes: &[u8]) -> (u64, usize) {
    let count = 1 << (bytes[0] >> 6);
    let first = u64::from(bytes[0] & 0x3f);
    (bytes[1..count].iter().fold(first, |value, byte| value << 8 | u64::from(*byte)), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_agree_with_rfc_9000() {
        let check = |bytes: &[u8], value| assert_eq!(varint(bytes), (value, bytes.len()));
        check(&[0x25], 37);
        check(&[0x7b, 0xbd], 15_293);
        check(&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333);
        check(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652);
    }
}
