//! The node as its operators and its clients have it: the program `yao-access`, started as a
//! process on files of its own, told by signals and its admin port, asked over real sockets.

mod credentials;
mod drain;
mod newcomers;
mod reload;
mod support;
