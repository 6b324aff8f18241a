//! A WebSocket to Janus: opened as a browser opens it, with small buffers, and every way of not opening named.

use crate::history::FailReason;
use crate::outside;
use futures_util::{Sink, Stream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::future::poll_fn;
use std::net::{IpAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

const SUBPROTOCOL: &str = "janus-protocol";

/// Thousands of these live in one process, and Janus's messages are short.
const BUFFER_BYTES: usize = 4 * 1024;
/// An offer with an m-line for each of a thousand feeds is below this.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What may wait for a server that does not read.
const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where a server's WebSocket is.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    shown: String,
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// Reads `ws://host[:port][/path]` or `wss://…`.
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        let shown = outside::public(url);
        let uri: Uri = url.parse().map_err(|e| format!("{shown}: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(format!("{shown}: a Janus URL begins with ws:// or wss://")),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or(format!("{shown}: no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Endpoint { url: url.to_owned(), shown, host, port, tls })
    }

    /// As it is connected to: it may hold a token.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For people and files.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Host and port, for a server without a name.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Resolves the host; empty if that fails.
    pub fn addresses(&self) -> Vec<IpAddr> {
        (self.host.as_str(), self.port).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default()
    }
}

/// Why there is no WebSocket.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ConnectError {
    pub reason: FailReason,
    pub detail: String,
}

/// TLS settings that all connections share.
pub fn tls_config(verify: bool) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = if verify {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

/// An open connection.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    unsent: bool,
}

/// What a connection had to say.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    Text(String),
    Closed(String),
}

impl Socket {
    /// Opens it. No time-out of its own: the caller has the join's.
    pub async fn connect(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<Socket, ConnectError> {
        let url = &endpoint.shown;
        let handshake =
            |detail: String| ConnectError { reason: FailReason::Handshake, detail: format!("{url}: {detail}") };
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|e| ConnectError { reason: FailReason::Refused, detail: format!("{url}: {e}") })?;
        // Requests are small and wait for answers; Nagle's delay would count as the server's.
        tcp.set_nodelay(true)
            .map_err(|e| ConnectError { reason: FailReason::Local, detail: format!("{url}: TCP_NODELAY: {e}") })?;
        let mut request = endpoint.url.as_str().into_client_request().map_err(|e| handshake(e.to_string()))?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(UNSENT_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let connector = if endpoint.tls { Connector::Rustls(tls) } else { Connector::Plain };
        match client_async_tls_with_config(request, tcp, Some(config), Some(connector)).await {
            Ok((stream, _)) => Ok(Socket { stream, unsent: false }),
            Err(Error::Http(response)) => {
                let status = response.status();
                let reason = match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailReason::Unauthorized,
                    _ => FailReason::Handshake,
                };
                Err(ConnectError { reason, detail: format!("{url}: HTTP {status} instead of a WebSocket") })
            }
            Err(e) => Err(handshake(e.to_string())),
        }
    }

    /// Queues a message; it leaves with the next [`Socket::hear`] or [`Socket::flush`].
    pub fn send(&mut self, text: String) -> Result<(), String> {
        self.unsent = true;
        Pin::new(&mut self.stream).start_send(Message::text(text)).map_err(|e| e.to_string())
    }

    /// The next message; sends what is queued meanwhile. Safe to drop at any time.
    pub async fn hear(&mut self) -> Heard {
        poll_fn(|cx| self.poll_hear(cx)).await
    }

    pub async fn flush(&mut self) -> Result<(), String> {
        poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await.map_err(|e| e.to_string())
    }

    /// Says good-bye; does not wait for the other side's.
    pub async fn close(&mut self) {
        // Whatever fails here, the connection ends with it.
        let _ = self.stream.close(None).await;
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        if self.unsent {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unsent = false,
                Poll::Ready(Err(e)) => return Poll::Ready(Heard::Closed(e.to_string())),
                Poll::Pending => {}
            }
        }
        loop {
            return Poll::Ready(match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(Message::Text(text)))) => Heard::Text(text.to_string()),
                Poll::Ready(Some(Ok(Message::Binary(_)))) => Heard::Text("(binary message)".to_owned()),
                Poll::Ready(Some(Ok(Message::Close(Some(frame))))) => {
                    Heard::Closed(format!("{} {}", u16::from(frame.code), super::wire::quote(&frame.reason)))
                }
                Poll::Ready(Some(Ok(Message::Close(None)))) => Heard::Closed("closed by the server".to_owned()),
                // The library answers pings itself.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => continue,
                Poll::Ready(Some(Err(e))) => Heard::Closed(e.to_string()),
                Poll::Ready(None) => Heard::Closed("end of stream".to_owned()),
            });
        }
    }
}

/// For `tls_verify = false`: takes any certificate, but still checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_their_default_ports() {
        let of = |url| Endpoint::parse(url).map(|e| (e.host, e.port, e.tls));
        assert_eq!(of("ws://10.77.0.1:8188"), Ok(("10.77.0.1".into(), 8188, false)));
        assert_eq!(of("wss://sfu.example.org/janus"), Ok(("sfu.example.org".into(), 443, true)));
        assert_eq!(of("ws://[::1]:8188/"), Ok(("::1".into(), 8188, false)));
        for bad in ["http://10.77.0.1", "10.77.0.1:8188", "ws://", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    /// A token may be in the URL; errors end in the history.
    #[tokio::test]
    async fn errors_name_the_server_and_no_token() {
        for bad in ["http://h/?token=s3cret", "wss:///?token=s3cret"] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let endpoint = Endpoint::parse("ws://127.0.0.1:1/janus?token=s3cret").unwrap();
        let error = Socket::connect(&endpoint, tls_config(true).unwrap()).await.err().unwrap();
        assert_eq!(error.reason, FailReason::Refused);
        assert!(error.detail.starts_with("ws://127.0.0.1:1/janus: "), "{error}");
    }

    /// A server with a certificate that nobody has signed: says each text back.
    fn echo_over_tls() -> std::net::SocketAddr {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let tls = rustls::ServerConnection::new(config.clone()).unwrap();
                let stream = rustls::StreamOwned::new(tls, tcp.unwrap());
                use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
                #[expect(clippy::result_large_err, reason = "the library's callback type")]
                let subprotocol = |request: &Request, mut response: Response| {
                    let protocol = request.headers()["sec-websocket-protocol"].clone();
                    response.headers_mut().insert("sec-websocket-protocol", protocol);
                    Ok(response)
                };
                // Who does not trust us hangs up.
                let Ok(mut ws) = tokio_tungstenite::tungstenite::accept_hdr(stream, subprotocol) else { continue };
                while let Ok(message) = ws.read() {
                    if message.is_text() {
                        ws.send(message).unwrap();
                    }
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn an_untrusted_certificate_is_refused_unless_the_target_file_says_otherwise() {
        let endpoint = Endpoint::parse(&format!("wss://{}/?token=s3cret", echo_over_tls())).unwrap();
        let error = Socket::connect(&endpoint, tls_config(true).unwrap()).await.err().unwrap();
        assert_eq!(error.reason, FailReason::Handshake);
        assert!(error.detail.contains("certificate") && !error.detail.contains("s3cret"), "{error}");

        let mut socket = Socket::connect(&endpoint, tls_config(false).unwrap()).await.unwrap();
        socket.send("hello".to_owned()).unwrap();
        assert_eq!(socket.hear().await, Heard::Text("hello".to_owned()));
        socket.close().await;
    }
}
