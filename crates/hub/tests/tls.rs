//! Connections with TLS: a certificate authority of one's own, as a company's proxy has, and none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use hub::{HubModel, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{ID, Place, WEIGHTS, repo};

fn file(name: &str) -> PathBuf {
    testkit::fixtures("hub").join(name)
}

/// A server with TLS that hands each request on to `target`, an `http://` URL; returns its own URL. It ends with the test.
fn in_front_of(target: &str) -> String {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let target = target.strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            // a client that does not trust the certificate goes away
            drop(hand_on(StreamOwned::new(connection, client.unwrap()), &target));
        }
    });
    url
}

/// One request and its answer.
fn hand_on(mut client: StreamOwned<ServerConnection, TcpStream>, target: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let mut server = TcpStream::connect(target)?;
    server.write_all(&request)?;
    std::io::copy(&mut server, &mut client)?;
    client.conn.send_close_notify();
    client.flush()
}

/// A hub and a CDN behind TLS, and settings that trust these certificates.
fn place(certificates: Option<PathBuf>) -> (Place, Settings) {
    let place = Place::new(repo());
    let [hub, cdn] = [place.hub.endpoint(), place.hub.cdn()].map(|url| in_front_of(&url));
    place.hub.behind(&hub, &cdn);
    let settings = Settings { certificates, ..Settings::new(&hub, place.folder.path()) };
    (place, settings)
}

fn fetch(place: &Place, settings: Settings) -> base::Result<hub::Snapshot> {
    place.client_with(settings).fetch(&HubModel::parse(ID)?, 0, &place.log)
}

#[test]
fn an_authority_that_is_named_is_trusted() {
    let (place, settings) = place(Some(file("ca.pem")));
    let snapshot = fetch(&place, settings).unwrap();
    assert!(snapshot.folder.join(WEIGHTS).exists());
    place.check_blobs();
}

#[test]
fn an_unknown_authority_is_refused_with_advice() {
    // no file: those of the program; the server's own certificate is no authority
    for certificates in [None, Some(file("server.pem"))] {
        let (place, settings) = place(certificates);
        let error = fetch(&place, settings).unwrap_err();
        assert!(error.help_text().is_some_and(|help| help.contains("SSL_CERT_FILE")), "{error}");
        assert!(place.waits().is_empty(), "tried again");
        assert!(place.hub.seen().is_empty() && place.blobs().is_empty());
    }
}

#[test]
fn a_redirect_to_a_connection_without_encryption_is_refused() {
    let (place, settings) = place(Some(file("ca.pem")));
    place.hub.behind(&settings.endpoint, &place.hub.cdn());
    let error = fetch(&place, settings).unwrap_err();
    assert!(error.problem().contains("without encryption"), "{error}");
    assert!(!place.blobs().iter().any(|name| name.len() == 64), "weights were stored");
}
