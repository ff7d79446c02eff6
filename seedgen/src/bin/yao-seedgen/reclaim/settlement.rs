//! Just enough HTTP to post small files to settlement: one request, one answer, one connection.
//! Whoever needs more posts the files himself, with curl.

use anyhow::{Context, Result, anyhow, bail};
use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};
use thiserror::Error;
use yao_protocol::void::VOID_ANSWER_BYTES_MAX;

/// Settlement that does not answer by then is not there.
const PATIENCE: Duration = Duration::from_secs(30);
/// The head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Settlement is there and says "later".
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct ComeAgain(String);

/// Settlement is there and says no.
#[derive(Debug, Error)]
#[error("settlement refuses {path} ({status}): {says}")]
pub(crate) struct Refused {
    /// Where it was asked.
    path: String,
    /// The status code of HTTP.
    pub(crate) status: u16,
    /// Its reason, one line.
    says: String,
}

/// Settlement's address.
pub(crate) struct Settlement {
    /// "host:port".
    authority: String,
}

impl Settlement {
    /// The address in "http://host:port".
    pub(crate) fn new(url: &str) -> Result<Self> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if authority.contains(':') && !authority.contains('/') => {
                Ok(Self { authority: authority.to_owned() })
            }
            _ => bail!("--ledger is {url}; write http://host:port, or leave it out and use curl"),
        }
    }

    /// Posts `body` to `path`; the answer's body when it is 200.
    ///
    /// # Errors
    /// Nobody there; [`ComeAgain`] for 503, [`Refused`] for any other status.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let (status, answer) = self
            .exchange(path, body)
            .with_context(|| format!("cannot post to http://{}{path}", self.authority))?;
        if status == 200 {
            return Ok(answer);
        }
        let says = String::from_utf8_lossy(&answer).trim().to_owned();
        if status == 503 {
            return Err(ComeAgain(format!("settlement: {says}")).into());
        }
        Err(Refused { path: path.to_owned(), status, says }.into())
    }

    fn exchange(&self, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| anyhow!("it has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            self.authority,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        let bytes_max = (HEAD_BYTES_MAX + VOID_ANSWER_BYTES_MAX) as u64;
        stream.take(bytes_max).read_to_end(&mut answer)?;
        split(&answer).ok_or_else(|| anyhow!("the answer is no HTTP, or was cut short"))
    }
}

/// Status and body of a whole answer; an answer says how long it is.
fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    (length == Some(body.len())).then(|| (status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_when_it_is_whole() {
        let check = |text: &str, expected: Option<(u16, &[u8])>| {
            let found = split(text.as_bytes());
            let found = found.as_ref().map(|(status, body)| (*status, body.as_slice()));
            assert_eq!(found, expected, "{text}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some((200, b"abc")));
        check("HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n", Some((503, b"")));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", None);
        check("HTTP/1.1 200 OK\r\n\r\nabc", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", None);
        check("", None);
    }

    #[test]
    fn an_address_is_plain_http_with_a_port() {
        for good in ["http://127.0.0.1:7100", "http://ledger:7100/"] {
            assert!(Settlement::new(good).is_ok(), "{good}");
        }
        for wrong in ["https://ledger:1", "http://ledger", "http://ledger:1/v1", "ledger:1"] {
            assert!(Settlement::new(wrong).is_err(), "{wrong}");
        }
    }
}
