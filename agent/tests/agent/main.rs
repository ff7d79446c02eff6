//! The real `yao-agent` binary between an access process and a settlement that the tests play.

mod contract;
mod process;
mod stage;
