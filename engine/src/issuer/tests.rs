//! The money rules of the issuer.
