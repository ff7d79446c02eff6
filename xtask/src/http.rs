//! Just enough HTTP to ask our own servers on loopback: one request, one answer, one connection.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer must come within this time: a swap of the agent takes seconds.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The body of `GET path`, as JSON.
pub(crate) fn get(address: &str, path: &str) -> Result<Value> {
    let body = get_text(address, path)?;
    serde_json::from_str(&body).with_context(|| format!("GET {path} answers JSON"))
}

/// The body of `GET path`.
pub(crate) fn get_text(address: &str, path: &str) -> Result<String> {
    let (status, body) = look(address, path)?;
    if status != 200 {
        bail!("GET {path} answered {status}: {}", body.trim());
    }
    Ok(body)
}

/// Status and body of `GET path`.
pub(crate) fn look(address: &str, path: &str) -> Result<(u16, String)> {
    ask(address, "GET", path)
}

/// Status and body of `POST path`.
pub(crate) fn post(address: &str, path: &str) -> Result<(u16, String)> {
    ask(address, "POST", path)
}

/// The body of the answer to `POST path` with these bytes, which must be 200.
pub(crate) fn post_bytes(address: &str, path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let length = bytes.len();
    let head =
        format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.context("an HTTP answer has a head")? + 4);
    let head = String::from_utf8_lossy(&answer);
    if head.split_whitespace().nth(1) != Some("200") {
        bail!("POST {path} answered {head}{}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}

/// A `POST path` that must be accepted.
pub(crate) fn accepted(address: &str, path: &str) -> Result<()> {
    match post(address, path)? {
        (202, _) => Ok(()),
        (code, answer) => bail!("POST {path} answered {code}: {}", answer.trim()),
    }
}

fn ask(address: &str, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a head")?;
    let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Ok((status.context("an HTTP answer has a status")?, body.to_owned()))
}
