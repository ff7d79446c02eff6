//! Certificates for tests and load: a CA of our own, and server chains with Ed25519 and P-256 keys.
//!
//! Never for production: the CA's private key is thrown away, and the server's lies unprotected.

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// How long each certificate is valid, years.
const YEARS: i32 = 10;
/// Names that every server certificate has. Certificates know addresses, not networks: of
/// 127.0.0.0/8 the few that tests bind.
const NAMES: &[&str] = &["localhost", "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"];

/// Make a test CA (`ca.pem`) and server certificates: `server-ed25519.pem`, `server-p256.pem`, and
/// to each its key, `.key.pem`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CertificatesArgs {
    /// Folder that gets the files; those of the same names are replaced
    #[arg(long)]
    out: PathBuf,
    /// A further name or address that the servers are known by; may be repeated
    #[arg(long)]
    name: Vec<String>,
}

/// Writes the CA and the server certificates.
///
/// # Errors
/// A name that no certificate can carry, or a folder that cannot be written.
pub(crate) fn run(args: &CertificatesArgs) -> Result<()> {
    create(&args.out, &args.name)
}

/// Writes them to the folder `out`; the servers bear `further` names, too.
///
/// # Errors
/// As [`run`].
pub(crate) fn create(out: &Path, further: &[String]) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    for name in further {
        if name.is_empty() {
            bail!("--name is empty; give a host name or an address");
        }
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut ca = parameters(Vec::new(), "Yao test CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // P-256 although Ed25519 would do: clients that need a P-256 server cannot check the other.
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    write(&out.join("ca.pem"), ca_pem.as_bytes(), 0o644)?;
    for (kind, algorithm) in [("ed25519", &PKCS_ED25519), ("p256", &PKCS_ECDSA_P256_SHA256)] {
        serve(out, kind, algorithm, &names, &issuer)?;
    }
    Ok(())
}

fn serve(
    out: &Path,
    kind: &str,
    algorithm: &'static SignatureAlgorithm,
    names: &[String],
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    let mut server = parameters(names.to_vec(), "Yao test server")?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(algorithm)?;
    let chain = server.signed_by(&key, issuer)?.pem();
    write(&out.join(format!("server-{kind}.key.pem")), key.serialize_pem().as_bytes(), 0o600)?;
    write(&out.join(format!("server-{kind}.pem")), chain.as_bytes(), 0o644)
}

/// What CA and servers share: who they are and for how long.
fn parameters(names: Vec<String>, common_name: &str) -> Result<CertificateParams> {
    let mut parameters =
        CertificateParams::new(names.clone()).with_context(|| format!("among {names:?}"))?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    // Whole years, from the last one on: a clock that is late by months still believes them.
    let year = this_year()?;
    parameters.not_before = date_time_ymd(year - 1, 1, 1);
    parameters.not_after = date_time_ymd(year + YEARS, 12, 31);
    Ok(parameters)
}

fn this_year() -> Result<i32> {
    const SECONDS_OF_A_YEAR: u64 = 31_556_952;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    Ok(1970 + i32::try_from(now.as_secs() / SECONDS_OF_A_YEAR)?)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let replace = || -> io::Result<()> {
        // Removed first: an old file would keep its mode.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode).open(path)?.write_all(bytes)
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::TLS13,
    };
    use std::sync::Arc;

    /// Whether a client that believes `ca` accepts the server of `kind` under `name`.
    fn shakes_hands(folder: &Path, ca: &Path, kind: &str, name: &'static str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_file_iter(folder.join(format!("server-{kind}.pem")));
        let chain = chain.expect("a chain").collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("server-{kind}.key.pem")));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3 is known")
            .with_no_client_auth()
            .with_single_cert(chain, key.expect("a key"))
            .expect("the key is the chain's");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).expect("a CA")).expect("a root");
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3 is known")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name).expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        for _ in 0..4 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("memory");
            server.read_tls(&mut wire.as_slice()).expect("memory");
            if server.process_new_packets().is_err() {
                return false;
            }
            wire.clear();
            server.write_tls(&mut wire).expect("memory");
            client.read_tls(&mut wire.as_slice()).expect("memory");
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        !client.is_handshaking() && !server.is_handshaking()
    }

    #[test]
    fn a_client_that_believes_the_ca_accepts_the_servers_by_their_names_only() {
        use std::os::unix::fs::PermissionsExt;
        let make = |name: &str| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let (out, name) = (folder.path().to_owned(), vec![name.to_owned()]);
            run(&CertificatesArgs { out: out.clone(), name: name.clone() }).expect("made");
            run(&CertificatesArgs { out, name }).expect("made again");
            folder
        };
        let (first, other) = (make("node.example"), make("localhost"));
        let own = first.path().join("ca.pem");
        for kind in ["ed25519", "p256"] {
            let check = |ca: &Path, name, expected| {
                assert_eq!(shakes_hands(first.path(), ca, kind, name), expected, "{kind} {name}");
            };
            for name in ["localhost", "127.0.0.1", "::1", "node.example"] {
                check(&own, name, true);
            }
            check(&own, "elsewhere.example", false);
            check(&other.path().join("ca.pem"), "localhost", false);
            let key = first.path().join(format!("server-{kind}.key.pem"));
            let mode = fs::metadata(key).expect("a key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
