//! Steering by connection id: a client that changes its address still meets the thread that owns
//! its connection. The only unsafe code of this folder: one setsockopt that no library offers.
//!
//! The program is classic BPF over the UDP payload. In a short header the connection id begins at
//! byte 1; in a long one its length is byte 5 and it begins at byte 6 (RFC 8999 5). Its first byte
//! modulo the number of sockets is the socket, in the order in which they were bound. The first
//! packets of a client carry an id of its own choice: then any thread may have them, and all of
//! them meet the same one. A packet too short for this ends at socket 0 and is dropped there.

use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET};
use socket2::Socket;
use std::{io, os::fd::AsRawFd};

/// `return A`: linux/filter.h has it, libc does not.
const BPF_A: u32 = 0x10;
/// The bit that marks a long header.
const LONG_HEADER: u32 = 0x80;

/// Steers the packets of every socket that shares this one's address, `count` in all.
pub(super) fn attach(socket: &Socket, count: u8) -> io::Result<()> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("BPF codes are 16 bits"),
        jt,
        jf,
        k,
    };
    let mut program = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, 2, 0, LONG_HEADER),
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 1),
        step(BPF_JMP | libc::BPF_JA, 0, 0, 1),
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6),
        step(BPF_ALU | BPF_MOD | BPF_K, 0, 0, u32::from(count)),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("seven steps"),
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).expect("sixteen bytes");
    #[expect(unsafe_code, reason = "SO_ATTACH_REUSEPORT_CBPF has no safe wrapper")]
    // SAFETY: the option takes a sock_fprog of this size; it and the steps it points to outlive the
    // call, and the kernel copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
