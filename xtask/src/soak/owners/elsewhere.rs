//! Another network namespace: a machine beside ours, as far as names in the kernel go.

use super::stage::await_that;
use crate::shell;
use anyhow::{Context, Result};
use std::{
    fs,
    process::{Child, Command, Stdio},
};

/// The two ends of the way between the namespaces.
pub(super) const HERE: &str = "10.77.0.1";
pub(super) const ELSEWHERE: &str = "10.77.0.2";

/// Another network namespace, joined to ours by two interfaces. It ends with its process.
pub(super) struct Elsewhere(Child);

impl Elsewhere {
    /// Makes it. Needs leave to make namespaces.
    pub(super) fn make() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let child = Self(command.spawn().context("cannot start unshare")?);
        let id = child.id();
        let ours = fs::read_link("/proc/self/ns/net")?;
        await_that("the other namespace", || {
            let theirs = fs::read_link(format!("/proc/{id}/ns/net"));
            Ok(theirs.is_ok_and(|theirs| theirs != ours))
        })?;
        let id = id.to_string();
        let inside = |words: &[&str]| {
            let mut command = Command::new("nsenter");
            command.args(["--target", &id, "--net", "ip"]).args(words);
            shell::run(&mut command)
        };
        let outside = |words: &[&str]| shell::run(Command::new("ip").args(words));
        outside(&["link", "set", "lo", "up"])?;
        let peer = ["type", "veth", "peer", "name", "there", "netns", &id];
        outside(&[&["link", "add", "here"][..], &peer[..]].concat())?;
        outside(&["address", "add", &format!("{HERE}/24"), "dev", "here"])?;
        outside(&["link", "set", "here", "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &format!("{ELSEWHERE}/24"), "dev", "there"])?;
        inside(&["link", "set", "there", "up"])?;
        Ok(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Already ended is as good.
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}
