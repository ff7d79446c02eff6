//! What is asked of a running node, over its admin port: what `yao-access drain`, `refuse-new` and
//! `take-new` post.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A node that does not answer its admin port for so long has other troubles.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is one line; more is not read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks the node to drain and end. Returns what it says.
///
/// # Errors
/// No node there, or one that refuses.
pub fn drain(config: &Config, rate: Option<u32>, deadline: Option<u32>) -> Result<String> {
    let mut query: Vec<String> = Vec::new();
    query.extend(rate.map(|rate| format!("per_second={rate}")));
    query.extend(deadline.map(|seconds| format!("deadline_seconds={seconds}")));
    post(config, &format!("/drain?{}", query.join("&")))
}

/// Has the node turn newcomers away, or take them again. Returns what it says.
///
/// # Errors
/// No node there, or one that refuses.
pub fn refuse_new(config: &Config, refuse: bool) -> Result<String> {
    post(config, if refuse { "/refuse-new" } else { "/take-new" })
}

fn post(config: &Config, path: &str) -> Result<String> {
    let address = config.admin.listen;
    if address.port() == 0 {
        bail!("admin.listen has port 0, so nobody knows the node's admin port; configure one");
    }
    let stream = TcpStream::connect_timeout(&address, PATIENCE);
    let mut stream = stream
        .with_context(|| format!("no node answers at {address} (admin.listen); is it running?"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or("none");
    if !status.starts_with('2') {
        bail!("the node refuses ({status}): {}", body.trim());
    }
    Ok(body.trim().to_owned())
}
