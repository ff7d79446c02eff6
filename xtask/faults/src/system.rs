//! The system, asked past the C library's functions of the same names, which are ours here. Each
//! function is one call; `errno` is left as the call left it.

#![expect(unsafe_code, reason = "the C library's own functions lead back to us")]

use libc::{c_int, c_long, c_uint, mode_t, off_t, size_t, ssize_t};
use std::ffi::{CStr, CString, c_char, c_void};

/// `_IOR('X', 125, __u32)` of linux/fs.h: ext4 and XFS stop as if the power were gone.
const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
/// What is in the file system's journal is not flushed first.
const NOLOGFLUSH: u32 = 2;

/// Sets `errno`.
pub(crate) fn set_errno(code: c_int) {
    // SAFETY: the C library gives each thread a valid place.
    unsafe { *libc::__errno_location() = code };
}

/// Reads `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are passed on as the caller of `open` gave them.
    let result = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    int(result)
}

pub(crate) fn write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: as in `open`; `count` is at most what the caller gave.
    size(unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) })
}

pub(crate) fn write_at(
    descriptor: c_int,
    bytes: *const c_void,
    count: size_t,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as in `write`.
    size(unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, offset) })
}

pub(crate) fn sync(descriptor: c_int) -> c_int {
    // SAFETY: no memory is passed.
    int(unsafe { libc::syscall(libc::SYS_fsync, descriptor) })
}

pub(crate) fn sync_data(descriptor: c_int) -> c_int {
    // SAFETY: no memory is passed.
    int(unsafe { libc::syscall(libc::SYS_fdatasync, descriptor) })
}

pub(crate) fn resize(descriptor: c_int, length: off_t) -> c_int {
    // SAFETY: no memory is passed.
    int(unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) })
}

pub(crate) fn link(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: as in `open`.
    int(unsafe { libc::syscall(libc::SYS_linkat, from_folder, from, to_folder, to, flags) })
}

pub(crate) fn remove(path: *const c_char) -> c_int {
    // SAFETY: as in `open`.
    int(unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) })
}

pub(crate) fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: as in `open`.
    int(unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, 0 as c_uint) })
}

pub(crate) fn make_folder(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as in `open`.
    int(unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) })
}

/// The text of a path that a caller gave; nothing when it is no text.
pub(crate) fn text<'a>(path: *const c_char) -> Option<&'a str> {
    if path.is_null() {
        return None;
    }
    // SAFETY: callers of `open` and its like give a string that ends with a zero byte and outlives
    // their call, in which this one lies.
    unsafe { CStr::from_ptr(path) }.to_str().ok()
}

/// Where a link leads.
pub(crate) fn read_link(path: &str) -> Option<String> {
    let path = CString::new(path).ok()?;
    let mut buffer = [0_u8; 4_096];
    let (room, length) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the buffer has this length, and the path ends with a zero byte.
    let result =
        unsafe { libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, path.as_ptr(), room, length) };
    let bytes = buffer.get(..usize::try_from(result).ok()?)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// The first bytes of a file, 255 at most; nothing when it cannot be read.
pub(crate) fn read(path: &CStr) -> Option<String> {
    let descriptor = open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0);
    if descriptor < 0 {
        return None;
    }
    let mut buffer = [0_u8; 255];
    // SAFETY: the buffer has this length.
    let result =
        unsafe { libc::syscall(libc::SYS_read, descriptor, buffer.as_mut_ptr(), buffer.len()) };
    close(descriptor);
    let bytes = buffer.get(..usize::try_from(result).ok()?)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Appends one line to a file, whole: what other threads append lies before or behind it.
pub(crate) fn append(path: &CStr, line: &str) {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    let descriptor = open(path.as_ptr(), flags, 0o600);
    if descriptor >= 0 {
        write(descriptor, line.as_ptr().cast(), line.len());
        close(descriptor);
    }
}

fn close(descriptor: c_int) {
    // SAFETY: the descriptor was opened by the caller just now and is known to nobody else.
    unsafe { libc::syscall(libc::SYS_close, descriptor) };
}

/// Takes the power from the file system that holds `folder`; `false` when it cannot be done.
pub(crate) fn cut_power(folder: &CStr) -> bool {
    let descriptor = open(folder.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0);
    let how: u32 = NOLOGFLUSH;
    // SAFETY: the call reads four bytes behind the pointer.
    let result = unsafe {
        libc::syscall(libc::SYS_ioctl, descriptor, FS_IOC_SHUTDOWN, std::ptr::from_ref(&how))
    };
    result == 0
}

/// kill -9 of this process.
pub(crate) fn die() -> ! {
    // SAFETY: no memory is passed.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

fn int(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn size(result: c_long) -> ssize_t {
    ssize_t::try_from(result).unwrap_or(-1)
}
