//! What the processor computes by instructions of its own, and others must by many.

/// Whose suites and key schedules are the quicker ones follows from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) has_aes: bool,
    /// SHA-256.
    pub(crate) has_sha: bool,
}

impl Cpu {
    /// The one that this process runs on.
    pub(super) fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self {
            has_aes: std::arch::is_x86_feature_detected!("aes"),
            has_sha: std::arch::is_x86_feature_detected!("sha")
                && std::arch::is_x86_feature_detected!("sse4.1"),
        };
        #[cfg(target_arch = "aarch64")]
        return Self {
            has_aes: std::arch::is_aarch64_feature_detected!("aes"),
            has_sha: std::arch::is_aarch64_feature_detected!("sha2"),
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return Self { has_aes: false, has_sha: false };
    }
}
