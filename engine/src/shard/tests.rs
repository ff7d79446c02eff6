//! Sessions told as bytes in and bytes out.
