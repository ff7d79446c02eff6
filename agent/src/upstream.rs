//! Settlement over HTTP: one POST, one [`Outcome`]. Decides nothing.

use crate::delivery::{Outcome, POSTS_MAX};
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy as Redirects,
};
use std::time::Duration;
use yao_protocol::limits::AGENT_PAYLOAD_BYTES_MAX;

/// Time for settlement to answer a batch. The access process asks again after twice that.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Of a refusal's text this many bytes are logged.
const TEXT_BYTES_MAX: usize = 300;

/// A settlement service.
#[derive(Clone, Debug)]
pub struct Upstream {
    client: Client,
    opens: String,
    grants: String,
}

impl Upstream {
    /// The service at `url`, `http://host:port`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .timeout(ANSWER_MAX)
            .connect_timeout(CONNECT_MAX)
            .pool_max_idle_per_host(POSTS_MAX)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(Redirects::none())
            .build()?;
        let (opens, grants) = (format!("{url}/v1/opens"), format!("{url}/v1/grants"));
        Ok(Self { client, opens, grants })
    }

    /// Posts one signed batch.
    pub async fn post(&self, batch: Vec<u8>) -> Outcome {
        self.post_to(&self.opens, batch).await
    }

    /// Posts one signed request for a grant.
    pub async fn ask(&self, request: Vec<u8>) -> Outcome {
        self.post_to(&self.grants, request).await
    }

    async fn post_to(&self, address: &str, body: Vec<u8>) -> Outcome {
        let request = self.client.post(address).header(CONTENT_TYPE, "application/octet-stream");
        match request.body(body).send().await {
            Ok(response) => outcome(response).await,
            Err(error) => unreachable(&error),
        }
    }
}

async fn outcome(response: Response) -> Outcome {
    let status = response.status();
    let header = response.headers().get(RETRY_AFTER);
    let retry_after = header.and_then(|value| value.to_str().ok()).and_then(retry_after_ms);
    match status {
        StatusCode::OK => match body(response, AGENT_PAYLOAD_BYTES_MAX).await {
            Ok(Body::Whole(answer)) => Outcome::Answered(answer),
            Ok(Body::Cut(_)) => {
                Outcome::Unreachable { reason: "the answer exceeds one frame".to_owned() }
            }
            Err(error) => unreachable(&error),
        },
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Busy { retry_after_ms: retry_after },
        other => {
            let text = match body(response, TEXT_BYTES_MAX).await {
                Ok(Body::Whole(text) | Body::Cut(text)) => {
                    let text = String::from_utf8_lossy(&text);
                    text.lines().next().unwrap_or_default().to_owned()
                }
                Err(error) => format!("(no text: {error})"),
            };
            Outcome::Refused { status: other.as_u16(), text }
        }
    }
}

enum Body {
    Whole(Vec<u8>),
    Cut(Vec<u8>),
}

/// Reads at most `bytes_max`, whatever length the other side states.
async fn body(mut response: Response, bytes_max: usize) -> Result<Body, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk[..chunk.len().min(bytes_max + 1 - bytes.len())]);
        if bytes.len() > bytes_max {
            bytes.truncate(bytes_max);
            return Ok(Body::Cut(bytes));
        }
    }
    Ok(Body::Whole(bytes))
}

/// Retry-After in whole seconds; the other form, a date, is left to our own back-off.
fn retry_after_ms(value: &str) -> Option<u32> {
    value.trim().parse::<u32>().ok().map(|seconds| seconds.saturating_mul(1_000))
}

fn unreachable(error: &reqwest::Error) -> Outcome {
    // reqwest's own text names the address only; the cause stands behind it.
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    Outcome::Unreachable { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_in_seconds() {
        for (value, expected) in [
            ("2", Some(2_000)),
            (" 0 ", Some(0)),
            ("9999999", Some(u32::MAX)),
            ("-1", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ] {
            assert_eq!(retry_after_ms(value), expected, "{value}");
        }
    }
}
