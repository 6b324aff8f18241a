//! What stands in front of a fleet's director and takes its time with some joins: a router that has seen better days.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Gives its URL; ends with the test's process. Joins to rooms with a number above `quick` (`m-5`) wait for `delay`.
pub fn start(director: &str, quick: u32, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let behind = director.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let behind = behind.clone();
            // Either side may be gone at any time, which is its right.
            std::thread::spawn(move || drop(serve(&stream.unwrap(), &behind, quick, delay)));
        }
    });
    url
}

/// One request a connection.
fn serve(mut stream: &TcpStream, behind: &str, quick: u32, delay: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let name = line.to_ascii_lowercase();
        if let Some(n) = name.strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line.trim_end().is_empty() {
            break;
        }
        if !name.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    // POST /rooms/m-5/participants/p1
    let number = head.strip_prefix("POST /rooms/").and_then(|path| path.split('/').next()?.rsplit('-').next());
    if number.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > quick) {
        std::thread::sleep(delay);
    }
    let mut fleet = TcpStream::connect(behind)?;
    fleet.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    fleet.write_all(&body)?;
    std::io::copy(&mut fleet, &mut stream)?;
    Ok(())
}
