//! The unix socket on which the node waits for its agents: made, checked, removed.

use super::AgentLinkError;
use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// The listener; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, mode 0600. A file left behind by a crash is removed, one that somebody
    /// answers on is not.
    pub(super) fn bind(path: &Path) -> Result<Self, AgentLinkError> {
        let failed = |source| AgentLinkError::Socket { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(AgentLinkError::NotASocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(AgentLinkError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self { listener, path: path.to_owned() };
        // Whoever connects before this is still checked by user, process and secret.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file that stays is removed by the next start.
        fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "std leaves the file: it is stale now");
        let socket = Socket::bind(&path).expect("the stale file is replaced");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(&path);
        assert!(matches!(second, Err(AgentLinkError::InUse(_))), "{second:?}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notes.txt");
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(Socket::bind(&path), Err(AgentLinkError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("readable"), "precious");
    }
}
