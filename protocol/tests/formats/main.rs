//! The formats as strangers see them: golden vectors, round trips, and hostile bytes.

mod any_file;
mod any_grant;
mod any_message;
mod any_proof;
mod cases;
mod codecs;
mod crafted;
mod fields;
mod golden;
mod grants;
mod hostile;
mod numbers;
mod reclaim;
mod texts;
