//! Balanced books pass, and each kind of tampering is found.
