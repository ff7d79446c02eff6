//! The formats as strangers see them: golden vectors, round trips, and hostile bytes.

mod cases;
mod codecs;
mod crafted;
mod golden;
mod hostile;
mod texts;
