//! A server that says over HTTP that it is a fleet, and then misbehaves. How, the name of the room that somebody wants
//! to join says: `garbage-1`, `full-1` …

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Ends with the test's process.
pub struct FakeServer {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    /// Answers of rooms `far` and `deaf` name these as their only candidate.
    pub fn start(far: SocketAddr, deaf: SocketAddr) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let log = log.clone();
                std::thread::spawn(move || serve(stream.unwrap(), far, deaf, &log));
            }
        });
        FakeServer { url, asked }
    }

    /// `GET /registry`, `DELETE /sessions/far-1` …, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request a connection. The client may be gone at any time, which is its right.
fn serve(stream: TcpStream, far: SocketAddr, deaf: SocketAddr, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(&stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head.push(line);
    }
    let mut offer = vec![0; length];
    if reader.read_exact(&mut offer).is_err() {
        return;
    }
    let offer = String::from_utf8(offer).unwrap();
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    log.lock().unwrap().push(format!("{method} {path}"));
    let answer = match (method, path.strip_prefix("/rooms/")) {
        ("GET", _) => http("200 OK", "", "{\"servers\":[{\"id\":\"s1\",\"alive\":true,\"media\":\"127.0.0.1:9\"}]}"),
        ("DELETE", _) => http("200 OK", "", ""),
        (_, Some(room)) => {
            let room = room.split('/').next().unwrap();
            let created = |sdp: &str| {
                let headers = format!("Location: /sessions/{room}\r\nRoomful-Server: fake\r\n");
                http("201 Created", &headers, sdp)
            };
            // A probe's room has the name of the first one, behind its own.
            match room.trim_start_matches("probe-").split('-').next().unwrap() {
                "far" => created(&answer_to(&offer, far)),
                "deaf" => created(&answer_to(&offer, deaf)),
                "garbage" => created("\u{0}\u{1}v=o=m=audio\r\n\r\nm=\r\na=candidate:"),
                "empty" => created("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"),
                "nowhere" => http("201 Created", "", "v=0\r\n"),
                "full" => http("503 Service Unavailable", "", "{\"error\":\"no seat left\"}"),
                "secret" => http("401 Unauthorized", "", "who are you?"),
                "broken" => http("500 Internal Server Error", "", ""),
                "noise" => "\u{7}\u{7}\u{7}\r\n\r\n".to_owned(),
                "closed" => String::new(),
                "silent" => {
                    std::thread::sleep(Duration::from_secs(60));
                    String::new()
                }
                other => panic!("no such manners: {other}"),
            }
        }
        _ => http("404 Not Found", "", ""),
    };
    let _ = (&stream).write_all(answer.as_bytes());
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Agrees to an offer of one m-line, Opus.
fn answer_to(offer: &str, candidate: SocketAddr) -> String {
    let line = |start: &str| offer.lines().find_map(|l| l.strip_prefix(start)).unwrap();
    let payload_type =
        offer.lines().find(|l| l.contains(" opus/48000/2")).unwrap().trim_start_matches("a=rtpmap:").split(' ').next();
    let (pt, mid) = (payload_type.unwrap(), line("a=mid:"));
    let fingerprint = vec!["AB"; 32].join(":");
    let (ip, port) = (candidate.ip(), candidate.port());
    [
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        format!("a=group:BUNDLE {mid}"),
        "a=ice-lite".to_owned(),
        format!("m=audio 9 UDP/TLS/RTP/SAVPF {pt}"),
        "c=IN IP4 0.0.0.0".to_owned(),
        format!("a=mid:{mid}"),
        "a=recvonly".to_owned(),
        "a=rtcp-mux".to_owned(),
        "a=ice-ufrag:fake".to_owned(),
        "a=ice-pwd:fakefakefakefakefakefake".to_owned(),
        format!("a=fingerprint:sha-256 {fingerprint}"),
        "a=setup:passive".to_owned(),
        format!("a=rtpmap:{pt} opus/48000/2"),
        format!("a=candidate:1 1 udp 2130706431 {ip} {port} typ host"),
        "a=end-of-candidates".to_owned(),
        String::new(),
    ]
    .join("\r\n")
}
