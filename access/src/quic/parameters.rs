//! What a client asks for in its transport parameters (RFC 9000 18), made smaller where we give
//! less.

use quinn_proto::{VarInt, coding::Codec};

/// The parameter that says how many connection ids of ours the client would keep.
const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
/// So many are enough: the one in use, one for the next network, and one while that is announced.
/// quinn-proto gives as many as it is asked for (five by its own clients), up to eight, and each
/// costs a reset token (an HMAC), two entries in the endpoint's tables and 28 bytes of a packet.
const IDS_MAX: u8 = 3;
/// The parameter that asks for so many: id, length, value.
const FEW_IDS: [u8; 3] = [ACTIVE_CONNECTION_ID_LIMIT as u8, 1, IDS_MAX];

/// `parameters` with at most [`IDS_MAX`] connection ids asked for. What cannot be read is left as
/// it is, for quinn-proto to refuse.
pub(super) fn with_few_ids(parameters: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parameters.len());
    let mut rest = parameters;
    while !rest.is_empty() {
        let begin = rest;
        let Some((id, value)) = next(&mut rest) else {
            out.extend_from_slice(begin);
            break;
        };
        let too_many = |asked| asked > VarInt::from(IDS_MAX);
        if id == ACTIVE_CONNECTION_ID_LIMIT && whole(value).is_some_and(too_many) {
            out.extend_from_slice(&FEW_IDS);
        } else {
            out.extend_from_slice(&begin[..begin.len() - rest.len()]);
        }
    }
    out
}

/// The integer that `value` is, to its last byte.
fn whole(mut value: &[u8]) -> Option<VarInt> {
    VarInt::decode(&mut value).ok().filter(|_| value.is_empty())
}

/// One parameter's id and value.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let id = VarInt::decode(rest).ok()?.into_inner();
    let length = usize::try_from(VarInt::decode(rest).ok()?.into_inner()).ok()?;
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_would_keep_many_ids_gets_few_and_all_else_as_it_asked() {
        let idle = [1, 2, 0x40, 200];
        let unknown = [0x40, 99, 3, 0x0e, 1, 7];
        let asked =
            |value: &[u8]| [&idle[..], &[0x0e, value.len() as u8], value, &unknown].concat();
        let few = asked(&[3]);
        assert_eq!(with_few_ids(&asked(&[8])), few);
        assert_eq!(with_few_ids(&asked(&[0x7f, 255])), few);
        assert_eq!(with_few_ids(&asked(&[0xff, 255, 255, 255, 255, 255, 255, 255])), few);
        for untouched in [few.clone(), asked(&[2]), asked(&[0]), idle.to_vec(), Vec::new()] {
            assert_eq!(with_few_ids(&untouched), untouched);
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_for_others_to_refuse() {
        let whole = [1, 2, 0x40, 200, 0x0e, 1, 8, 4, 4, 0x80, 0, 1, 0];
        for end in 0..whole.len() {
            let (cut, out) = (&whole[..end], with_few_ids(&whole[..end]));
            let expected: Vec<u8> =
                cut.iter().enumerate().map(|(at, byte)| if at == 6 { 3 } else { *byte }).collect();
            assert_eq!(out, expected, "{cut:?}");
        }
        for untouched in [&[0x0e, 9, 8][..], &[0x0e, 2, 8, 0], &[0x0e, 0]] {
            assert_eq!(with_few_ids(untouched), untouched);
        }
    }
}
