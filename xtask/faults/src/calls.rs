//! The C library's functions that persist something, under their own names: a program that is
//! loaded after us calls these. Each asks `watch.rs` what shall happen.
//!
//! Only what `std::fs` uses is here; `cargo xtask soak crash-points` proves with `strace` that no
//! call of the node goes another way.

#![expect(unsafe_code, reason = "a function of the C library is replaced under its own name")]

use crate::{
    order::Operation,
    system,
    watch::{call, name_at, name_of},
};
use libc::{c_int, mode_t, off_t, size_t, ssize_t};
use std::ffi::{c_char, c_void};

/// A call without bytes; what it answers fits an `int`, because the system said so.
fn plain(operation: Operation, name: Option<String>, act: impl Fn() -> c_int) -> c_int {
    let result = call(operation, name, 0, |_| act() as isize, || {});
    c_int::try_from(result).unwrap_or(-1)
}

// SAFETY (of all these names): each function has the arguments and the meaning of the one that it
// stands before. `open` is variadic in C; both architectures that we build for pass the third
// argument where a third named one would be.

/// open(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    if flags & libc::O_CREAT == 0 {
        return system::open(path, flags, mode);
    }
    let name = name_at(system::text(path));
    plain(Operation::Create, name, || system::open(path, flags, mode))
}

/// open(2), as programs that need no large files call it.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    open64(path, flags, mode)
}

/// write(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    let act = |count| system::write(descriptor, bytes, count);
    let flush = || {
        system::sync(descriptor);
    };
    call(Operation::Write, name_of(descriptor), count, act, flush)
}

/// pwrite(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pwrite64(
    descriptor: c_int,
    bytes: *const c_void,
    count: size_t,
    offset: off_t,
) -> ssize_t {
    let act = |count| system::write_at(descriptor, bytes, count, offset);
    let flush = || {
        system::sync(descriptor);
    };
    call(Operation::Write, name_of(descriptor), count, act, flush)
}

/// fsync(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fsync(descriptor: c_int) -> c_int {
    plain(Operation::Sync, name_of(descriptor), || system::sync(descriptor))
}

/// fdatasync(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    plain(Operation::Sync, name_of(descriptor), || system::sync_data(descriptor))
}

/// ftruncate(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    plain(Operation::Resize, name_of(descriptor), || system::resize(descriptor, length))
}

/// linkat(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    let name = name_at(system::text(to));
    plain(Operation::Link, name, || system::link(from_folder, from, to_folder, to, flags))
}

/// unlink(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn unlink(path: *const c_char) -> c_int {
    plain(Operation::Remove, name_at(system::text(path)), || system::remove(path))
}

/// rename(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    plain(Operation::Rename, name_at(system::text(from)), || system::rename(from, to))
}

/// mkdir(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    plain(Operation::Folder, name_at(system::text(path)), || system::make_folder(path, mode))
}
